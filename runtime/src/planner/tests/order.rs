//! The order of a query's rows where a part of it is constant, equal to another column, or known in some tasks only.

use std::path::Path;
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
use super::harness::{Bench, same_rows, texts};
use super::stage_runner::{Unread, run};

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
    let refused = decode_task(&fragment, &TaskSplits::default(), &context, &inputs, &[]);
    let text = refused
        .map(|plan| displayable(plan.as_ref()).indent(false).to_string())
        .expect_err("it has two partitions")
        .to_string();
    assert!(text.contains("2 partitions"), "{text}");
}

/// NULL within lists and structs comes where the order of their sort puts it, in every batch.
#[tokio::test]
async fn first_rows_by_nested_keys_are_those_of_the_whole_order() {
    let bench = Bench::new().await;
    for (key, order) in [
        ("p", "ASC NULLS LAST"),
        ("p", "DESC NULLS FIRST"),
        ("make_array(k)", "ASC NULLS LAST"),
        ("make_array(k)", "DESC NULLS LAST"),
        ("make_array(k, NULL)", "DESC NULLS FIRST"),
        ("named_struct('a', g, 'b', p)", "ASC NULLS FIRST"),
        ("named_struct('a', g, 'b', p)", "ASC NULLS LAST"),
    ] {
        let sql = format!("SELECT id, {key} AS key FROM mid ORDER BY key {order}, id");
        for partitions in [1, 3] {
            let options = &[("datafusion.execution.batch_size", "20")];
            let all = bench.rows_with(&sql, partitions, options).await.unwrap();
            for limit in [1, 25, 120, 290] {
                let first = bench
                    .rows_with(&format!("{sql} LIMIT {limit}"), partitions, options)
                    .await;
                assert_eq!(
                    first.unwrap(),
                    all[..limit],
                    "{partitions} partitions: {sql} LIMIT {limit}"
                );
            }
        }
    }
}

/// An environment with less memory than a batch of wide rows takes.
fn little_memory() -> Arc<RuntimeEnv> {
    let limited = RuntimeEnvBuilder::new().with_memory_limit(2 << 20, 1.0);
    limited.build_arc().unwrap()
}

/// Writes a table of ids from 0 on, and texts that show them.
fn write_texts(folder: &Path, rows: i64, width: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let ids: Vec<i64> = (0..rows).collect();
    let texts: Vec<String> = ids.iter().map(|id| format!("{id:0width$}")).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
        ("s", Arc::new(StringArray::from(texts))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(folder.join("0.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Plain DataFusion cannot run a query over this folder in [`little_memory`].
async fn needs_more(folder: &Path, sql: &str) {
    let config = SessionConfig::new().with_target_partitions(1);
    let plain = SessionContext::new_with_config_rt(config, little_memory());
    let name = folder.file_name().unwrap().to_str().unwrap();
    let options = ParquetReadOptions::default();
    let path = folder.to_str().unwrap();
    plain.register_parquet(name, path, options).await.unwrap();
    let refused = plain.sql(sql).await.unwrap().collect().await.unwrap_err();
    assert!(refused.to_string().contains("TopK"), "{refused}");
}

/// Batches of less than a megabyte, each with some of the first rows.
#[tokio::test]
async fn first_rows_of_many_batches_need_little_memory() {
    let bench = Bench::new().await;
    write_texts(&bench.folder().join("many"), 80_000, 60);
    let sql = "SELECT id, s FROM many ORDER BY id % 499, id LIMIT 150";
    needs_more(&bench.folder().join("many"), sql).await;
    for partitions in [1, 3] {
        let session = bench.session(partitions, &[]).await;
        let planned = plan(&session.state(), sql).await.unwrap();
        let memory = little_memory();
        let rows = run(&planned, &memory)
            .await
            .unwrap_or_else(|error| panic!("{partitions} partitions: {error}"));
        let rows: Vec<_> = texts(&rows).into_iter().map(|row| row[0].clone()).collect();
        let first: Vec<String> = (0..150).map(|row| (row * 499).to_string()).collect();
        assert_eq!(rows, first);
    }
}

/// The first rows of wide ones need the memory of those rows, not of the batches that they are read in.
#[tokio::test]
async fn first_rows_of_wide_ones_need_little_memory() {
    let bench = Bench::new().await;
    let folder = bench.folder().join("wide");
    write_texts(&folder, 20_000, 1_000);
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
        needs_more(&folder, sql).await;
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
