//! Tables of files, pinned by the manifest.

use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, Statistics, TableReference, project_schema};
use datafusion::datasource::file_format::FileFormat as FormatReader;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::prelude::SessionContext;
use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_core::plan::InputFile;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::{CsvOptions, FileFormat, TableSource, TableSpec};

use super::check::Quoting;
use super::error::SourceError;
use super::inference::Files;
use super::manifest::{InputManifest, object_meta, shown};
use super::tpch::{MIN_SCALE_FACTOR, TpchTable};
use super::{nulls, schema};

/// Tables whose files are read concurrently.
const CONCURRENT_TABLES: usize = 4;
/// Footers of a table that are read concurrently.
const CONCURRENT_FOOTERS: usize = 8;

/// A table that scans exactly the files of the manifest.
#[derive(Debug)]
pub struct FileTable {
    reader: Arc<dyn FormatReader>,
    schema: SchemaRef,
    files: Vec<PartitionedFile>,
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(
                &self.schema,
                projection,
            )?)));
        }
        let partitions = state.config().target_partitions().max(1);
        let groups = FileGroup::new(self.files.clone()).split_files(partitions);
        let of_files = self.files.iter().filter_map(|file| file.statistics.as_deref());
        let statistics = Statistics::try_merge_iter(of_files, &self.schema)?;
        let source = self
            .reader
            .file_source(TableSchema::from(Arc::clone(&self.schema)));
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        self.reader.create_physical_plan(state, scan).await
    }

    // A Parquet scan prunes row groups and pages by the filters; the plan filters its rows again.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Registers tables of a query with the session: files as the manifest lists them, and generated TPC-H tables. The
/// session's runtime must have the manifest's [`super::pinned_stores`]. Reads footers and first rows of files; errors
/// name the file.
///
/// # Errors
///
/// If a schema is missing, wrong or does not fit a file, files of a table do not fit together, or a file cannot be
/// decoded.
pub async fn register_tables(
    context: &SessionContext,
    tables: &[TableSpec],
    manifest: &InputManifest,
) -> Result<(), SourceError> {
    // Collected before the stream: a closure over references would make the future not `Send`.
    let providers: Vec<_> = tables
        .iter()
        .map(|spec| provider(context, spec, manifest))
        .collect();
    let providers: Vec<_> = stream::iter(providers)
        .buffered(CONCURRENT_TABLES)
        .try_collect()
        .await?;
    for (spec, provider) in tables.iter().zip(providers) {
        context
            .register_table(TableReference::bare(spec.name.as_str()), provider)
            .map_err(|cause| {
                SourceError::new(ErrorReason::InvalidSpec, &spec.name, cause.strip_backtrace())
            })?;
    }
    Ok(())
}

/// The bytes of a table: of its files, or of its generated rows in memory.
pub fn table_bytes(spec: &TableSpec, manifest: &InputManifest) -> u64 {
    match spec.source() {
        Some(TableSource::Tpch { scale_factor, table }) => {
            TpchTable::new(table, scale_factor).map_or(0, |table| table.bytes())
        }
        Some(TableSource::Files { .. }) | None => {
            let files = manifest.tables.get(&spec.name).into_iter().flatten();
            files.map(|file| file.size).fold(0, u64::saturating_add)
        }
    }
}

async fn provider(
    context: &SessionContext,
    spec: &TableSpec,
    manifest: &InputManifest,
) -> Result<Arc<dyn TableProvider>, SourceError> {
    let error = |reason, message: String| SourceError::new(reason, &spec.name, message);
    match spec.source() {
        Some(TableSource::Tpch { scale_factor, table }) => {
            let table = TpchTable::new(table, scale_factor).ok_or_else(|| {
                let message =
                    format!("tpch.scaleFactor is {scale_factor}: write at least {MIN_SCALE_FACTOR}");
                error(ErrorReason::InvalidSpec, message)
            })?;
            Ok(Arc::new(table))
        }
        Some(source @ TableSource::Files { .. }) => {
            let files = manifest.tables.get(&spec.name);
            let files = files
                .ok_or_else(|| error(ErrorReason::Internal, "the manifest does not list it".to_owned()))?;
            file_table(context, &spec.name, &source, files).await
        }
        None => {
            let message = "set exactly one of location, locations and tpch, and the format of files";
            Err(error(ErrorReason::InvalidSpec, message.to_owned()))
        }
    }
}

async fn file_table(
    context: &SessionContext,
    table: &str,
    source: &TableSource<'_>,
    files: &[InputFile],
) -> Result<Arc<dyn TableProvider>, SourceError> {
    let TableSource::Files {
        format,
        options,
        schema: columns,
        ..
    } = source
    else {
        return Err(SourceError::new(ErrorReason::Internal, table, "it has no files"));
    };
    let invalid = |message: String| SourceError::new(ErrorReason::InvalidSpec, table, message);
    let reader = reader(*format, *options).map_err(invalid)?;
    let session = context.state();
    let store = session
        .runtime_env()
        .object_store(ObjectStoreUrl::local_filesystem())
        .map_err(|error| SourceError::new(ErrorReason::Internal, table, error.strip_backtrace()))?;
    let header = options.is_none_or(|options| options.header);
    let csv = match *format {
        FileFormat::Csv => Some(sampling(*options).map_err(invalid)?),
        FileFormat::Parquet | FileFormat::Json | FileFormat::Arrow => None,
    };
    let reading = Files {
        table,
        format: *format,
        reader: &reader,
        csv,
        session: &session,
        store: &store,
    };
    let schema = match columns {
        Some(columns) => {
            let declared = schema::declared(columns).map_err(invalid)?;
            // Whether a JSON value fits the declared type shows only when it is read.
            let described = if *format == FileFormat::Json { &[] } else { files };
            for (file, found) in reading.schemas(described).await? {
                if file.size > 0 {
                    schema::check_file(*format, header, &declared, &found)
                        .map_err(|problem| reading.mismatch(file, &problem))?;
                }
            }
            declared
        }
        None => Arc::new(reading.schema(files).await?),
    };
    let null_regex = options.and_then(|options| options.null_regex.as_deref());
    let scanned = match null_regex {
        Some(_) => Arc::new(nulls::text_columns(&schema)),
        None => Arc::clone(&schema),
    };
    let files = pinned(&reading, files, &scanned).await?;
    let pinned = FileTable {
        reader,
        schema: scanned,
        files,
    };
    match null_regex {
        Some(null_regex) => nulls::view(table, pinned, &schema, null_regex)
            .map(|view| Arc::new(view) as Arc<dyn TableProvider>)
            .map_err(|error| invalid(error.strip_backtrace())),
        None => Ok(Arc::new(pinned)),
    }
}

/// The files for a scan. Empty text files have no rows and no header, and are omitted.
async fn pinned(
    reading: &Files<'_>,
    files: &[InputFile],
    schema: &SchemaRef,
) -> Result<Vec<PartitionedFile>, SourceError> {
    let files: Vec<_> = files.iter().filter(|file| file.size > 0).collect();
    let pinned = stream::iter(files).map(|file| async move {
        let statistics = reading.statistics(file, schema).await?;
        let meta = object_meta(file).ok_or_else(|| {
            let message = format!("the manifest names {}, which is no path", shown(&file.path));
            SourceError::new(ErrorReason::Internal, reading.table, message)
        })?;
        let table = TableReference::bare(reading.table);
        Ok(PartitionedFile::new_from_meta(meta)
            .with_table_reference(Some(table))
            .with_statistics(Arc::new(statistics)))
    });
    pinned.buffered(CONCURRENT_FOOTERS).try_collect().await
}

fn reader(format: FileFormat, options: Option<&CsvOptions>) -> Result<Arc<dyn FormatReader>, String> {
    Ok(match format {
        // INT96 as nanoseconds would end in 2262.
        FileFormat::Parquet => Arc::new(ParquetFormat::default().with_coerce_int96(Some("us".to_owned()))),
        FileFormat::Json => Arc::new(JsonFormat::default()),
        FileFormat::Arrow => Arc::new(ArrowFormat),
        FileFormat::Csv => Arc::new(csv(&options.cloned().unwrap_or_default())?),
    })
}

/// How CSV files are sampled.
fn sampling(options: Option<&CsvOptions>) -> Result<(Quoting, Format), String> {
    let options = options.cloned().unwrap_or_default();
    let reader = csv(&options)?;
    let mut format = Format::default()
        .with_header(options.header)
        .with_delimiter(reader.delimiter())
        .with_quote(reader.quote());
    if let Some(escape) = reader.options().escape {
        format = format.with_escape(escape);
    }
    if let Some(null_regex) = &options.null_regex {
        format = format.with_null_regex(nulls::check(null_regex)?);
    }
    let quoting = Quoting {
        delimiter: reader.delimiter(),
        quote: reader.quote(),
        escape: reader.options().escape,
        line_breaks: options.newlines_in_values,
    };
    Ok((quoting, format))
}

fn csv(options: &CsvOptions) -> Result<CsvFormat, String> {
    let byte = |name: &str, text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
        _ => Err(format!(
            "options.{name} must be one ASCII character, not a line break"
        )),
    };
    let escape = options
        .escape
        .as_deref()
        .map(|text| byte("escape", text))
        .transpose()?;
    if let Some(null_regex) = &options.null_regex {
        nulls::check(null_regex)?;
    }
    Ok(CsvFormat::default()
        .with_has_header(options.header)
        .with_delimiter(byte("delimiter", &options.delimiter)?)
        .with_quote(byte("quote", &options.quote)?)
        .with_escape(escape)
        .with_newlines_in_values(options.newlines_in_values)
        .with_null_regex(options.null_regex.clone()))
}
