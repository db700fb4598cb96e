//! Checks lengths in files against their bytes before a decoder allocates them. Decoders of Parquet and Arrow trust
//! footers and blocks, and a failed allocation ends the process with all its attempts.

mod arrow;
mod parquet;
mod text;
mod thrift;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::arrow::csv::reader::Format;
use ::arrow::datatypes::Schema;
use ::arrow::error::ArrowError;
use ::parquet::errors::ParquetError;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig};
use datafusion::error::{DataFusionError, Result};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};

use super::error::panic_message;
pub use text::{Quoting, Rows};

/// What a scan decodes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoder {
    /// Lines of text.
    Text(Rows),
    /// A format without lengths to check.
    Other,
    /// The file format of Arrow IPC, with a footer.
    ArrowFile,
    /// The stream format of Arrow IPC.
    ArrowStream,
    /// Parquet.
    Parquet {
        /// The columns that are read; `None` for all.
        columns: Option<BTreeSet<String>>,
        /// Whether the page index prunes pages.
        skips_pages: bool,
    },
}

impl Decoder {
    /// The decoder of a file scan.
    pub fn of(config: &FileScanConfig) -> Self {
        let source = config.file_source();
        match source.file_type() {
            "arrow" => Self::ArrowFile,
            "arrow_stream" => Self::ArrowStream,
            "json" => Self::Text(Rows::Json),
            "parquet" => {
                let schema = source.table_schema().table_schema();
                let name = |column: usize| schema.fields().get(column).map(|field| field.name().clone());
                let columns = source.projection();
                Self::Parquet {
                    columns: columns
                        .map(|columns| columns.column_indices().into_iter().filter_map(name).collect()),
                    skips_pages: source.filter().is_some(),
                }
            }
            _ => match source.downcast_ref::<CsvSource>() {
                Some(csv) => Self::Text(Rows::Csv(Quoting {
                    delimiter: csv.delimiter(),
                    quote: csv.quote(),
                    escape: csv.escape(),
                    line_breaks: csv.newlines_in_values(),
                })),
                None => Self::Other,
            },
        }
    }

    /// Checks what a scan of these bytes of a file will decode. Returns what it will hold in memory.
    ///
    /// # Errors
    /// Errors of the store, and lengths beyond the file or implausible ones.
    pub async fn check(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
        bytes: Range<u64>,
    ) -> Result<DecodeMemory> {
        if *self == Self::Other {
            return Ok(DecodeMemory::default());
        }
        let decoder = self.clone();
        let fault = match self {
            Self::Parquet { .. } => CheckError::of_parquet,
            Self::Text(_) => CheckError::Text,
            Self::ArrowFile | Self::ArrowStream | Self::Other => CheckError::Arrow,
        };
        inspect(store, location, fault, move |file| match &decoder {
            Self::Other => Ok(DecodeMemory::default()),
            Self::Text(rows) => Ok(DecodeMemory {
                row: text::check_rows(file, &bytes, *rows)?,
                pages: 0,
            }),
            Self::ArrowFile => arrow::check_blocks(file, &bytes).map(|()| DecodeMemory::default()),
            Self::ArrowStream => arrow::check_stream(file).map(|()| DecodeMemory::default()),
            Self::Parquet { columns, skips_pages } => Ok(DecodeMemory {
                row: 0,
                pages: parquet::check_pages(file, &bytes, columns.as_ref(), *skips_pages)?,
            }),
        })
        .await
    }
}

/// The memory needs of a decoder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeMemory {
    /// Bytes of the longest row of text.
    pub row: u64,
    /// Bytes of decompressed Parquet pages and of their values.
    pub pages: u64,
}

/// The columns of a CSV file, inferred from its first rows.
///
/// # Errors
/// Errors of the store, and invalid rows.
pub async fn csv_schema(
    store: &Arc<dyn ObjectStore>,
    location: &Path,
    quoting: Quoting,
    format: Format,
) -> Result<Schema> {
    inspect(store, location, CheckError::Text, move |file| {
        text::csv_schema(file, quoting, &format)
    })
    .await
}

/// The columns of all rows of a JSON file.
///
/// # Errors
/// Errors of the store, and lines that are not JSON objects.
pub async fn json_schema(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<Schema> {
    inspect(store, location, CheckError::Text, text::json_schema).await
}

/// The schema of an Arrow file of either format, after its footer and schema are checked.
///
/// # Errors
/// Errors of the store, and invalid files.
pub async fn arrow_schema(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<Schema> {
    inspect(store, location, CheckError::Arrow, arrow::schema).await
}

/// Checks the footer of a Parquet file.
///
/// # Errors
/// Errors of the store, and invalid files.
pub async fn parquet_footer(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<()> {
    inspect(store, location, CheckError::of_parquet, |file| {
        parquet::footer(file).map(|_| ())
    })
    .await
}

/// The first byte of each row group of a Parquet file: a range contains the groups that start in it.
///
/// # Errors
/// Errors of the store, and invalid files.
pub async fn parquet_group_starts(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<Vec<u64>> {
    inspect(store, location, CheckError::of_parquet, |file| {
        parquet::footer(file).map(|footer| parquet::group_starts(&footer))
    })
    .await
}

/// Opens a file through the store, which checks it against the manifest, and inspects it on a blocking thread. A panic
/// is the file's fault and becomes a [`CheckError`].
async fn inspect<T: Send + 'static>(
    store: &Arc<dyn ObjectStore>,
    location: &Path,
    fault: fn(String) -> CheckError,
    inspect: impl FnOnce(&OpenFile) -> Result<T, CheckError> + Send + 'static,
) -> Result<T> {
    let got = store.get(location).await?;
    let size = got.meta.size;
    let GetResultPayload::File(file, _) = got.payload else {
        return Err(DataFusionError::Internal(format!(
            "{location} was not served as a file"
        )));
    };
    let inspected = tokio::task::spawn_blocking(move || inspect(&OpenFile { file, size }));
    match inspected.await {
        Ok(found) => found.map_err(DataFusionError::from),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => Err(fault(panic_message(panic.as_ref())).into()),
            Err(stopped) => Err(DataFusionError::External(Box::new(stopped))),
        },
    }
}

/// A fault in a text file, with its line and the fix.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadText(pub(super) String);

/// Why a file is refused.
enum CheckError {
    Arrow(String),
    Text(String),
    Parquet(ParquetError),
    Io(io::Error),
}

impl CheckError {
    fn of_parquet(problem: String) -> Self {
        Self::Parquet(ParquetError::General(problem))
    }
}

impl From<io::Error> for CheckError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CheckError> for DataFusionError {
    fn from(fault: CheckError) -> Self {
        match fault {
            CheckError::Arrow(problem) => ArrowError::IpcError(problem).into(),
            CheckError::Text(problem) => DataFusionError::External(Box::new(BadText(problem))),
            CheckError::Parquet(error) => error.into(),
            CheckError::Io(error) => error.into(),
        }
    }
}

/// An open file of known size.
struct OpenFile {
    file: File,
    size: u64,
}

impl OpenFile {
    /// Bytes of the file; `None` if it does not have them.
    fn read(&self, start: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(end) = start.checked_add(length).filter(|end| *end <= self.size) else {
            return Ok(None);
        };
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(Some(bytes))
    }
}
