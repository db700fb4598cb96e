//! Random small tables, and the files that hold them.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sluice_crds::shuffle_query::FileFormat;

use super::ast::{Type, Value};
use super::render;
use crate::differential::tables::{batch_of, of_files, write_parquet};
use crate::harness::Tables;

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub name: String,
    pub columns: Vec<(String, Type)>,
    pub rows: Vec<Vec<Value>>,
    /// The number of files that hold the rows, at least 1.
    pub files: usize,
}

/// The tables of some queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    pub tables: Vec<Table>,
}

/// Columns that a table may have besides `id` and `k`.
const COLUMNS: [(&str, Type); 9] = [
    ("j", Type::Int),
    ("f", Type::Float),
    ("s", Type::Text),
    ("m", Type::Decimal),
    ("d", Type::Date),
    ("t", Type::Time),
    ("b", Type::Bool),
    ("l", Type::List),
    ("r", Type::Struct),
];

const TEXTS: [&str; 9] = ["", "a", "b", "B", "ab", "a b", "ä", "null", "0"];

impl Database {
    /// The tables of a seed. One database in three has floats that are hard as keys: NaN, infinities and zeros of
    /// either sign.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let hard = random.random_ratio(1, 3);
        let tables = ["a", "b", "c"].map(|name| table(name, hard, &mut random));
        Self {
            tables: tables.into(),
        }
    }

    /// Writes the files of every table below a folder, and says where they are.
    pub fn write(&self, folder: &Path) -> Tables {
        for table in &self.tables {
            for (number, rows) in (0..).zip(table.shares()) {
                write_parquet(folder, &table.name, number, &table.batch(rows));
            }
        }
        let specs = self.tables.iter();
        Tables {
            specs: specs
                .map(|table| of_files(&table.name, FileFormat::Parquet))
                .collect(),
            base: folder.to_owned(),
        }
    }

    /// For people: every table as a statement that makes it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let columns = table.columns.iter();
            let columns: Vec<String> = columns
                .map(|(name, type_)| format!("{name} {}", type_.sql()))
                .collect();
            let _ = writeln!(
                text,
                "{} ({}), {} files:",
                table.name,
                columns.join(", "),
                table.files
            );
            for row in table.rows.iter().take(40) {
                let cells: Vec<String> = row.iter().map(shown).collect();
                let _ = writeln!(text, "    ({})", cells.join(", "));
            }
            if table.rows.len() > 40 {
                let _ = writeln!(text, "    … {} rows", table.rows.len());
            }
        }
        text
    }
}

impl Table {
    /// The rows of each file.
    fn shares(&self) -> impl Iterator<Item = &[Vec<Value>]> {
        let (rows, files) = (self.rows.len(), self.files.max(1));
        (0..files).map(move |file| {
            let bounds = rows * file / files..rows * (file + 1) / files;
            self.rows.get(bounds).unwrap_or_default()
        })
    }

    fn batch(&self, rows: &[Vec<Value>]) -> RecordBatch {
        let columns = self.columns.iter().enumerate();
        let columns = columns.map(|(place, (name, type_))| {
            let values = rows.iter().filter_map(|row| row.get(place));
            (name.as_str(), array(*type_, values))
        });
        batch_of(columns.collect())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Decimal(hundredths) => render::decimal(*hundredths),
        Value::Date(days) => format!("'{}'", render::date(*days)),
        Value::Time(seconds) => format!("'{}'", render::time(*seconds)),
        Value::Bool(yes) => yes.to_string(),
        Value::List(items) => {
            let items = items.iter();
            let items: Vec<String> = items
                .map(|item| shown(&item.map_or(Value::Null, Value::Int)))
                .collect();
            format!("[{}]", items.join(", "))
        }
        Value::Struct(x, y) => format!("{{x: {x:?}, y: '{y}'}}"),
    }
}

fn array<'a>(type_: Type, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    macro_rules! of {
        ($array:ty, $variant:ident, $map:expr) => {{
            let values = values.map(|value| match value {
                Value::$variant(value) => Some($map(value)),
                _ => None,
            });
            values.collect::<$array>()
        }};
    }
    match type_ {
        Type::Int => Arc::new(of!(Int64Array, Int, |value: &i64| *value)),
        Type::Float => Arc::new(of!(Float64Array, Float, |value: &f64| *value)),
        Type::Text => Arc::new(of!(StringArray, Text, |value: &String| value.clone())),
        Type::Decimal => {
            let array = of!(Decimal128Array, Decimal, |value: &i64| i128::from(*value));
            Arc::new(array.with_precision_and_scale(10, 2).expect("the values fit"))
        }
        Type::Date => Arc::new(of!(Date32Array, Date, |value: &i32| *value)),
        Type::Time => Arc::new(of!(TimestampMicrosecondArray, Time, |value: &i64| value * 1_000_000)),
        Type::Bool => Arc::new(of!(BooleanArray, Bool, |value: &bool| *value)),
        Type::List => {
            let lists = values.map(|value| match value {
                Value::List(items) => Some(items.iter().copied()),
                _ => None,
            });
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))
        }
        Type::Struct => Arc::new(structs(values)),
    }
}

fn structs<'a>(values: impl Iterator<Item = &'a Value>) -> StructArray {
    let (mut xs, mut ys, mut valid) = (Vec::new(), Vec::new(), Vec::new());
    for value in values {
        let (x, y) = match value {
            Value::Struct(x, y) => (Some(*x), Some(y.as_str())),
            _ => (None, None),
        };
        xs.push(x);
        ys.push(y);
        valid.push(matches!(value, Value::Struct(..)));
    }
    let fields = vec![
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Utf8, true),
    ];
    let columns: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(xs)), Arc::new(StringArray::from(ys))];
    StructArray::try_new(fields.into(), columns, Some(valid.into())).expect("fields of one length")
}

fn table(name: &str, hard: bool, random: &mut SmallRng) -> Table {
    let mut columns = vec![("id".to_owned(), Type::Int), ("k".to_owned(), Type::Int)];
    // Few have lists: windows over tables that do have no total order.
    let others = COLUMNS.iter().filter(|(_, type_)| match type_.is_ordered() {
        true => random.random_ratio(2, 3),
        false => random.random_ratio(1, 4),
    });
    columns.extend(others.map(|(name, type_)| ((*name).to_owned(), *type_)));
    let count = *[0, 1, 4, 8, 20, 20, 40, 60].choose(random).expect("a size");
    let rows = (0..count).map(|row| {
        let mut values = vec![Value::Int(row)];
        values.extend(
            columns
                .iter()
                .skip(1)
                .map(|(_, type_)| value(*type_, hard, random)),
        );
        values
    });
    Table {
        name: name.to_owned(),
        rows: rows.collect(),
        columns,
        files: random.random_range(1..=5),
    }
}

/// One of a few values, so that rows match; one in six is NULL.
pub fn value(type_: Type, hard: bool, random: &mut SmallRng) -> Value {
    if random.random_ratio(1, 6) {
        return Value::Null;
    }
    match type_ {
        Type::Int => Value::Int(random.random_range(-1..6)),
        Type::Float if hard && random.random_ratio(1, 2) => {
            let floats = [f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY];
            Value::Float(*floats.choose(random).expect("a float"))
        }
        Type::Float => Value::Float(f64::from(random.random_range(-4..8)) * 0.25 + 0.125),
        Type::Text => Value::Text((*TEXTS.choose(random).expect("a text")).to_owned()),
        Type::Decimal => Value::Decimal(random.random_range(-3..6) * 50),
        Type::Date => Value::Date(random.random_range(10_955..10_960)),
        Type::Time => Value::Time(random.random_range(0..5) * 43_200 + 951_782_400),
        Type::Bool => Value::Bool(random.random_bool(0.5)),
        Type::List => {
            let items = (0..random.random_range(0..3)).map(|_| match value(Type::Int, hard, random) {
                Value::Int(number) => Some(number % 2),
                _ => None,
            });
            Value::List(items.collect())
        }
        Type::Struct => {
            let choice = |type_, random: &mut SmallRng| loop {
                match value(type_, hard, random) {
                    Value::Null => {}
                    other => return other,
                }
            };
            match (choice(Type::Float, random), choice(Type::Text, random)) {
                (Value::Float(x), Value::Text(y)) => Value::Struct(x, y),
                _ => Value::Null,
            }
        }
    }
}
