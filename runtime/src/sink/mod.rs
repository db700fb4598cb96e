//! Where a query's rows go: a folder of files that appears whole, or not at all.
//!
//! Attempts write into a staging folder beside the location, `.<name>.sluice-<query>/<coordinator epoch>/attempts`: those
//! of a coordinator that was superseded cannot touch its successor's. The commit links the files of the winning attempts
//! into one folder there, writes the commit record into it, and renames that folder to the location. Until the rename a reader sees what was there before, after it all files of the query; a crash anywhere
//! leaves nothing but the staging folder, whose name readers skip.

mod commit;
mod encode;
mod error;
mod files;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::MemoryPool;
use serde::{Deserialize, Serialize};
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId};
use sluice_crds::shuffle_query::{FileFormat, IfExists, SinkSpec};

use crate::source::resolve_location;
use commit::CommitOptions;

use crate::forbidden::forbidden_folder;

pub use error::SinkError;
pub use sluice_core::status::Committed;
pub use writer::{SinkReceipt, SinkWriter};

/// Name of the commit record within a committed folder. Readers skip names that start with an underscore.
pub const COMMIT_RECORD: &str = "_sluice_commit.json";

/// The sink of a query. The coordinator checks it before the query runs, commits or aborts it; the workers open it for
/// each attempt of a root task. All of them see the same file system. Every call works on files and blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// The folder that the user named, absolute.
    location: PathBuf,
    format: FileFormat,
    if_exists: IfExists,
}

/// A sink as one query uses it.
struct SinkPaths {
    query: QueryId,
    /// The epoch of the coordinator that acts.
    epoch: CoordinatorEpoch,
    location: PathBuf,
    /// The hidden folder beside the location.
    staging: PathBuf,
    format: FileFormat,
    if_exists: IfExists,
}

impl Sink {
    /// The sink of a spec. A relative location lies below `base`.
    ///
    /// # Errors
    ///
    /// If the location is no path of a folder that could be written.
    pub fn new(spec: &SinkSpec, base: &Path) -> Result<Self, SinkError> {
        let location = resolve_location(&spec.location, base)?;
        // Without the slash that may end it, and without `.` segments.
        let location: PathBuf = location.components().collect();
        if location.parent().is_none() || location.file_name().is_none() || !location.is_absolute() {
            let problem = "is no folder that can be written: name a folder below an existing one";
            return Err(SinkError::forbidden(&location, problem));
        }
        Ok(Self {
            location,
            format: spec.format,
            if_exists: spec.if_exists,
        })
    }

    /// The folder that will hold the result.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Checks, before a query runs, what its commit would otherwise find out after it: that the location is free or
    /// may be replaced, that it can be written, and that no input (`inputs`: the declared locations with links
    /// resolved) is above or below it. Folders above the location are made. A coordinator that follows
    /// another asks [`Self::committed`] first.
    ///
    /// # Errors
    ///
    /// What stands in the way.
    pub fn check(&self, inputs: &[PathBuf]) -> Result<(), SinkError> {
        self.check_surroundings(inputs)?;
        match fs::symlink_metadata(&self.location) {
            Ok(_) if self.if_exists == IfExists::Fail => return Err(SinkError::exists(&self.location)),
            Ok(metadata) => self.check_replaced(&metadata)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(SinkError::io(&self.location, "look at", &error)),
        }
        let probe = hidden(&self.location, &format!("check-{}", std::process::id()));
        files::at(&probe, "create", fs::create_dir_all(&probe))?;
        files::remove_folder(&probe)
    }

    /// Checks where the location leads, its links resolved as far as it exists: to no folder of the system, into no
    /// table, and to none that has one.
    fn check_surroundings(&self, inputs: &[PathBuf]) -> Result<(), SinkError> {
        let forbidden = |problem: String| Err(SinkError::forbidden(&self.location, &problem));
        let resolved = files::resolved(&self.location)?;
        if let Some(folder) = forbidden_folder(&resolved) {
            return forbidden(format!(
                "leads into {folder}, which is no place for results: name another folder"
            ));
        }
        if let Some(input) = inputs.iter().find(|input| input.starts_with(&resolved)) {
            return forbidden(format!(
                "holds the input {}, which would be lost when it is replaced: name another folder",
                input.display()
            ));
        }
        match inputs.iter().find(|input| resolved.starts_with(input)) {
            Some(input) => forbidden(format!(
                "is within the input {}, of which its files would become rows: name a folder beside it",
                input.display()
            )),
            None => Ok(()),
        }
    }

    fn check_replaced(&self, metadata: &Metadata) -> Result<(), SinkError> {
        let forbidden = |problem: &str| Err(SinkError::forbidden(&self.location, problem));
        if metadata.is_symlink() {
            return forbidden(
                "is a link, which cannot be replaced as a whole: name the folder that it leads to",
            );
        }
        if !metadata.is_dir() {
            return forbidden("is a file: name a folder");
        }
        commit::check_replaceable(&self.location)
    }

    /// Checks, once the columns of the result are known, that the format can hold them.
    ///
    /// # Errors
    ///
    /// The column that it cannot hold, or a name that two columns have.
    pub fn check_columns(&self, schema: &SchemaRef) -> Result<(), SinkError> {
        encode::check_columns(self.format, schema)
    }

    /// Opens the file of one attempt of a root task. What an attempt of the same number left is overwritten. Rows that
    /// wait in memory are charged to `pool`.
    ///
    /// # Errors
    ///
    /// If the file cannot be made or the format cannot hold the columns.
    pub fn open(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        attempt: AttemptId,
        schema: &SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<SinkWriter, SinkError> {
        SinkWriter::open(&self.paths(query, epoch), attempt, schema, pool)
    }

    /// Publishes the files of the winning attempts, one of each root task, by one rename. A second call, also by a
    /// successor that does not know of the first, answers what the first did. A result without rows has one file,
    /// which has the columns; otherwise tasks without rows leave no file.
    ///
    /// # Errors
    ///
    /// If a winner's file is missing, the location was taken meanwhile, or the file system fails. Nothing of the
    /// query is visible then, and the call may be repeated.
    pub fn commit(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        winners: &[AttemptId],
    ) -> Result<Committed, SinkError> {
        let mut options = CommitOptions {
            on_step: &mut |step| {
                tracing::debug!(%query, ?step, "sink commit");
                Ok(())
            },
            exchange: true,
        };
        commit::commit(&self.paths(query, epoch), winners, &mut options)
    }

    /// What an earlier call of [`Self::commit`] published, perhaps by a predecessor; `None` if nothing of this query
    /// is visible.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub fn committed(&self, query: &QueryId) -> Result<Option<Committed>, SinkError> {
        commit::read_record(&self.location, query)
    }

    /// Removes everything of a query that is not visible and that this coordinator or an earlier one made. A committed
    /// result stays, and so does what a commit that did not finish would have replaced.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub fn abort(&self, query: &QueryId, epoch: CoordinatorEpoch) -> Result<(), SinkError> {
        commit::abort(&self.paths(query, epoch))
    }

    /// Removes what attempts of earlier coordinators of the query wrote: a successor starts over.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub fn supersede(&self, query: &QueryId, epoch: CoordinatorEpoch) -> Result<(), SinkError> {
        match epoch.0.checked_sub(1) {
            Some(before) => self.paths(query, CoordinatorEpoch(before)).remove_epochs(),
            None => Ok(()),
        }
    }

    fn paths(&self, query: &QueryId, epoch: CoordinatorEpoch) -> SinkPaths {
        SinkPaths {
            query: query.clone(),
            epoch,
            location: self.location.clone(),
            staging: hidden(&self.location, query.as_str()),
            format: self.format,
            if_exists: self.if_exists,
        }
    }
}

impl SinkPaths {
    /// The folder of one attempt.
    fn attempt_folder(&self, attempt: AttemptId) -> PathBuf {
        self.epoch_folder().join("attempts").join(attempt.to_string())
    }

    /// What this coordinator's attempts and its commit write.
    fn epoch_folder(&self) -> PathBuf {
        self.staging.join(self.epoch.to_string())
    }

    /// Removes the folders of this coordinator and of earlier ones. A later one's stays: it may be at work.
    fn remove_epochs(&self) -> Result<(), SinkError> {
        let entries = match fs::read_dir(&self.staging) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => files::at(&self.staging, "list", entries)?,
        };
        for entry in entries {
            let path = files::at(&self.staging, "list", entry)?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let epoch = name
                .strip_prefix('c')
                .and_then(|digits| digits.parse::<u64>().ok());
            if epoch.is_some_and(|epoch| epoch <= self.epoch.0) {
                files::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Removes all that [`Self::remove_epochs`] does and what was replaced, and the staging folder if nobody uses it.
    fn clean_up(&self) -> Result<(), SinkError> {
        self.remove_epochs()?;
        files::remove_folder(&commit::replaced_folder(self))?;
        match fs::remove_dir(&self.staging) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(SinkError::io(&self.staging, "remove", &error))
            }
            _ => Ok(()),
        }
    }
}

/// A folder beside the location, on the same file system, that readers skip.
fn hidden(location: &Path, suffix: &str) -> PathBuf {
    let name = location.file_name().unwrap_or_default().to_string_lossy();
    location.with_file_name(format!(".{name}.sluice-{suffix}"))
}
