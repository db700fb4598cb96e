//! Lengths that files name, held against their bytes before a decoder makes room by them. Decoders of Parquet and Arrow
//! believe what a footer or a block says, and room that cannot be made ends the process, with the attempts of others.

mod arrow;
mod parquet;
mod thrift;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::arrow::datatypes::Schema;
use ::arrow::error::ArrowError;
use ::parquet::errors::ParquetError;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::error::{DataFusionError, Result};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};

use super::error::gave_up;

/// What of a file a scan decodes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoder {
    /// Text, whose lines name no lengths.
    Text,
    /// The file format of Arrow IPC, with a footer.
    ArrowFile,
    /// The stream format of Arrow IPC.
    ArrowStream,
    /// Parquet.
    Parquet {
        /// The columns of the file that are read; all, if the scan does not say.
        columns: Option<BTreeSet<String>>,
        /// Whether pages are skipped by their index.
        skips_pages: bool,
    },
}

impl Decoder {
    /// That of a scan of files.
    pub fn of(config: &FileScanConfig) -> Self {
        let source = config.file_source();
        match source.file_type() {
            "arrow" => Self::ArrowFile,
            "arrow_stream" => Self::ArrowStream,
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
            _ => Self::Text,
        }
    }

    /// Checks what a scan of these bytes of a file will decode.
    ///
    /// # Errors
    /// Those of the store, and lengths beyond the file or beyond sense.
    pub async fn check(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
        bytes: Range<u64>,
    ) -> Result<()> {
        if *self == Self::Text {
            return Ok(());
        }
        let decoder = self.clone();
        let flaw = match self {
            Self::Parquet { .. } => Flaw::of_parquet,
            Self::ArrowFile | Self::ArrowStream | Self::Text => Flaw::Arrow,
        };
        look(store, location, flaw, move |file| match &decoder {
            Self::Text => Ok(()),
            Self::ArrowFile => arrow::check_blocks(file, &bytes),
            Self::ArrowStream => arrow::check_stream(file),
            Self::Parquet { columns, skips_pages } => {
                parquet::check_pages(file, &bytes, columns.as_ref(), *skips_pages)
            }
        })
        .await
    }
}

/// The schema of an Arrow file of either format, of which footer and schema were checked.
///
/// # Errors
/// Those of the store, and a file that is none or lies about itself.
pub async fn arrow_schema(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<Schema> {
    look(store, location, Flaw::Arrow, arrow::schema).await
}

/// Checks the footer of a Parquet file.
///
/// # Errors
/// Those of the store, and a file that is none or lies about itself.
pub async fn parquet_footer(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<()> {
    look(store, location, Flaw::of_parquet, |file| {
        parquet::footer(file).map(|_| ())
    })
    .await
}

/// Opens a file by the store, which knows whether it is the one of the manifest, and looks into it on a thread that may
/// wait. A panic is the file's fault, told as `flaw`.
async fn look<T: Send + 'static>(
    store: &Arc<dyn ObjectStore>,
    location: &Path,
    flaw: fn(String) -> Flaw,
    at: impl FnOnce(&Opened) -> Result<T, Flaw> + Send + 'static,
) -> Result<T> {
    let got = store.get(location).await?;
    let size = got.meta.size;
    let GetResultPayload::File(file, _) = got.payload else {
        return Err(DataFusionError::Internal(format!(
            "{location} was not served as a file"
        )));
    };
    let looked = tokio::task::spawn_blocking(move || at(&Opened { file, size }));
    match looked.await {
        Ok(found) => found.map_err(DataFusionError::from),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => Err(flaw(gave_up(panic.as_ref())).into()),
            Err(stopped) => Err(DataFusionError::External(Box::new(stopped))),
        },
    }
}

/// Why a file is not decoded.
enum Flaw {
    Arrow(String),
    Parquet(ParquetError),
    Io(io::Error),
}

impl Flaw {
    fn of_parquet(problem: String) -> Self {
        Self::Parquet(ParquetError::General(problem))
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Flaw> for DataFusionError {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Arrow(problem) => ArrowError::IpcError(problem).into(),
            Flaw::Parquet(error) => error.into(),
            Flaw::Io(error) => error.into(),
        }
    }
}

/// An open file of known size.
struct Opened {
    file: File,
    size: u64,
}

impl Opened {
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
