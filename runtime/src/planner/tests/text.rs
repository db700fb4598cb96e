//! Text and Arrow files: splits by bytes, and reader options that datafusion-proto leaves out.

use std::fmt::Write;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::options::ArrowReadOptions;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, SessionContext};

use super::super::plan;
use super::harness::{same_rows, session_over};

const ROWS: usize = 700;

/// One row; every ninth name has the delimiter and a quote in it.
fn name(row: usize) -> String {
    if row.is_multiple_of(9) {
        format!("a;b\"\"{row}")
    } else {
        format!("name {}", row % 31)
    }
}

fn csv(dir: &Path, wide: bool) {
    std::fs::create_dir_all(dir).unwrap();
    for file in 0..3 {
        let mut text = String::from("id;name\n");
        for row in file * ROWS..(file + 1) * ROWS {
            let inner = if wide && row.is_multiple_of(5) { "\n" } else { "" };
            writeln!(text, "{row};\"{}{inner}\"", name(row)).unwrap();
        }
        std::fs::write(dir.join(format!("{file}.csv")), text).unwrap();
    }
}

fn json(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for file in 0..2 {
        let mut text = String::new();
        for row in file * ROWS..(file + 1) * ROWS {
            writeln!(text, "{{\"id\": {row}, \"name\": \"name {}\"}}", row % 31).unwrap();
        }
        std::fs::write(dir.join(format!("{file}.json")), text).unwrap();
    }
}

fn arrow(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, false),
    ]));
    for file in 0..2_i64 {
        let path = File::create(dir.join(format!("{file}.arrow"))).unwrap();
        let mut writer = arrow_ipc::writer::FileWriter::try_new(path, &schema).unwrap();
        for batch in 0..4 {
            let ids: Vec<i64> = (0..100).map(|row| file * 400 + batch * 100 + row).collect();
            let names: StringArray = ids.iter().map(|id| Some(format!("name {}", id % 31))).collect();
            let columns = vec![Arc::new(Int64Array::from(ids)) as _, Arc::new(names) as _];
            writer
                .write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap())
                .unwrap();
        }
        writer.finish().unwrap();
    }
}

async fn register(session: &SessionContext, dir: &Path) {
    let path = |table: &str| dir.join(table).to_str().unwrap().to_owned();
    let semicolon = CsvReadOptions::new().delimiter(b';');
    session
        .register_csv("lines", path("lines"), semicolon.clone())
        .await
        .unwrap();
    // DataFusion infers no schema of values with line breaks.
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]);
    let wide = semicolon.newlines_in_values(true).schema(&schema);
    session.register_csv("wide", path("wide"), wide).await.unwrap();
    session
        .register_json("objects", path("objects"), JsonReadOptions::default())
        .await
        .unwrap();
    session
        .register_arrow("arrows", &path("arrows"), ArrowReadOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn text_and_arrow_files_are_read_once() {
    let dir = tempfile::tempdir().unwrap();
    csv(&dir.path().join("lines"), false);
    csv(&dir.path().join("wide"), true);
    json(&dir.path().join("objects"));
    arrow(&dir.path().join("arrows"));
    let plain = SessionContext::new();
    register(&plain, dir.path()).await;
    let empty = tempfile::tempdir().unwrap();
    for partitions in [1, 4, 7] {
        let ours = session_over(empty.path(), partitions, &[]).await;
        register(&ours, dir.path()).await;
        for table in ["lines", "wide", "objects", "arrows"] {
            for sql in [
                format!("SELECT * FROM {table}"),
                format!("SELECT count(*), sum(id), min(name) FROM {table}"),
                format!("SELECT name, count(*) FROM {table} WHERE id % 2 = 0 GROUP BY name ORDER BY name"),
            ] {
                same_rows(&plain, &ours, &sql)
                    .await
                    .unwrap_or_else(|difference| panic!("{difference}"));
            }
        }
    }
    // Values with line breaks: a file is not divided.
    let ours = session_over(empty.path(), 7, &[]).await;
    register(&ours, dir.path()).await;
    let tasks = async |sql: &str| plan(&ours.state(), sql).await.unwrap().graph.stages[0].tasks;
    assert_eq!(tasks("SELECT * FROM wide").await, 3);
    assert_eq!(tasks("SELECT * FROM lines").await, 7);
}
