//! What scans of Parquet do with the filters of a task: row groups are left out by their Bloom filters, and where few keys are left, other
//! columns are decoded only for their rows. The rows are the same.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use sluice_core::key_filter::KeyLookup;

use super::super::fragment::decode_task;
use super::super::runtime_filters::RuntimeFilterExec;
use super::super::shuffle_read_exec::{InputProvider, InputStream};
use super::super::{
    FilterMaker, MadeFilter, ROWS_FILTERED, RuntimeFilterPolicy, plan, session_options, session_state,
    task_context,
};
use super::filters::SHUFFLED;
use super::harness::{same_rows, texts};
use super::stage_runner::run;

/// Row groups of `facts`, and rows in each.
const GROUPS: i64 = 4;
const ROWS: i64 = 1_000;

fn write(folder: &Path, name: &str, batches: &[RecordBatch], bloom: bool) {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROWS as usize))
        .set_bloom_filter_fpp(0.0001)
        .set_bloom_filter_enabled(bloom)
        .build();
    let file = File::create(folder.join("0.parquet")).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).expect("a writer");
    for batch in batches {
        writer.write(batch).expect("rows are written");
    }
    writer.close().expect("the file is whole");
}

/// `facts`, the larger: its row groups have the same bounds, but no key in common. `keys`: all keys, each once.
fn tables(folder: &Path, bloom: bool) {
    let batch = |keys: Vec<i64>, width: usize| {
        let wide: StringArray = keys.iter().map(|key| Some(format!("{key:0width$}"))).collect();
        let texts: StringArray = keys
            .iter()
            .map(|key| Some(format!("text {}", key % 10)))
            .collect();
        let names: StringArray = keys.iter().map(|key| Some(format!("key {key}"))).collect();
        let keys: ArrayRef = Arc::new(Int64Array::from(keys));
        RecordBatch::try_from_iter([
            ("k", keys),
            ("v", Arc::new(texts)),
            ("w", Arc::new(wide)),
            ("t", Arc::new(names)),
        ])
        .expect("a batch")
    };
    let groups: Vec<_> = (0..GROUPS)
        .map(|group| batch((0..ROWS).map(|row| row * GROUPS + group).collect(), 99))
        .collect();
    write(folder, "facts", &groups, bloom);
    write(folder, "keys", &[batch((0..ROWS * GROUPS).collect(), 0)], false);
}

async fn register(session: &SessionContext, folder: &Path) {
    for table in ["facts", "keys"] {
        let folder = folder.join(table);
        let folder = folder.to_str().expect("a UTF-8 path");
        let registered = session.register_parquet(table, folder, ParquetReadOptions::default());
        registered.await.expect("a table");
    }
}

async fn our_session(folder: &Path) -> SessionContext {
    let policy = RuntimeFilterPolicy {
        enabled: true,
        min_scan_bytes: 0,
    };
    let mut config = session_options(3).with_extension(Arc::new(policy));
    for (key, value) in SHUFFLED {
        config.options_mut().set(key, value).expect("an option");
    }
    let session = SessionContext::new_with_state(session_state(config, Arc::default()));
    register(&session, folder).await;
    session
}

/// The inputs of a task that scans, with one filter.
struct OneFilter(Arc<KeyLookup>);

impl InputProvider for OneFilter {
    fn filter(&self, _: u32) -> Option<Arc<KeyLookup>> {
        Some(Arc::clone(&self.0))
    }

    fn open(&self, stream: InputStream, _: &Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        panic!("input {} is read", stream.input)
    }
}

/// What a scan did.
#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    rows: Vec<Vec<String>>,
    /// Row groups that Bloom filters left out.
    pruned_groups: usize,
    /// Rows of which only the key was decoded.
    tested_early: usize,
    /// Rows that the filter left out, as status tells it.
    filtered: usize,
}

/// Runs the task of a query that scans `facts`, with the filter of these keys.
async fn scan(session: &SessionContext, sql: &str, keys: ArrayRef) -> Scanned {
    let planned = plan(&session.state(), sql).await.expect("a plan");
    let has_filter = |plan: &Arc<dyn ExecutionPlan>| {
        plan.exists(|node| Ok(node.downcast_ref::<RuntimeFilterExec>().is_some()))
    };
    let stage = planned
        .stages
        .iter()
        .find(|stage| has_filter(&stage.plan).expect("a plan"));
    let stage = stage.expect("a stage uses the filter");
    let made = MadeFilter {
        column: 0,
        max_bytes: 1 << 20,
    };
    let mut maker = FilterMaker::new(&[made]);
    let batch = RecordBatch::try_from_iter([("k", keys)]).expect("a batch");
    maker.add(&batch).expect("keys");
    let filters = maker.finish().expect("a filter");
    let inputs: Arc<dyn InputProvider> = Arc::new(OneFilter(Arc::new(filters[0].lookup())));
    let context = task_context(&stage.fragment.options, "test", session.runtime_env()).expect("a context");
    let plan = decode_task(&stage.fragment, &stage.tasks[0], &context, &inputs, &[]).expect("a task");
    let rows = plan.execute(0, Arc::clone(&context)).expect("rows");
    let rows: Vec<RecordBatch> = rows.try_collect().await.expect("rows");
    let (mut pruned_groups, mut tested_early, mut filtered) = (0, 0, 0);
    plan.apply(|node| {
        for metric in node.metrics().unwrap_or_default().iter() {
            match metric.value() {
                MetricValue::PruningMetrics {
                    name,
                    pruning_metrics,
                } if name == "row_groups_pruned_bloom_filter" => {
                    pruned_groups += pruning_metrics.pruned();
                }
                MetricValue::Count { name, count } if name == "pushdown_rows_pruned" => {
                    tested_early += count.value();
                }
                MetricValue::Count { name, count } if name == ROWS_FILTERED => filtered += count.value(),
                _ => {}
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("a plan");
    Scanned {
        rows: texts(&rows),
        pruned_groups,
        tested_early,
        filtered,
    }
}

fn numbers(keys: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(keys))
}

#[tokio::test]
async fn scans_leave_out_what_has_none_of_few_keys() {
    let sql =
        "SELECT f.k, f.v FROM facts f JOIN keys ON f.k = keys.k WHERE keys.v = 'text 4' AND f.v <> 'text 8'";
    let rows_of_group = ROWS as usize;
    for bloom in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        tables(folder.path(), bloom);
        let session = our_session(folder.path()).await;
        let plain = SessionContext::new();
        register(&plain, folder.path()).await;
        same_rows(&plain, &session, sql).await.expect("the same rows");

        let groups_read = if bloom { 1 } else { GROUPS as usize };
        // Few enough of all 4,000 keys to test them before texts are decoded. Both lie in the first row group; 44 and 4 have the
        // texts of 4, and nothing is lost where the predicate of the query would drop a row of them.
        let few = scan(&session, sql, numbers(vec![44, 4, 44])).await;
        assert_eq!(few.rows, [["4", "text 4"], ["44", "text 4"]], "{bloom}");
        assert_eq!(few.pruned_groups, GROUPS as usize - groups_read);
        assert_eq!(few.tested_early, groups_read * rows_of_group - 2);
        assert_eq!(few.filtered, few.tested_early);

        // The row groups of more keys are left out as well, but other columns are decoded with the keys.
        let some = scan(&session, sql, numbers((0..9).map(|row| row * GROUPS).collect())).await;
        assert_eq!(
            some.rows.len(),
            7,
            "{bloom}: two have a text that the query does not want"
        );
        assert_eq!((some.pruned_groups, some.tested_early), (few.pruned_groups, 0));
        assert!(some.filtered > 0);

        // Of keys that are too many to be listed, only hashes and bounds are known.
        let many = scan(
            &session,
            sql,
            numbers((0..ROWS).map(|row| row * GROUPS).collect()),
        )
        .await;
        assert_eq!((many.pruned_groups, many.tested_early), (0, 0));
        assert!(
            (800..850).contains(&many.rows.len()),
            "{bloom}: hashes admit few others than 800, not {}",
            many.rows.len() - 800
        );
    }
}

#[tokio::test]
async fn texts_are_looked_up_as_numbers_are() {
    let sql = "SELECT f.t FROM facts f JOIN keys ON f.t = keys.t WHERE keys.v = 'text 4'";
    let folder = tempfile::tempdir().expect("a folder");
    tables(folder.path(), true);
    let session = our_session(folder.path()).await;
    let plain = SessionContext::new();
    register(&plain, folder.path()).await;
    same_rows(&plain, &session, sql).await.expect("the same rows");
    let schema = session
        .table("facts")
        .await
        .expect("a table")
        .schema()
        .as_arrow()
        .clone();
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["key 44", "key 4"]));
    let of_table = schema.field_with_name("t").expect("a column").data_type();
    let keys = datafusion::arrow::compute::cast(&keys, of_table).expect("texts");
    let found = scan(&session, sql, keys).await;
    assert_eq!(found.rows, [["key 4"], ["key 44"]]);
    assert_eq!(found.pruned_groups, GROUPS as usize - 1);
    assert_eq!(found.tested_early, ROWS as usize - 2);
}

#[tokio::test]
async fn bloom_filters_of_floats_hide_no_zero_and_no_nan() {
    let folder = tempfile::tempdir().expect("a folder");
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![-0.0, 1.0, -f64::NAN]));
    let batch = RecordBatch::try_from_iter([("f", floats)]).expect("a batch");
    write(folder.path(), "floats", &[batch], true);
    let session = SessionContext::new_with_state(session_state(session_options(3), Arc::default()));
    let table = folder.path().join("floats");
    let registered = session.register_parquet(
        "floats",
        table.to_str().expect("a UTF-8 path"),
        ParquetReadOptions::default(),
    );
    registered.await.expect("a table");
    for (condition, rows) in [
        ("f = 0.0", 1),
        ("f IN (0.0, 7.0)", 1),
        ("f = 'NaN'", 1),
        ("f IN ('NaN', 2)", 1),
        ("f = 2.0", 0),
    ] {
        let sql = format!("SELECT f FROM floats WHERE {condition}");
        let planned = plan(&session.state(), &sql).await.expect("a plan");
        let found = run(&planned, &session.runtime_env()).await.expect("rows");
        assert_eq!(texts(&found).len(), rows, "{condition}");
    }
}
