//! Schemas and statistics of files.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::datasource::file_format::FileFormat as FormatReader;
use datafusion::error::DataFusionError;
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::plan::InputFile;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::FileFormat;

use super::check::{Quoting, arrow_schema, csv_schema, json_schema, parquet_footer};
use super::error::{SourceError, classify_error};
use super::manifest::{object_meta, shown};
use super::schema::Merge;

/// Most bytes of JSON files for schema inference, which reads every row.
const MAX_INFERRED_JSON_BYTES: u64 = 1 << 30;
/// Files that are read concurrently.
const CONCURRENT_FILES: usize = 8;

/// One table's files and their reader.
pub struct Files<'a> {
    /// The table's name, for messages.
    pub table: &'a str,
    /// Format of the files.
    pub format: FileFormat,
    /// Reads that format.
    pub reader: &'a Arc<dyn FormatReader>,
    /// How CSV files are written.
    pub csv: Option<(Quoting, Format)>,
    /// The session, which caches Parquet footers.
    pub session: &'a dyn Session,
    /// Where the files are.
    pub store: &'a Arc<dyn ObjectStore>,
}

impl Files<'_> {
    /// The schema of each file: from the file itself, from the first rows of CSV, or from all rows of JSON.
    ///
    /// # Errors
    ///
    /// The first file, in their order, that cannot be decoded.
    pub async fn schemas<'f>(
        &self,
        files: &'f [InputFile],
    ) -> Result<Vec<(&'f InputFile, SchemaRef)>, SourceError> {
        let files: Vec<_> = files.iter().collect();
        let schemas = stream::iter(files).map(|file| async move {
            let meta = self.meta(file)?;
            let schema = guard(self.infer(&meta))
                .await
                .map_err(|error| self.unreadable(file, &error))?;
            let mut names = BTreeSet::new();
            // The scan would read one column where the file has two.
            if self.format == FileFormat::Csv
                && !schema.fields().iter().all(|field| names.insert(field.name()))
            {
                return Err(self.mismatch(file, "has several columns of one name: rename them"));
            }
            Ok((file, schema))
        });
        schemas.buffered(CONCURRENT_FILES).try_collect().await
    }

    /// Reads the schema of a file, after its lengths are checked.
    async fn infer(&self, meta: &ObjectMeta) -> Result<SchemaRef, DataFusionError> {
        match self.format {
            // DataFusion tries the other Arrow format if one fails, and trusts its lengths.
            FileFormat::Arrow => return Ok(Arc::new(arrow_schema(self.store, &meta.location).await?)),
            FileFormat::Parquet => parquet_footer(self.store, &meta.location).await?,
            FileFormat::Json => return Ok(Arc::new(json_schema(self.store, &meta.location).await?)),
            FileFormat::Csv => {
                if let Some((quoting, format)) = self.csv.clone() {
                    let schema = csv_schema(self.store, &meta.location, quoting, format).await?;
                    return Ok(Arc::new(schema));
                }
            }
        }
        let objects = std::slice::from_ref(meta);
        self.reader.infer_schema(self.session, self.store, objects).await
    }

    /// One schema for all files.
    ///
    /// # Errors
    ///
    /// If a file cannot be decoded, files disagree, or no column was found.
    pub async fn schema(&self, files: &[InputFile]) -> Result<Schema, SourceError> {
        let bytes = files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        if self.format == FileFormat::Json && bytes > MAX_INFERRED_JSON_BYTES {
            let message = format!(
                "its JSON files have {bytes} bytes, and columns are looked for in all rows of at most {MAX_INFERRED_JSON_BYTES}: declare a schema"
            );
            return Err(SourceError::new(ErrorReason::InvalidSpec, self.table, message));
        }
        let mut merge = Merge::new(self.format);
        for (file, schema) in self.schemas(files).await? {
            let path = shown(&file.path);
            // An empty text file has no columns and no rows.
            if file.size == 0 || schema.fields().is_empty() {
                continue;
            }
            merge
                .add(&path, &schema)
                .map_err(|problem| self.mismatch(file, &problem))?;
        }
        let schema = merge.finish();
        if schema.fields().is_empty() {
            let named = match files {
                [file] => format!("{} has", shown(&file.path)),
                _ => "its files have".to_owned(),
            };
            let message = format!("{named} no columns: declare a schema, or remove the table");
            return Err(SourceError::new(ErrorReason::InputCorrupt, self.table, message));
        }
        Ok(schema)
    }

    /// Statistics of a file: from the footer of a Parquet file, else its size alone.
    ///
    /// # Errors
    ///
    /// If the file cannot be decoded.
    pub async fn statistics(&self, file: &InputFile, schema: &SchemaRef) -> Result<Statistics, SourceError> {
        if self.format != FileFormat::Parquet {
            let size = usize::try_from(file.size).unwrap_or(usize::MAX);
            let unknown = Statistics::new_unknown(schema);
            return Ok(unknown.with_total_byte_size(Precision::Inexact(size)));
        }
        let meta = self.meta(file)?;
        let statistics = self
            .reader
            .infer_stats(self.session, self.store, Arc::clone(schema), &meta);
        let mut statistics = guard(statistics)
            .await
            .map_err(|error| self.unreadable(file, &error))?;
        // Bounds of another type than the column's would prune wrong rows.
        for (column, field) in statistics.column_statistics.iter_mut().zip(schema.fields()) {
            let bounds = [&column.min_value, &column.max_value];
            let mut types = bounds.iter().filter_map(|bound| bound.get_value());
            if types.any(|bound| &bound.data_type() != field.data_type()) {
                *column = ColumnStatistics::new_unknown();
            }
        }
        Ok(statistics)
    }

    fn meta(&self, file: &InputFile) -> Result<ObjectMeta, SourceError> {
        object_meta(file).ok_or_else(|| {
            let message = format!("the manifest names {}, which is no path", file.path);
            SourceError::new(ErrorReason::Internal, self.table, message)
        })
    }

    /// A file whose columns do not fit.
    pub fn mismatch(&self, file: &InputFile, problem: &str) -> SourceError {
        let message = format!("{} {problem}", shown(&file.path));
        SourceError::new(ErrorReason::InputCorrupt, self.table, message)
    }

    fn unreadable(&self, file: &InputFile, error: &DataFusionError) -> SourceError {
        // These messages are complete; the format is not at fault.
        if let AttemptFailure::BadInput { kind, message } = classify_error(error, &[]) {
            let reason = match kind {
                BadInputKind::InputChanged => Some(ErrorReason::InputChanged),
                BadInputKind::ForbiddenPath => Some(ErrorReason::ForbiddenPath),
                BadInputKind::InputCorrupt | BadInputKind::InvalidValue | BadInputKind::UnsupportedPlan => {
                    None
                }
            };
            if let Some(reason) = reason {
                return SourceError::new(reason, self.table, message);
            }
        }
        let cause = innermost(error);
        let wanted = match self.format {
            FileFormat::Parquet => "a Parquet file",
            FileFormat::Csv => "a CSV file with the same number of values in every line",
            FileFormat::Json => "a file of one JSON object a line",
            FileFormat::Arrow => "an Arrow IPC file",
        };
        let message = format!(
            "{} cannot be read as {wanted}: {cause}: correct the file, the location or the table's format",
            shown(&file.path)
        );
        SourceError::new(ErrorReason::InputCorrupt, self.table, message)
    }
}

/// The innermost message: the outer ones repeat the path or add nothing.
fn innermost(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(inner, _) => inner.to_string(),
        DataFusionError::ParquetError(inner) => inner.to_string(),
        DataFusionError::ObjectStore(inner) => inner.to_string(),
        DataFusionError::External(inner) => inner.to_string(),
        other => other.strip_backtrace(),
    }
}

/// Runs a decoder on unchecked bytes; a panic becomes an error.
async fn guard<T>(decoding: impl Future<Output = Result<T, DataFusionError>>) -> Result<T, DataFusionError> {
    AssertUnwindSafe(decoding)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(DataFusionError::Execution("its bytes are corrupt".to_owned())))
}
