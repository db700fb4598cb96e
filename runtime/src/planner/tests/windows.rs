//! Window functions with all of their clauses, run from their fragments.

use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, DefaultPhysicalExtensionCodec, PhysicalPlanDecodeContext,
    PhysicalProtoConverterExtension,
};
use std::sync::Arc;

use super::super::round_trip;
use super::harness::Bench;

#[tokio::test]
async fn window_functions_keep_their_clauses() {
    let whole = "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING";
    let queries = [
        "SELECT id, count(*) FILTER (WHERE g > 2) OVER () AS n FROM mid".to_owned(),
        "SELECT id, count(*) FILTER (WHERE g > 2) OVER (), sum(k) FILTER (WHERE d > 5) OVER (PARTITION BY g) FROM mid".into(),
        "SELECT id, sum(id) FILTER (WHERE k > 9) OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM mid".into(),
        "SELECT * FROM (SELECT id, sum(k) FILTER (WHERE w = 'red') OVER (PARTITION BY g) AS x FROM mid) WHERE x > 3".into(),
        "SELECT g, sum(count(*)) FILTER (WHERE g <> 1) OVER () AS n FROM mid GROUP BY g ORDER BY g".into(),
        "SELECT id FROM mid WHERE id IN (SELECT count(*) FILTER (WHERE g > 2) OVER (ORDER BY id) FROM mid)".into(),
        "SELECT id, lag(nullif(g, 3)) IGNORE NULLS OVER (ORDER BY id) FROM mid".into(),
        "SELECT id, lead(k, 2, -1) IGNORE NULLS OVER (PARTITION BY g ORDER BY id DESC) FROM mid".into(),
        format!("SELECT id, first_value(k) IGNORE NULLS OVER (PARTITION BY g ORDER BY id), last_value(k) IGNORE NULLS OVER (PARTITION BY g ORDER BY id {whole}), nth_value(k, 2) OVER (PARTITION BY g ORDER BY id) FROM mid"),
        // Opposite orders: one of each pair is evaluated in reverse.
        format!("SELECT id, nth_value(k, 3) OVER (ORDER BY id {whole}), nth_value(k, 3) OVER (ORDER BY id DESC {whole}) FROM mid"),
        "SELECT id, lag(k, 2, -1) OVER (ORDER BY id), lead(k, 3) OVER (ORDER BY id DESC), lag(k) IGNORE NULLS OVER (ORDER BY id DESC) FROM mid".into(),
        format!("SELECT id, first_value(k) OVER (ORDER BY id {whole}), first_value(k) OVER (ORDER BY id DESC {whole}) FROM mid"),
        // Ends before the current row: causal by its bounds.
        "SELECT id, count(k) OVER (ORDER BY id RANGE BETWEEN 3 PRECEDING AND 1 PRECEDING) FROM mid".into(),
        "SELECT id, count(DISTINCT k) OVER (PARTITION BY g), ntile(4) OVER (ORDER BY id), rank() OVER (PARTITION BY g ORDER BY k) FROM mid".into(),
        "SELECT id, sum(k) OVER (ORDER BY g RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING), max(k) OVER (ORDER BY g GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM mid".into(),
        "SELECT id, count(*) FILTER (WHERE NULL) OVER (), sum(k) FILTER (WHERE NULL) OVER (PARTITION BY g) FROM mid".into(),
        "SELECT g, array_agg(k ORDER BY id DESC) FILTER (WHERE k > 4), first_value(k ORDER BY id) FROM mid GROUP BY g".into(),
    ];
    Bench::new().await.same_all(&queries, &[1, 3], &[&[]]).await;
}

/// One row counts as sorted by anything, but a window finds its partitions by known orderings alone.
#[tokio::test]
async fn windows_find_the_partitions_of_one_row() {
    let bench = Bench::new().await;
    let one = "SELECT c, CAST(x AS BIGINT) AS x FROM (SELECT count('b') OVER (ORDER BY n) AS c, lead('a') OVER () AS x
                FROM (SELECT count(DISTINCT s) AS n FROM mid))";
    let whole = "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING";
    for (function, window) in [
        ("row_number()", "PARTITION BY c, x"),
        ("row_number()", "PARTITION BY x, c"),
        ("count(*)", &format!("PARTITION BY x, c ORDER BY c {whole}")),
        (
            "count(*)",
            "PARTITION BY c, x ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
        ),
    ] {
        let sql = format!("SELECT c, x, {function} OVER ({window}) AS w FROM ({one})");
        for partitions in [1, 3] {
            assert_eq!(bench.rows(&sql, partitions).await, [["1", "null", "1"]], "{sql}");
        }
    }
}

/// What the encoding loses is seen, here by encoding without our codec.
#[tokio::test]
async fn what_a_fragment_loses_is_refused() {
    let bench = Bench::new().await;
    let state = bench.plain().state();
    for (sql, lost) in [
        (
            "SELECT lag(x) IGNORE NULLS OVER (ORDER BY x) FROM (VALUES (1), (2)) AS t(x)",
            Some("IGNORE NULLS"),
        ),
        (
            "SELECT lag(x) OVER (ORDER BY x) FROM (VALUES (1), (2)) AS t(x)",
            None,
        ),
    ] {
        let logical = state.create_logical_plan(sql).await.unwrap();
        let plan: Arc<dyn ExecutionPlan> = state.create_physical_plan(&logical).await.unwrap();
        let codec = DefaultPhysicalExtensionCodec {};
        let message = DeduplicatingProtoConverter {}
            .execution_plan_to_proto(&plan, &codec)
            .unwrap();
        let context = state.task_ctx();
        let decode = PhysicalPlanDecodeContext::new(&context, &codec);
        let decoded = DeduplicatingProtoConverter {}
            .proto_to_execution_plan(&message, &decode)
            .unwrap();
        let told = round_trip::check(&plan, &decoded)
            .map_err(|error| error.to_string())
            .err();
        match (lost, told) {
            (Some(lost), Some(told)) => assert!(told.contains(lost), "{told}"),
            (lost, told) => assert!(lost.is_none() && told.is_none(), "{sql}: {told:?}"),
        }
    }
}

#[tokio::test]
async fn windows_by_a_constant_of_an_outer_join_are_sorted_above_it() {
    let bench = Bench::new().await;
    for (kind, keeps) in [("LEFT", "1200"), ("FULL", "1206")] {
        let sql = format!(
            "SELECT count(*) OVER (PARTITION BY n, u ORDER BY n DESC NULLS LAST) AS c \
             FROM (SELECT CAST('0.00' AS DECIMAL(15, 2)) AS u, id AS n FROM big) AS a \
             {kind} JOIN (SELECT CAST(id AS DECIMAL(15, 2)) AS u FROM tiny) AS b USING (u)"
        );
        for partitions in [1, 3] {
            let rows = bench
                .rows(&format!("SELECT sum(c) FROM ({sql})"), partitions)
                .await;
            assert_eq!(rows, [[keeps]], "{kind} {partitions}");
        }
    }
}

#[tokio::test]
async fn windows_are_ordered_by_structs_and_bytes() {
    let bench = Bench::new().await;
    for (key, counts) in [
        ("p ASC NULLS FIRST", ["2", "3", "4", "5", "6", "7", "2"]),
        (
            "CAST(CAST(id / 2 AS TEXT) AS BYTEA) DESC",
            ["7", "7", "5", "5", "3", "3", "1"],
        ),
    ] {
        let sql = format!("SELECT count(*) OVER (ORDER BY {key}) AS n FROM tiny ORDER BY id");
        for partitions in [1, 3] {
            let rows = bench.rows(&sql, partitions).await;
            assert_eq!(rows.concat(), counts, "{key} {partitions}");
        }
    }
}
