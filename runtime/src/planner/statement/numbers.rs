//! Numbers whose digits a DOUBLE would round.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, UnaryOperator, Value, ValueWithSpan,
};

use super::refusal::{Checked, Refusal};

/// A DOUBLE keeps every number of so many digits.
const DIGITS_OF_DOUBLE: usize = 15;

/// A DECIMAL has at most so many digits.
const DIGITS_OF_DECIMAL: usize = 38;

/// Whole numbers beyond BIGINT are DECIMAL, and a number that is cast to DECIMAL is read digit by digit: DataFusion makes
/// a DOUBLE of both.
pub(super) fn keep_digits(expr: &mut Expr) -> Checked {
    match expr {
        Expr::Cast {
            expr: operand,
            data_type: DataType::Decimal(_) | DataType::Numeric(_) | DataType::Dec(_),
            ..
        } => {
            if let Some(text) = signed(operand)
                && !text.contains(['e', 'E'])
                && digits(&text) > DIGITS_OF_DOUBLE
            {
                **operand = Expr::Value(Value::SingleQuotedString(text).with_empty_span());
            }
            Ok(())
        }
        Expr::Value(ValueWithSpan {
            value: Value::Number(text, _),
            span,
        }) => {
            let is_whole = text.bytes().all(|letter| letter.is_ascii_digit());
            if text.parse::<f64>().is_ok_and(f64::is_infinite) {
                let fix = "write a smaller one";
                return Err(Refusal::new("a number beyond DOUBLE", *span, fix));
            }
            if !is_whole || text.parse::<u64>().is_ok() {
                return Ok(());
            }
            let count = digits(text);
            if count > DIGITS_OF_DECIMAL {
                let fix = "write it with an exponent, as 1e40, which is a DOUBLE";
                return Err(Refusal::new("a whole number of more than 38 digits", *span, fix));
            }
            let text = Value::SingleQuotedString(text.clone());
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::Value(text.with_span(*span))),
                data_type: DataType::Decimal(ExactNumberInfo::Precision(count as u64)),
                array: false,
                format: None,
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The text of a number with or without a minus.
fn signed(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(ValueWithSpan {
            value: Value::Number(text, _),
            ..
        }) => Some(text.clone()),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } if matches!(expr.as_ref(), Expr::Value(_)) => Some(format!("-{}", signed(expr)?)),
        _ => None,
    }
}

/// How many digits count: those behind the zeros at the beginning.
fn digits(text: &str) -> usize {
    let leading = |letter: char| !letter.is_ascii_digit() || letter == '0';
    let significant = text.trim_start_matches(leading).bytes();
    significant.filter(u8::is_ascii_digit).count()
}
