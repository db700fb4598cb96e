//! The input manifest: every file of a query, as it was at planning.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::error::DataFusionError;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::plan::InputFile;
use sluice_crds::shuffle_query::TableSpec;

use super::error::SourceError;
use super::lister;
use super::roots::InputRoots;
use super::store::pinned_stores;

/// Most files of one query. Each costs memory in the coordinator.
pub(super) const MAX_FILES: usize = 100_000;
/// Concurrent requests for metadata.
pub(super) const CONCURRENT_HEADS: usize = 16;

/// Every file of a query, as it was at planning. The query reads only these, also after a coordinator was replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputManifest {
    /// The files of each table of files, in the order of their paths.
    pub tables: BTreeMap<String, Vec<InputFile>>,
    /// What [`super::pinned_stores`] may serve.
    pub roots: InputRoots,
}

impl InputManifest {
    /// Lists every location of the tables once. A location is a file, or a folder, whose files of the table's format
    /// are listed recursively. Names that start with `.` or `_` are skipped. Any other file, and a folder named
    /// `column=value`, is refused: otherwise rows would be missing silently. Relative locations are below `base`.
    ///
    /// # Errors
    ///
    /// If a location does not exist or cannot be read, holds no file though the table declares no schema, or holds a
    /// link that leaves it.
    pub async fn list(tables: &[TableSpec], base: &Path) -> Result<Self, SourceError> {
        let mut manifest = Self::default();
        let mut roots = Vec::new();
        let mut files_left = MAX_FILES;
        for spec in tables {
            let Some(listed) = lister::list(spec, base, files_left).await? else {
                continue;
            };
            files_left = files_left.saturating_sub(listed.files.len());
            manifest.tables.insert(spec.name.clone(), listed.files);
            roots.extend(listed.roots);
        }
        manifest.roots = roots.into_iter().collect();
        Ok(manifest)
    }

    /// The stores of a session that reads exactly these files.
    pub fn stores(&self) -> Arc<dyn ObjectStoreRegistry> {
        pinned_stores(&self.roots, self.tables.values().flatten())
    }
}

/// The manifest entry for an object of a store; `None` if its modification time is out of range.
pub fn input_file(meta: &ObjectMeta) -> Option<InputFile> {
    Some(InputFile {
        path: meta.location.to_string(),
        size: meta.size,
        modified_nanos: meta.last_modified.timestamp_nanos_opt()?,
        etag: meta.e_tag.clone(),
    })
}

/// The store metadata of a file of the manifest; `None` if its path is invalid.
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

/// A path of the manifest for messages: stores omit the first slash.
pub fn shown(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// Checks with the session's store that the files are still those of the manifest.
///
/// # Errors
///
/// [`BadInputKind::InputChanged`] names the first file that is gone or was written since;
/// [`BadInputKind::ForbiddenPath`] names one that the store refuses; other failures are those of the store.
pub async fn verify(runtime: &RuntimeEnv, files: &[InputFile]) -> Result<(), AttemptFailure> {
    let store = runtime
        .object_store(ObjectStoreUrl::local_filesystem())
        .map_err(|error| super::classify_error(&error, &[]))?;
    let store = store.as_ref();
    // Collected before the stream: a closure over references would make the future not `Send`.
    let checks: Vec<_> = files.iter().map(|file| verify_file(store, file)).collect();
    stream::iter(checks)
        .buffered(CONCURRENT_HEADS)
        .try_collect()
        .await
}

/// `head` makes the store compare the file with the manifest without reading it.
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
