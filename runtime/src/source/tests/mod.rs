//! Tests over real files.

mod attempts;
mod corrupt;
mod formats;
mod generate;
mod listing;
mod rows;
mod samples;
mod store;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use serde_json::json;
use sluice_crds::shuffle_query::TableSpec;
use tempfile::TempDir;

use super::{InputManifest, SourceError, register_tables};

/// A table as its YAML would declare it.
fn table(spec: serde_json::Value) -> TableSpec {
    serde_json::from_value(spec).unwrap()
}

fn files(format: &str, location: &Path) -> TableSpec {
    table(json!({"name": "t", "format": format, "location": location}))
}

fn session(manifest: &InputManifest) -> SessionContext {
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .build_arc()
        .unwrap();
    SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(3), runtime)
}

async fn open(spec: &TableSpec) -> Result<(SessionContext, InputManifest), SourceError> {
    let tables = std::slice::from_ref(spec);
    let manifest = InputManifest::list(tables, Path::new("/nowhere")).await?;
    let session = session(&manifest);
    register_tables(&session, tables, &manifest).await?;
    Ok((session, manifest))
}

/// The message of a table that cannot be opened.
async fn refusal(spec: &TableSpec) -> String {
    match open(spec).await {
        Err(error) => format!("{:?}: {error}", error.reason),
        Ok(_) => panic!("opened"),
    }
}

async fn rows(session: &SessionContext, sql: &str) -> Vec<String> {
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let lines = text.lines().filter(|line| line.starts_with('|')).skip(1);
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn batch(first: i64, count: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + count));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(
        (first..first + count).map(|id| format!("n{id}")),
    ));
    RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()
}

fn write_parquet(path: &Path, batch: &RecordBatch) {
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}
