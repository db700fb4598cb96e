//! The input manifest: every file of a query, as it was when the query was planned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::error::DataFusionError;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::plan::InputFile;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::{FileFormat, TableSource, TableSpec};

use super::error::SourceError;
use super::location::resolve_location;
use super::store::object_stores;
use crate::forbidden::forbidden_folder;

/// Most files of one query. Each costs memory in the coordinator and a line in the journal.
const MAX_FILES: usize = 100_000;
/// Deepest folder below a location.
const MAX_DEPTH: usize = 32;
/// Files whose metadata are asked for at once.
const CONCURRENT_HEADS: usize = 16;

/// Every file of a query, as it was when the query was planned. The query reads these and no others, a successor of
/// its coordinator too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputManifest {
    /// The files of each table of files, in the order of their paths.
    pub tables: BTreeMap<String, Vec<InputFile>>,
    /// The declared locations, links resolved: what [`super::object_stores`] may serve.
    pub roots: Vec<PathBuf>,
}

impl InputManifest {
    /// Lists every location of the tables once. A location is a file, or a folder whose files of the table's format
    /// are taken, also from folders below it. Files and folders whose names start with `.` or `_` are skipped; any other
    /// file in it, and a folder named `column=value`, is refused, since rows would be missing without a word. Relative locations lie below `base`.
    ///
    /// # Errors
    ///
    /// If a location does not exist or cannot be read, holds no file though the table declares no schema, or holds a
    /// link that leaves it.
    pub async fn list(tables: &[TableSpec], base: &Path) -> Result<Self, SourceError> {
        let mut manifest = Self::default();
        let mut files_left = MAX_FILES;
        for spec in tables {
            let (spec_copy, base) = (spec.clone(), base.to_owned());
            let listed = tokio::task::spawn_blocking(move || list_table(&spec_copy, &base, files_left))
                .await
                .map_err(|error| SourceError::new(ErrorReason::Internal, &spec.name, error.to_string()))??;
            let Some((paths, roots)) = listed else {
                continue;
            };
            files_left = files_left.saturating_sub(paths.len());
            let files = read_metadata(&spec.name, paths).await?;
            manifest.tables.insert(spec.name.clone(), files);
            manifest.roots.extend(roots);
        }
        manifest.roots.sort();
        manifest.roots.dedup();
        Ok(manifest)
    }

    /// The stores of a session that reads these files and no others.
    pub fn stores(&self) -> Arc<dyn ObjectStoreRegistry> {
        object_stores(&self.roots, self.tables.values().flatten())
    }
}

/// The files of one table and its roots; `None` for a table without files.
type Listed = Option<(BTreeSet<PathBuf>, Vec<PathBuf>)>;

fn list_table(spec: &TableSpec, base: &Path, files_left: usize) -> Result<Listed, SourceError> {
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
    let mut listing = Listing {
        table: &spec.name,
        extensions: extensions(format),
        files_left,
        files: BTreeSet::new(),
        folders: BTreeSet::new(),
    };
    let mut roots = Vec::new();
    for location in &locations {
        let path = resolve_location(location, base)
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
        listing.location(&root)?;
        roots.push(root);
    }
    if listing.files.is_empty() && schema.is_none() {
        let message = format!(
            "no file ends in {} in {}: add files, or declare a schema for a table without rows",
            listing.extensions.join(" or "),
            locations.join(", "),
        );
        return Err(error(ErrorReason::TableNotFound, message));
    }
    Ok(Some((listing.files, roots)))
}

/// How names of files of a format end.
fn extensions(format: FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Parquet => &[".parquet"],
        FileFormat::Csv => &[".csv"],
        FileFormat::Json => &[".json", ".jsonl", ".ndjson"],
        FileFormat::Arrow => &[".arrow"],
    }
}

struct Listing<'a> {
    table: &'a str,
    extensions: &'static [&'static str],
    files_left: usize,
    files: BTreeSet<PathBuf>,
    /// Folders seen, links resolved: a link to a folder above it would never end.
    folders: BTreeSet<PathBuf>,
}

impl Listing<'_> {
    fn error(&self, reason: ErrorReason, path: &Path, problem: &str) -> SourceError {
        SourceError::new(reason, self.table, format!("{} {problem}", path.display()))
    }

    fn unreadable(&self, path: &Path, cause: &std::io::Error) -> SourceError {
        let problem = format!("cannot be read: {cause}");
        self.error(ErrorReason::TableNotFound, path, &problem)
    }

    /// Takes a named file whatever its name, or the files of a folder.
    fn location(&mut self, root: &Path) -> Result<(), SourceError> {
        let metadata = fs::metadata(root).map_err(|cause| self.unreadable(root, &cause))?;
        if metadata.is_dir() {
            self.folder(root, root, 0)
        } else if metadata.is_file() {
            self.take(root.to_owned())
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
                self.take(resolved)?;
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

    fn take(&mut self, file: PathBuf) -> Result<(), SourceError> {
        if self.files.len() >= self.files_left {
            let message = format!(
                "the query reads more than {MAX_FILES} files: name fewer locations, or write larger files"
            );
            return Err(SourceError::new(ErrorReason::InvalidSpec, self.table, message));
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
        // Names that the store spells differently would be read as another file.
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

/// The manifest's line for a file that a store described; `None` if its modification time does not fit.
pub fn input_file(meta: &ObjectMeta) -> Option<InputFile> {
    Some(InputFile {
        path: meta.location.to_string(),
        size: meta.size,
        modified_nanos: meta.last_modified.timestamp_nanos_opt()?,
        etag: meta.e_tag.clone(),
    })
}

/// What a store would say about a file of the manifest; `None` if the path is none.
pub fn object_meta(file: &InputFile) -> Option<ObjectMeta> {
    let distance = Duration::from_nanos(file.modified_nanos.unsigned_abs());
    let modified = if file.modified_nanos >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)?
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)?
    };
    Some(ObjectMeta {
        location: StorePath::parse(&file.path).ok()?,
        last_modified: modified.into(),
        size: file.size,
        e_tag: file.etag.clone(),
        version: None,
    })
}

/// A path of the manifest as people write it: stores leave out the first slash.
pub fn shown(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Asks the session's store whether the files are still those of the manifest.
///
/// # Errors
///
/// [`BadInputKind::InputChanged`] names the first file that is gone or was written since,
/// [`BadInputKind::ForbiddenPath`] one that the store does not serve; another failure is that of the store.
pub async fn verify(runtime: &RuntimeEnv, files: &[InputFile]) -> Result<(), AttemptFailure> {
    let store = runtime
        .object_store(ObjectStoreUrl::local_filesystem())
        .map_err(|error| super::classify_error(&error, &[]))?;
    let store = store.as_ref();
    // Made before the stream: a closure over references would keep the future from being `Send`.
    let checks: Vec<_> = files.iter().map(|file| verify_file(store, file)).collect();
    stream::iter(checks)
        .buffered(CONCURRENT_HEADS)
        .try_collect()
        .await
}

/// The store compares with the manifest at every read, and this one reads nothing.
async fn verify_file(store: &dyn ObjectStore, file: &InputFile) -> Result<(), AttemptFailure> {
    let location = StorePath::parse(&file.path).map_err(|error| AttemptFailure::BadInput {
        kind: BadInputKind::ForbiddenPath,
        message: error.to_string(),
    })?;
    match store.head(&location).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = DataFusionError::ObjectStore(Box::new(error));
            Err(super::classify_error(&error, &[]))
        }
    }
}
