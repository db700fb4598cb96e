//! Subqueries that compare expressions of their rows with the query around them.

use super::harness::Bench;

/// As in `subqueries`: `a` has a key that nothing refers to and NULL, `b` a key twice and NULL.
const TABLES: &str = "WITH a(k) AS (VALUES (1), (2), (3), (CAST(NULL AS INT))),
     b(j, v) AS (VALUES (2, 10), (2, 20), (3, 30), (CAST(NULL AS INT), 40)) ";

/// Queries and their rows, in order.
const CASES: &[(&str, &[&str])] = &[
    (
        "SELECT k, (SELECT count(*) FROM b WHERE b.j + 1 = a.k) AS x FROM a ORDER BY k",
        &["1|0", "2|0", "3|2", "null|0"],
    ),
    (
        "SELECT k, (SELECT sum(v) FROM b WHERE a.k * 10 = abs(b.v) AND b.j = a.k) AS x FROM a ORDER BY k",
        &["1|null", "2|20", "3|30", "null|null"],
    ),
    (
        "SELECT k FROM a WHERE (SELECT count(*) FROM b WHERE b.j - 1 = a.k) < 2 ORDER BY k",
        &["2", "3", "null"],
    ),
    (
        "SELECT k FROM a WHERE k >= ALL (SELECT b.j FROM b WHERE b.v / 10 = a.k) ORDER BY k",
        &["2", "3", "null"],
    ),
    // The comparison casts the column of the subquery, and the cast is checked.
    (
        "SELECT k, k IS DISTINCT FROM (SELECT count(v) FROM (SELECT v, to_timestamp_seconds(j) AS t FROM b) AS u
            WHERE u.t = to_timestamp_micros(CAST(a.k AS BIGINT) * 1000000)) AS x FROM a ORDER BY k",
        &["1|true", "2|false", "3|true", "null|true"],
    ),
    (
        "SELECT k, DATE '2000-01-01' NOT IN (SELECT CAST(NULL AS DATE) FROM b WHERE to_timestamp_seconds(b.j) = c) AS x
            FROM (SELECT k, to_timestamp_micros(2000000) AS c FROM a) AS u ORDER BY k",
        &["1|null", "2|null", "3|null", "null|null"],
    ),
    (
        "SELECT k FROM (SELECT k, to_timestamp_micros(2000000) AS c FROM a) AS u WHERE k < 3 AND
            DATE '2000-01-01' NOT IN (SELECT CAST(NULL AS DATE) FROM b WHERE to_timestamp_seconds(b.j + 5) = c) ORDER BY k",
        &["1", "2"],
    ),
    (
        "SELECT k, c FROM a CROSS JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.j + 1 = a.k) AS l ORDER BY k",
        &["1|0", "2|0", "3|2", "null|0"],
    ),
    // What is compared is no equality.
    (
        "SELECT k, (SELECT count(*) FROM b WHERE b.j > a.k) AS x FROM a ORDER BY k",
        &["1|3", "2|1", "3|0", "null|0"],
    ),
    (
        "SELECT k, (SELECT sum(v) FROM b WHERE b.j = a.k OR b.v = a.k * 40) AS x FROM a ORDER BY k",
        &["1|40", "2|30", "3|30", "null|null"],
    ),
    (
        "SELECT k, (SELECT sum(v) FROM b WHERE b.j IS NOT DISTINCT FROM a.k) AS x FROM a ORDER BY k",
        &["1|null", "2|30", "3|30", "null|40"],
    ),
    (
        "SELECT k, (SELECT max(v) FROM b WHERE b.j = a.k AND b.v > a.k * 7) AS x FROM a ORDER BY k",
        &["1|null", "2|20", "3|30", "null|null"],
    ),
    (
        "SELECT k, (SELECT count(*) FROM b WHERE a.k > 1) AS x FROM a ORDER BY k",
        &["1|0", "2|4", "3|4", "null|0"],
    ),
    ("SELECT k FROM a WHERE (SELECT count(*) FROM b WHERE b.j < a.k) >= 1 ORDER BY k", &["3"]),
    (
        "SELECT k FROM a GROUP BY k HAVING count(*) > (SELECT count(*) FROM b WHERE b.j > a.k) ORDER BY k",
        &["3", "null"],
    ),
    (
        "SELECT k, EXISTS (SELECT 1 FROM b WHERE b.j > a.k) AS x, 10 IN (SELECT v FROM b WHERE b.j >= a.k) AS y
            FROM a ORDER BY k",
        &["1|true|true", "2|true|true", "3|false|false", "null|false|false"],
    ),
    (
        "SELECT k, c FROM a CROSS JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.j > a.k) AS l ORDER BY k",
        &["1|3", "2|1", "3|0", "null|0"],
    ),
    // Outer rows with equal keys, and keys of two columns.
    (
        "SELECT j, (SELECT count(*) FROM b AS c WHERE c.v > b.j * 10) AS x FROM b ORDER BY v",
        &["2|2", "2|2", "3|1", "null|0"],
    ),
    (
        "SELECT j, (SELECT count(*) FROM b AS c WHERE c.j <> b.j OR c.v < b.v) AS x FROM b ORDER BY v",
        &["2|1", "2|2", "3|2", "null|3"],
    ),
    (
        "SELECT k, s, (SELECT min(v) FROM b WHERE b.j > a.k AND CAST(b.v AS VARCHAR) <> a.s) AS x
            FROM (SELECT k, nullif('1' || k, '13') || '0' AS s FROM a) AS a ORDER BY k",
        &["1|110|10", "2|120|30", "3|null|null", "null|null|null"],
    ),
];

#[tokio::test]
async fn conditions_of_a_subquery_compare_it_with_the_query_around_it() {
    let bench = Bench::new().await;
    for (sql, expected) in CASES {
        for partitions in [1, 3] {
            let rows = bench.rows(&format!("{TABLES}{sql}"), partitions).await;
            let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
            assert_eq!(rows, *expected, "{partitions} partitions: {sql}");
        }
    }
}
