//! Small tables with nulls, NaN, decimals, zones, lists and structs, in several files and row groups.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int32Builder, Int64Array,
    ListBuilder, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

/// The tables and their rows: `big` and `mid` in three files each, `tiny` in one, `none` without rows.
pub(super) const TABLES: &[(&str, usize, usize)] =
    &[("big", 1200, 3), ("mid", 300, 3), ("tiny", 7, 1), ("none", 0, 1)];

/// Writes the tables as Parquet into folders under `dir`.
pub(super) fn write(dir: &Path) {
    for (number, (name, rows, files)) in TABLES.iter().enumerate() {
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let per_file = rows.div_ceil(*files).max(1);
        for file in 0..*files {
            let from = (file * per_file).min(*rows);
            let to = ((file + 1) * per_file).min(*rows);
            write_file(
                &folder.join(format!("{file}.parquet")),
                &rows_of(from, to, number),
            );
        }
    }
}

fn write_file(path: &Path, batch: &RecordBatch) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(100))
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn schema() -> SchemaRef {
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k", DataType::Int32, true),
        Field::new("g", DataType::Int32, false),
        Field::new("s", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("f", DataType::Float64, true),
        Field::new(
            "ts",
            DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into())),
            true,
        ),
        Field::new("l", DataType::List(item), true),
        Field::new("w", dictionary, true),
        Field::new(
            "p",
            DataType::Struct(vec![Field::new("x", DataType::Int32, true)].into()),
            true,
        ),
    ]))
}

/// Rows `from..to` of table `table`; the values repeat with periods that do not divide each other.
fn rows_of(from: usize, to: usize, table: usize) -> RecordBatch {
    let ids: Vec<i64> = (from..to).map(|row| row as i64).collect();
    let some = |row: i64, period: i64, value: i64| (row % period != 0).then_some(value);
    let k: Int32Array = ids
        .iter()
        .map(|row| some(*row, 11, (row * 7 + table as i64) % 53).map(|v| v as i32))
        .collect();
    let g: Int32Array = ids.iter().map(|row| Some((row % 5) as i32)).collect();
    let s: StringArray = ids
        .iter()
        .map(|row| some(*row, 13, row % 17).map(|v| format!("text {v}")))
        .collect();
    let d: Decimal128Array = ids
        .iter()
        .map(|row| some(*row, 19, row * 37 - 500).map(i128::from))
        .collect();
    let d = d.with_precision_and_scale(12, 2).unwrap();
    let f: Float64Array = ids
        .iter()
        .map(|row| match row % 23 {
            0 => None,
            1 => Some(f64::NAN),
            2 => Some(-0.0),
            other => Some(other as f64 / 2.0),
        })
        .collect();
    let ts: TimestampMicrosecondArray = ids
        .iter()
        .map(|row| some(*row, 29, 1_700_000_000_000_000 + (row % 40) * 86_400_000_000))
        .collect();
    let w: DictionaryArray<Int32Type> = ids
        .iter()
        .map(|row| ["red", "green", "blue"].get((row % 4) as usize).copied())
        .collect();
    let x: Int32Array = ids
        .iter()
        .map(|row| some(*row, 6, row % 9).map(|v| v as i32))
        .collect();
    let p = StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Int32, true)),
        Arc::new(x) as ArrayRef,
    )]);
    let mut l = ListBuilder::new(Int32Builder::new());
    for row in &ids {
        l.append_option((row % 7 != 0).then(|| (0..row % 4).map(|v| Some(v as i32))));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids)),
        Arc::new(k),
        Arc::new(g),
        Arc::new(s),
        Arc::new(d),
        Arc::new(f),
        Arc::new(ts.with_timezone("Europe/Berlin")),
        Arc::new(l.finish()),
        Arc::new(w),
        Arc::new(p),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}
