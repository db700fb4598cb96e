//! The text of dates and times. Arrow has none for those beyond its calendar, which ends in the year 262142, and writes an error
//! in the place of the value.

use std::fmt::{Debug, Write};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use arrow::util::display::{
    ArrayFormatter, ArrayFormatterFactory, DisplayIndex, FormatOptions, FormatResult,
};

/// The type of the numbers that stand for dates or times.
fn number_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Date32 | DataType::Time32(_) => Some(DataType::Int32),
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(_, _) | DataType::Duration(_) => {
            Some(DataType::Int64)
        }
        _ => None,
    }
}

/// How values are shown to people: those beyond the calendar as their number.
pub fn display_options() -> FormatOptions<'static> {
    FormatOptions::default()
        .with_display_error(true)
        .with_null("NULL")
        .with_formatter_factory(Some(&NumbersBeyondCalendar))
}

/// Shows the values of a column by [`display_options`].
///
/// # Errors
///
/// If the type has no text.
pub fn formatter<'a>(
    column: &'a dyn Array,
    options: &FormatOptions<'a>,
) -> Result<ArrayFormatter<'a>, ArrowError> {
    match NumbersBeyondCalendar.create_array_formatter(column, options, None)? {
        Some(formatter) => Ok(formatter),
        None => ArrayFormatter::try_new(column, options),
    }
}

#[derive(Debug)]
struct NumbersBeyondCalendar;

impl ArrayFormatterFactory for NumbersBeyondCalendar {
    fn create_array_formatter<'formatter>(
        &self,
        array: &'formatter dyn Array,
        options: &FormatOptions<'formatter>,
        _: Option<&'formatter Field>,
    ) -> Result<Option<ArrayFormatter<'formatter>>, ArrowError> {
        let Some(number_type) = number_type(array.data_type()) else {
            return Ok(None);
        };
        let plain = options.clone().with_formatter_factory(None);
        let shown = TimeOrNumber {
            time: ArrayFormatter::try_new(array, &plain)?,
            numbers: cast(array, &number_type)?,
        };
        Ok(Some(ArrayFormatter::new(Box::new(shown), options.safe())))
    }
}

struct TimeOrNumber<'a> {
    time: ArrayFormatter<'a>,
    numbers: ArrayRef,
}

impl DisplayIndex for TimeOrNumber<'_> {
    fn write(&self, index: usize, f: &mut dyn Write) -> FormatResult {
        match self.time.value(index).try_to_string() {
            Ok(text) => f.write_str(&text)?,
            Err(_) => {
                let options = FormatOptions::default();
                let numbers = ArrayFormatter::try_new(self.numbers.as_ref(), &options)?;
                numbers.value(index).write(f)?;
            }
        }
        Ok(())
    }
}

/// Makes the encoders of JSON for dates and times. JSON has no place for an error: it is kept for [`Self::check`].
#[derive(Debug, Default)]
pub struct TimeEncoders {
    failed: Arc<OnceLock<String>>,
}

impl TimeEncoders {
    /// # Errors
    ///
    /// The first value that had no text.
    pub fn check(&self) -> Result<(), ArrowError> {
        match self.failed.get() {
            Some(message) => Err(ArrowError::JsonError(message.clone())),
            None => Ok(()),
        }
    }
}

impl EncoderFactory for TimeEncoders {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        if number_type(array.data_type()).is_none() {
            return Ok(None);
        }
        let encoder = TimeEncoder {
            column: field.name(),
            times: ArrayFormatter::try_new(array, &FormatOptions::new())?,
            failed: Arc::clone(&self.failed),
        };
        let nulls = array.nulls().cloned();
        Ok(Some(NullableEncoder::new(Box::new(encoder), nulls)))
    }
}

struct TimeEncoder<'a> {
    column: &'a str,
    times: ArrayFormatter<'a>,
    failed: Arc<OnceLock<String>>,
}

impl Encoder for TimeEncoder<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        match self.times.value(index).try_to_string() {
            // None of its signs needs an escape.
            Ok(text) => {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            Err(error) => {
                out.extend_from_slice(b"null");
                self.failed
                    .get_or_init(|| format!("column {}: {error}", self.column));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, ListArray, RecordBatch, TimestampSecondArray};
    use arrow::datatypes::Int64Type;
    use arrow::json::writer::LineDelimited;
    use arrow::json::{LineDelimitedWriter, WriterBuilder};
    use arrow::util::pretty::pretty_format_batches_with_options;

    use super::*;

    fn batch() -> RecordBatch {
        let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(0), None, Some(i32::MAX)]));
        let times = TimestampSecondArray::from(vec![Some(i64::MAX), Some(0), None]).with_timezone("+01:00");
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(i64::MIN)]); 3]);
        let type_ = DataType::List(Arc::new(Field::new("item", DataType::Date64, true)));
        let lists = cast(&lists, &type_).unwrap();
        let columns = [
            ("days", days),
            ("times", Arc::new(times) as ArrayRef),
            ("lists", lists),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn values_beyond_the_calendar_are_shown_as_numbers() {
        let batch = batch();
        let options = display_options();
        let shown = |row: usize| {
            let columns = batch.columns().iter();
            let cells = columns.map(|column| {
                let formatter = formatter(column.as_ref(), &options).unwrap();
                formatter.value(row).to_string()
            });
            cells.collect::<Vec<_>>()
        };
        assert_eq!(
            shown(0),
            ["1970-01-01", "9223372036854775807", "[-9223372036854775808]"]
        );
        assert_eq!(
            shown(1),
            ["NULL", "1970-01-01T01:00:00+01:00", "[-9223372036854775808]"]
        );
        assert_eq!(shown(2), ["2147483647", "NULL", "[-9223372036854775808]"]);
        let table = pretty_format_batches_with_options(std::slice::from_ref(&batch), &options).unwrap();
        let table = table.to_string();
        assert!(
            table.contains("| 2147483647") && !table.contains("ERROR"),
            "{table}"
        );
    }

    #[test]
    fn json_fails_for_values_beyond_the_calendar() {
        let batch = batch();
        for (rows, columns, message) in [
            (0..2, vec![0], None),
            (1..3, vec![0], Some("column days: ")),
            (1..3, vec![1], None),
            (0..1, vec![2], Some("column lists: ")),
        ] {
            let part = batch.project(&columns).unwrap().slice(rows.start, rows.len());
            let encoders = Arc::new(TimeEncoders::default());
            let mut writer: LineDelimitedWriter<_> = WriterBuilder::new()
                .with_explicit_nulls(true)
                .with_encoder_factory(Arc::clone(&encoders) as Arc<dyn EncoderFactory>)
                .build::<_, LineDelimited>(Vec::new());
            writer.write(&part).unwrap();
            let text = String::from_utf8(writer.into_inner()).unwrap();
            assert!(!text.contains("ERROR"), "{text}");
            match (encoders.check(), message) {
                (Ok(()), None) => {}
                (Err(error), Some(message)) => assert!(error.to_string().contains(message), "{error}"),
                (told, message) => panic!("{told:?}, not {message:?}: {text}"),
            }
            if rows == (1..3) && columns == [1] {
                assert_eq!(
                    text,
                    "{\"times\":\"1970-01-01T01:00:00+01:00\"}\n{\"times\":null}\n"
                );
            }
        }
    }
}
