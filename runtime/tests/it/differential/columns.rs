//! Columns of every type that Parquet and Arrow files carry, as values, keys and in order.

use std::sync::{Arc, OnceLock};

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date64Array, Decimal128Array, Decimal256Array,
    DictionaryArray, FixedSizeBinaryArray, Float32Array, Int8Array, Int16Array, Int64Array, LargeBinaryArray,
    LargeStringArray, RecordBatch, StringArray, StringViewArray, Time64MicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Int16Type, Int32Type, i256};
use arrow_ipc::writer::FileWriter;
use sluice_crds::shuffle_query::FileFormat;
use tempfile::TempDir;

use super::tables::{batch_of, below, file_of, of_files, scatter, write_parquet};
use super::{GROUPS, JOINS, READERS, SORTS, check};
use crate::harness::Tables;

const ROWS: u64 = 24_000;
const FILES: u64 = 3;

/// Tables `p` (Parquet) and `a` (Arrow) with the same rows, and `few` with the first of them.
fn tables() -> Tables {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for file in 0..FILES {
            let batch = rows_of(ROWS * file / FILES, ROWS * (file + 1) / FILES);
            write_parquet(folder.path(), "p", file, &batch);
            let out = std::fs::File::create(file_of(folder.path(), "a", file, "arrow"))
                .expect("a file can be made");
            let mut writer = FileWriter::try_new(out, &batch.schema()).expect("the types have a form");
            for start in (0..batch.num_rows()).step_by(2_000) {
                writer
                    .write(&batch.slice(start, 2_000.min(batch.num_rows() - start)))
                    .expect("the rows have a form");
            }
            writer.finish().expect("the file can be ended");
        }
        write_parquet(folder.path(), "few", 0, &rows_of(0, 300));
        folder
    });
    let specs = vec![
        of_files("p", FileFormat::Parquet),
        of_files("a", FileFormat::Arrow),
        of_files("few", FileFormat::Parquet),
    ];
    Tables {
        specs,
        base: folder.path().to_owned(),
    }
}

fn rows_of(from: u64, to: u64) -> RecordBatch {
    let mut columns = numbers(from, to);
    columns.extend(decimals_and_times(from, to));
    columns.extend(texts_and_bytes(from, to));
    batch_of(columns)
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn small(row: u64, salt: u64) -> Option<u32> {
    (!row.is_multiple_of(5 + salt)).then(|| below(100, row, salt))
}

fn numbers(from: u64, to: u64) -> Columns {
    let of = |salt: u64| (from..to).map(move |row| small(row, salt));
    vec![
        (
            "id",
            Arc::new(Int64Array::from_iter(
                (from..to).map(|row| i64::try_from(row).ok()),
            )),
        ),
        (
            "i8",
            Arc::new(Int8Array::from_iter(
                of(5).map(|n| n.and_then(|n| i8::try_from(n).ok())),
            )),
        ),
        (
            "i16",
            Arc::new(Int16Array::from_iter(
                of(6).map(|n| n.and_then(|n| i16::try_from(n).ok())),
            )),
        ),
        (
            "u8",
            Arc::new(UInt8Array::from_iter(
                of(7).map(|n| n.and_then(|n| u8::try_from(n + 150).ok())),
            )),
        ),
        (
            "u16",
            Arc::new(UInt16Array::from_iter(
                of(8).map(|n| n.and_then(|n| u16::try_from(n + 60_000).ok())),
            )),
        ),
        (
            "u32",
            Arc::new(UInt32Array::from_iter(of(9).map(|n| n.map(|n| u32::MAX - n)))),
        ),
        (
            "u64",
            Arc::new(UInt64Array::from_iter(
                of(10).map(|n| n.map(|n| u64::MAX - u64::from(n))),
            )),
        ),
        (
            "f32",
            Arc::new(Float32Array::from_iter(
                of(11).map(|n| n.map(|n| if n == 9 { f32::NAN } else { -0.25 * n as f32 })),
            )),
        ),
        (
            "yes",
            Arc::new(BooleanArray::from_iter(of(12).map(|n| n.map(|n| n > 60)))),
        ),
    ]
}

fn decimals_and_times(from: u64, to: u64) -> Columns {
    let of = |salt: u64| (from..to).map(move |row| small(row, salt));
    let wide =
        |salt: u64| (from..to).map(move |row| small(row, salt).map(|number| i64::from(number) * 86_400_001));
    let decimals: Decimal128Array = of(1)
        .map(|number| number.map(|n| i128::from(n) * 10_i128.pow(30) - 1))
        .collect();
    let large: Decimal256Array = of(2)
        .map(|number| number.map(|n| i256::from_i128(i128::from(n) - 50)))
        .collect();
    vec![
        (
            "dec",
            Arc::new(decimals.with_precision_and_scale(38, 10).expect("the values fit")),
        ),
        (
            "dec256",
            Arc::new(large.with_precision_and_scale(60, 3).expect("the values fit")),
        ),
        (
            "day64",
            Arc::new(Date64Array::from_iter(
                of(13).map(|n| n.map(|n| i64::from(n) * 86_400_000)),
            )),
        ),
        ("clock", Arc::new(Time64MicrosecondArray::from_iter(wide(14)))),
        ("ts_s", Arc::new(TimestampSecondArray::from_iter(wide(15)))),
        (
            "ts_ms",
            Arc::new(TimestampMillisecondArray::from_iter(wide(16)).with_timezone("UTC")),
        ),
        (
            "ts_ns",
            Arc::new(TimestampNanosecondArray::from_iter(wide(17)).with_timezone("America/New_York")),
        ),
    ]
}

fn texts_and_bytes(from: u64, to: u64) -> Columns {
    let text = |number| format!("a text of some length, number {number}");
    let texts = |salt: u64| (from..to).map(move |row| small(row, salt).map(text));
    let bytes: Vec<_> = texts(3).map(|text| text.map(String::into_bytes)).collect();
    let fixed = (from..to).map(|row| small(row, 4).map(|number| number.to_be_bytes()));
    vec![
        ("view", Arc::new(StringViewArray::from_iter(texts(18)))),
        ("large", Arc::new(LargeStringArray::from_iter(texts(19)))),
        (
            "bytes",
            Arc::new(BinaryArray::from_iter(bytes.iter().map(Option::as_deref))),
        ),
        (
            "bytes_view",
            Arc::new(BinaryViewArray::from_iter(bytes.iter().map(Option::as_deref))),
        ),
        (
            "large_bytes",
            Arc::new(LargeBinaryArray::from_iter(bytes.iter().map(Option::as_deref))),
        ),
        (
            "fixed",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 4).expect("all of one size"),
            ),
        ),
        ("word", dictionary::<Int32Type>(texts(20))),
        ("word16", dictionary::<Int16Type>(texts(21))),
        (
            "note",
            Arc::new(StringArray::from_iter_values(
                (from..to).map(|row| format!("{:016x}", scatter(row, 22)).repeat(4)),
            )),
        ),
    ]
}

fn dictionary<K: arrow::datatypes::ArrowDictionaryKeyType>(
    texts: impl Iterator<Item = Option<String>>,
) -> ArrayRef {
    let texts: Vec<_> = texts.collect();
    let array: DictionaryArray<K> = texts.iter().map(Option::as_deref).collect();
    Arc::new(array)
}

const COLUMNS: [&str; 23] = [
    "i8",
    "i16",
    "u8",
    "u16",
    "u32",
    "u64",
    "f32",
    "yes",
    "dec",
    "dec256",
    "day64",
    "clock",
    "ts_s",
    "ts_ms",
    "ts_ns",
    "view",
    "large",
    "bytes",
    "bytes_view",
    "large_bytes",
    "fixed",
    "word",
    "word16",
];

async fn each_column(sql: &str, operators: &[&str]) {
    let cases: Vec<(&str, String)> = COLUMNS
        .iter()
        .map(|name| (*name, sql.replace("{c}", name)))
        .collect();
    let cases: Vec<(&str, &str)> = cases.iter().map(|(name, sql)| (*name, sql.as_str())).collect();
    check(&tables(), &cases, operators, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_group_keys() {
    each_column("select {c}, count(*), sum(id) from p group by {c}", GROUPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_join_keys() {
    each_column("select count(*), sum(a.id), min(b.id) from a join (select {c}, min(id) as id from p group by {c}) b on a.{c} = b.{c}", JOINS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_sort_keys() {
    each_column(
        "select {c}, id from p where id % 80 = 3 order by {c} desc nulls last, id",
        SORTS,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once() {
    check(&tables(), &[
        ("from Parquet", "select p.* from p full join few on p.id = few.id * 70"),
        ("from Arrow", "select a.* from a full join few on a.id = few.id * 70"),
        ("from Arrow alone", "select * from a where id % 80 = 3"),
        ("few values of a dictionary", "select word, word16, note from a where id < 5 order by note"),
        ("both", "select count(*) from p join a on p.id = a.id and (p.u16 is not distinct from a.u16) and (p.bytes is not distinct from a.bytes)"),
        ("minima and maxima", "select min(view), max(view), min(dec), max(dec256), max(ts_ns), min(word), max(large), min(bytes), max(u64) from a"),
        ("times of zones", "select date_trunc('hour', ts_ns) as h, count(*) from p group by h"),
    ], READERS, &[
        ("it reads no exchange", &["from Arrow alone"]),
        ("one task merges what others have sorted", &["few values of a dictionary"]),
        ("one task ends a group of all rows", &["minima and maxima"]),
    ]).await;
}
