//! What a coordinator is told of joins: which can be sorted when memory runs out, and which inputs leave nothing to join.

use std::sync::Arc;

use sluice_core::plan::SwappableJoin;

use super::super::swapped_joins::swappable_joins;
use super::super::{HashJoinLimit, InputProvider, decode_task, plan, task_context};
use super::harness::{Bench, Options, same_rows};
use super::stage_runner::Unread;

/// Every join moves both sides.
pub(super) const SHUFFLED: Options<'static> = &[
    ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
    (
        "datafusion.optimizer.hash_join_single_partition_threshold_rows",
        "0",
    ),
];

#[tokio::test]
async fn stages_say_whether_their_joins_can_be_sorted() {
    let bench = Bench::new().await;
    let session = bench.session(3, SHUFFLED).await;
    for (sql, expected) in [
        ("SELECT b.id FROM big b JOIN mid m ON b.k = m.k", true),
        ("SELECT b.id FROM big b LEFT JOIN mid m ON b.k = m.k", true),
        (
            "SELECT b.id FROM big b FULL JOIN mid m ON b.k = m.k AND b.d < m.d",
            true,
        ),
        ("SELECT b.id FROM big b WHERE b.k IN (SELECT k FROM mid)", true),
        ("SELECT b.id FROM big b WHERE b.s IN (SELECT s FROM mid)", true),
        ("SELECT b.id FROM big b JOIN mid m ON b.f = m.f", true),
        // DataFusion's merge compares keys of semi joins across batches, and panics for NaN.
        ("SELECT b.id FROM big b WHERE b.f IN (SELECT f FROM mid)", false),
        ("SELECT b.id FROM big b WHERE b.ts IN (SELECT ts FROM mid)", false),
        // It has no null-aware form, and loses rows if a filter has no column.
        (
            "SELECT b.id FROM big b WHERE b.k NOT IN (SELECT k FROM mid)",
            false,
        ),
        ("SELECT b.id FROM big b JOIN mid m ON b.k < m.k", false),
        (
            "SELECT b.id FROM big b LEFT JOIN mid m ON b.k = m.k AND b.d > CAST(NULL AS DECIMAL(12, 2))",
            false,
        ),
        ("SELECT k, count(*) FROM big GROUP BY k", false),
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let sortable = planned.graph.stages.iter().any(|stage| stage.has_sortable_join);
        assert_eq!(sortable, expected, "{sql}");
        same_rows(bench.plain(), &session, sql).await.unwrap();
    }
}

/// That swapped joins have the same rows is shown by every query of these tests: the harness swaps all of them.
#[tokio::test]
async fn stages_say_which_joins_may_swap_their_sides() {
    let bench = Bench::new().await;
    let session = bench.session(3, SHUFFLED).await;
    for (sql, expected) in [
        ("SELECT b.id, m.id FROM big b JOIN mid m ON b.k = m.k", 1),
        ("SELECT b.id, m.id FROM big b LEFT JOIN mid m ON b.k = m.k", 1),
        ("SELECT b.id, m.id FROM big b FULL JOIN mid m ON b.k = m.k", 1),
        ("SELECT b.id FROM big b WHERE b.k IN (SELECT k FROM mid)", 1),
        // Whether a NULL is among the rows of the probe side decides about all rows.
        ("SELECT b.id FROM big b WHERE b.k NOT IN (SELECT k FROM mid)", 0),
        // How large a side is that is made of several inputs, or grouped, nobody knows.
        (
            "SELECT b.id FROM big b JOIN mid m ON b.k = m.k JOIN big c ON b.k = c.k",
            1,
        ),
        (
            "SELECT b.id FROM big b JOIN (SELECT k, count(*) AS n FROM big GROUP BY k) m ON b.k = m.k",
            0,
        ),
        ("SELECT k, count(*) FROM big GROUP BY k", 0),
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let stages = planned.graph.stages.iter();
        let joins: Vec<_> = stages.flat_map(|stage| &stage.swappable_joins).collect();
        assert_eq!(joins.len(), expected, "{sql}: {joins:?}");
        assert!(joins.iter().all(|join| join.build != join.probe), "{joins:?}");
        same_rows(bench.plain(), &session, sql).await.unwrap();
    }
}

#[tokio::test]
async fn a_join_with_its_sides_swapped_builds_the_other_one() {
    let bench = Bench::new().await;
    let session = bench.session(3, SHUFFLED).await;
    let sql = "SELECT b.id, m.id FROM big b LEFT JOIN mid m ON b.k = m.k";
    let planned = plan(&session.state(), sql).await.unwrap();
    let mut stages = planned.graph.stages.iter().zip(&planned.stages);
    let (stage, joining) = stages
        .find(|(stage, _)| !stage.swappable_joins.is_empty())
        .unwrap();
    let [join] = stage.swappable_joins.as_slice() else {
        panic!("{stage:?}")
    };
    let context = task_context(&joining.fragment.options, "test", session.runtime_env()).unwrap();
    let inputs: Arc<dyn InputProvider> = Arc::new(Unread);
    let other_way = SwappableJoin {
        build: join.probe,
        probe: join.build,
        ..*join
    };
    for (swapped, expected) in [(&[][..], *join), (&[join.join], other_way)] {
        let task = decode_task(&joining.fragment, &joining.tasks[0], &context, &inputs, swapped).unwrap();
        assert_eq!(swappable_joins(&task), [expected]);
    }
}

/// Keys that a merge compares only within a batch: joins on them are hashed, however large they are.
#[tokio::test]
async fn semi_joins_have_the_same_rows_whatever_their_keys() {
    let bench = Bench::new().await;
    let config = bench.session(2, SHUFFLED).await.copied_config();
    let config = config
        .with_batch_size(8)
        .with_extension(Arc::new(HashJoinLimit { bytes: 0 }));
    let session = bench.session_of(config).await;
    for key in ["k", "s", "d", "f", "ts", "w"] {
        for sql in [
            format!("SELECT a.id FROM big a LEFT SEMI JOIN mid b ON a.{key} = b.{key}"),
            format!("SELECT a.id FROM big a LEFT ANTI JOIN mid b ON a.{key} = b.{key} AND a.g <> b.g"),
            format!("SELECT id FROM big a WHERE g = 1 OR {key} IN (SELECT {key} FROM mid)"),
            format!("SELECT a.id, b.id FROM big a FULL JOIN mid b ON a.{key} = b.{key} AND a.g = b.g"),
        ] {
            if let Err(told) = same_rows(bench.plain(), &session, &sql).await {
                panic!("{told}");
            }
        }
    }
}

/// The inputs of joining and grouping stages that leave nothing to write: `l` and `r` for the tables, by which stage reads them.
#[tokio::test]
async fn stages_say_which_inputs_they_need_rows_of() {
    let bench = Bench::new().await;
    let session = bench.session(3, SHUFFLED).await;
    let cases: &[(&str, &[bool])] = &[
        ("SELECT a.id FROM big a JOIN mid b ON a.k = b.k", &[true, true]),
        (
            "SELECT a.id, b.id FROM big a FULL JOIN mid b ON a.k = b.k",
            &[false, false],
        ),
        (
            "SELECT a.id FROM big a WHERE k IN (SELECT k FROM mid)",
            &[true, true],
        ),
    ];
    for (sql, expected) in cases {
        let planned = plan(&session.state(), sql).await.unwrap();
        let join = planned.graph.stages.last().unwrap();
        let needed: Vec<bool> = join.inputs.iter().map(|input| input.empty_ends).collect();
        assert_eq!(needed, *expected, "{sql}");
    }
    // One side decides, whichever hand it is on.
    for sql in [
        "SELECT a.id, b.id FROM big a LEFT JOIN mid b ON a.k = b.k",
        "SELECT a.id, b.id FROM big a RIGHT JOIN mid b ON a.k = b.k",
        "SELECT a.id FROM big a WHERE NOT EXISTS (SELECT 1 FROM mid b WHERE a.k = b.k)",
        "SELECT a.id FROM big a WHERE a.g = 1 OR EXISTS (SELECT 1 FROM mid b WHERE a.k = b.k)",
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let join = planned.graph.stages.last().unwrap();
        let needed = join.inputs.iter().filter(|input| input.empty_ends).count();
        assert_eq!((needed, join.inputs.len()), (1, 2), "{sql}");
    }
    for (sql, expected) in [
        ("SELECT k, count(*) FROM big GROUP BY k", true),
        ("SELECT DISTINCT k FROM big", true),
        ("SELECT sum(d) FROM big", false),
        // What its partial aggregate makes of no rows is in the exchange.
        ("SELECT k, count(*) FROM big GROUP BY ROLLUP (k)", true),
        (
            "SELECT k, rank() OVER (PARTITION BY k ORDER BY id) FROM big",
            true,
        ),
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let last = planned.graph.stages.last().unwrap();
        let needed = last.inputs.iter().all(|input| input.empty_ends);
        assert_eq!(needed, expected, "{sql}");
    }
}

/// Tables without rows on each side of each kind of join, below and above other operators.
#[tokio::test]
async fn queries_over_empty_sides_have_the_same_rows() {
    let bench = Bench::new().await;
    let mut queries = Vec::new();
    for kind in [
        "JOIN",
        "LEFT JOIN",
        "RIGHT JOIN",
        "FULL JOIN",
        "LEFT SEMI JOIN",
        "RIGHT SEMI JOIN",
        "LEFT ANTI JOIN",
        "RIGHT ANTI JOIN",
    ] {
        for (left, right) in [
            ("none", "mid"),
            ("mid", "none"),
            ("(SELECT * FROM big WHERE id < 0)", "mid"),
        ] {
            let join = format!("FROM {left} a {kind} {right} b ON a.k = b.k");
            queries.push(format!("SELECT count(*) {join}"));
            let side = if kind.starts_with("RIGHT ") && !kind.ends_with("T JOIN") {
                "b"
            } else {
                "a"
            };
            queries.push(format!("SELECT {side}.k, count(*) {join} GROUP BY {side}.k"));
            queries.push(format!(
                "SELECT x.id, c.id FROM (SELECT {side}.id, {side}.k {join}) x JOIN big c ON x.k = c.k"
            ));
            queries.push(format!("SELECT {side}.id {join} UNION ALL SELECT id FROM tiny"));
        }
    }
    bench.same_all(&queries, &[1, 3], &[SHUFFLED, &[]]).await;
}
