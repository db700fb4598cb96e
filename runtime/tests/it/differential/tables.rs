//! The tables that most cases share, written once per run of the tests.
//!
//! `big` and `mid` are large enough that neither is the broadcast side of a join between them, and that scans of
//! either have several tasks; `small` and `tiny` are broadcast. `none` has a file without rows.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use sluice_crds::shuffle_query::{FileFormat, TableSpec};
use tempfile::TempDir;

use crate::harness::Tables;

/// Name, rows, files.
const SHAPES: [(&str, u64, u64); 5] = [
    ("big", 150_000, 5),
    ("mid", 140_000, 4),
    ("small", 2_000, 2),
    ("tiny", 7, 1),
    ("none", 0, 1),
];

/// Writes and describes them.
pub fn shared() -> Tables {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for (salt, (name, rows, files)) in (0..).zip(SHAPES) {
            for file in 0..files {
                let (from, to) = (rows * file / files, rows * (file + 1) / files);
                write_parquet(folder.path(), name, file, &rows_of(salt, from, to));
            }
        }
        folder
    });
    let specs = SHAPES
        .iter()
        .map(|(name, _, _)| of_files(name, FileFormat::Parquet));
    Tables {
        specs: specs.collect(),
        base: folder.path().to_owned(),
    }
}

/// A table whose files lie in the folder of its name.
pub fn of_files(name: &str, format: FileFormat) -> TableSpec {
    TableSpec {
        name: name.to_owned(),
        location: Some(name.to_owned()),
        format: Some(format),
        ..TableSpec::default()
    }
}

/// The path of file `number` of a table, in its folder.
pub fn file_of(base: &Path, table: &str, number: u64, extension: &str) -> std::path::PathBuf {
    let folder = base.join(table);
    std::fs::create_dir_all(&folder).expect("the folder of a table can be made");
    folder.join(format!("part-{number}.{extension}"))
}

/// Writes one file of a table, in row groups of 8,192 rows.
pub fn write_parquet(base: &Path, table: &str, number: u64, batch: &RecordBatch) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(8_192))
        .build();
    let file = File::create(file_of(base, table, number, "parquet")).expect("the file can be made");
    let mut writer =
        ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("the types have a form");
    writer.write(batch).expect("the rows have a form");
    writer.close().expect("the file can be ended");
}

/// A number that looks random, the same for the same arguments.
pub fn scatter(row: u64, salt: u64) -> u64 {
    let mut mixed = row.wrapping_add(salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

/// [`scatter`] below `end`.
pub fn below(end: u32, row: u64, salt: u64) -> u32 {
    u32::try_from(scatter(row, salt) % u64::from(end)).expect("it is below a u32")
}

/// A batch of named columns that may hold nulls.
pub fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// Floats that are hard as keys.
fn hard_float(choice: u32) -> Option<f64> {
    match choice {
        0 => None,
        1 => Some(f64::NAN),
        2 => Some(-0.0),
        3 => Some(0.0),
        4 => Some(f64::INFINITY),
        5 => Some(f64::NEG_INFINITY),
        other => Some(f64::from(other) * 0.25 - 3.0),
    }
}

/// Rows `from..to`: `id` unique, `k` and `j` keys that join few rows with few, `g` five groups, `s` a text, `d` a
/// decimal, `f` hard floats, `x` plain floats, `t` a time with a zone, `day`, `yes`, and `note`, which is long.
fn rows_of(salt: u64, from: u64, to: u64) -> RecordBatch {
    let ids = || from..to;
    let seldom = |row: u64, period: u64| !scatter(row, salt + 10).is_multiple_of(period);
    let int = |end: u32, of: u64| move |row: u64| i32::try_from(below(end, row, salt + of)).ok();
    let (k, j, g, s) = (int(40_000, 20), int(50_000, 21), int(5, 22), int(1_000, 23));
    let (cents, choice, day, plain) = (int(100_000, 24), int(24, 25), int(2_000, 26), int(10_000, 27));
    let micros = |row: u64| i64::try_from(scatter(row, salt + 28) % 63_072_000_000_000).ok();
    let floats = ids().map(|row| hard_float(u32::try_from(choice(row)?).ok()?));
    let decimals: Decimal128Array = ids()
        .map(|row| {
            cents(row)
                .filter(|_| seldom(row, 13))
                .map(|cents| i128::from(cents) - 50_000)
        })
        .collect();
    let times: TimestampMicrosecondArray = ids().map(micros).collect();
    batch_of(vec![
        (
            "id",
            Arc::new(Int64Array::from_iter(ids().map(|row| i64::try_from(row).ok()))),
        ),
        (
            "k",
            Arc::new(Int32Array::from_iter(
                ids().map(|row| k(row).filter(|_| seldom(row, 11))),
            )),
        ),
        ("j", Arc::new(Int32Array::from_iter(ids().map(j)))),
        ("g", Arc::new(Int32Array::from_iter(ids().map(g)))),
        (
            "s",
            Arc::new(StringArray::from_iter(ids().map(|row| {
                s(row)
                    .filter(|_| seldom(row, 17))
                    .map(|number| format!("name {number}"))
            }))),
        ),
        (
            "d",
            Arc::new(decimals.with_precision_and_scale(12, 2).expect("the values fit")),
        ),
        ("f", Arc::new(Float64Array::from_iter(floats))),
        (
            "x",
            Arc::new(Float64Array::from_iter(
                ids().map(|row| plain(row).map(|number| f64::from(number) / 7.0)),
            )),
        ),
        ("t", Arc::new(times.with_timezone("Europe/Berlin"))),
        ("day", Arc::new(Date32Array::from_iter(ids().map(day)))),
        (
            "yes",
            Arc::new(BooleanArray::from_iter(
                ids().map(|row| seldom(row, 19).then_some(row.is_multiple_of(3))),
            )),
        ),
        (
            "note",
            Arc::new(StringArray::from_iter_values(ids().map(|row| {
                format!("{:016x}{:016x}", scatter(row, salt + 30), scatter(row, salt + 31))
            }))),
        ),
    ])
}
