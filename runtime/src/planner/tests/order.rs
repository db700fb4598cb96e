//! The order of a query's rows where a part of it is constant, equal to another column, or known in some tasks only.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::execution::context::SessionContext;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionConfig};

use parquet::arrow::ArrowWriter;

use super::super::{InputProvider, TaskSplits, decode_task, fragment, plan, task_context};
use super::harness::{Bench, Unread, run, same_rows, texts};

const QUERIES: &[&str] = &[
    "SELECT 1 AS a UNION ALL SELECT 2 ORDER BY a",
    "SELECT 2 AS a UNION ALL SELECT 1 UNION ALL SELECT 3 ORDER BY a DESC",
    "SELECT g, id FROM big WHERE g = 3 ORDER BY g, id",
    "SELECT g, id FROM big WHERE g = 3 ORDER BY id, g",
    "SELECT id, k, g FROM big WHERE k = g ORDER BY k, g, id",
    "SELECT k, g, count(*) AS c FROM big WHERE g = 1 GROUP BY k, g ORDER BY k, g, c",
    "SELECT w, k, count(*) AS c FROM big WHERE w = 'red' GROUP BY k, w ORDER BY w, k, c",
    "SELECT a.k, b.k AS other, a.id, b.id AS bid FROM big a JOIN mid b ON a.k = b.k ORDER BY a.k, other, a.id, bid",
    "SELECT a.k, a.id, b.id AS bid FROM big a JOIN mid b ON a.k = b.k WHERE a.k = 5 ORDER BY a.k, b.k, a.id, bid",
    "SELECT 'b' AS tag, id FROM mid UNION ALL SELECT 'a', id FROM big ORDER BY tag, id",
    "SELECT 'a' AS tag, id FROM mid UNION ALL SELECT 'a', id + 1000 FROM mid ORDER BY tag, id",
    "SELECT tag, n FROM (SELECT 'b' AS tag, g, count(*) AS n FROM mid GROUP BY g
     UNION ALL SELECT 'a', g, count(*) FROM big GROUP BY g) ORDER BY tag, g, n",
    "SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY id) AS n FROM big WHERE g = 2 ORDER BY g, n",
    "SELECT g, k, id, sum(id) OVER (PARTITION BY g, k ORDER BY id) AS t FROM big WHERE g = 2 ORDER BY g, k, id",
    "SELECT f, id FROM (SELECT 1.5 AS f, id FROM big) ORDER BY f, id OFFSET 10",
    "SELECT g, id FROM big WHERE g = 2 ORDER BY g, id LIMIT 20 OFFSET 10",
    "SELECT g, count(*) AS n FROM (SELECT g, id FROM big WHERE g = 4 ORDER BY g, id OFFSET 10) GROUP BY g ORDER BY g",
    "SELECT id FROM (SELECT 7 AS c, id FROM mid UNION ALL SELECT 7, id FROM tiny) WHERE c = 7 ORDER BY c, id DESC, c",
];

#[tokio::test]
async fn orders_with_constant_and_equal_parts_keep_every_row() {
    let bench = Bench::new().await;
    let queries: Vec<String> = QUERIES.iter().map(|sql| (*sql).to_owned()).collect();
    // Merged by ranges in several tasks, then by one.
    bench.same_all(&queries, &[1, 2, 3, 13], &[&[]]).await;
    for partitions in [1, 3, 13] {
        let ours = bench.session(partitions, &[]).await;
        for sql in QUERIES {
            let planned = same_rows(bench.plain(), &ours, sql)
                .await
                .unwrap_or_else(|told| panic!("{told}"));
            assert!(planned.graph.ordered, "{sql}");
        }
    }
}

/// A task executes partition 0; a plan of two would lose the rows of the other.
#[tokio::test]
async fn a_fragment_of_two_partitions_is_refused() {
    let session = SessionContext::new();
    let schema = session
        .sql("SELECT 1 AS a")
        .await
        .unwrap()
        .schema()
        .inner()
        .clone();
    let empty = || Arc::new(EmptyExec::new(Arc::clone(&schema))) as Arc<dyn ExecutionPlan>;
    let union = UnionExec::try_new(vec![empty(), empty()]).unwrap();
    let fragment = fragment::encode(&union, session.state().config()).unwrap();
    let context = task_context(&fragment.options, "test", Arc::new(RuntimeEnv::default())).unwrap();
    let inputs: Arc<dyn InputProvider> = Arc::new(Unread);
    let refused = decode_task(&fragment, &TaskSplits::default(), &context, &inputs);
    let text = refused
        .map(|plan| displayable(plan.as_ref()).indent(false).to_string())
        .expect_err("it has two partitions")
        .to_string();
    assert!(text.contains("2 partitions"), "{text}");
}

/// An environment with less memory than a batch of wide rows takes.
fn little_memory() -> Arc<RuntimeEnv> {
    let limited = RuntimeEnvBuilder::new().with_memory_limit(2 << 20, 1.0);
    limited.build_arc().unwrap()
}

/// The first rows of wide ones need the memory of those rows, not of the batches that they are read in.
#[tokio::test]
async fn first_rows_of_wide_ones_need_little_memory() {
    let bench = Bench::new().await;
    let folder = bench.folder().join("wide");
    std::fs::create_dir_all(&folder).unwrap();
    let ids: Vec<i64> = (0..20_000).collect();
    let wide: Vec<String> = ids.iter().map(|id| format!("{id:01000}")).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
        ("s", Arc::new(StringArray::from(wide))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(folder.join("0.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    for (sql, first) in [
        (
            "SELECT id, s FROM wide ORDER BY id % 7, id DESC LIMIT 3",
            ["19999", "19992", "19985"],
        ),
        (
            "SELECT id, s FROM wide ORDER BY s DESC LIMIT 3",
            ["19999", "19998", "19997"],
        ),
    ] {
        // Plain DataFusion needs more.
        let config = SessionConfig::new().with_target_partitions(1);
        let plain = SessionContext::new_with_config_rt(config, little_memory());
        let path = folder.to_str().unwrap();
        plain
            .register_parquet("wide", path, ParquetReadOptions::default())
            .await
            .unwrap();
        let refused = plain.sql(sql).await.unwrap().collect().await.unwrap_err();
        assert!(refused.to_string().contains("TopK"), "{refused}");
        for partitions in [1, 3] {
            let session = bench.session(partitions, &[]).await;
            let planned = plan(&session.state(), sql).await.unwrap();
            let memory = little_memory();
            let rows = run(&planned, &memory)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            let rows: Vec<_> = texts(&rows).into_iter().map(|row| row[0].clone()).collect();
            assert_eq!(rows, first, "{sql}");
        }
    }
}

#[tokio::test]
async fn an_offset_skips_in_its_own_order() {
    let bench = Bench::new().await;
    for (sql, expected) in [
        (
            "SELECT * FROM (SELECT id FROM tiny ORDER BY id DESC OFFSET 5) AS x ORDER BY id",
            "0 1",
        ),
        (
            "SELECT * FROM (SELECT id FROM tiny ORDER BY id DESC OFFSET 2) AS x ORDER BY id LIMIT 2",
            "0 1",
        ),
        (
            "SELECT sum(n) FROM (SELECT id, row_number() OVER (ORDER BY id) * id AS n
                FROM (SELECT id FROM tiny ORDER BY id DESC OFFSET 5) AS x) AS y",
            "2",
        ),
        (
            "(SELECT id FROM tiny ORDER BY id DESC OFFSET 5) UNION ALL (SELECT id FROM tiny ORDER BY id OFFSET 5) ORDER BY id",
            "0 1 5 6",
        ),
        (
            "SELECT a.id FROM (SELECT id FROM mid ORDER BY id DESC OFFSET 297) AS a
                JOIN (SELECT id FROM mid ORDER BY id OFFSET 1) AS b ON a.id = b.id ORDER BY a.id",
            "1 2",
        ),
        ("SELECT id + 1 AS x FROM mid ORDER BY x OFFSET 297", "298 299 300"),
    ] {
        for partitions in [1, 3] {
            let rows = bench.rows(sql, partitions).await.concat().join(" ");
            assert_eq!(rows, expected, "{partitions} partitions: {sql}");
        }
    }
}
