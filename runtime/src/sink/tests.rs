use std::borrow::Borrow;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, Float64Array, Int64Array, ListArray,
    RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use datafusion::prelude::SessionContext;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::json;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId, StageEpoch, StageId};
use sluice_crds::ErrorReason;
use tempfile::TempDir;

use super::rename_committer::{CommitOptions, CommitStep, commit};
use super::{COMMIT_RECORD, Committed, Sink, SinkError, SinkReceipt, SinkWriter, writer};
use crate::source::{InputManifest, InputRoots, register_tables};

mod checks;
mod columns;
mod commit_steps;

const STEPS: [CommitStep; 6] = [
    CommitStep::Cleared,
    CommitStep::Assembled,
    CommitStep::Recorded,
    CommitStep::SetAside,
    CommitStep::Published,
    CommitStep::CleanedUp,
];

/// The paths of one coordinator of one query.
struct Bound {
    sink: Sink,
    query: QueryId,
    epoch: CoordinatorEpoch,
}

impl Bound {
    fn location(&self) -> &Path {
        self.sink.location()
    }

    fn check(&self, inputs: &[PathBuf]) -> Result<(), SinkError> {
        self.sink.check(&inputs.iter().cloned().collect())
    }

    fn check_columns(&self, schema: &SchemaRef) -> Result<(), SinkError> {
        self.sink.check_columns(schema)
    }

    fn open(&self, attempt: AttemptId, schema: impl Borrow<SchemaRef>) -> Result<SinkWriter, SinkError> {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        self.open_within(attempt, schema, &pool)
    }

    fn open_within(
        &self,
        attempt: AttemptId,
        schema: impl Borrow<SchemaRef>,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<SinkWriter, SinkError> {
        self.sink
            .open(&self.query, self.epoch, attempt, schema.borrow(), pool)
    }

    fn commit(&self, winners: &[AttemptId]) -> Result<Committed, SinkError> {
        self.sink.commit(&self.query, self.epoch, winners)
    }

    fn committed(&self) -> Result<Option<Committed>, SinkError> {
        self.sink.committed(&self.query)
    }

    fn abort(&self) -> Result<(), SinkError> {
        self.sink.abort(&self.query, self.epoch)
    }
}

fn sink(folder: &TempDir, query: &str, format: &str, if_exists: &str) -> Bound {
    let spec = json!({"location": "out/result", "format": format, "ifExists": if_exists});
    let sink = Sink::new(&serde_json::from_value(spec).unwrap(), folder.path()).unwrap();
    // It reaches the workers as text.
    let sink = serde_json::from_str(&serde_json::to_string(&sink).unwrap()).unwrap();
    Bound {
        sink,
        query: QueryId::new(query).unwrap(),
        epoch: CoordinatorEpoch(1),
    }
}

fn attempt(task: u32, attempt: u32) -> AttemptId {
    AttemptId {
        stage: StageId(3),
        stage_epoch: StageEpoch(0),
        task,
        attempt,
    }
}

fn batch(values: &[i64]) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    RecordBatch::try_from_iter([("v", values)]).unwrap()
}

async fn write(sink: &Bound, attempt: AttemptId, values: &[i64]) -> SinkReceipt {
    let mut writer = sink.open(attempt, batch(values).schema()).unwrap();
    for value in values {
        writer.write(&batch(&[*value])).unwrap();
    }
    writer.finish().unwrap()
}

/// What an earlier query has left at a location.
fn place_result(location: &Path) {
    fs::create_dir_all(location).unwrap();
    fs::write(location.join("part-00009.csv"), "v\n9\n").unwrap();
    let record = json!({"query": "before", "files": 1, "rows": 1, "bytes": 4});
    fs::write(location.join(COMMIT_RECORD), record.to_string()).unwrap();
}

/// Names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The rows of a folder as another query reads them.
async fn rows(location: &Path, format: &str) -> Vec<RecordBatch> {
    let spec = json!({"name": "t", "format": format, "location": location});
    let tables = [serde_json::from_value(spec).unwrap()];
    let manifest = InputManifest::list(&tables, location).await.unwrap();
    let context = SessionContext::new();
    let runtime = datafusion::execution::runtime_env::RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .build_arc()
        .unwrap();
    let context = SessionContext::new_with_config_rt(context.copied_config(), runtime);
    register_tables(&context, &tables, &manifest).await.unwrap();
    let frame = context.sql("select * from t order by 1").await.unwrap();
    frame.collect().await.unwrap()
}

async fn values(location: &Path, format: &str) -> Vec<i64> {
    let batches = rows(location, format).await;
    let column = |batch: &RecordBatch| {
        batch
            .column(0)
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap()
            .values()
            .to_vec()
    };
    batches.iter().flat_map(column).collect()
}

/// Commits as a coordinator that dies after `stop`.
fn commit_until(
    sink: &Bound,
    winners: &[AttemptId],
    stop: Option<CommitStep>,
    exchange: bool,
) -> Result<Committed, SinkError> {
    let mut on_step = |step| match stop {
        Some(stop) if stop == step => Err(SinkError::Columns {
            problem: "dies here".to_owned(),
        }),
        _ => Ok(()),
    };
    let mut options = CommitOptions {
        on_step: &mut on_step,
        exchange,
    };
    commit(&sink.sink.paths(&sink.query, sink.epoch), winners, &mut options)
}

/// Numbers that no encoding makes small.
fn noise(batch_number: i64) -> RecordBatch {
    let values: Vec<i64> = (0..8192)
        .map(|row| (batch_number * 8192 + row).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64))
        .collect();
    batch(&values)
}

#[tokio::test]
async fn a_result_without_rows_has_its_columns() {
    for format in ["parquet", "csv", "arrow"] {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, "q1", format, "Fail");
        write(&sink, attempt(0, 0), &[]).await;
        write(&sink, attempt(1, 0), &[]).await;
        let committed = sink.commit(&[attempt(0, 0), attempt(1, 0)]).unwrap();
        assert_eq!((committed.files, committed.rows), (1, 0));
        assert_eq!(names(sink.location()).len(), 2);
        assert_eq!(values(sink.location(), format).await, [0i64; 0], "{format}");
    }
}

#[test]
fn what_waits_in_memory_is_charged_and_row_groups_end_where_there_is_no_more() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "parquet", "Fail");
    let groups = |task: u32, limit: usize| {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(limit));
        let mut writer = sink
            .open_within(attempt(task, 0), noise(0).schema(), &pool)
            .unwrap();
        let mut most = 0;
        for number in 0..100 {
            writer.write(&noise(number)).unwrap();
            most = most.max(pool.reserved());
        }
        let path = writer::attempt_file(&sink.sink.paths(&sink.query, sink.epoch), attempt(task, 0));
        assert_eq!(writer.finish().unwrap().rows, 100 * 8192);
        assert_eq!(pool.reserved(), 0, "all is given back");
        let file = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
        (file.metadata().num_row_groups(), most)
    };
    let (one, all) = groups(0, usize::MAX);
    assert_eq!(one, 1);
    // 6.25 MiB of numbers wait, once.
    assert!(all > 6 << 20, "{all} bytes");
    let (several, most) = groups(1, 3 << 20);
    assert!(several >= 3, "{several} row groups");
    assert!(most <= 3 << 20, "{most} bytes");
    // Where nothing at all may be charged, groups are small, but not one a batch.
    let (many, _) = groups(2, 0);
    assert!((2..50).contains(&many), "{many} row groups of 100 batches");
}
