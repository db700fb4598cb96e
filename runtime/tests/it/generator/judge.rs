//! Whether rows of two engines are the same.

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// How far apart two floats may be, relative to the larger: sums and quotients of other orders of the same numbers.
const TOLERANCE: f64 = 1e-6;

/// How a NULL is shown, also within lists and structs.
const NULL: &str = "NULL";

/// One value, as two engines have it in common.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    /// An integer or a decimal number, without zeros at its end.
    Exact(String),
    Float(f64),
    Text(String),
}

impl Cell {
    pub fn exact(text: &str) -> Self {
        let text = match text.split_once('.') {
            Some((whole, fraction)) => match fraction.trim_end_matches('0') {
                "" => whole.to_owned(),
                fraction => format!("{whole}.{fraction}"),
            },
            None => text.to_owned(),
        };
        Self::Exact(if text == "-0" { "0".to_owned() } else { text })
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) | (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Null, Self::Null) => true,
            (Self::Exact(_) | Self::Float(_), Self::Exact(_) | Self::Float(_)) => {
                close(self.number(), other.number())
            }
            (Self::Null | Self::Text(_) | Self::Exact(_) | Self::Float(_), _) => false,
        }
    }

    fn number(&self) -> f64 {
        match self {
            Self::Exact(text) => text.parse().unwrap_or(f64::NAN),
            Self::Float(number) => *number,
            Self::Null | Self::Text(_) => f64::NAN,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Text(_) => 1,
            Self::Exact(_) | Self::Float(_) => 2,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| match (self, other) {
            (Self::Text(one), Self::Text(two)) => one.cmp(two),
            (Self::Null, Self::Null) => Ordering::Equal,
            _ => compare_floats(self.number(), other.number()),
        })
    }

    pub fn shown(&self) -> String {
        match self {
            Self::Null => NULL.to_owned(),
            Self::Exact(text) => text.clone(),
            Self::Float(number) => format!("{number:?}"),
            Self::Text(text) => format!("'{text}'"),
        }
    }
}

/// Zeros and NaNs are one value.
fn compare_floats(one: f64, two: f64) -> Ordering {
    one.partial_cmp(&two)
        .unwrap_or_else(|| one.is_nan().cmp(&two.is_nan()))
}

fn close(one: f64, two: f64) -> bool {
    one == two
        || (one.is_nan() && two.is_nan())
        || (one - two).abs() <= TOLERANCE * one.abs().max(two.abs()).max(1.0)
}

pub type Row = Vec<Cell>;

/// The rows of batches.
pub fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let start = rows.len();
        rows.resize_with(start + batch.num_rows(), Row::new);
        for column in batch.columns() {
            for (row, cell) in rows.iter_mut().skip(start).zip(cells(column.as_ref())) {
                row.push(cell);
            }
        }
    }
    rows
}

fn cells(column: &dyn Array) -> Vec<Cell> {
    match column.data_type() {
        DataType::Float64 => {
            let floats = column.as_primitive::<Float64Type>().iter();
            floats
                .map(|value| value.map_or(Cell::Null, Cell::Float))
                .collect()
        }
        DataType::Float32 => {
            let floats = column.as_primitive::<Float32Type>().iter();
            floats
                .map(|value| value.map_or(Cell::Null, |value| Cell::Float(value.into())))
                .collect()
        }
        DataType::Timestamp(unit, _) if *unit != TimeUnit::Microsecond => {
            let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
            cells(cast(column, &micros).expect("times have microseconds").as_ref())
        }
        type_ => {
            let exact = type_.is_numeric();
            let nested = type_.is_nested();
            let options = FormatOptions::new().with_null(NULL);
            let texts = ArrayFormatter::try_new(column, &options).expect("every type can be shown");
            let cell = |row| match column.is_null(row) {
                true => Cell::Null,
                false if exact => Cell::exact(&texts.value(row).to_string()),
                // Zeros are one value.
                false if nested => Cell::Text(texts.value(row).to_string().replace("x: -0.0,", "x: 0.0,")),
                false => Cell::Text(texts.value(row).to_string()),
            };
            (0..column.len()).map(cell).collect()
        }
    }
}

fn compare_rows(one: &Row, two: &Row) -> Ordering {
    let cells = one.iter().zip(two);
    cells
        .map(|(one, two)| one.compare(two))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn matches(one: &Row, two: &Row) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.matches(two))
}

pub fn shown(row: &Row) -> String {
    let cells: Vec<String> = row.iter().map(Cell::shown).collect();
    format!("({})", cells.join(", "))
}

pub fn shown_all(rows: &[Row]) -> String {
    let mut text: Vec<String> = rows.iter().take(12).map(shown).collect();
    if rows.len() > 12 {
        text.push(format!("… {} rows", rows.len()));
    }
    text.join(" ")
}

/// Tells how two results differ, if they do: as multisets of rows, and in the columns by which the query orders, row by
/// row.
pub fn difference(expected: &[Row], got: &[Row], order: &[usize]) -> Option<String> {
    let key = |row: &Row| -> Row {
        order
            .iter()
            .filter_map(|place| row.get(*place).cloned())
            .collect()
    };
    let unordered = expected
        .iter()
        .zip(got)
        .position(|(one, two)| !matches(&key(one), &key(two)));
    let (mut one, mut two): (Vec<&Row>, Vec<&Row>) = (expected.iter().collect(), got.iter().collect());
    one.sort_by(|one, two| compare_rows(one, two));
    two.sort_by(|one, two| compare_rows(one, two));
    let aligned = one.len() == two.len() && one.iter().zip(&two).all(|(one, two)| matches(one, two));
    let (missing, extra) = if aligned {
        (Vec::new(), Vec::new())
    } else {
        unmatched(&one, two)
    };
    if !missing.is_empty() || !extra.is_empty() {
        let shown = |rows: &[&Row]| rows.iter().take(4).map(|row| shown(row)).collect::<Vec<_>>();
        return Some(format!(
            "expected {} rows, got {}; {} missing {}, {} not expected {}",
            expected.len(),
            got.len(),
            missing.len(),
            shown(&missing).join(" "),
            extra.len(),
            shown(&extra).join(" "),
        ));
    }
    unordered.map(|row| format!("in another order from row {row} on"))
}

/// The rows that have no partner among the others.
fn unmatched<'a>(expected: &[&'a Row], mut got: Vec<&'a Row>) -> (Vec<&'a Row>, Vec<&'a Row>) {
    let mut missing = Vec::new();
    for row in expected {
        match got.iter().position(|other| matches(row, other)) {
            Some(place) => {
                got.remove(place);
            }
            None => missing.push(*row),
        }
    }
    (missing, got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Row> {
        vec![
            vec![
                Cell::exact("1.50"),
                Cell::Float(f64::NAN),
                Cell::Text("a".to_owned()),
            ],
            vec![Cell::exact("2"), Cell::Float(-0.0), Cell::Null],
            vec![Cell::exact("2"), Cell::Float(1.0), Cell::Null],
        ]
    }

    #[test]
    fn numbers_are_compared_by_value_and_rows_as_multisets() {
        let mut other = some();
        other[0][0] = Cell::exact("1.5");
        other[1] = vec![Cell::Float(2.0), Cell::exact("0"), Cell::Null];
        other.rotate_left(1);
        assert_eq!(difference(&some(), &other, &[]), None);
        assert!(difference(&some(), &other, &[0]).is_some_and(|told| told.contains("order")));
    }

    #[test]
    fn each_lost_doubled_or_other_row_is_told() {
        for change in 0..4 {
            let mut other = some();
            match change {
                0 => drop(other.pop()),
                1 => other.push(some().remove(0)),
                2 => other[2][1] = Cell::Float(1.001),
                _ => other[1][2] = Cell::Text(String::new()),
            }
            assert!(difference(&some(), &other, &[]).is_some(), "{change}");
            assert!(difference(&other, &some(), &[]).is_some(), "{change}");
        }
    }
}
