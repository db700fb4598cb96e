//! CSV tables with a `nullRegex`. DataFusion's CSV scan treats only empty values as NULL, so such a table is a view
//! over a scan that reads every column as text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, Result, TableReference};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::functions::expr_fn::{coalesce, regexp_like};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, cast, lit, when};
use datafusion::scalar::ScalarValue;
use regex::Regex;

use super::files::FileTable;

/// Whether a `nullRegex` is a regular expression.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(null_regex: &str) -> std::result::Result<Regex, String> {
    Regex::new(null_regex).map_err(|error| format!("options.nullRegex is not a regular expression: {error}"))
}

/// The columns as the scan below the view reads them.
pub fn text_columns(schema: &Schema) -> Schema {
    let text = |field: &Arc<Field>| Field::new(field.name(), DataType::Utf8, true);
    Schema::new(schema.fields().iter().map(text).collect::<Vec<_>>())
}

/// The view: NULL for values that match, else the value as the column's type; an empty value that does not match is
/// empty text.
pub fn view(table: &str, texts: FileTable, schema: &Schema, null_regex: &str) -> Result<ViewTable> {
    let name = TableReference::bare(table);
    let columns = schema.fields().iter().map(|field| -> Result<Expr> {
        let column = Expr::Column(Column::new(Some(name.clone()), field.name()));
        let text = coalesce(vec![column, lit("")]);
        let is_null = regexp_like(text.clone(), lit(null_regex), None);
        // Cast outside the CASE: the optimizer turns a CASE of Booleans into AND and OR, which would cast every value.
        let value = when(is_null, lit(ScalarValue::Utf8(None))).otherwise(text)?;
        Ok(cast(value, field.data_type().clone()).alias(field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let plan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(texts)), None)?
        .project(columns)?
        .build()?;
    Ok(ViewTable::new(plan, None))
}
