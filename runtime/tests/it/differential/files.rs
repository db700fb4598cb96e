//! Text files, many small files, files without rows, and one row.

use std::sync::{Arc, OnceLock};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use sluice_crds::shuffle_query::{ColumnSpec, CsvOptions, FileFormat, TableSpec};
use tempfile::TempDir;

use super::tables::{batch_of, below, file_of, of_files, scatter, write_parquet};
use super::{READERS, SCANS, check};
use crate::harness::Tables;

const ROWS: u64 = 40_000;
const SMALL_FILES: u64 = 60;

/// Tables of text files `c` (CSV), `j` (JSON) and `odd` (CSV with line breaks in values and another delimiter), of
/// many Parquet files `many`, of files of which the middle one has no rows `gap`, of one row `one`, and of no file
/// `nil`.
fn tables() -> Tables {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for file in 0..3 {
            let batch = rows_of(ROWS * file / 3, ROWS * (file + 1) / 3);
            write_csv(&file_of(folder.path(), "c", file, "csv"), &batch);
            write_json(&file_of(folder.path(), "j", file, "json"), &batch);
            let rows = if file == 1 {
                (0, 0)
            } else {
                (file * 3_000, file * 3_000 + 3_000)
            };
            write_parquet(folder.path(), "gap", file, &rows_of(rows.0, rows.1));
        }
        let odd = "id|s\n1|\"two\nlines\"\n2|\"a | b\"\n3|NA\n4|\"a \"\"quoted\"\" word\"\n5|\n";
        std::fs::write(file_of(folder.path(), "odd", 0, "csv"), odd).expect("the file can be written");
        for file in 0..SMALL_FILES {
            write_parquet(folder.path(), "many", file, &rows_of(file * 3, file * 3 + 3));
        }
        write_parquet(folder.path(), "one", 0, &rows_of(7, 8));
        std::fs::create_dir_all(folder.path().join("nil")).expect("the folder can be made");
        folder
    });
    Tables {
        specs: specs(),
        base: folder.path().to_owned(),
    }
}

fn specs() -> Vec<TableSpec> {
    let column = |name: &str, type_: &str| ColumnSpec {
        name: name.into(),
        type_: type_.into(),
        nullable: true,
    };
    let odd = CsvOptions {
        delimiter: "|".into(),
        newlines_in_values: true,
        null_regex: Some("^NA$".into()),
        ..CsvOptions::default()
    };
    let nil = vec![column("id", "Int64"), column("s", "Utf8")];
    vec![
        of_files("c", FileFormat::Csv),
        of_files("j", FileFormat::Json),
        TableSpec {
            options: Some(odd),
            ..of_files("odd", FileFormat::Csv)
        },
        of_files("many", FileFormat::Parquet),
        of_files("gap", FileFormat::Parquet),
        of_files("one", FileFormat::Parquet),
        TableSpec {
            schema: Some(nil),
            ..of_files("nil", FileFormat::Parquet)
        },
    ]
}

fn rows_of(from: u64, to: u64) -> RecordBatch {
    let integer = |row: u64| i64::try_from(row).ok();
    let texts = |row: u64| (!row.is_multiple_of(9)).then(|| format!("text, \"{}\"", below(50, row, 1)));
    batch_of(vec![
        ("id", Arc::new(Int64Array::from_iter((from..to).map(integer)))),
        (
            "g",
            Arc::new(Int64Array::from_iter(
                (from..to).map(|row| Some(i64::from(below(30, row, 2)))),
            )),
        ),
        ("s", Arc::new(StringArray::from_iter((from..to).map(texts)))),
        (
            "note",
            Arc::new(StringArray::from_iter_values(
                (from..to).map(|row| format!("{:016x}", scatter(row, 3)).repeat(4)),
            )),
        ),
    ])
}

fn write_csv(path: &std::path::Path, batch: &RecordBatch) {
    let file = std::fs::File::create(path).expect("the file can be made");
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(file);
    writer.write(batch).expect("the rows have a form");
}

fn write_json(path: &std::path::Path, batch: &RecordBatch) {
    let file = std::fs::File::create(path).expect("the file can be made");
    let mut writer = arrow::json::LineDelimitedWriter::new(file);
    writer.write(batch).expect("the rows have a form");
    writer.finish().expect("the file can be ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_files() {
    check(
        &tables(),
        &[
            (
                "csv, every row",
                "select count(*), sum(id), min(note), max(note), count(s), count(distinct s) from c",
            ),
            ("csv, groups", "select g, s, count(*) from c group by g, s"),
            ("csv, rows", "select * from c where id % 100 = 17"),
            (
                "json, every row",
                "select count(*), sum(id), min(note), max(note), count(s), count(distinct s) from j",
            ),
            ("json, groups", "select g, s, count(*) from j group by g, s"),
            (
                "json, in order",
                "select id, s from j where id % 100 = 17 order by note",
            ),
            (
                "csv and json",
                "select count(*), sum(c.id) from c join j on c.id = j.id and c.s = j.s",
            ),
            ("line breaks, quotes, nulls", "select id, s from odd"),
        ],
        SCANS,
        &[("a small file is one part", &["line breaks, quotes, nulls"])],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_rows_and_many_files() {
    check(
        &tables(),
        &[
            ("many files", "select g, count(*), sum(id) from many group by g"),
            ("many files, in order", "select id, s, note from many order by id"),
            (
                "many files joined",
                "select m.id, c.s from many m full join c on c.id = m.id",
            ),
            ("a file without rows", "select g, count(*) from gap group by g"),
            (
                "a file without rows, joined",
                "select count(*), sum(gap.id) from gap full join c on gap.id = c.id",
            ),
            ("one row", "select * from one"),
            ("one row, grouped", "select s, count(*) from one group by s"),
            (
                "one row, joined",
                "select one.id, count(*) from one join c on c.g = one.g group by one.id",
            ),
            (
                "one row, windowed",
                "select id, row_number() over (order by id) as n from one",
            ),
            ("no file", "select * from nil"),
            ("no file, grouped", "select s, count(*) from nil group by s"),
            ("no file, counted", "select count(*) from nil"),
            (
                "no file, joined",
                "select count(*), count(nil.id) from c left join nil on c.id = nil.id",
            ),
        ],
        READERS,
        &[
            (
                "few rows are read by one task",
                &[
                    "many files, in order",
                    "one row",
                    "one row, grouped",
                    "one row, windowed",
                ],
            ),
            (
                "a table without files is read by one task",
                &["no file", "no file, grouped", "no file, counted"],
            ),
        ],
    )
    .await;
}
