//! The only access of queries to files: a read-only store that serves the files of the manifest, as they were listed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
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
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use sluice_core::plan::InputFile;
use url::Url;

use super::roots::InputRoots;
use crate::forbidden::forbidden_folder;

/// Bytes per read of a range.
const CHUNK: u64 = 256 << 10;

/// The stores of a session that reads exactly these files below `roots`. DataFusion's own registry would serve every
/// file of the machine under `file://`. A read fails if its file differs from the manifest, so that a result never
/// mixes rows of two versions of a file.
pub fn pinned_stores<'a>(
    roots: &InputRoots,
    files: impl IntoIterator<Item = &'a InputFile>,
) -> Arc<dyn ObjectStoreRegistry> {
    Arc::new(PinnedStores {
        files: Arc::new(PinnedStore::new(roots, files)),
    })
}

/// A range beyond the end of a file: its source, usually a footer, is corrupt.
#[derive(Debug, thiserror::Error)]
#[error("bytes {start}..{end} are named in it, which has {size}")]
pub(super) struct RangeBeyondFile {
    /// The file, as the manifest names it.
    pub(super) path: String,
    start: u64,
    end: u64,
    size: u64,
}

#[derive(Debug)]
struct PinnedStores {
    files: Arc<PinnedStore>,
}

impl ObjectStoreRegistry for PinnedStores {
    // A query may not add stores.
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

/// Serves files that are, links resolved, in one of the roots and unchanged since they were listed.
#[derive(Debug)]
struct PinnedStore {
    roots: Arc<InputRoots>,
    pinned: BTreeMap<Path, InputFile>,
    files: LocalFileSystem,
}

impl PinnedStore {
    fn new<'a>(roots: &InputRoots, files: impl IntoIterator<Item = &'a InputFile>) -> Self {
        let pinned = |file: &InputFile| Some((Path::parse(&file.path).ok()?, file.clone()));
        Self {
            roots: Arc::new(roots.resolved()),
            pinned: files.into_iter().filter_map(pinned).collect(),
            files: LocalFileSystem::new(),
        }
    }

    /// Checks that a file may be read. Returns its location with links resolved, and its entry in the manifest.
    async fn admit(&self, location: &Path) -> Result<(Path, &InputFile)> {
        let resolved = self.resolve(location).await?;
        let pinned = self.pinned.get(location);
        let pinned = pinned.ok_or_else(|| denied(location, "the query had not listed it"))?;
        Ok((resolved, pinned))
    }

    /// Resolves the links of a location and checks that it may be read. Done at every read, so that a file that was
    /// replaced by a link since it was listed is refused.
    async fn resolve(&self, location: &Path) -> Result<Path> {
        let path = self.files.path_to_filesystem(location)?;
        let roots = Arc::clone(&self.roots);
        let resolved = tokio::task::spawn_blocking(move || match path.canonicalize() {
            Ok(resolved) if forbidden_folder(&resolved).is_some() => Ok(Err(FORBIDDEN)),
            Ok(resolved) if !roots.hold(&resolved) => Ok(Err(OUTSIDE)),
            // Opening a pipe would wait for a writer.
            Ok(resolved) if !resolved.is_file() => Err((path, std::io::ErrorKind::NotFound.into())),
            Ok(resolved) => Ok(Ok(resolved)),
            // Report absence only below a root.
            Err(_) if !roots.hold(&path) => Ok(Err(OUTSIDE)),
            Err(error) => Err((path, error)),
        })
        .await?;
        match resolved {
            Ok(Ok(path)) => Ok(Path::from_absolute_path(path)?),
            Ok(Err(why)) => Err(denied(location, why)),
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

/// Why a file is refused, whatever the roots are.
const FORBIDDEN: &str = "it is in a folder of the system or a spill folder, which are no place for tables";
const OUTSIDE: &str = "it is outside the declared tables";

/// Checks that a file is still the one of the manifest.
fn check_unchanged(pinned: &InputFile, now: &ObjectMeta) -> Result<()> {
    let other_tag = matches!((&now.e_tag, &pinned.etag), (Some(now), Some(then)) if now != then);
    let what = if now.size != pinned.size {
        format!("changed its size from {} to {} bytes", pinned.size, now.size)
    } else if now.last_modified.timestamp_nanos_opt() != Some(pinned.modified_nanos) || other_tag {
        "was written".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Precondition {
        path: pinned.path.clone(),
        source: what.into(),
    })
}

/// Checks that a file has these bytes before a buffer for them is allocated.
fn check_within(pinned: &InputFile, range: &Range<u64>) -> Result<()> {
    if range.start <= range.end && range.end <= pinned.size {
        return Ok(());
    }
    Err(Error::Generic {
        store: "file",
        source: Box::new(RangeBeyondFile {
            path: pinned.path.clone(),
            start: range.start,
            end: range.end,
            size: pinned.size,
        }),
    })
}

/// Reads a range of an open file in chunks. A file that was truncated meanwhile is an error; a reader of the bare file
/// would wait for ever.
fn chunks(file: File, range: Range<u64>, pinned: &InputFile) -> BoxStream<'static, Result<Bytes>> {
    let state = (Arc::new(file), range, pinned.path.clone());
    stream::try_unfold(state, |(file, range, path)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let next = range.end.min(range.start.saturating_add(CHUNK));
        let reading = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; usize::try_from(next - range.start).unwrap_or(0)];
            reading
                .read_exact_at(&mut buffer, range.start)
                .map(|()| Bytes::from(buffer))
        });
        match read.await? {
            Ok(read) => Ok(Some((read, (file, next..range.end, path)))),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::Precondition {
                path,
                source: "was cut".into(),
            }),
            Err(error) => Err(Error::Generic {
                store: "file",
                source: Box::new(error),
            }),
        }
    })
    .boxed()
}

fn denied(location: &Path, why: &'static str) -> Error {
    Error::PermissionDenied {
        path: location.to_string(),
        source: why.into(),
    }
}

const READ_ONLY: &str = "tables are read, not listed or written";

impl fmt::Display for PinnedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("declared tables")
    }
}

#[async_trait]
impl ObjectStore for PinnedStore {
    // Whole files are read through the file handle: the reader calls `verify` at the end.
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (resolved, pinned) = self.admit(location).await?;
        let is_part = options.range.is_some();
        if let Some(GetRange::Bounded(range)) = &options.range {
            // The interface truncates ranges at the end of the file.
            check_within(pinned, &(range.start..range.end.min(pinned.size)))?;
        }
        let mut got = self.files.get_opts(&resolved, options).await?;
        check_unchanged(pinned, &got.meta)?;
        if is_part && let GetResultPayload::File(file, _) = got.payload {
            got.payload = GetResultPayload::Stream(chunks(file, got.range.clone(), pinned));
        }
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (resolved, pinned) = self.admit(location).await?;
        ranges.iter().try_for_each(|range| check_within(pinned, range))?;
        let read = self.files.get_ranges(&resolved, ranges).await;
        // Checked after the read, to notice changes before and during it.
        check_unchanged(pinned, &self.files.head(&resolved).await?)?;
        read
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
