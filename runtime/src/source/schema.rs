//! Schemas: those that a user declares, and one for several files.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit as ArrowUnit};
use datafusion::common::nested_struct::{requires_nested_struct_cast, validate_data_type_compatibility};
use sluice_crds::shuffle_query::{ColumnSpec, ColumnType, FileFormat, TimeUnit};

/// The Arrow schema of declared columns.
///
/// # Errors
///
/// A message that names the column that is wrong.
pub fn declared(columns: &[ColumnSpec]) -> Result<SchemaRef, String> {
    let mut names = BTreeSet::new();
    let mut fields = Vec::with_capacity(columns.len());
    for column in columns {
        if !names.insert(&column.name) {
            return Err(format!("column `{}` is declared twice: remove one", column.name));
        }
        let data_type = column
            .type_
            .parse::<ColumnType>()
            .map_err(|error| error.to_string())
            .and_then(|column_type| data_type(&column_type))
            .map_err(|problem| format!("column `{}` has type `{}`: {problem}", column.name, column.type_))?;
        fields.push(Field::new(&column.name, data_type, column.nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn data_type(column_type: &ColumnType) -> Result<DataType, String> {
    Ok(match column_type {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::UInt8 => DataType::UInt8,
        ColumnType::UInt16 => DataType::UInt16,
        ColumnType::UInt32 => DataType::UInt32,
        ColumnType::UInt64 => DataType::UInt64,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Utf8 => DataType::Utf8,
        ColumnType::Binary => DataType::Binary,
        ColumnType::Date32 => DataType::Date32,
        ColumnType::Decimal128 { precision, scale } => {
            let scale = i8::try_from(*scale).map_err(|error| error.to_string())?;
            DataType::Decimal128(*precision, scale)
        }
        ColumnType::Timestamp { unit, zone } => {
            if let Some(zone) = zone {
                zone.parse::<Tz>()
                    .map_err(|_| format!("there is no time zone `{zone}`"))?;
            }
            let unit = match unit {
                TimeUnit::Second => ArrowUnit::Second,
                TimeUnit::Millisecond => ArrowUnit::Millisecond,
                TimeUnit::Microsecond => ArrowUnit::Microsecond,
                TimeUnit::Nanosecond => ArrowUnit::Nanosecond,
            };
            DataType::Timestamp(unit, zone.as_deref().map(Arc::from))
        }
        ColumnType::List(item) => DataType::new_list(data_type(item)?, true),
        ColumnType::Struct(fields) => {
            let field = |(name, column_type): &(String, ColumnType)| {
                data_type(column_type).map(|data_type| Field::new(name, data_type, true))
            };
            DataType::Struct(fields.iter().map(field).collect::<Result<_, _>>()?)
        }
    })
}

/// Whether a file of schema `file` can be read as the declared columns.
///
/// # Errors
///
/// A message that names the column that does not fit.
pub fn check_file(format: FileFormat, header: bool, declared: &Schema, file: &Schema) -> Result<(), String> {
    match format {
        FileFormat::Csv => check_csv(header, declared, file),
        FileFormat::Json => Ok(()),
        FileFormat::Parquet | FileFormat::Arrow => check_columns(declared, file),
    }
}

fn check_csv(header: bool, declared: &Schema, file: &Schema) -> Result<(), String> {
    let (wanted, found) = (declared.fields().len(), file.fields().len());
    if wanted != found {
        return Err(format!(
            "has {found} columns, the schema declares {wanted}: declare all of them, in their order"
        ));
    }
    if !header {
        return Ok(());
    }
    let mut pairs = declared.fields().iter().zip(file.fields());
    match pairs.find(|(wanted, found)| wanted.name() != found.name()) {
        Some((wanted, found)) => Err(format!(
            "has column `{}` where the schema declares `{}`: declare the columns in the order of the header",
            found.name(),
            wanted.name()
        )),
        None => Ok(()),
    }
}

fn check_columns(declared: &Schema, file: &Schema) -> Result<(), String> {
    for wanted in declared.fields() {
        let name = wanted.name();
        match file.field_with_name(name) {
            Err(_) if wanted.is_nullable() => {}
            Err(_) => {
                return Err(format!(
                    "has no column `{name}`: remove it from the schema, or declare it nullable"
                ));
            }
            Ok(found) if can_read(name, found.data_type(), wanted.data_type()) => {}
            Ok(found) => {
                return Err(format!(
                    "has column `{name}` of type {}, which cannot be read as {}: declare another type",
                    found.data_type(),
                    wanted.data_type()
                ));
            }
        }
    }
    Ok(())
}

/// Whether values of a file's type are read as the declared one: fields of structs by their names, absent ones as NULL.
fn can_read(name: &str, found: &DataType, wanted: &DataType) -> bool {
    if requires_nested_struct_cast(found, wanted) {
        validate_data_type_compatibility(name, found, wanted).is_ok()
    } else {
        can_cast_types(found, wanted)
    }
}

/// One schema for files whose schemas were taken from the files themselves.
#[derive(Debug)]
pub struct Merge {
    format: FileFormat,
    /// The first file, which messages name, and the fields so far.
    merged: Option<(String, Vec<FieldRef>)>,
}

impl Merge {
    /// No file yet.
    pub fn new(format: FileFormat) -> Self {
        Self { format, merged: None }
    }

    /// Adds the schema of a file. Columns of self-describing files must have equal types; types of text files were
    /// guessed from their values, so that differing guesses widen. CSV files must agree in their columns; in the
    /// others an absent column is NULL.
    ///
    /// # Errors
    ///
    /// A message that names the column and the other file.
    pub fn add(&mut self, file: &str, schema: &Schema) -> Result<(), String> {
        let Some((first, merged)) = &mut self.merged else {
            self.merged = Some((file.to_owned(), schema.fields().to_vec()));
            return Ok(());
        };
        if self.format == FileFormat::Csv {
            let same = |a: &FieldRef, b: &FieldRef| a.name() == b.name();
            let fields = schema.fields();
            if merged.len() != fields.len() || !merged.iter().zip(fields).all(|(a, b)| same(a, b)) {
                return Err(format!(
                    "has other columns than {first}: give them a table each, or the same columns in the same order"
                ));
            }
        }
        for old in merged.iter_mut() {
            match schema.field_with_name(old.name()) {
                Ok(new) => {
                    let data_type = common_type(self.format, old.data_type(), new.data_type()).ok_or_else(|| {
                        format!(
                            "has column `{}` of type {}, in {first} it is {}: declare a schema, or give them a table each",
                            old.name(),
                            new.data_type(),
                            old.data_type()
                        )
                    })?;
                    let nullable = old.is_nullable() || new.is_nullable();
                    *old = Arc::new(Field::new(old.name(), data_type, nullable));
                }
                Err(_) => *old = Arc::new(old.as_ref().clone().with_nullable(true)),
            }
        }
        for new in schema.fields() {
            if !merged.iter().any(|old| old.name() == new.name()) {
                merged.push(Arc::new(new.as_ref().clone().with_nullable(true)));
            }
        }
        Ok(())
    }

    /// The schema of all files. A column of a text file without any value in the sample is text: rows after the
    /// sample may hold anything.
    pub fn finish(self) -> Schema {
        let (_, fields) = self.merged.unwrap_or_default();
        let is_text = matches!(self.format, FileFormat::Csv | FileFormat::Json);
        let finished = |field: FieldRef| {
            if is_text && field.data_type().is_null() {
                Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8))
            } else {
                field
            }
        };
        Schema::new(fields.into_iter().map(finished).collect::<Vec<_>>())
    }
}

fn common_type(format: FileFormat, a: &DataType, b: &DataType) -> Option<DataType> {
    let is_scalar = |data_type: &DataType| !data_type.is_nested();
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if matches!(format, FileFormat::Parquet | FileFormat::Arrow) => None,
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => {
            Some(DataType::Float64)
        }
        // Any value of a CSV file can be read as text; a number in a JSON file cannot.
        (a, b) if format == FileFormat::Csv && is_scalar(a) && is_scalar(b) => Some(DataType::Utf8),
        _ => None,
    }
}
