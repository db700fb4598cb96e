//! Aggregates that DataFusion does not plan by itself.

use super::harness::Bench;

const CASES: &[(&str, &[&str])] = &[
    // IS NOT FALSE is never NULL, and neither is IS DISTINCT FROM.
    (
        "SELECT DISTINCT (d > 5) IS NOT FALSE AS x FROM tiny WHERE id < 3 GROUP BY d ORDER BY x",
        &["false", "true"],
    ),
    (
        "SELECT k > 9 IS DISTINCT FROM true AS x, count(*) FROM tiny GROUP BY k > 9 IS DISTINCT FROM true ORDER BY x",
        &["false|5", "true|2"],
    ),
    (
        "(SELECT k > 9 AS x, 1 AS y FROM tiny) EXCEPT (SELECT (k > 9) IS NOT FALSE, 1 FROM tiny) ORDER BY x",
        &["null|1"],
    ),
    // A cast has the name of what it casts.
    (
        "SELECT count(*) AS n FROM tiny WHERE id < 2 GROUP BY CAST(id AS DOUBLE), id ORDER BY n",
        &["1", "1"],
    ),
    (
        "SELECT id AS a, CAST(id AS VARCHAR) AS b, max(k) FROM tiny WHERE id < 3 GROUP BY id, CAST(id AS VARCHAR) ORDER BY a",
        &["0|0|null", "1|1|9", "2|2|16"],
    ),
];

#[tokio::test]
async fn groups_are_planned() {
    let bench = Bench::new().await;
    for partitions in [1, 3] {
        for (sql, expected) in CASES {
            let rows = bench.rows(sql, partitions).await;
            let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
            assert_eq!(rows, *expected, "{partitions} partitions: {sql}");
        }
    }
}
