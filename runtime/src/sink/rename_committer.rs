//! Commits a result by one rename.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::Path;

use sluice_core::ids::{AttemptId, QueryId};
use sluice_core::status::Committed;
use sluice_crds::shuffle_query::IfExists;

use super::COMMIT_RECORD;
use super::committer::Committer;
use super::encode::extension;
use super::error::SinkError;
use super::files::{IfTaken, RenameOutcome, at, exists, link, remove_folder, rename, sync_folder};
use super::paths::{SinkPaths, hidden};
use super::writer::{attempt_file, receipt, write_json};

/// How often a replacing commit retries when others create and remove the location meanwhile.
const REPLACE_TRIES: usize = 8;

/// The steps of a commit, in order. A crash after any of them leaves the location unchanged or complete; the next call
/// starts over with the same result.
///
/// ```text
/// Cleared -> Assembled -> Recorded -> (SetAside ->) Published -> CleanedUp
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitStep {
    /// The leftovers of an unfinished commit are removed.
    Cleared,
    /// The winners' files are in one folder.
    Assembled,
    /// The folder has its record and is durable.
    Recorded,
    /// The folder to replace is moved aside. Skipped where the file system can exchange two folders.
    SetAside,
    /// The folder has the location's name.
    Published,
    /// The staging folder is gone.
    CleanedUp,
}

/// How to commit; tests stop commits and emulate file systems with it.
pub struct CommitOptions<'a> {
    /// Called after each step; an error ends the commit there.
    pub on_step: &'a mut dyn FnMut(CommitStep) -> Result<(), SinkError>,
    /// Whether to try to exchange two folders in one step.
    pub exchange: bool,
}

/// Commits by one rename, on file systems that all processes of a query share.
pub(super) struct RenameCommitter(pub(super) SinkPaths);

impl Committer for RenameCommitter {
    fn commit(&self, winners: &[AttemptId]) -> Result<Committed, SinkError> {
        let mut options = CommitOptions {
            on_step: &mut |step| {
                tracing::debug!(query = %self.0.query, ?step, "sink commit");
                Ok(())
            },
            exchange: true,
        };
        commit(&self.0, winners, &mut options)
    }

    fn committed(&self) -> Result<Option<Committed>, SinkError> {
        read_record(&self.0.location, &self.0.query)
    }

    fn abort(&self) -> Result<(), SinkError> {
        restore(&self.0)?;
        self.0.clean_up()
    }

    fn supersede(&self) -> Result<(), SinkError> {
        self.0.remove_earlier_epochs()
    }
}

/// Publishes the winners' files.
pub fn commit(
    paths: &SinkPaths,
    winners: &[AttemptId],
    options: &mut CommitOptions<'_>,
) -> Result<Committed, SinkError> {
    if let Some(committed) = read_record(&paths.location, &paths.query)? {
        paths.clean_up()?;
        return Ok(committed);
    }
    restore(paths)?;
    let result = paths.result_folder();
    remove_folder(&result)?;
    (options.on_step)(CommitStep::Cleared)?;
    let committed = assemble(paths, winners)?;
    (options.on_step)(CommitStep::Assembled)?;
    write_json(&result.join(COMMIT_RECORD), &committed)?;
    sync_folder(&result)?;
    sync_folder(&paths.epoch_folder())?;
    sync_folder(&paths.staging)?;
    (options.on_step)(CommitStep::Recorded)?;
    if let Some(published) = publish(paths, options)? {
        paths.clean_up()?;
        return Ok(published);
    }
    if let Some(parent) = paths.location.parent() {
        sync_folder(parent)?;
    }
    (options.on_step)(CommitStep::Published)?;
    paths.clean_up()?;
    (options.on_step)(CommitStep::CleanedUp)?;
    Ok(committed)
}

/// Links the winners' files into the result folder, numbered in task order, which is the order of the result. Links and
/// not renames, so that an unfinished commit can start over from the attempts' own files.
fn assemble(paths: &SinkPaths, winners: &[AttemptId]) -> Result<Committed, SinkError> {
    let mut receipts = BTreeMap::new();
    for winner in winners {
        let receipt = receipt(paths, *winner)?;
        receipts.insert((winner.stage, winner.task), (*winner, receipt));
    }
    let has_rows = receipts.values().any(|(_, receipt)| receipt.rows > 0);
    let result = paths.result_folder();
    at(&result, "create", fs::create_dir_all(&result))?;
    let mut committed = Committed {
        query: paths.query.clone(),
        files: 0,
        rows: 0,
        bytes: 0,
    };
    for (winner, receipt) in receipts.values() {
        let keep = if has_rows {
            receipt.rows > 0
        } else {
            committed.files == 0
        };
        if !keep {
            continue;
        }
        let source = attempt_file(paths, *winner);
        if at(&source, "look at", fs::metadata(&source))?.len() != receipt.bytes {
            return Err(SinkError::Incomplete(*winner));
        }
        let name = format!("part-{:05}.{}", committed.files, extension(paths.format));
        link(&source, &result.join(name))?;
        committed.files += 1;
        committed.rows += receipt.rows;
        committed.bytes += receipt.bytes;
    }
    Ok(committed)
}

/// Returns the record of another coordinator of the query, if one was faster.
fn publish(paths: &SinkPaths, options: &mut CommitOptions<'_>) -> Result<Option<Committed>, SinkError> {
    let (result, location) = (paths.result_folder(), paths.location.as_path());
    for _ in 0..REPLACE_TRIES {
        match move_to_free(paths)? {
            RenameOutcome::Renamed => return Ok(None),
            RenameOutcome::NotRenamed | RenameOutcome::Unsupported => {}
        }
        if let Some(published) = read_record(location, &paths.query)? {
            return Ok(Some(published));
        }
        if paths.if_exists == IfExists::Fail {
            return Err(SinkError::exists(location));
        }
        check_replaceable(location)?;
        let moved = if options.exchange {
            rename(&result, location, IfTaken::Exchange)?
        } else {
            RenameOutcome::Unsupported
        };
        match moved {
            RenameOutcome::Renamed => return Ok(None),
            RenameOutcome::NotRenamed => {}
            // Between these two renames readers find no folder, never a partial one. `restore` undoes the first one if
            // the second one never happens.
            RenameOutcome::Unsupported => {
                at(location, "rename", fs::rename(location, paths.replaced_folder()))?;
                (options.on_step)(CommitStep::SetAside)?;
            }
        }
    }
    Err(SinkError::exists(location))
}

/// Gives the result the location's name if nothing has it.
fn move_to_free(paths: &SinkPaths) -> Result<RenameOutcome, SinkError> {
    let (result, location) = (paths.result_folder(), paths.location.as_path());
    match rename(&result, location, IfTaken::Refuse)? {
        RenameOutcome::Unsupported if exists(location)? => Ok(RenameOutcome::NotRenamed),
        // A folder that is created between the check and the rename stays, unless it is empty.
        RenameOutcome::Unsupported => match fs::rename(&result, location) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                ) =>
            {
                Ok(RenameOutcome::NotRenamed)
            }
            renamed => at(location, "rename to", renamed).map(|()| RenameOutcome::Renamed),
        },
        moved => Ok(moved),
    }
}

/// Moves back what an unfinished commit had moved aside.
fn restore(paths: &SinkPaths) -> Result<(), SinkError> {
    let replaced = paths.replaced_folder();
    if exists(&replaced)? && !exists(&paths.location)? {
        at(&paths.location, "restore", fs::rename(&replaced, &paths.location))?;
    }
    Ok(())
}

/// Checks that a commit to the location could succeed: it is free or may be replaced, and can be written. Makes the
/// folders above it.
pub fn check_target(location: &Path, if_exists: IfExists) -> Result<(), SinkError> {
    match fs::symlink_metadata(location) {
        Ok(_) if if_exists == IfExists::Fail => return Err(SinkError::exists(location)),
        Ok(metadata) => check_replaced(location, &metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(SinkError::io(location, "look at", &error)),
    }
    let probe = hidden(location, &format!("check-{}", std::process::id()));
    at(&probe, "create", fs::create_dir_all(&probe))?;
    remove_folder(&probe)
}

fn check_replaced(location: &Path, metadata: &Metadata) -> Result<(), SinkError> {
    let forbidden = |problem: &str| Err(SinkError::forbidden(location, problem));
    if metadata.is_symlink() {
        return forbidden("is a link, which cannot be replaced as a whole: name the folder that it leads to");
    }
    if !metadata.is_dir() {
        return forbidden("is a file: name a folder");
    }
    check_replaceable(location)
}

/// Checks that a folder is empty, or has only files of a commit. Sluice does not remove what it has not written.
///
/// # Errors
///
/// The other file.
fn check_replaceable(location: &Path) -> Result<(), SinkError> {
    let entries = match fs::read_dir(location) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => at(location, "list", entries)?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = at(location, "list", names.collect::<std::io::Result<Vec<String>>>())?;
    let is_part = |name: &str| {
        let number = name.strip_prefix("part-").and_then(|rest| rest.split_once('.'));
        number.is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_ours = any_record(location)?.is_some();
    let other = names
        .iter()
        .find(|name| !(is_ours && (is_part(name) || *name == COMMIT_RECORD)));
    match other {
        Some(name) => {
            let problem = format!(
                "holds {name}, which no query has written there, and ifExists: Replace removes results of queries only: empty the folder, or name another"
            );
            Err(SinkError::forbidden(location, &problem))
        }
        None => Ok(()),
    }
}

/// The record at the location, if it is one of the query.
fn read_record(location: &Path, query: &QueryId) -> Result<Option<Committed>, SinkError> {
    Ok(any_record(location)?.filter(|record| record.query == *query))
}

/// The record at the location, of whichever query.
fn any_record(location: &Path) -> Result<Option<Committed>, SinkError> {
    let path = location.join(COMMIT_RECORD);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(SinkError::io(&path, "read", &error)),
    };
    // A file that does not parse is not a record, whatever its name.
    Ok(serde_json::from_slice::<Committed>(&text).ok())
}
