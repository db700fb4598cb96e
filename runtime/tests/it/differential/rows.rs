//! Rows of 1,000 columns, and rows of several megabytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use sluice_crds::shuffle_query::FileFormat;

use super::tables::{batch_of, below, of_files, scatter, write_parquet};
use super::{READERS, check};
use crate::harness::Tables;

const COLUMNS: u64 = 1_000;
/// Bytes of the longest text: more than gRPC takes in one message, and several chunks.
const HUGE: u64 = 5 << 20;

fn ints(rows: std::ops::Range<u64>, salt: u64) -> ArrayRef {
    Arc::new(Int64Array::from_iter(rows.map(|row| {
        (!(row + salt).is_multiple_of(13)).then(|| i64::from(below(1_000, row, salt)))
    })))
}

fn wide_rows(rows: std::ops::Range<u64>) -> RecordBatch {
    let names: Vec<String> = (0..COLUMNS).map(|column| format!("c{column}")).collect();
    let id: ArrayRef = Arc::new(Int64Array::from_iter(
        rows.clone().map(|row| i64::try_from(row).ok()),
    ));
    let columns = names
        .iter()
        .zip(0..)
        .map(|(name, salt)| (name.as_str(), ints(rows.clone(), salt)));
    batch_of(std::iter::once(("id", id)).chain(columns).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_columns() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write_parquet(folder.path(), "w", 0, &wide_rows(0..150));
    write_parquet(folder.path(), "w", 1, &wide_rows(150..300));
    let tables = Tables {
        specs: vec![of_files("w", FileFormat::Parquet)],
        base: folder.path().to_owned(),
    };
    check(
        &tables,
        &[
            ("all columns", "select * from w"),
            (
                "joined",
                "select a.* from w a join w b on a.id = b.c7 where b.id < 40",
            ),
            ("in order", "select * from w order by c500, id limit 20"),
        ],
        READERS,
        &[
            ("it reads no exchange", &["all columns"]),
            ("one task merges what others have sorted", &["in order"]),
        ],
    )
    .await;
}

/// Incompressible texts of increasing length.
fn huge_rows(rows: std::ops::Range<u64>) -> RecordBatch {
    let text = |row: u64| {
        let words = (HUGE >> (row % 6)) / 16;
        (0..words)
            .map(|word| format!("{:016x}", scatter(word, row)))
            .collect::<String>()
    };
    batch_of(vec![
        (
            "id",
            Arc::new(Int64Array::from_iter(
                rows.clone().map(|row| i64::try_from(row).ok()),
            )),
        ),
        ("g", ints(rows.clone(), 3)),
        ("t", Arc::new(StringArray::from_iter_values(rows.map(text)))),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_values() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write_parquet(folder.path(), "h", 0, &huge_rows(0..6));
    write_parquet(folder.path(), "h", 1, &huge_rows(6..9));
    let tables = Tables {
        specs: vec![of_files("h", FileFormat::Parquet)],
        base: folder.path().to_owned(),
    };
    check(
        &tables,
        &[
            ("shown", "select id, t from h"),
            ("joined", "select a.id, a.t from h a join h b on a.id = b.id"),
            ("grouped by", "select t, count(*), min(id) from h group by t"),
            ("in order", "select id, t from h order by t desc"),
            ("the largest", "select g, max(t) from h group by g"),
        ],
        READERS,
        &[
            ("it reads no exchange", &["shown"]),
            ("one task merges what others have sorted", &["in order"]),
        ],
    )
    .await;
}
