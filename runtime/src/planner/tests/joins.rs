//! Every join type, with the build side on either hand, several tasks, and each way to join.

use std::sync::Arc;

use super::super::{HashJoinLimit, explain};
use super::harness::{Bench, Options, same_rows};

/// Join selection that collects, that partitions, that weighs both sides, that sorts and merges, and that keeps the sides as written.
const WAYS: &[Options<'static>] = &[
    &[
        (
            "datafusion.optimizer.hash_join_single_partition_threshold",
            "1000000000",
        ),
        (
            "datafusion.optimizer.hash_join_single_partition_threshold_rows",
            "1000000000",
        ),
    ],
    &[
        ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
        (
            "datafusion.optimizer.hash_join_single_partition_threshold_rows",
            "0",
        ),
    ],
    // Ours broadcasts what DataFusion would not.
    &[
        ("datafusion.optimizer.hash_join_single_partition_threshold", "1"),
        (
            "datafusion.optimizer.hash_join_single_partition_threshold_rows",
            "1",
        ),
    ],
    &[("datafusion.optimizer.prefer_hash_join", "false")],
    &[
        ("datafusion.optimizer.join_reordering", "false"),
        (
            "datafusion.optimizer.hash_join_single_partition_threshold",
            "1000000000",
        ),
    ],
];

async fn check(queries: &[String]) {
    check_in(&[1, 3], queries).await;
}

async fn check_in(partitions: &[usize], queries: &[String]) {
    let bench = Bench::new().await;
    bench.same_all(queries, partitions, WAYS).await;
    // No build side fits: what is not small enough to collect is sorted and merged.
    for partitions in [2, 3] {
        let config = bench.session(partitions, WAYS[1]).await.copied_config();
        let config = config.with_extension(Arc::new(HashJoinLimit { bytes: 0 }));
        let ours = bench.session_of(config).await;
        for sql in queries {
            let planned = same_rows(bench.plain(), &ours, sql)
                .await
                .unwrap_or_else(|told| panic!("{told}"));
            let text = explain(&planned);
            let hashed = text.contains("mode=Partitioned");
            assert!(!hashed || text.contains("none"), "{text}");
        }
    }
}

/// Tables to join: large and small on either hand, and without rows.
const SIDES: &[(&str, &str)] = &[
    ("big", "mid"),
    ("mid", "big"),
    ("mid", "tiny"),
    ("tiny", "mid"),
    ("mid", "none"),
    ("none", "mid"),
];

#[tokio::test]
async fn outer_and_inner_joins() {
    let mut queries = Vec::new();
    for kind in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
        for (left, right) in SIDES {
            queries.push(format!(
                "SELECT a.id, b.id, a.s, b.d FROM {left} a {kind} {right} b ON a.k = b.k AND a.d < b.d + 3000"
            ));
        }
    }
    check(&queries).await;
}

#[tokio::test]
async fn semi_and_anti_joins() {
    let mut queries = Vec::new();
    for kind in [
        "LEFT SEMI JOIN",
        "RIGHT SEMI JOIN",
        "LEFT ANTI JOIN",
        "RIGHT ANTI JOIN",
    ] {
        let side = if kind.starts_with("LEFT") { "a" } else { "b" };
        for (left, right) in SIDES {
            queries.push(format!(
                "SELECT {side}.id, {side}.s FROM {left} a {kind} {right} b ON a.k = b.k AND a.g <> b.g"
            ));
        }
    }
    check(&queries).await;
}

#[tokio::test]
async fn joins_without_equal_keys() {
    let mut queries = Vec::new();
    for kind in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
        for (left, right) in SIDES {
            queries.push(format!(
                "SELECT a.id, b.id FROM {left} a {kind} {right} b ON a.k < b.k AND a.id % 7 = 0 AND b.id < 40"
            ));
        }
    }
    queries.push("SELECT a.id, b.id FROM mid a CROSS JOIN tiny b".to_owned());
    queries.push("SELECT a.id, b.id FROM mid a CROSS JOIN none b".to_owned());
    check(&queries).await;
}

#[tokio::test]
async fn exists_in_and_not_in_with_nulls() {
    let queries = [
        "SELECT id FROM big WHERE k IN (SELECT k FROM tiny)",
        "SELECT id FROM big WHERE k NOT IN (SELECT k FROM tiny)",
        "SELECT id FROM big WHERE k NOT IN (SELECT k FROM tiny WHERE k IS NOT NULL)",
        "SELECT id FROM big WHERE k NOT IN (SELECT k FROM none)",
        "SELECT id FROM tiny WHERE k NOT IN (SELECT k FROM big WHERE k > 3)",
        "SELECT id FROM big a WHERE EXISTS (SELECT 1 FROM mid b WHERE a.k = b.k AND b.d > a.d)",
        "SELECT id FROM big a WHERE NOT EXISTS (SELECT 1 FROM mid b WHERE a.k = b.k AND b.d > a.d)",
        "SELECT id FROM mid a WHERE EXISTS (SELECT 1 FROM big b WHERE a.k > b.k + 40)",
        "SELECT id FROM mid a WHERE NOT EXISTS (SELECT 1 FROM big b WHERE a.k > b.k + 40)",
        "SELECT id FROM mid WHERE g = 1 OR k IN (SELECT k FROM tiny)",
        "SELECT id FROM mid a WHERE g = 1 OR EXISTS (SELECT 1 FROM tiny b WHERE b.k < a.k)",
        "SELECT id FROM mid WHERE d > (SELECT avg(d) FROM big)",
        "SELECT id, (SELECT max(b.d) FROM big b WHERE b.g = a.g) FROM mid a",
        "SELECT count(*) FROM mid a WHERE d > (SELECT avg(b.d) FROM big b WHERE b.k = a.k)",
    ];
    check(&queries.map(str::to_owned)).await;
}

#[tokio::test]
async fn null_keys_nan_keys_and_several_joins() {
    let queries = [
        "SELECT a.id, b.id FROM mid a JOIN tiny b ON a.k IS NOT DISTINCT FROM b.k",
        "SELECT a.id, b.id FROM mid a JOIN tiny b ON a.f = b.f",
        "SELECT a.id, b.id FROM mid a FULL JOIN tiny b ON a.ts = b.ts AND a.w = b.w",
        "SELECT a.g, count(*), sum(c.d) FROM big a JOIN mid b ON a.k = b.k LEFT JOIN tiny c ON b.g = c.g GROUP BY a.g",
        "SELECT * FROM (SELECT k, sum(d) t FROM big GROUP BY k) a JOIN (SELECT k, count(*) n FROM mid GROUP BY k) b USING (k)",
        "SELECT a.s, b.s FROM tiny a NATURAL JOIN tiny b",
        "SELECT a.id FROM mid a JOIN mid b ON a.id = b.id JOIN mid c ON b.id = c.id WHERE a.g + b.g + c.g > 6",
    ];
    check(&queries.map(str::to_owned)).await;
}

/// Filters that give other rows when the sides of a column are mistaken, in both orders of columns, of one type and of two.
#[tokio::test]
async fn filters_of_joins_keep_their_sides() {
    let filters = [
        "a.id < b.id",
        "b.id < a.id",
        "a.id + 100 < b.id * 2 AND b.g < a.g",
        "a.id < b.d",
        "b.s < a.s AND a.g <= b.id",
    ];
    let mut queries = Vec::new();
    for filter in filters {
        for (left, right) in SIDES {
            for kind in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
                queries.push(format!(
                    "SELECT a.id, b.id FROM {left} a {kind} {right} b ON a.k = b.k AND {filter}"
                ));
            }
            // The columns of the filter are not among those of the query.
            queries.push(format!(
                "SELECT a.k, b.k AS other FROM {left} a JOIN {right} b ON a.k = b.k AND {filter}"
            ));
            for kind in ["LEFT SEMI JOIN", "LEFT ANTI JOIN"] {
                queries.push(format!(
                    "SELECT a.id FROM {left} a {kind} {right} b ON a.k = b.k AND {filter}"
                ));
            }
            queries.push(format!(
                "SELECT id FROM {left} a WHERE g = 1 OR EXISTS (SELECT 1 FROM {right} b WHERE a.k = b.k AND {filter})"
            ));
        }
    }
    check_in(&[3], &queries).await;
}

/// A filter without a column, and a key that is constant: sort-merge joins know neither.
#[tokio::test]
async fn joins_that_cannot_merge_stay_hash_joins() {
    let bench = Bench::new().await;
    let config = bench.session(3, WAYS[1]).await.copied_config();
    let config = config.with_extension(Arc::new(HashJoinLimit { bytes: 0 }));
    let ours = bench.session_of(config).await;
    for kind in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
        for sql in [
            format!(
                "SELECT a.id, b.id FROM mid a {kind} mid b ON a.id = b.id AND a.d > CAST(NULL AS DECIMAL(12, 2))"
            ),
            format!(
                "SELECT a.id, b.id, rank() OVER (ORDER BY a.id) FROM (SELECT 1 AS one, id FROM tiny) a
                 {kind} (SELECT 1 AS one, id FROM tiny) b ON a.one = b.one"
            ),
        ] {
            if let Err(told) = same_rows(bench.plain(), &ours, &sql).await {
                panic!("{told}");
            }
        }
    }
}
