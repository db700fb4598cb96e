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

use super::commit::{Environment, Step, commit};
use super::{COMMIT_RECORD, Committed, Sink, SinkError, SinkWriter, Written, writer};
use crate::source::{InputManifest, register_tables};

mod columns;

const STEPS: [Step; 6] = [
    Step::Cleared,
    Step::Assembled,
    Step::Recorded,
    Step::SetAside,
    Step::Published,
    Step::CleanedUp,
];

/// A sink as one query uses it.
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
        self.sink.check(inputs)
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

async fn write(sink: &Bound, attempt: AttemptId, values: &[i64]) -> Written {
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
    stop: Option<Step>,
    exchange: bool,
) -> Result<Committed, SinkError> {
    let mut reached = |step| match stop {
        Some(stop) if stop == step => Err(SinkError::Columns {
            problem: "dies here".to_owned(),
        }),
        _ => Ok(()),
    };
    let mut environment = Environment {
        reached: &mut reached,
        exchange,
    };
    commit(
        &sink.sink.place(&sink.query, sink.epoch),
        winners,
        &mut environment,
    )
}

#[tokio::test]
async fn winners_appear_in_every_format_and_losers_vanish() {
    for format in ["parquet", "csv", "json", "arrow"] {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, "q1", format, "Fail");
        sink.check(&[]).unwrap();
        assert_eq!(write(&sink, attempt(1, 0), &[3]).await.rows, 1);
        let written = write(&sink, attempt(0, 0), &[1, 2]).await;
        write(&sink, attempt(0, 1), &[1, 2]).await;
        write(&sink, attempt(2, 0), &[]).await;
        let broken = sink.open(attempt(3, 0), batch(&[]).schema()).unwrap();
        drop(broken);
        assert!(!sink.location().exists());
        let winners = [attempt(2, 0), attempt(1, 0), attempt(0, 1)];
        let committed = sink.commit(&winners).unwrap();
        assert_eq!((committed.files, committed.rows), (2, 3));
        let files = [format!("part-00000.{format}"), format!("part-00001.{format}")];
        assert_eq!(names(sink.location()), [COMMIT_RECORD, &files[0], &files[1]]);
        assert_eq!(names(&folder.path().join("out")), ["result"], "{format}");
        assert_eq!(values(sink.location(), format).await, [1, 2, 3]);
        let first = fs::metadata(sink.location().join(&files[0])).unwrap().len();
        assert_eq!(first, written.bytes);
        let second = fs::metadata(sink.location().join(&files[1])).unwrap().len();
        assert_eq!(committed.bytes, first + second);
    }
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

#[tokio::test]
async fn a_crash_after_any_step_shows_all_or_nothing_and_the_next_call_ends_it() {
    for exchange in [true, false] {
        for if_exists in ["Fail", "Replace"] {
            for stop in STEPS {
                let folder = TempDir::new().unwrap();
                let sink = sink(&folder, "q1", "csv", if_exists);
                let replaced = if_exists == "Replace";
                if replaced {
                    place_result(sink.location());
                }
                write(&sink, attempt(0, 0), &[1, 2]).await;
                write(&sink, attempt(1, 0), &[3]).await;
                let winners = [attempt(0, 0), attempt(1, 0)];
                let what = format!("{exchange} {if_exists} {stop:?}");
                let first = commit_until(&sink, &winners, Some(stop), exchange);
                let set_aside = stop == Step::SetAside;
                assert_eq!(first.is_ok(), set_aside && (exchange || !replaced), "{what}");
                // What a reader sees between the crash and the successor.
                if first.is_ok() || stop >= Step::Published {
                    assert_eq!(values(sink.location(), "csv").await, [1, 2, 3], "{what}");
                } else if set_aside {
                    assert!(!sink.location().exists(), "{what}");
                } else {
                    let old: &[&str] = if replaced {
                        &[COMMIT_RECORD, "part-00009.csv"]
                    } else {
                        &[]
                    };
                    assert_eq!(names(sink.location()), old, "{what}");
                }
                let second = sink.commit(&winners).unwrap();
                assert_eq!((second.files, second.rows), (2, 3), "{what}");
                assert_eq!(values(sink.location(), "csv").await, [1, 2, 3], "{what}");
                assert_eq!(names(&folder.path().join("out")), ["result"], "{what}");
                assert_eq!(sink.commit(&winners).unwrap(), second, "{what}");
                assert_eq!(sink.committed().unwrap(), Some(second), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_abort_after_a_crash_leaves_what_was_there() {
    for exchange in [true, false] {
        for stop in STEPS {
            let folder = TempDir::new().unwrap();
            let sink = sink(&folder, "q1", "csv", "Replace");
            place_result(sink.location());
            write(&sink, attempt(0, 0), &[1]).await;
            let committed = commit_until(&sink, &[attempt(0, 0)], Some(stop), exchange).is_ok();
            sink.abort().unwrap();
            let published = committed || stop >= Step::Published;
            let expected = if published { [1] } else { [9] };
            assert_eq!(
                values(sink.location(), "csv").await,
                expected,
                "{exchange} {stop:?}"
            );
            assert_eq!(sink.committed().unwrap().is_some(), published);
            assert_eq!(names(&folder.path().join("out")), ["result"]);
        }
    }
}

#[tokio::test]
async fn a_location_that_exists_is_refused_before_and_at_the_commit() {
    let folder = TempDir::new().unwrap();
    let sink_ = sink(&folder, "q1", "csv", "Fail");
    sink_.check(&[]).unwrap();
    write(&sink_, attempt(0, 0), &[1]).await;
    fs::create_dir(sink_.location()).unwrap();
    let error = sink_.check(&[]).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::SinkExists);
    assert!(
        error.to_string().contains("out/result exists: remove it"),
        "{error}"
    );
    assert_eq!(sink_.commit(&[attempt(0, 0)]).unwrap_err(), error);
    assert_eq!(names(sink_.location()), [""; 0]);
    // Another query that got there first keeps the place; the same query recognises its own.
    let other = sink(&folder, "q2", "csv", "Replace");
    write(&other, attempt(0, 0), &[2]).await;
    other.commit(&[attempt(0, 0)]).unwrap();
    assert_eq!(sink_.commit(&[attempt(0, 0)]).unwrap_err(), error);
    assert!(other.committed().unwrap().is_some() && sink_.committed().unwrap().is_none());
    sink_.abort().unwrap();
    assert_eq!(values(sink_.location(), "csv").await, [2]);
    assert_eq!(names(&folder.path().join("out")), ["result"]);
}

#[tokio::test]
async fn what_cannot_be_replaced_is_refused() {
    let folder = TempDir::new().unwrap();
    let replacing = sink(&folder, "q1", "csv", "Replace");
    fs::create_dir_all(replacing.location().join("in")).unwrap();
    let input = replacing.location().join("in").canonicalize().unwrap();
    let forbidden = |error: SinkError, words: &str| {
        assert_eq!(error.reason(), ErrorReason::ForbiddenPath);
        assert!(error.to_string().contains(words), "{error}");
    };
    forbidden(replacing.check(&[input]).unwrap_err(), "holds the input");
    forbidden(
        replacing.check(&[PathBuf::from("/elsewhere")]).unwrap_err(),
        "holds in, which no query has written there",
    );
    let above = folder.path().canonicalize().unwrap();
    forbidden(replacing.check(&[above]).unwrap_err(), "is within the input");
    symlink("/proc", folder.path().join("link")).unwrap();
    let spec = serde_json::from_value(json!({"location": "link/self/out", "format": "csv"})).unwrap();
    let system = Sink::new(&spec, folder.path()).unwrap();
    forbidden(system.check(&[]).unwrap_err(), "leads into /proc");
    fs::remove_dir(replacing.location().join("in")).unwrap();
    replacing.check(&[]).unwrap();
    fs::remove_dir_all(replacing.location()).unwrap();
    fs::write(replacing.location(), "x").unwrap();
    forbidden(replacing.check(&[]).unwrap_err(), "is a file");
    fs::remove_file(replacing.location()).unwrap();
    symlink("/nowhere", replacing.location()).unwrap();
    forbidden(replacing.check(&[]).unwrap_err(), "is a link");
    for location in ["/", "file:///"] {
        let spec = serde_json::from_value(json!({"location": location, "format": "csv"})).unwrap();
        forbidden(Sink::new(&spec, Path::new("/base")).unwrap_err(), "is no folder");
    }
    let spec = serde_json::from_value(json!({"location": "a/../b", "format": "csv"})).unwrap();
    let error = Sink::new(&spec, Path::new("/base")).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::InvalidSpec);
    let spec = serde_json::from_value(json!({"location": "./b/", "format": "csv"})).unwrap();
    assert_eq!(
        Sink::new(&spec, Path::new("/base")).unwrap().location(),
        Path::new("/base/b")
    );
}

#[tokio::test]
async fn attempts_that_did_not_finish_are_no_winners() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "parquet", "Fail");
    write(&sink, attempt(0, 0), &[1]).await;
    let mut open = sink.open(attempt(1, 0), batch(&[]).schema()).unwrap();
    open.write(&batch(&[7])).unwrap();
    let winners = [attempt(0, 0), attempt(1, 0)];
    let error = sink.commit(&winners).unwrap_err();
    assert_eq!(error, SinkError::Incomplete(attempt(1, 0)));
    assert!(!sink.location().exists());
    // The same attempt once more, after a crash that left its folder: nothing of the first is kept.
    std::mem::forget(open);
    write(&sink, attempt(1, 0), &[2, 3]).await;
    sink.commit(&winners).unwrap();
    assert_eq!(values(sink.location(), "parquet").await, [1, 2, 3]);
}

#[tokio::test]
async fn an_attempt_after_the_end_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "csv", "Fail");
    write(&sink, attempt(0, 0), &[1]).await;
    let mut late = sink.open(attempt(0, 1), batch(&[]).schema()).unwrap();
    sink.commit(&[attempt(0, 0)]).unwrap();
    late.write(&batch(&[1])).unwrap();
    late.finish().unwrap_err();
    drop(sink.open(attempt(0, 2), batch(&[]).schema()).unwrap());
    assert_eq!(names(&folder.path().join("out")), ["result"]);
    assert_eq!(values(sink.location(), "csv").await, [1]);
}

#[tokio::test]
async fn a_successor_and_its_predecessor_do_not_touch_each_others_files() {
    let folder = TempDir::new().unwrap();
    let first = sink(&folder, "q1", "csv", "Fail");
    let second = Bound {
        sink: first.sink.clone(),
        query: first.query.clone(),
        epoch: CoordinatorEpoch(2),
    };
    let out = folder.path().join("out");
    // The numbers of attempts are the same, and both are at work at once.
    let mut late = first.open(attempt(0, 0), batch(&[]).schema()).unwrap();
    write(&second, attempt(0, 0), &[1]).await;
    late.write(&batch(&[7])).unwrap();
    late.finish().unwrap();
    first.abort().unwrap();
    assert_eq!(names(&out.join(".result.sluice-q1")), ["c2"]);
    second.commit(&[attempt(0, 0)]).unwrap();
    assert_eq!(values(second.location(), "csv").await, [1]);
    assert_eq!(names(&out), ["result"]);
    // The first would have committed too: it finds out that it need not.
    write(&first, attempt(0, 0), &[7]).await;
    assert_eq!(first.commit(&[attempt(0, 0)]).unwrap().rows, 1);
    assert_eq!(values(first.location(), "csv").await, [1]);
    assert_eq!(names(&out), ["result"]);
}

#[tokio::test]
async fn a_successor_removes_what_its_predecessors_wrote_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let first = sink(&folder, "q1", "csv", "Fail");
    write(&first, attempt(0, 0), &[7]).await;
    let staging = folder.path().join("out/.result.sluice-q1");
    fs::create_dir(staging.join("c4")).unwrap();
    first.sink.supersede(&first.query, CoordinatorEpoch(1)).unwrap();
    assert_eq!(names(&staging), ["c1", "c4"]);
    first.sink.supersede(&first.query, CoordinatorEpoch(3)).unwrap();
    assert_eq!(names(&staging), ["c4"]);
    first
        .sink
        .supersede(&QueryId::new("q2").unwrap(), CoordinatorEpoch(3))
        .unwrap();
}

/// Numbers that no encoding makes small.
fn noise(batch_number: i64) -> RecordBatch {
    let values: Vec<i64> = (0..8192)
        .map(|row| (batch_number * 8192 + row).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64))
        .collect();
    batch(&values)
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
        let path = writer::attempt_file(&sink.sink.place(&sink.query, sink.epoch), attempt(task, 0));
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

#[tokio::test]
async fn another_schema_or_an_unwritable_place_is_an_error() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "parquet", "Fail");
    let mut writer = sink.open(attempt(0, 0), batch(&[]).schema()).unwrap();
    let names: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let both = RecordBatch::try_from_iter([("v", Arc::clone(&names)), ("w", names)]).unwrap();
    assert!(matches!(
        writer.write(&both).unwrap_err(),
        SinkError::Encode { .. }
    ));
    fs::write(folder.path().join("file"), "").unwrap();
    let spec = serde_json::from_value(json!({"location": "file/sub/result", "format": "csv"})).unwrap();
    let blocked = Sink::new(&spec, folder.path()).unwrap();
    let error = blocked.check(&[]).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::SinkFailed, "{error}");
}

#[tokio::test]
async fn no_sink_is_in_a_spill_folder() {
    let folder = TempDir::new().unwrap();
    let spill = crate::owned_dir::OwnedDir::create(folder.path(), "i3", |_| false).unwrap();
    std::os::unix::fs::symlink(spill.path(), folder.path().join("link")).unwrap();
    for location in ["i3/result", "link/result", "i3"] {
        let spec = serde_json::from_value(json!({"location": location, "format": "csv"})).unwrap();
        let error = Sink::new(&spec, folder.path()).unwrap().check(&[]).unwrap_err();
        assert_eq!(error.reason(), ErrorReason::ForbiddenPath);
        assert!(
            error.to_string().contains("leads into the spill folder"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn only_what_queries_have_written_is_replaced() {
    let folder = TempDir::new().unwrap();
    let replacing = sink(&folder, "q1", "csv", "Replace");
    place_result(replacing.location());
    replacing.check(&[]).unwrap();
    write(&replacing, attempt(0, 0), &[1]).await;
    // It came between the check and the commit.
    fs::write(replacing.location().join("notes.txt"), "mine").unwrap();
    let error = replacing.commit(&[attempt(0, 0)]).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::ForbiddenPath);
    assert!(error.to_string().contains("holds notes.txt"), "{error}");
    assert_eq!(replacing.check(&[]).unwrap_err(), error);
    assert!(replacing.location().join("notes.txt").exists());
    fs::remove_file(replacing.location().join("notes.txt")).unwrap();
    replacing.commit(&[attempt(0, 0)]).unwrap();
    assert_eq!(values(replacing.location(), "csv").await, [1]);
    // Without the record a file of such a name is somebody's.
    fs::remove_file(replacing.location().join(COMMIT_RECORD)).unwrap();
    let error = replacing.check(&[]).unwrap_err();
    assert!(error.to_string().contains("holds part-00000.csv"), "{error}");
}
