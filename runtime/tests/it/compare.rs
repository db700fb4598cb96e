//! Whether two results are the same: as multisets of rows, and in order where the query orders.

use std::cmp::Ordering;
use std::fmt::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// How far apart two sums of the same floating-point numbers may be, relative to the larger.
const TOLERANCE: f64 = 1e-9;
/// Rows of a difference that are shown.
const SHOWN: usize = 5;
/// Characters of a cell that are shown.
const SHOWN_CELL: usize = 60;

/// A result.
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

/// The columns that a query orders by, as far as they are in its result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order(Vec<usize>);

impl Order {
    /// Reads the outermost ORDER BY.
    pub fn of(plan: &LogicalPlan) -> Self {
        let mut node = plan;
        loop {
            match node {
                LogicalPlan::Limit(limit) => node = limit.input.as_ref(),
                LogicalPlan::Projection(projection) => node = projection.input.as_ref(),
                LogicalPlan::Sort(sort) => {
                    let places = sort.expr.iter().map_while(|key| match &key.expr {
                        Expr::Column(column) => plan.schema().maybe_index_of_column(column),
                        _ => None,
                    });
                    return Self(places.collect());
                }
                _ => return Self::default(),
            }
        }
    }
}

/// One value.
#[derive(Debug, Clone)]
enum Cell {
    Null,
    Float(f64),
    Text(String),
}

impl Cell {
    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Float(one), Self::Float(two)) => close(*one, *two),
            (Self::Null | Self::Float(_) | Self::Text(_), _) => false,
        }
    }

    /// An order in which equal cells are adjacent, except floats.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(one), Self::Text(two)) => one.cmp(two),
            (Self::Float(_), Self::Float(_)) => Ordering::Equal,
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn compare_floats(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Float(one), Self::Float(two)) => one.total_cmp(two),
            _ => Ordering::Equal,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Float(_) => 1,
            Self::Text(_) => 2,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Float(number) => format!("{number:?}"),
            Self::Text(text) if text.chars().count() > SHOWN_CELL => {
                let start: String = text.chars().take(SHOWN_CELL).collect();
                format!("{start}… ({} bytes)", text.len())
            }
            Self::Text(text) => text.clone(),
        }
    }
}

fn close(one: f64, two: f64) -> bool {
    // Infinities, and zeros of either sign.
    one == two || (one.is_nan() && two.is_nan()) || (one - two).abs() <= TOLERANCE * one.abs().max(two.abs())
}

type Row = Vec<Cell>;

fn shown(row: &Row) -> String {
    row.iter()
        .take(20)
        .map(Cell::shown)
        .collect::<Vec<_>>()
        .join(" | ")
}

fn cells(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let start = rows.len();
        rows.resize_with(start + batch.num_rows(), || {
            Vec::with_capacity(batch.num_columns())
        });
        for column in batch.columns() {
            for (row, cell) in rows.iter_mut().skip(start).zip(column_cells(column.as_ref())) {
                row.push(cell);
            }
        }
    }
    rows
}

fn column_cells(column: &dyn Array) -> Vec<Cell> {
    match column.data_type() {
        DataType::Float64 => {
            let floats = column.as_primitive::<Float64Type>();
            floats
                .iter()
                .map(|value| value.map_or(Cell::Null, Cell::Float))
                .collect()
        }
        DataType::Float32 => {
            let floats = column.as_primitive::<Float32Type>();
            floats
                .iter()
                .map(|value| value.map_or(Cell::Null, |value| Cell::Float(value.into())))
                .collect()
        }
        _ => {
            let options = FormatOptions::new().with_null("NULL");
            let texts = ArrayFormatter::try_new(column, &options).expect("every type can be shown");
            let cell = |row| {
                if column.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Text(texts.value(row).to_string())
                }
            };
            (0..column.len()).map(cell).collect()
        }
    }
}

/// Tells how two results differ, if they do. `ordered` says whether the second claims to be in order.
pub fn differences(expected: &Rows, order: &Order, got: &Rows, ordered: bool) -> Option<String> {
    if let Some(difference) = type_differences(&expected.schema, got) {
        return Some(difference);
    }
    let (mut expected, mut got) = (cells(&expected.batches), cells(&got.batches));
    if !order.0.is_empty() {
        if !ordered && got.len() > 1 {
            return Some("the query orders its rows, the plan does not".to_owned());
        }
        if let Some(difference) = order_differences(&expected, &got, order) {
            return Some(difference);
        }
    }
    expected.sort_by(compare_rows);
    got.sort_by(compare_rows);
    let (missing, extra) = unmatched(&expected, &got);
    if missing.is_empty() && extra.is_empty() {
        return None;
    }
    let mut told = format!("expected {} rows, got {}", expected.len(), got.len());
    for (what, rows) in [("missing", &missing), ("not expected", &extra)] {
        let _ = write!(told, "\n  {} {what}", rows.len());
        for row in rows.iter().take(SHOWN) {
            let _ = write!(told, "\n    {}", shown(row));
        }
    }
    Some(told)
}

fn type_differences(expected: &SchemaRef, got: &Rows) -> Option<String> {
    let of = |schema: &SchemaRef| -> Vec<(String, DataType)> {
        schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect()
    };
    let (expected, promised) = (of(expected), of(&got.schema));
    if expected != promised {
        return Some(format!("expected the columns {expected:?}, planned {promised:?}"));
    }
    let other = got
        .batches
        .iter()
        .map(|batch| of(&batch.schema()))
        .find(|columns| *columns != promised);
    other.map(|columns| format!("planned the columns {promised:?}, got {columns:?}"))
}

fn order_differences(expected: &[Row], got: &[Row], order: &Order) -> Option<String> {
    let key = |row: &Row| -> Row {
        order
            .0
            .iter()
            .filter_map(|place| row.get(*place).cloned())
            .collect()
    };
    let pairs = expected.iter().zip(got).enumerate();
    let mut wrong = pairs.filter_map(|(number, (expected, got))| {
        let (expected, got) = (key(expected), key(got));
        (!matches(&expected, &got)).then(|| {
            format!(
                "in another order: row {number} has the key {}, not {}",
                shown(&got),
                shown(&expected)
            )
        })
    });
    wrong.next()
}

fn matches(one: &Row, two: &Row) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.matches(two))
}

/// Rows that can match only in floats are equal; see [`compare_rows`].
fn compare_exact(one: &Row, two: &Row) -> Ordering {
    one.iter()
        .zip(two)
        .map(|(one, two)| one.compare(two))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn compare_rows(one: &Row, two: &Row) -> Ordering {
    compare_exact(one, two).then_with(|| {
        let floats = one.iter().zip(two).map(|(one, two)| one.compare_floats(two));
        floats
            .into_iter()
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    })
}

/// The rows of two sorted lists that have no partner in the other.
fn unmatched<'a>(mut expected: &'a [Row], mut got: &'a [Row]) -> (Vec<&'a Row>, Vec<&'a Row>) {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    while let (Some((one, after_one)), Some((two, after_two))) = (expected.split_first(), got.split_first()) {
        match compare_exact(one, two) {
            Ordering::Less => {
                missing.push(one);
                expected = after_one;
            }
            Ordering::Greater => {
                extra.push(two);
                got = after_two;
            }
            Ordering::Equal => {
                let group = |rows: &[Row]| {
                    rows.iter()
                        .take_while(|row| compare_exact(row, one).is_eq())
                        .count()
                };
                let (ours, after_ours) = expected.split_at(group(expected));
                let (theirs, after_theirs) = got.split_at(group(got));
                match_floats(ours, theirs, &mut missing, &mut extra);
                (expected, got) = (after_ours, after_theirs);
            }
        }
    }
    missing.extend(expected);
    extra.extend(got);
    (missing, extra)
}

/// Pairs rows that agree in all but floats.
fn match_floats<'a>(
    expected: &'a [Row],
    got: &'a [Row],
    missing: &mut Vec<&'a Row>,
    extra: &mut Vec<&'a Row>,
) {
    if expected.len() == got.len() && expected.iter().zip(got).all(|(one, two)| matches(one, two)) {
        return;
    }
    let mut left: Vec<&Row> = got.iter().collect();
    for row in expected {
        match left.iter().position(|other| matches(row, other)) {
            Some(place) => {
                left.remove(place);
            }
            None => missing.push(row),
        }
    }
    extra.extend(left);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn rows(keys: &[i64], values: &[Option<f64>]) -> Rows {
        let fields = vec![
            Field::new("k", DataType::Int64, true),
            Field::new("v", DataType::Float64, true),
        ];
        let schema = Arc::new(Schema::new(fields));
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(keys.to_vec())),
            Arc::new(Float64Array::from(values.to_vec())),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("columns of one length");
        Rows {
            schema,
            batches: vec![batch],
        }
    }

    fn told(expected: &Rows, got: &Rows) -> Option<String> {
        differences(expected, &Order::default(), got, false)
    }

    #[test]
    fn equal_rows_in_another_order_are_the_same() {
        let expected = rows(&[1, 1, 2], &[Some(0.1 + 0.2), Some(f64::NAN), None]);
        let got = rows(&[2, 1, 1], &[None, Some(f64::NAN), Some(0.3)]);
        assert_eq!(told(&expected, &got), None);
    }

    #[test]
    fn each_difference_is_told() {
        let expected = rows(&[1, 1, 2], &[Some(1.0), Some(2.0), None]);
        let other_value = rows(&[1, 1, 2], &[Some(1.0), Some(2.000_001), None]);
        let twice = rows(&[1, 1, 2, 2], &[Some(1.0), Some(2.0), None, None]);
        let null = rows(&[1, 1, 2], &[Some(1.0), None, None]);
        for got in [other_value, twice, null, rows(&[], &[])] {
            assert!(told(&expected, &got).is_some());
        }
        let mut got = rows(&[1, 1, 2], &[Some(1.0), Some(2.0), None]);
        let fields = vec![
            Field::new("k", DataType::Int32, true),
            Field::new("v", DataType::Float64, true),
        ];
        got.schema = Arc::new(Schema::new(fields));
        assert!(told(&expected, &got).is_some_and(|told| told.contains("Int32")));
    }

    #[test]
    fn the_order_of_keys_counts_where_the_query_orders_and_ties_may_differ() {
        let expected = rows(&[1, 1, 2], &[Some(1.0), Some(2.0), None]);
        let (by_key, tie) = (Order(vec![0]), rows(&[1, 1, 2], &[Some(2.0), Some(1.0), None]));
        assert_eq!(differences(&expected, &by_key, &tie, true), None);
        assert!(differences(&expected, &by_key, &tie, false).is_some());
        let swapped = rows(&[1, 2, 1], &[Some(1.0), None, Some(2.0)]);
        assert!(differences(&expected, &by_key, &swapped, true).is_some());
    }
}
