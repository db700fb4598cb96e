//! Lists the files of a table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use sluice_core::plan::InputFile;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::{FileFormat, TableSource, TableSpec};

use super::error::SourceError;
use super::location::local_path;
use super::manifest::{CONCURRENT_HEADS, MAX_FILES, input_file};
use crate::forbidden::forbidden_folder;

/// Deepest folder below a location.
const MAX_DEPTH: usize = 32;

/// What the locations of one table hold.
pub(super) struct ListedTable {
    /// In the order of their paths.
    pub(super) files: Vec<InputFile>,
    /// The locations, links resolved.
    pub(super) roots: Vec<PathBuf>,
}

/// Lists the files of a table, at most `files_left`; `None` for a table that is not of files.
///
/// # Errors
///
/// See [`super::InputManifest::list`].
pub(super) async fn list(
    spec: &TableSpec,
    base: &Path,
    files_left: usize,
) -> Result<Option<ListedTable>, SourceError> {
    let (table, base) = (spec.clone(), base.to_owned());
    let walked = tokio::task::spawn_blocking(move || walk(&table, &base, files_left))
        .await
        .map_err(|error| SourceError::new(ErrorReason::Internal, &spec.name, error.to_string()))??;
    let Some(Walk { files, roots, .. }) = walked else {
        return Ok(None);
    };
    let files = read_metadata(&spec.name, files).await?;
    Ok(Some(ListedTable { files, roots }))
}

/// Walks the locations of a table; `None` for a table without files. Blocks.
fn walk(spec: &TableSpec, base: &Path, files_left: usize) -> Result<Option<Walk>, SourceError> {
    let error = |reason, message: String| SourceError::new(reason, &spec.name, message);
    let Some(source) = spec.source() else {
        let message = "set exactly one of location, locations and tpch, and the format of files";
        return Err(error(ErrorReason::InvalidSpec, message.to_owned()));
    };
    let TableSource::Files {
        locations,
        format,
        schema,
        ..
    } = source
    else {
        return Ok(None);
    };
    let mut walk = Walk {
        table: spec.name.clone(),
        extensions: extensions(format),
        files_left,
        files: BTreeSet::new(),
        folders: BTreeSet::new(),
        roots: Vec::new(),
    };
    for location in &locations {
        let path = local_path(location, base)
            .map_err(|problem| error(ErrorReason::InvalidSpec, problem.to_string()))?;
        let root = path.canonicalize().map_err(|cause| {
            let fix = "correct the path, or mount the folder where the query runs";
            let message = format!("location {} cannot be opened: {cause}: {fix}", path.display());
            error(ErrorReason::TableNotFound, message)
        })?;
        if let Some(folder) = forbidden_folder(&root) {
            let message = format!(
                "location {location} leads into {folder}, which is no place for tables: name a folder of data"
            );
            return Err(error(ErrorReason::ForbiddenPath, message));
        }
        walk.location(&root)?;
        walk.roots.push(root);
    }
    if walk.files.is_empty() && schema.is_none() {
        let message = format!(
            "no file ends in {} in {}: add files, or declare a schema for a table without rows",
            walk.extensions.join(" or "),
            locations.join(", "),
        );
        return Err(error(ErrorReason::TableNotFound, message));
    }
    Ok(Some(walk))
}

/// The file name extensions of a format.
fn extensions(format: FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Parquet => &[".parquet"],
        FileFormat::Csv => &[".csv"],
        FileFormat::Json => &[".json", ".jsonl", ".ndjson"],
        FileFormat::Arrow => &[".arrow"],
    }
}

struct Walk {
    table: String,
    extensions: &'static [&'static str],
    files_left: usize,
    files: BTreeSet<PathBuf>,
    /// Visited folders, links resolved: a link to a parent folder would never end.
    folders: BTreeSet<PathBuf>,
    roots: Vec<PathBuf>,
}

impl Walk {
    fn error(&self, reason: ErrorReason, path: &Path, problem: &str) -> SourceError {
        SourceError::new(reason, &self.table, format!("{} {problem}", path.display()))
    }

    fn unreadable(&self, path: &Path, cause: &std::io::Error) -> SourceError {
        let problem = format!("cannot be read: {cause}");
        self.error(ErrorReason::TableNotFound, path, &problem)
    }

    /// Adds a file that is named itself, or the files of a folder.
    fn location(&mut self, root: &Path) -> Result<(), SourceError> {
        let metadata = fs::metadata(root).map_err(|cause| self.unreadable(root, &cause))?;
        if metadata.is_dir() {
            self.folder(root, root, 0)
        } else if metadata.is_file() {
            self.add(root.to_owned())
        } else {
            let problem = "is neither a file nor a folder: name one of them";
            Err(self.error(ErrorReason::InvalidSpec, root, problem))
        }
    }

    fn folder(&mut self, root: &Path, folder: &Path, depth: usize) -> Result<(), SourceError> {
        if !self.folders.insert(folder.to_owned()) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            let problem =
                format!("lies more than {MAX_DEPTH} folders below the location: name it as a location");
            return Err(self.error(ErrorReason::InvalidSpec, folder, &problem));
        }
        let entries = fs::read_dir(folder).map_err(|cause| self.unreadable(folder, &cause))?;
        for entry in entries {
            let entry = entry.map_err(|cause| self.unreadable(folder, &cause))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(['.', '_']) {
                continue;
            }
            let path = entry.path();
            let resolved = path
                .canonicalize()
                .map_err(|cause| self.unreadable(&path, &cause))?;
            if !resolved.starts_with(root) {
                let problem = format!(
                    "is a link that leaves {}: remove it, or declare its target as a location of the table",
                    root.display()
                );
                return Err(self.error(ErrorReason::ForbiddenPath, &path, &problem));
            }
            let metadata = fs::metadata(&resolved).map_err(|cause| self.unreadable(&path, &cause))?;
            if metadata.is_dir() && name.contains('=') {
                let problem = "is named as the value of a column, which is not read from names of folders yet: name it as a location of a table of its own";
                return Err(self.error(ErrorReason::InvalidSpec, &path, problem));
            }
            if metadata.is_dir()
                && let Some(folder) = forbidden_folder(&resolved)
            {
                let problem = format!("is {folder}, which is no place for tables: name a folder beside it");
                return Err(self.error(ErrorReason::ForbiddenPath, &path, &problem));
            }
            if metadata.is_dir() {
                self.folder(root, &resolved, depth + 1)?;
            } else if metadata.is_file() && self.is_of_format(&name) {
                self.add(resolved)?;
            } else if metadata.is_file() {
                let problem = format!(
                    "does not end in {}, as files of the table's format do: move it elsewhere, start its name with `_` to have it skipped, or name each file as a location",
                    self.extensions.join(" or ")
                );
                return Err(self.error(ErrorReason::InvalidSpec, &path, &problem));
            } else {
                let problem = "is neither a file nor a folder: remove it";
                return Err(self.error(ErrorReason::InvalidSpec, &path, problem));
            }
        }
        Ok(())
    }

    fn is_of_format(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.extensions.iter().any(|end| name.ends_with(end))
    }

    fn add(&mut self, file: PathBuf) -> Result<(), SourceError> {
        if self.files.len() >= self.files_left {
            let message = format!(
                "the query reads more than {MAX_FILES} files: name fewer locations, or write larger files"
            );
            return Err(SourceError::new(ErrorReason::InvalidSpec, &self.table, message));
        }
        self.files.insert(file);
        Ok(())
    }
}

async fn read_metadata(table: &str, paths: BTreeSet<PathBuf>) -> Result<Vec<InputFile>, SourceError> {
    let store = LocalFileSystem::new();
    let store = &store;
    let files = stream::iter(paths).map(|path| async move {
        let problem = |cause: &dyn std::fmt::Display| {
            let message = format!("{} cannot be read: {cause}", path.display());
            SourceError::new(ErrorReason::TableNotFound, table, message)
        };
        let location = StorePath::from_absolute_path(&path).map_err(|error| problem(&error))?;
        // The store would read a file whose name it spells differently as another file.
        if store
            .path_to_filesystem(&location)
            .map_err(|error| problem(&error))?
            != path
        {
            return Err(problem(&"its name cannot be written as a URL: rename it"));
        }
        let meta = store.head(&location).await.map_err(|error| problem(&error))?;
        input_file(&meta).ok_or_else(|| problem(&"its modification time is out of range"))
    });
    files.buffered(CONCURRENT_HEADS).try_collect().await
}
