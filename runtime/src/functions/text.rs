//! Expressions and types as a user would write them, for messages.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, Operator};
use sluice_proto::text::shortened_to;

use super::checked::Checked;
use super::operation::Operation;

/// Most bytes of the text of an expression.
const EXPRESSION_BYTES: usize = 200;

/// Most bytes of the text of a literal.
const LITERAL_BYTES: usize = 60;

/// Most operands that the text of a call shows.
const SHOWN_OPERANDS: usize = 8;

/// The text of an expression. Its operands have theirs already, so that this looks at one level.
pub(super) fn text_of(expr: &Expr) -> String {
    match expr {
        Expr::Alias(alias) => text_of(&alias.expr),
        Expr::Column(column) => shortened_to(&column.flat_name(), EXPRESSION_BYTES),
        Expr::Literal(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::LargeUtf8(Some(text))
            | ScalarValue::Utf8View(Some(text)),
            _,
        ) => format!("'{}'", shortened_to(text, LITERAL_BYTES)),
        Expr::Cast(cast) => cast_text(cast),
        Expr::ScalarFunction(function) => match function.func.inner().downcast_ref::<Checked>() {
            Some(checked) => checked.text().to_owned(),
            None => call_text(function.func.name(), &function.args),
        },
        other => shortened_to(&other.human_display(), EXPRESSION_BYTES),
    }
}

pub(super) fn binary_text(left: &Expr, operator: Operator, right: &Expr) -> String {
    let text = format!("{} {operator} {}", operand_text(left), operand_text(right));
    shortened_to(&text, EXPRESSION_BYTES)
}

pub(super) fn negative_text(operand: &Expr) -> String {
    shortened_to(&format!("-{}", operand_text(operand)), EXPRESSION_BYTES)
}

pub(super) fn cast_text(cast: &Cast) -> String {
    let text = format!(
        "CAST({} AS {})",
        text_of(&cast.expr),
        sql_type(cast.field.data_type())
    );
    shortened_to(&text, EXPRESSION_BYTES)
}

pub(super) fn call_text(name: &str, operands: &[Expr]) -> String {
    let shown = operands.iter().take(SHOWN_OPERANDS).map(text_of);
    let shown = shown.collect::<Vec<_>>().join(", ");
    shortened_to(&format!("{name}({shown})"), EXPRESSION_BYTES)
}

/// An operand; one of several words is in parentheses.
fn operand_text(expr: &Expr) -> String {
    let is_binary = match expr {
        Expr::ScalarFunction(function) => function
            .func
            .inner()
            .downcast_ref::<Checked>()
            .is_some_and(|checked| matches!(checked.operation(), Operation::Binary(_))),
        _ => false,
    };
    let text = text_of(expr);
    if is_binary { format!("({text})") } else { text }
}

/// A type as SQL names it.
pub(super) fn sql_type(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Date32 => "DATE",
        DataType::Interval(_) => "INTERVAL",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        other => return other.to_string(),
    };
    name.to_owned()
}
