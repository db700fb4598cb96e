//! Where plans are cut, what stages are labelled, what stays in one task.

use std::sync::Arc;

use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use sluice_core::plan::{Determinism, ExchangeKind, Split};

use super::super::{
    InputProvider, InputStream, PlanError, PlannedQuery, TaskSplits, decode_task, explain, plan, task_context,
};
use super::harness::{Bench, session_sharing};

async fn planned(bench: &Bench, sql: &str) -> PlannedQuery {
    let session = bench.session(4, &[]).await;
    plan(&session.state(), sql).await.unwrap()
}

fn tasks(query: &PlannedQuery) -> Vec<u32> {
    query.graph.stages.iter().map(|stage| stage.tasks).collect()
}

fn kinds(query: &PlannedQuery) -> Vec<ExchangeKind> {
    query
        .graph
        .exchanges
        .iter()
        .map(|exchange| exchange.kind)
        .collect()
}

#[tokio::test]
async fn an_aggregate_is_cut_at_its_keys() {
    let bench = Bench::new().await;
    let query = planned(&bench, "SELECT g, sum(d) FROM big GROUP BY g").await;
    assert_eq!(tasks(&query), [4, 4]);
    assert_eq!(kinds(&query), [ExchangeKind::Hash, ExchangeKind::Forward]);
    assert_eq!(query.graph.exchanges[0].partitions, 4);
    assert!(query.notes.is_empty() && !query.graph.ordered);
    assert_eq!(query.graph.stages[0].label, "scan big, aggregate");
}

#[tokio::test]
async fn every_byte_is_read_by_one_task() {
    let bench = Bench::new().await;
    let query = planned(&bench, "SELECT id FROM big").await;
    let mut bytes = 0;
    for task in &query.stages[0].tasks {
        let split = task.splits.values().next().unwrap();
        let Split::Files(ranges) = split else {
            panic!("{split:?}")
        };
        bytes += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
    }
    let mut sizes = 0;
    for file in std::fs::read_dir(bench.table("big")).unwrap() {
        sizes += file.unwrap().metadata().unwrap().len();
    }
    assert_eq!(bytes, sizes);
}

#[tokio::test]
async fn a_union_writes_one_exchange_from_several_stages() {
    let bench = Bench::new().await;
    let query = planned(
        &bench,
        "SELECT g, count(*) FROM (SELECT g FROM big UNION ALL SELECT g FROM mid) GROUP BY g",
    )
    .await;
    assert_eq!(query.graph.exchanges[0].writers.len(), 2);
    // A file of mid is one row group, which cannot be divided.
    assert_eq!(tasks(&query), [4, 3, 4]);
}

#[tokio::test]
async fn a_broadcast_may_have_several_reading_stages() {
    let bench = Bench::new().await;
    let query = planned(
        &bench,
        "SELECT u.id, t.s FROM (SELECT id, k FROM big UNION ALL SELECT id, k FROM mid) u \
         JOIN (SELECT k, min(s) AS s FROM tiny GROUP BY k) t ON u.k = t.k",
    )
    .await;
    let broadcast: Vec<_> = query
        .graph
        .exchanges
        .iter()
        .filter(|exchange| exchange.kind == ExchangeKind::Broadcast)
        .collect();
    assert_eq!(broadcast.len(), 1);
    let readers = query
        .graph
        .stages
        .iter()
        .filter(|stage| stage.inputs.iter().any(|input| input.exchange == broadcast[0].id))
        .count();
    assert_eq!(readers, 2);
}

#[tokio::test]
async fn single_tasks_are_noted() {
    let bench = Bench::new().await;
    for (sql, operator, reason) in [
        (
            "SELECT id FROM big WHERE k NOT IN (SELECT k FROM mid)",
            "HashJoin",
            "null-aware",
        ),
        (
            "SELECT a.id, b.id FROM big a FULL JOIN mid b ON a.k < b.k",
            "NestedLoopJoin",
            "Full join",
        ),
        (
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t",
            "RecursiveQuery",
            "round",
        ),
    ] {
        let query = planned(&bench, sql).await;
        let note = query
            .notes
            .first()
            .unwrap_or_else(|| panic!("{sql}\n{}", explain(&query)));
        assert_eq!(note.operator, operator);
        assert!(note.reason.contains(reason), "{note:?}");
        assert!(explain(&query).contains(&note.reason));
    }
}

#[tokio::test]
async fn stages_are_labelled_by_what_a_second_run_may_change() {
    let bench = Bench::new().await;
    let last = |query: &PlannedQuery| query.graph.stages.last().unwrap().determinism;
    for (sql, expected) in [
        ("SELECT id + 1 FROM big WHERE k > 3", Determinism::Determinate),
        ("SELECT g, sum(d) FROM big GROUP BY g", Determinism::Unordered),
        ("SELECT id FROM big ORDER BY id", Determinism::Unordered),
        ("SELECT k FROM big LIMIT 5", Determinism::Indeterminate),
        ("SELECT id, random() FROM big", Determinism::Indeterminate),
        (
            "SELECT g, array_agg(id) FROM big GROUP BY g",
            Determinism::Indeterminate,
        ),
        (
            "SELECT id, row_number() OVER (PARTITION BY g ORDER BY k) FROM big",
            Determinism::Indeterminate,
        ),
    ] {
        let query = planned(&bench, sql).await;
        assert_eq!(last(&query), expected, "{sql}\n{}", explain(&query));
    }
    // Sums of floats differ in the last bits: as keys they may move to another partition.
    let query = planned(
        &bench,
        "SELECT DISTINCT t FROM (SELECT g, sum(f) AS t FROM big GROUP BY g)",
    )
    .await;
    assert!(
        query
            .graph
            .stages
            .iter()
            .any(|stage| stage.determinism == Determinism::Indeterminate)
    );
}

#[tokio::test]
async fn the_same_query_gives_the_same_bytes() {
    let bench = Bench::new().await;
    let sql = "SELECT a.g, count(*) FROM big a JOIN mid b ON a.k = b.k GROUP BY a.g ORDER BY 1";
    let (first, second) = (planned(&bench, sql).await, planned(&bench, sql).await);
    assert_eq!(first.graph, second.graph);
    for (one, other) in first.stages.iter().zip(&second.stages) {
        assert_eq!(one.fragment, other.fragment);
        assert_eq!(one.tasks, other.tasks);
    }
}

#[tokio::test]
async fn limits_stand_on_both_sides_of_a_cut() {
    let bench = Bench::new().await;
    assert_eq!(
        bench
            .rows("SELECT id FROM big WHERE k > 3 LIMIT 10", 4)
            .await
            .len(),
        10
    );
    assert_eq!(
        bench
            .rows("SELECT id FROM big LIMIT 10 OFFSET 1195", 4)
            .await
            .len(),
        5
    );
    let query = planned(&bench, "SELECT id FROM big WHERE k > 3 LIMIT 10").await;
    let text = explain(&query);
    assert!(
        text.matches("fetch=10").count() + text.matches("limit=10").count() >= 2,
        "{text}"
    );
}

#[tokio::test]
async fn an_exchange_that_a_limit_reads_says_how_many_rows_are_enough() {
    let bench = Bench::new().await;
    let fetches = |query: &PlannedQuery| -> Vec<Option<u64>> {
        let exchanges = query.graph.exchanges.iter();
        exchanges.map(|exchange| exchange.fetch).collect()
    };
    for (sql, expected) in [
        ("SELECT id FROM big LIMIT 10", vec![Some(10), None]),
        (
            "SELECT id FROM big WHERE k > 3 LIMIT 10 OFFSET 5",
            vec![Some(15), None],
        ),
        (
            "SELECT id FROM big UNION ALL SELECT id FROM mid LIMIT 7",
            // The limit also stands in a branch of several tasks.
            vec![Some(7), Some(7), None],
        ),
        (
            "SELECT count(*) FROM (SELECT id FROM big LIMIT 7)",
            vec![Some(7), None],
        ),
        // Which rows are first is known only when all were read.
        ("SELECT id FROM big ORDER BY id LIMIT 10", vec![None, None]),
        ("SELECT g, count(*) FROM big GROUP BY g", vec![None, None]),
    ] {
        let query = planned(&bench, sql).await;
        assert_eq!(fetches(&query), expected, "{sql}\n{}", explain(&query));
    }
    let query = planned(&bench, "SELECT id FROM big LIMIT 10").await;
    let text = explain(&query);
    assert!(
        text.contains("(forward, 1 partition, 10 rows are enough)"),
        "{text}"
    );
}

#[tokio::test]
async fn a_query_is_ordered_by_its_own_order_alone() {
    let bench = Bench::new().await;
    assert!(
        planned(&bench, "SELECT s FROM big ORDER BY id")
            .await
            .graph
            .ordered
    );
    assert!(
        planned(&bench, "SELECT s FROM big ORDER BY id LIMIT 3 OFFSET 2")
            .await
            .graph
            .ordered
    );
    assert!(
        !planned(&bench, "SELECT s FROM (SELECT s FROM big ORDER BY id) t")
            .await
            .graph
            .ordered
    );
    assert!(
        !planned(&bench, "SELECT g, count(*) FROM big GROUP BY g")
            .await
            .graph
            .ordered
    );
}

#[tokio::test]
async fn many_ordered_rows_are_merged_by_ranges() {
    let bench = Bench::new().await;
    let session = session_sharing(bench.folder(), 4, &[], 0).await;
    let kinds = async |sql: &str| {
        let planned = plan(&session.state(), sql).await.unwrap();
        let kinds: Vec<_> = planned
            .graph
            .exchanges
            .iter()
            .map(|exchange| exchange.kind)
            .collect();
        (
            kinds,
            planned.graph.stages.last().unwrap().tasks,
            planned.graph.ordered,
        )
    };
    let (range, forward) = (ExchangeKind::Range, ExchangeKind::Forward);
    // What is selected need not be what it is ordered by.
    for sql in [
        "SELECT s, id FROM big ORDER BY id DESC, s",
        "SELECT s || 'x' FROM big ORDER BY id",
        "SELECT s FROM big UNION ALL SELECT s FROM mid ORDER BY s",
    ] {
        assert_eq!(kinds(sql).await, (vec![range, forward], 4, true), "{sql}");
    }
    // A limit leaves little to merge; the order of a subquery is none of the query's; one run needs no merge.
    for (sql, tasks) in [
        ("SELECT s FROM big ORDER BY id LIMIT 10", 1),
        ("SELECT s FROM big ORDER BY id OFFSET 10", 1),
    ] {
        assert_eq!(kinds(sql).await, (vec![forward, forward], tasks, true), "{sql}");
    }
    let shared = plan(&session.state(), "SELECT s FROM big ORDER BY s")
        .await
        .unwrap();
    let text = explain(&shared);
    assert!(
        text.contains("range, a sorted run of each task), because rows are divided by ranges of"),
        "{text}"
    );
    assert!(text.contains("range i of all runs in task i"), "{text}");
    // By default, one task merges what is as little as here.
    let planned = planned(&bench, "SELECT s FROM big ORDER BY s").await;
    assert_eq!(planned.graph.stages.last().unwrap().tasks, 1);
}

struct NoInputs;

impl InputProvider for NoInputs {
    fn open(&self, stream: InputStream, _: &Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        plan_err!("{stream:?} is not there")
    }
}

#[tokio::test]
async fn damaged_fragments_give_errors() {
    let bench = Bench::new().await;
    let session = bench.session(4, &[]).await;
    let sql = "SELECT a.g, a.w, count(*), sum(a.d + 1) FROM big a LEFT JOIN mid b ON a.k = b.k AND a.s LIKE 'text%' \
               GROUP BY a.g, a.w ORDER BY 3 LIMIT 7";
    let query = plan(&session.state(), sql).await.unwrap();
    let inputs: Arc<dyn InputProvider> = Arc::new(NoInputs);
    let mut refused = 0;
    for stage in &query.stages {
        let context = task_context(&stage.fragment.options, "test", session.runtime_env()).unwrap();
        let splits = &stage.tasks[0];
        assert!(decode_task(&stage.fragment, splits, &context, &inputs, &[]).is_ok());
        for at in 0..stage.fragment.plan.len() {
            for damage in [0x01, 0x80] {
                let mut fragment = stage.fragment.clone();
                fragment.plan[at] ^= damage;
                refused += usize::from(decode_task(&fragment, splits, &context, &inputs, &[]).is_err());
            }
            let mut fragment = stage.fragment.clone();
            fragment.plan.truncate(at);
            refused += usize::from(decode_task(&fragment, splits, &context, &inputs, &[]).is_err());
        }
    }
    assert!(refused > 1000, "only {refused} damaged fragments were refused");
}

#[tokio::test]
async fn a_scan_without_its_split_is_an_error() {
    let bench = Bench::new().await;
    let query = planned(&bench, "SELECT id FROM big").await;
    let stage = &query.stages[0];
    let session = bench.session(4, &[]).await;
    let context = task_context(&stage.fragment.options, "test", session.runtime_env()).unwrap();
    let inputs: Arc<dyn InputProvider> = Arc::new(NoInputs);
    let error = decode_task(&stage.fragment, &TaskSplits::default(), &context, &inputs, &[]).unwrap_err();
    assert!(
        matches!(&error, PlanError::Fragment { place: "splits", .. }),
        "{error:?}"
    );
}
