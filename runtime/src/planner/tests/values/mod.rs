//! The rules of docs/sql.md about values: NaN and -0.0, overflows, and what functions may allocate.

mod bounds;
mod floats;
mod frames;
mod overflows;
mod zones;

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use sluice_core::failure::{AttemptFailure, BadInputKind};

use super::super::plan;
use super::harness::{Bench, texts};
use super::stage_runner::run;
use crate::source::classify_error;

const PARTITIONS: [usize; 3] = [1, 3, 13];

fn write(folder: &Path, table: &str, files: &[Vec<(&str, ArrayRef)>]) {
    let folder = folder.join(table);
    std::fs::create_dir_all(&folder).unwrap();
    for (number, columns) in files.iter().enumerate() {
        let columns = columns.iter();
        let columns = columns.map(|(name, column)| (*name, Arc::clone(column), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let file = std::fs::File::create(folder.join(format!("{number}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// Runs queries in several numbers of partitions, and tells which have other rows than those.
async fn wrong_rows(bench: &Bench, queries: &[(&str, &[&str])]) -> Vec<String> {
    let mut wrong = Vec::new();
    for partitions in PARTITIONS {
        for (sql, expected) in queries {
            let rows = match bench.try_rows(sql, partitions).await {
                Ok(rows) => rows.iter().map(|row| row.join("|")).collect::<Vec<_>>(),
                Err(error) => vec![error.to_string()],
            };
            if &rows != expected {
                wrong.push(format!("{partitions} partitions: {sql}\n  {rows:?}"));
            }
        }
    }
    wrong
}

/// The failure of a query.
async fn failure(bench: &Bench, sql: &str, partitions: usize) -> Result<AttemptFailure, String> {
    let session = bench.session(partitions, &[]).await;
    let planned = plan(&session.state(), sql)
        .await
        .map_err(|error| error.to_string())?;
    match run(&planned, &session.runtime_env()).await {
        Ok(rows) => Err(format!("rows: {:?}", texts(&rows))),
        Err(error) => Ok(classify_error(&error, &[])),
    }
}

fn check(sql: &str, said: &str, got: Result<AttemptFailure, String>) -> Result<(), String> {
    match got {
        Ok(AttemptFailure::BadInput {
            kind: BadInputKind::InvalidValue,
            message,
        }) if message.contains(said) && !message.contains("rror:") => Ok(()),
        other => Err(format!("{sql}\n  {other:?}")),
    }
}
