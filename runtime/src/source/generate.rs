//! Writes the TPC-H tables as Parquet files: `sluice data tpch`.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, StreamExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use sluice_crds::shuffle_query::{MAX_SCALE_FACTOR, TpchTable};
use thiserror::Error;

use super::tpch::{MIN_SCALE_FACTOR, batches, row_count, schema};

/// Rows that one file aims at.
const ROWS_PER_FILE: u64 = 2_000_000;
/// Rows below which a table is not cut into more files.
const MIN_ROWS_PER_FILE: u64 = 10_000;
/// Files of a large enough table, so that queries can split it.
const FILES_PER_TABLE: u64 = 4;
/// Most files of a table.
const MAX_FILES: u64 = 4096;
/// Rows per row group, the unit of splits; about 30 MB of memory per open file.
const ROWS_PER_GROUP: usize = 250_000;
/// How often to retry the removal of a folder while stopping writers may still add files.
const REMOVE_TRIES: usize = 8;
/// Rows generated at once.
const BATCH_ROWS: usize = 8192;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Why tables cannot be written.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// Too small, too large, or not a number.
    #[error("scale {0} is out of bounds: choose one from {MIN_SCALE_FACTOR} to {MAX_SCALE_FACTOR}")]
    Scale(f64),
    /// The folder has content that would be mixed with the tables.
    #[error("{0} is not empty: remove it or name another folder")]
    NotEmpty(String),
    /// The file system failed.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {cause}")]
    Write {
        path: String,
        /// What the writer said.
        cause: ParquetError,
    },
}

/// Writes all eight tables of a scale factor as `<out>/<table>/part-<n>.parquet`, with several files for larger tables.
/// Streams rows, one file per core. Writes beside `out`, which appears complete at the end. `progress` gets a line per
/// file.
///
/// # Errors
///
/// If the scale is out of bounds, `out` exists and is not empty, or cannot be written; nothing is left then.
pub async fn generate_tpch(
    scale: f64,
    out: &Path,
    mut progress: impl FnMut(&str),
) -> Result<Summary, GenerateError> {
    if !(MIN_SCALE_FACTOR..=MAX_SCALE_FACTOR).contains(&scale) {
        return Err(GenerateError::Scale(scale));
    }
    let out = std::path::absolute(out).map_err(|cause| failed("find", out, cause))?;
    check_free(&out)?;
    let staging = StagingDir::new(&out)?;
    let mut parts = Vec::new();
    for table in TpchTable::ALL {
        let folder = staging.folder.join(table.name());
        fs::create_dir_all(&folder).map_err(|cause| failed("create", &folder, cause))?;
        let files = files(table, scale);
        parts.extend((0..files).map(|part| TableFile {
            table,
            scale,
            part,
            parts: files,
            path: folder.join(format!("part-{part:05}.parquet")),
        }));
    }
    let total = parts.len();
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let written = stream::iter(parts).map(|part| {
        let stopped = Arc::clone(&staging.stopped);
        async move {
            let name = format!("{} part {} of {}", part.table.name(), part.part + 1, part.parts);
            let path = part.path.clone();
            let written = tokio::task::spawn_blocking(move || part.write(&stopped))
                .await
                .unwrap_or_else(|error| Err(failed("write", &path, io::Error::other(error))));
            written.map(|written| (name, written))
        }
    });
    let mut written = written.buffer_unordered(cores);
    let mut summary = Summary::default();
    while let Some(file) = written.next().await {
        let (name, file) = file?;
        summary.files += 1;
        summary.rows += file.rows;
        summary.bytes += file.bytes;
        progress(&format!(
            "{}/{total} files: {name}, {} rows",
            summary.files, file.rows
        ));
    }
    drop(written);
    staging.publish(&out)?;
    Ok(summary)
}

fn failed(action: &'static str, path: &Path, cause: io::Error) -> GenerateError {
    GenerateError::Io {
        action,
        path: path.display().to_string(),
        cause,
    }
}

/// How many files a table is written to.
fn files(table: TpchTable, scale: f64) -> u32 {
    let (rows, _) = row_count(table, scale);
    let wanted = FILES_PER_TABLE.min(rows / MIN_ROWS_PER_FILE);
    let files = rows.div_ceil(ROWS_PER_FILE).max(wanted).clamp(1, MAX_FILES);
    u32::try_from(files).unwrap_or(1)
}

fn check_free(out: &Path) -> Result<(), GenerateError> {
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(GenerateError::NotEmpty(out.display().to_string())),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(failed("read", out, cause)),
    }
}

/// The folder until it is published. Dropping it, for example when the caller is cancelled, removes it.
struct StagingDir {
    folder: PathBuf,
    stopped: Arc<AtomicBool>,
}

impl StagingDir {
    fn new(out: &Path) -> Result<Self, GenerateError> {
        let unnamed = || failed("name", out, io::ErrorKind::InvalidInput.into());
        let name = out.file_name().ok_or_else(unnamed)?.to_string_lossy();
        let folder = out.with_file_name(format!(".{name}.sluice-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|cause| failed("create", &folder, cause))?;
        Ok(Self {
            folder,
            stopped: Arc::default(),
        })
    }

    /// A rename replaces an empty folder and nothing else.
    fn publish(self, out: &Path) -> Result<(), GenerateError> {
        fs::rename(&self.folder, out).map_err(|cause| failed("rename the tables to", out, cause))
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // After publication it does not exist. A writer that has not seen the flag yet may still add a file.
        for _ in 0..REMOVE_TRIES {
            let _ = fs::remove_dir_all(&self.folder);
            if !self.folder.exists() {
                break;
            }
        }
    }
}

/// One file.
struct TableFile {
    table: TpchTable,
    scale: f64,
    part: u32,
    parts: u32,
    path: PathBuf,
}

impl TableFile {
    fn write(&self, stopped: &AtomicBool) -> Result<Summary, GenerateError> {
        let wrong = |cause: ParquetError| GenerateError::Write {
            path: self.path.display().to_string(),
            cause,
        };
        let file = File::create(&self.path).map_err(|cause| failed("create", &self.path, cause))?;
        let level = ZstdLevel::try_new(1).map_err(wrong)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
            .build();
        let mut writer = ArrowWriter::try_new(file, schema(self.table), Some(properties)).map_err(wrong)?;
        let mut rows = 0;
        for batch in batches(self.table, self.scale, self.part, self.parts, BATCH_ROWS) {
            if stopped.load(Ordering::Relaxed) {
                return Err(failed("write", &self.path, io::ErrorKind::Interrupted.into()));
            }
            let batch = batch.map_err(|cause| wrong(cause.into()))?;
            rows += u64::try_from(batch.num_rows()).unwrap_or(0);
            writer.write(&batch).map_err(wrong)?;
        }
        let file = writer.into_inner().map_err(wrong)?;
        let metadata = file
            .metadata()
            .map_err(|cause| failed("look at", &self.path, cause))?;
        Ok(Summary {
            files: 1,
            rows,
            bytes: metadata.len(),
        })
    }
}
