//! Result rows on standard output.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::{EncoderFactory, LineDelimitedWriter};
use arrow::util::pretty::pretty_format_batches_with_options;

use crate::time_text::{self, TimeEncoders};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// A table for people: the first 1,000 rows.
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header line.
    Csv,
}

/// The most rows of a table: column widths need all of them at once.
const TABLE_ROWS: usize = 1_000;

/// Prints batches as they come.
pub struct RowPrinter<W: Write> {
    schema: SchemaRef,
    rows: u64,
    form: Form<W>,
}

enum Form<W: Write> {
    Table { out: W, kept: Vec<RecordBatch> },
    Json(Box<LineDelimitedWriter<W>>, Arc<TimeEncoders>),
    Csv(Box<arrow::csv::Writer<W>>),
}

impl<W: Write> RowPrinter<W> {
    /// A printer of rows of `schema` to `out`.
    pub fn new(format: OutputFormat, schema: SchemaRef, out: W) -> Self {
        let form = match format {
            OutputFormat::Table => Form::Table {
                out,
                kept: Vec::new(),
            },
            OutputFormat::Json => {
                let times = Arc::new(TimeEncoders::default());
                let writer = arrow::json::WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .with_encoder_factory(Arc::clone(&times) as Arc<dyn EncoderFactory>)
                    .build(out);
                Form::Json(Box::new(writer), times)
            }
            OutputFormat::Csv => Form::Csv(Box::new(
                arrow::csv::WriterBuilder::new().with_header(true).build(out),
            )),
        };
        Self {
            schema,
            rows: 0,
            form,
        }
    }

    /// Prints or keeps a batch.
    ///
    /// # Errors
    /// Standard output is closed, or the format does not support a column's type.
    pub fn print(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let before = usize::try_from(self.rows).unwrap_or(usize::MAX);
        self.rows += u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        match &mut self.form {
            Form::Table { kept, .. } => {
                let room = TABLE_ROWS.saturating_sub(before).min(batch.num_rows());
                if room > 0 {
                    kept.push(batch.slice(0, room));
                }
            }
            Form::Json(writer, times) => {
                let written = writer.write(batch).and_then(|()| times.check());
                written.context("--output json")?;
            }
            Form::Csv(writer) => {
                let schema = batch.schema();
                let is_nested = schema.fields().iter().any(|field| field.data_type().is_nested());
                writer.write(batch).context(if is_nested {
                    "--output csv (nested columns need --output json)"
                } else {
                    "--output csv"
                })?;
            }
        }
        Ok(())
    }

    /// Prints what was kept. Returns the number of all rows.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn finish(self) -> anyhow::Result<u64> {
        match self.form {
            Form::Table { mut out, kept } => {
                let options = time_text::display_options();
                let kept = if kept.is_empty() {
                    vec![RecordBatch::new_empty(self.schema)]
                } else {
                    kept
                };
                let mut text = format!("{}\n", pretty_format_batches_with_options(&kept, &options)?);
                let shown = u64::try_from(TABLE_ROWS).unwrap_or(u64::MAX);
                if self.rows > shown {
                    let more = self.rows - shown;
                    text.push_str(&format!(
                        "… and {more} more rows; --output csv or json prints all\n"
                    ));
                }
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            Form::Json(mut writer, _) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Form::Csv(mut writer) => {
                if self.rows == 0 {
                    writer.write(&RecordBatch::new_empty(self.schema))?;
                }
                writer.into_inner().flush()?;
            }
        }
        Ok(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn printed(format: OutputFormat, rows: usize) -> String {
        let fields = vec![
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
        ];
        let schema = Arc::new(Schema::new(fields));
        let mut out = Vec::new();
        let mut printer = RowPrinter::new(format, schema.clone(), &mut out);
        if rows > 0 {
            let numbers = Int64Array::from_iter((0..rows).map(|row| i64::try_from(row).ok()));
            let texts = StringArray::from_iter((0..rows).map(|row| (row % 2 == 0).then_some("a,b")));
            let batch = RecordBatch::try_new(schema, vec![Arc::new(numbers), Arc::new(texts)]);
            printer
                .print(&batch.expect("columns fit the schema"))
                .expect("memory takes all");
        }
        assert_eq!(printer.finish().expect("memory takes all"), rows as u64);
        String::from_utf8(out).expect("printed text is UTF-8")
    }

    #[test]
    fn formats() {
        assert_eq!(printed(OutputFormat::Csv, 2), "n,s\n0,\"a,b\"\n1,\n");
        assert_eq!(printed(OutputFormat::Csv, 0), "n,s\n");
        assert_eq!(
            printed(OutputFormat::Json, 2),
            "{\"n\":0,\"s\":\"a,b\"}\n{\"n\":1,\"s\":null}\n"
        );
        assert_eq!(printed(OutputFormat::Json, 0), "");
        assert!(printed(OutputFormat::Table, 2).contains("| 1 | NULL |"));
        assert!(printed(OutputFormat::Table, 0).contains("| n | s |"));
    }

    #[test]
    fn a_table_is_bounded_and_says_so() {
        let text = printed(OutputFormat::Table, 1_500);
        assert!(text.contains("| 999 |") && !text.contains("| 1000 |"), "{text}");
        assert!(text.ends_with("… and 500 more rows; --output csv or json prints all\n"));
    }
}
