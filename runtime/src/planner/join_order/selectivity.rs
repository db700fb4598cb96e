//! Which part of the rows a condition keeps, by guess where nothing is known of its columns.

use std::collections::HashMap;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// `column = value` of which nothing is known.
const EQUAL: f64 = 0.05;
/// `column < value`.
const BELOW: f64 = 1.0 / 3.0;
/// `column < column`.
const BELOW_COLUMN: f64 = 0.5;
/// LIKE.
const LIKE: f64 = 0.1;
/// IS NULL.
const NULL: f64 = 0.05;
/// Anything else.
const OTHER: f64 = 0.25;

/// What is known of a column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The least and the greatest value, as numbers.
    pub range: Option<(f64, f64)>,
    /// Estimated number of values.
    pub distinct: Option<f64>,
}

type Known<'a> = &'a dyn Fn(&Column) -> Option<Bounds>;

/// The part of the rows that fulfil all conditions, as if they did not depend on each other. Bounds of one column count
/// as the range between them.
pub(super) fn of_all(conditions: &[&Expr], known: Known<'_>) -> f64 {
    let mut kept = 1.0;
    let mut ranges: HashMap<Column, (f64, f64)> = HashMap::new();
    for condition in conditions {
        let sides = match condition {
            Expr::Between(between) if !between.negated => {
                let column = between.expr.as_ref();
                let low = cut(column, Operator::GtEq, &between.low, known);
                low.zip(cut(column, Operator::LtEq, &between.high, known))
                    .map(|(low, high)| vec![low, high])
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                cut(left, *op, right, known).map(|side| vec![side])
            }
            _ => None,
        };
        let Some(sides) = sides else {
            kept *= of(condition, known);
            continue;
        };
        for (column, low, high) in sides {
            let range = ranges.entry(column).or_insert((0.0, 1.0));
            *range = (range.0.max(low), range.1.min(high));
        }
    }
    for (column, (low, high)) in &ranges {
        let one = known(column)
            .and_then(|bounds| bounds.distinct)
            .map_or(0.0, |values| 1.0 / values);
        kept *= (high - low).max(one);
    }
    kept.clamp(0.0, 1.0)
}

/// The part of a column's range that a comparison with a value leaves: from and to, 0 to 1.
fn cut(left: &Expr, op: Operator, right: &Expr, known: Known<'_>) -> Option<(Column, f64, f64)> {
    let (column, op, value) = match (left, right) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let (min, max) = known(column)?.range?;
    let at = (number(value)? - min) / (max - min).max(f64::MIN_POSITIVE);
    let at = at.clamp(0.0, 1.0);
    match op {
        Operator::Lt | Operator::LtEq => Some((column.clone(), 0.0, at)),
        Operator::Gt | Operator::GtEq => Some((column.clone(), at, 1.0)),
        _ => None,
    }
}

fn of(condition: &Expr, known: Known<'_>) -> f64 {
    let kept = match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => of_all(&[left.as_ref(), right.as_ref()], known),
            Operator::Or => {
                let (one, other) = (of(left, known), of(right, known));
                one + other - one * other
            }
            Operator::Eq | Operator::IsNotDistinctFrom => equal(left, right, known),
            Operator::NotEq | Operator::IsDistinctFrom => 1.0 - equal(left, right, known),
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                if is_value(left) || is_value(right) {
                    BELOW
                } else {
                    BELOW_COLUMN
                }
            }
            _ => OTHER,
        },
        Expr::Between(between) => negated(between.negated, BELOW * BELOW),
        Expr::InList(list) => {
            let one = list
                .list
                .first()
                .map_or(0.0, |value| equal(&list.expr, value, known));
            negated(list.negated, (one * list.list.len() as f64).min(0.5))
        }
        Expr::Like(like) => negated(like.negated, LIKE),
        Expr::IsNull(_) => NULL,
        Expr::IsNotNull(_) => 1.0 - NULL,
        Expr::Not(inner) => 1.0 - of(inner, known),
        Expr::Literal(ScalarValue::Boolean(value), _) => f64::from(u8::from(*value == Some(true))),
        Expr::Column(_) => 0.5,
        _ => OTHER,
    };
    kept.clamp(0.0, 1.0)
}

fn negated(negated: bool, kept: f64) -> f64 {
    if negated { 1.0 - kept } else { kept }
}

fn equal(left: &Expr, right: &Expr, known: Known<'_>) -> f64 {
    let values = [left, right].into_iter().filter_map(|side| match side {
        Expr::Column(column) => known(column)?.distinct,
        _ => None,
    });
    values
        .fold(None, |most: Option<f64>, values| {
            Some(most.map_or(values, |most| most.max(values)))
        })
        .map_or(EQUAL, |values| 1.0 / values.max(1.0))
}

fn is_value(expr: &Expr) -> bool {
    expr.column_refs().is_empty()
}

/// A value on a line, if its type has an order like that of numbers.
pub(super) fn number(value: &ScalarValue) -> Option<f64> {
    let whole = match value.data_type() {
        DataType::Date32 => value.cast_to(&DataType::Int32).ok()?,
        DataType::Date64 | DataType::Timestamp(..) => value.cast_to(&DataType::Int64).ok()?,
        other if other.is_numeric() => value.clone(),
        _ => return None,
    };
    match whole.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(number) => number.filter(|number| number.is_finite()),
        _ => None,
    }
}
