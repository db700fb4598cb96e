//! Encodes record batches as files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json;
use arrow::json::writer::LineDelimited;
use arrow_ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sluice_crds::shuffle_query::FileFormat;

use super::error::SinkError;
use crate::time_text::TimeEncoders;

/// Encoded bytes at which a Parquet row group is written: what an attempt holds in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Row groups smaller than this are not written early for lack of memory: many small ones make a poor file.
pub(super) const MIN_ROW_GROUP_BYTES: usize = 1 << 20;

/// The file name extension of a format, without the dot.
pub fn extension(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Parquet => "parquet",
        FileFormat::Csv => "csv",
        FileFormat::Json => "json",
        FileFormat::Arrow => "arrow",
    }
}

/// Properties of every Parquet file that Sluice writes.
///
/// # Errors
///
/// Never: the compression level is a valid constant.
pub fn parquet_properties() -> Result<WriterProperties, ArrowError> {
    let compression = Compression::ZSTD(ZstdLevel::try_new(1)?);
    Ok(WriterProperties::builder().set_compression(compression).build())
}

/// Writes batches of one schema to one file.
pub struct Encoder {
    file: Format,
    /// The columns as the file holds them.
    schema: SchemaRef,
}

enum Format {
    Parquet(Box<ArrowWriter<File>>),
    Arrow(Box<FileWriter<BufWriter<File>>>),
    /// Text is encoded batch by batch in memory: the CSV writer panics when its file fails at the end.
    Csv {
        file: File,
        header: bool,
    },
    Json(File),
}

impl Encoder {
    /// Starts the file.
    ///
    /// # Errors
    ///
    /// If the format cannot hold the columns or the file cannot be written.
    pub fn new(format: FileFormat, file: File, schema: &SchemaRef) -> Result<Self, ArrowError> {
        let schema = stored_schema(format, schema);
        let file = match format {
            FileFormat::Parquet => {
                let properties = parquet_properties()?;
                let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))?;
                Format::Parquet(Box::new(writer))
            }
            FileFormat::Arrow => Format::Arrow(Box::new(FileWriter::try_new(BufWriter::new(file), &schema)?)),
            FileFormat::Csv => Format::Csv { file, header: true },
            FileFormat::Json => Format::Json(file),
        };
        Ok(Self { file, schema })
    }

    /// Appends a batch.
    ///
    /// # Errors
    ///
    /// If the batch has other columns, or the file cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let batch = stored(&self.schema, batch)?;
        match &mut self.file {
            Format::Parquet(writer) => {
                writer.write(&batch)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush()?;
                }
                Ok(())
            }
            Format::Arrow(writer) => writer.write(&batch),
            Format::Csv { file, header } => {
                let text = csv_text(&batch, std::mem::replace(header, false))?;
                Ok(file.write_all(&text)?)
            }
            Format::Json(file) => Ok(file.write_all(&json_text(&batch)?)?),
        }
    }

    /// Bytes held in memory.
    pub fn buffered_bytes(&self) -> usize {
        match &self.file {
            Format::Parquet(writer) => writer.memory_size(),
            Format::Arrow(_) | Format::Csv { .. } | Format::Json(_) => 0,
        }
    }

    /// Writes the current row group to disk if it is large.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn flush_large_group(&mut self) -> Result<(), ArrowError> {
        let much = self.buffered_bytes() >= MIN_ROW_GROUP_BYTES;
        match &mut self.file {
            Format::Parquet(writer) if much => Ok(writer.flush()?),
            Format::Parquet(_) | Format::Arrow(_) | Format::Csv { .. } | Format::Json(_) => Ok(()),
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(self) -> Result<File, ArrowError> {
        match self.file {
            Format::Parquet(writer) => Ok(writer.into_inner()?),
            Format::Arrow(writer) => {
                let file = writer.into_inner()?;
                Ok(file.into_inner().map_err(std::io::IntoInnerError::into_error)?)
            }
            Format::Csv { mut file, header } => {
                if header {
                    file.write_all(&csv_text(&RecordBatch::new_empty(self.schema), true)?)?;
                }
                Ok(file)
            }
            Format::Json(file) => Ok(file),
        }
    }
}

fn csv_text(batch: &RecordBatch, header: bool) -> Result<Vec<u8>, ArrowError> {
    let mut text = Vec::new();
    let mut writer = csv::WriterBuilder::new().with_header(header).build(&mut text);
    writer.write(batch)?;
    drop(writer);
    Ok(text)
}

fn json_text(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut text = Vec::new();
    let times = Arc::new(TimeEncoders::default());
    // Every line has every column: a reader that infers the columns finds them in any file.
    let mut writer = json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::clone(&times) as Arc<dyn json::EncoderFactory>)
        .build::<_, LineDelimited>(&mut text);
    writer.write(batch)?;
    times.check()?;
    writer.finish()?;
    drop(writer);
    Ok(text)
}

/// Whether a format can hold columns.
///
/// # Errors
///
/// The column that it cannot hold, or a name that two columns have.
pub fn check_columns(format: FileFormat, schema: &SchemaRef) -> Result<(), SinkError> {
    let mut names = BTreeSet::new();
    if let Some(field) = schema.fields().iter().find(|field| !names.insert(field.name())) {
        let name = field.name();
        let problem = format!("needs a name for each column, two are named `{name}`: give one an alias");
        return Err(SinkError::Columns { problem });
    }
    for field in schema.fields() {
        let column = Field::new(field.name(), field.data_type().clone(), true);
        if let Err(cause) = probe(format, column) {
            let problem = format!(
                "{} cannot hold column `{}` of type {}: cast it, or choose another format ({cause})",
                extension(format),
                field.name(),
                field.data_type()
            );
            return Err(SinkError::Columns { problem });
        }
    }
    Ok(())
}

/// Encodes one NULL of a column: only the encoder knows what it supports, and a list of ours would get out of date.
fn probe(format: FileFormat, column: Field) -> Result<(), ArrowError> {
    let schema = stored_schema(format, &Arc::new(Schema::new(vec![column.clone()])));
    let values = new_null_array(column.data_type(), 1);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![column])), vec![values])?;
    let batch = stored(&schema, &batch)?;
    match format {
        FileFormat::Parquet => {
            let mut writer = ArrowWriter::try_new(Vec::new(), schema, None)?;
            writer.write(&batch)?;
            writer.close()?;
        }
        FileFormat::Arrow => {
            let mut writer = FileWriter::try_new(Vec::new(), &schema)?;
            writer.write(&batch)?;
            writer.finish()?;
        }
        FileFormat::Csv => drop(csv_text(&batch, true)?),
        FileFormat::Json => drop(json_text(&batch)?),
    }
    Ok(())
}

/// The columns as a file of the format stores them. An Arrow file cannot change a dictionary between batches, and would
/// store the whole buffers behind string views: both become plain values. Every column is nullable, because tasks of
/// one result may disagree about nullability, and all files need the same schema.
fn stored_schema(format: FileFormat, schema: &SchemaRef) -> SchemaRef {
    let is_plain = format == FileFormat::Arrow;
    let fields = schema.fields().iter().map(|field| nullable(field, is_plain));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn nullable(field: &Arc<Field>, is_plain: bool) -> Arc<Field> {
    Arc::new(Field::new(
        field.name(),
        stored_type(field.data_type(), is_plain),
        true,
    ))
}

fn stored_type(data_type: &DataType, is_plain: bool) -> DataType {
    let inner = |field: &Arc<Field>| nullable(field, is_plain);
    match data_type {
        DataType::Dictionary(_, values) if is_plain => stored_type(values, is_plain),
        DataType::Utf8View if is_plain => DataType::Utf8,
        DataType::BinaryView if is_plain => DataType::Binary,
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

fn stored(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fits = |(column, field): (&ArrayRef, &Arc<Field>)| {
        [true, false]
            .iter()
            .any(|is_plain| stored_type(column.data_type(), *is_plain) == *field.data_type())
    };
    let fields = schema.fields();
    // A cast would turn unreadable values into NULL.
    if batch.num_columns() != fields.len() || !batch.columns().iter().zip(fields).all(fits) {
        return Err(ArrowError::SchemaError(format!(
            "a batch of the columns {} is written to a file of {schema}",
            batch.schema_ref()
        )));
    }
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
