//! Which build sides every task gets, and from where.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::CsvReadOptions;
use sluice_core::plan::{Determinism, ExchangeKind, Split};

use super::super::{BroadcastLimit, PlannedQuery, explain, plan};
use super::harness::{Bench, Options, same_rows};

/// DataFusion itself collects no build side of one row or more.
const OURS: Options<'static> = &[
    ("datafusion.optimizer.hash_join_single_partition_threshold", "1"),
    (
        "datafusion.optimizer.hash_join_single_partition_threshold_rows",
        "1",
    ),
];

fn kinds(query: &PlannedQuery) -> Vec<&'static str> {
    let exchanges = query.graph.exchanges.iter();
    exchanges.map(|exchange| exchange.kind.word()).collect()
}

#[tokio::test]
async fn a_build_side_is_broadcast_if_that_moves_less() {
    let bench = Bench::new().await;
    for (sql, expected) in [
        // All columns of 1200 rows against two of 300.
        (
            "SELECT a.*, b.id FROM big a JOIN mid b ON a.k = b.k",
            &["broadcast", "forward"][..],
        ),
        (
            "SELECT a.* FROM big a WHERE a.k IN (SELECT k FROM mid)",
            &["broadcast", "forward"],
        ),
        // Two columns against two.
        (
            "SELECT a.id, b.s FROM big a JOIN mid b ON a.k = b.k",
            &["hash", "hash", "forward"],
        ),
        // Rows of the build side without a match are wanted: once, not from every task.
        (
            "SELECT a.*, b.id FROM big a FULL JOIN mid b ON a.k = b.k",
            &["hash", "hash", "forward"],
        ),
        // Two keys, so nothing is gained by moving the large side.
        (
            "SELECT a.*, b.id, c.id FROM big a JOIN mid b ON a.k = b.k JOIN mid c ON a.g = c.id",
            &["broadcast", "broadcast", "forward"],
        ),
        // One key: the rows lie right for the second join.
        (
            "SELECT a.*, b.id, c.id FROM big a LEFT JOIN mid b ON a.k = b.k JOIN mid c ON a.k = c.k",
            &["hash", "hash", "hash", "forward"],
        ),
        (
            "SELECT b.k, b.n, a.* FROM big a JOIN (SELECT k, count(*) AS n FROM mid GROUP BY k) b ON a.k = b.k",
            &["hash", "broadcast", "forward"],
        ),
    ] {
        let query = bench.same(sql, 4, OURS).await;
        assert_eq!(kinds(&query), expected, "{sql}\n{}", explain(&query));
    }
}

#[tokio::test]
async fn explain_tells_the_sizes() {
    let bench = Bench::new().await;
    let query = bench
        .same("SELECT a.*, b.id FROM big a JOIN mid b ON a.k = b.k", 4, OURS)
        .await;
    let text = explain(&query);
    let why =
        "because every task of the join needs the whole build side (by estimate 0.0 MiB against 0.1 MiB)";
    assert!(text.contains(why), "{text}");
}

#[tokio::test]
async fn nothing_is_broadcast_above_the_limit_or_where_that_is_forbidden() {
    let bench = Bench::new().await;
    let sql = "SELECT a.*, b.id FROM big a JOIN mid b ON a.k = b.k";
    let forbidden = &[
        ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
        OURS[1],
    ];
    let query = bench.same(sql, 4, forbidden).await;
    assert_eq!(kinds(&query), ["hash", "hash", "forward"]);
    let session = bench.session(4, OURS).await;
    let config = session.copied_config();
    let config = config.with_extension(Arc::new(BroadcastLimit { bytes: 3000 }));
    let session = bench.session_of(config).await;
    let query = plan(&session.state(), sql).await.unwrap();
    assert_eq!(kinds(&query), ["hash", "hash", "forward"]);
}

/// Three hundred rows of 12 bytes, of which a filter keeps a fifth by estimate.
#[tokio::test]
async fn a_side_that_its_filter_may_not_make_small_is_shuffled() {
    let bench = Bench::new().await;
    let sql = "SELECT a.*, b.id FROM big a JOIN (SELECT id, k FROM mid WHERE id % 7 = 3) b ON a.k = b.k";
    for (bytes, expected) in [(1_000, "broadcast"), (800, "hash")] {
        let config = bench.session(4, OURS).await.copied_config();
        let session = bench
            .session_of(config.with_extension(Arc::new(BroadcastLimit { bytes })))
            .await;
        let query = same_rows(bench.plain(), &session, sql).await;
        let query = query.unwrap_or_else(|difference| panic!("{difference}"));
        assert_eq!(kinds(&query)[0], expected, "{bytes}\n{}", explain(&query));
    }
}

/// By estimate the joins give 420 and 300 rows of 12 bytes.
#[tokio::test]
async fn a_side_that_its_joins_may_not_make_small_is_shuffled() {
    let bench = Bench::new().await;
    for (key, bytes, expected) in [
        // Five values in either table: each row may match each other one, 2100 rows.
        ("g", 6_400, "broadcast"),
        ("g", 6_200, "hash"),
        ("g", 5_100, "hash"),
        // Seven values in seven rows: a row of the other table matches one, 300 rows.
        ("id", 5_100, "broadcast"),
    ] {
        let sql = format!(
            "SELECT a.*, b.id FROM big a \
             JOIN (SELECT m.id, m.k FROM mid m JOIN tiny t ON m.g = t.{key}) b ON a.k = b.k"
        );
        let config = bench.session(4, OURS).await.copied_config();
        let session = bench
            .session_of(config.with_extension(Arc::new(BroadcastLimit { bytes })))
            .await;
        let query = same_rows(bench.plain(), &session, &sql).await;
        let query = query.unwrap_or_else(|difference| panic!("{difference}"));
        let stages = query.graph.stages.iter();
        let joins = stages.filter(|stage| stage.label.contains("big") && stage.label.contains("join"));
        let read = if joins.count() == 1 { "broadcast" } else { "hash" };
        assert_eq!(read, expected, "{key}, {bytes}\n{}", explain(&query));
    }
}

#[tokio::test]
async fn every_task_reads_a_small_build_side_for_itself() {
    let bench = Bench::new().await;
    let sql = "SELECT a.id, b.s, c.d FROM big a JOIN tiny b ON a.k = b.k \
               JOIN (SELECT d, g + 1 AS g FROM tiny WHERE g < 4) c ON a.g = c.g";
    let query = bench.same(sql, 4, &[]).await;
    assert_eq!(kinds(&query), ["forward"], "{}", explain(&query));
    assert_eq!(query.graph.stages[0].tasks, 4);
    assert_eq!(query.graph.stages[0].determinism, Determinism::Determinate);
    // Where a task should run is up to the table that it reads a part of.
    assert_eq!(query.stages[0].tables.iter().collect::<Vec<_>>(), ["big"]);
    let splits: Vec<_> = query.stages[0].tasks.iter().map(|task| &task.splits).collect();
    let same = |leaf: &u32| splits.iter().all(|task| task.get(leaf) == splits[0].get(leaf));
    assert_eq!(splits[0].keys().filter(|leaf| same(leaf)).count(), 2);
}

#[tokio::test]
async fn what_differs_from_task_to_task_or_costs_much_is_a_stage_of_its_own() {
    let bench = Bench::new().await;
    for build in [
        "(SELECT k, random() AS s FROM tiny)",
        "(SELECT k, min(s) AS s FROM tiny GROUP BY k)",
        "(SELECT k, s FROM tiny LIMIT 3)",
    ] {
        let session = bench.session(4, &[]).await;
        let sql = format!("SELECT a.id, b.s FROM {build} b JOIN big a ON a.k = b.k");
        let query = plan(&session.state(), &sql).await.unwrap();
        let broadcast = kinds(&query).contains(&ExchangeKind::Broadcast.word());
        assert!(broadcast, "{sql}\n{}", explain(&query));
    }
}

#[tokio::test]
async fn a_table_that_is_not_small_is_read_once() {
    let bench = Bench::new().await;
    let (plain, ours) = (bench.plain(), bench.session(4, &[]).await);
    let lines = tempfile::tempdir().unwrap();
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]);
    for (table, rows) in [("short", 3), ("long", 5 << 10)] {
        let folder = lines.path().join(format!("{table}-lines"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut text = String::from("n,text\n");
        for row in 0..rows {
            writeln!(text, "{row},\"{}\n\"", "x".repeat(1024)).unwrap();
        }
        std::fs::write(folder.join("all.csv"), text).unwrap();
        // Lines that may hold line breaks: one task reads a file.
        let options = CsvReadOptions::new().newlines_in_values(true).schema(&schema);
        for session in [plain, &ours] {
            let path = folder.to_str().unwrap();
            session.register_csv(table, path, options.clone()).await.unwrap();
        }
        let sql = format!("SELECT b.id, t.n FROM {table} t JOIN big b ON t.n < b.k AND t.n < 2");
        let query = same_rows(plain, &ours, &sql).await.unwrap();
        let broadcast = kinds(&query).contains(&"broadcast");
        assert_eq!(broadcast, table == "long", "{}", explain(&query));
        let whole = |split: &Split| matches!(split, Split::Files(ranges) if ranges.iter().any(|r| r.file.path.contains("-lines")));
        let readers = query.stages.iter().flat_map(|stage| &stage.tasks);
        let readers = readers.filter(|task| task.splits.values().any(whole)).count();
        assert_eq!(readers, if table == "long" { 1 } else { 4 });
    }
}
