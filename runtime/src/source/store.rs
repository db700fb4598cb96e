//! The only way from a query to files: a read-only store that serves the declared locations.

use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::exec_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use url::Url;

/// The stores of a session that reads the files below `roots` and nothing else. DataFusion's own registry would
/// serve every file of the machine under `file://`.
pub fn object_stores(roots: &[PathBuf]) -> Arc<dyn ObjectStoreRegistry> {
    Arc::new(RootedStores {
        files: Arc::new(RootedStore::new(roots)),
    })
}

#[derive(Debug)]
struct RootedStores {
    files: Arc<RootedStore>,
}

impl ObjectStoreRegistry for RootedStores {
    // Nothing that a query does may add a store.
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        if url.scheme() == "file" && url.host_str().is_none_or(str::is_empty) {
            Ok(Arc::clone(&self.files) as Arc<dyn ObjectStore>)
        } else {
            exec_err!("{url} cannot be read: tables are read from file:/// locations only")
        }
    }
}

/// Reads of files that lie, links resolved, in one of the roots.
#[derive(Debug)]
struct RootedStore {
    roots: Arc<[PathBuf]>,
    files: LocalFileSystem,
}

impl RootedStore {
    fn new(roots: &[PathBuf]) -> Self {
        let resolve = |root: &PathBuf| root.canonicalize().unwrap_or_else(|_| root.clone());
        Self {
            roots: roots.iter().map(resolve).collect(),
            files: LocalFileSystem::new(),
        }
    }

    /// The location with its links resolved, if that may be read. Resolving per read and not only when the files were
    /// listed refuses a file that was replaced by a link since.
    async fn admit(&self, location: &Path) -> Result<Path> {
        let path = self.files.path_to_filesystem(location)?;
        let roots = Arc::clone(&self.roots);
        let resolved = tokio::task::spawn_blocking(move || match path.canonicalize() {
            Ok(resolved) => Ok(is_below(&roots, &resolved).then_some(resolved)),
            // What is absent below a root is absent; what is absent elsewhere is none of the query's business.
            Err(_) if !is_below(&roots, &path) => Ok(None),
            Err(error) => Err((path, error)),
        })
        .await?;
        match resolved {
            Ok(Some(path)) => Ok(Path::from_absolute_path(path)?),
            Ok(None) => Err(denied(location, "it is outside the declared tables")),
            Err((path, error)) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NotFound {
                path: path.display().to_string(),
                source: Box::new(error),
            }),
            Err((_, error)) => Err(Error::Generic {
                store: "file",
                source: Box::new(error),
            }),
        }
    }
}

fn is_below(roots: &[PathBuf], path: &FsPath) -> bool {
    roots.iter().any(|root| path.starts_with(root))
}

fn denied(location: &Path, why: &'static str) -> Error {
    Error::PermissionDenied {
        path: location.to_string(),
        source: why.into(),
    }
}

const READ_ONLY: &str = "tables are read, not listed or written";

impl fmt::Display for RootedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("declared tables")
    }
}

#[async_trait]
impl ObjectStore for RootedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = self.admit(location).await?;
        self.files.get_opts(&location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let location = self.admit(location).await?;
        self.files.get_ranges(&location, ranges).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        stream::once(async move { Err(denied(&prefix, READ_ONLY)) }).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        Err(denied(&prefix.cloned().unwrap_or_default(), READ_ONLY))
    }

    async fn put_opts(&self, location: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(denied(location, READ_ONLY))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(denied(location, READ_ONLY))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations
            .map(|location| location.and_then(|location| Err(denied(&location, READ_ONLY))))
            .boxed()
    }

    async fn copy_opts(&self, from: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(denied(from, READ_ONLY))
    }
}
