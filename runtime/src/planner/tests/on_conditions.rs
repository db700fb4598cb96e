//! Subqueries in ON of every kind of join.

use super::harness::Bench;

/// `a` has NULL, `b` a key twice and NULL, `n` neither.
const TABLES: &str = "WITH a(k) AS (VALUES (1), (2), (3), (CAST(NULL AS INT))),
     b(j, v) AS (VALUES (2, 10), (2, 20), (3, 30), (CAST(NULL AS INT), 40)), n(j) AS (VALUES (2), (3)) ";

/// Queries and their rows, in order.
const CASES: &[(&str, &[&str])] = &[
    // IN has three values in ON, too.
    (
        "SELECT k, v FROM a JOIN b ON k = j AND (v NOT IN (SELECT nullif(j, 2) FROM n) OR v = 20) ORDER BY k, v",
        &["2|20"],
    ),
    (
        "SELECT k, v FROM a LEFT JOIN b ON k = j AND (v NOT IN (SELECT nullif(j, 2) FROM n) OR v = 20) ORDER BY k, v",
        &["1|null", "2|20", "3|null", "null|null"],
    ),
    (
        "SELECT k, v FROM a LEFT JOIN b ON k = j AND (k IN (SELECT j FROM b)) IS NULL ORDER BY k, v",
        &["1|null", "2|null", "3|null", "null|null"],
    ),
    (
        "SELECT k, v FROM a LEFT JOIN b ON k = j AND k IN (SELECT j FROM n WHERE j > 2) ORDER BY k, v",
        &["1|null", "2|null", "3|30", "null|null"],
    ),
    (
        "SELECT k, v FROM a RIGHT JOIN b ON k = j AND v NOT IN (SELECT j * 10 FROM n) ORDER BY k, v",
        &["2|10", "null|20", "null|30", "null|40"],
    ),
    (
        "SELECT k, v FROM a FULL JOIN b ON k = j AND k IN (SELECT j FROM n WHERE j > 2) AND v >= ALL (SELECT j FROM n) ORDER BY k, v",
        &["1|null", "2|null", "3|30", "null|10", "null|20", "null|40", "null|null"],
    ),
    (
        "SELECT k, v FROM a FULL JOIN b ON k = j AND v > (SELECT avg(v) - 6 FROM b) ORDER BY k, v",
        &["1|null", "2|20", "3|30", "null|10", "null|40", "null|null"],
    ),
    // Correlated with one side, or with both of an inner join.
    (
        "SELECT k, v FROM a JOIN b ON k = b.j AND v >= (SELECT max(v) FROM b AS c WHERE c.j = a.k) ORDER BY k, v",
        &["2|20", "3|30"],
    ),
    (
        "SELECT k, v FROM a LEFT JOIN b ON k = b.j AND v < (SELECT max(v) FROM b AS c WHERE c.j = b.j) ORDER BY k, v",
        &["1|null", "2|10", "3|null", "null|null"],
    ),
    (
        "SELECT k, v FROM a LEFT JOIN b ON k = b.j AND v < (SELECT max(v) FROM b AS c WHERE c.j = a.k) ORDER BY k, v",
        &["1|null", "2|10", "3|null", "null|null"],
    ),
    (
        "SELECT k, v FROM a LEFT JOIN b ON k = b.j AND (EXISTS (SELECT 1 FROM n WHERE n.j = b.j AND n.j > 2) OR v = 10) ORDER BY k, v",
        &["1|null", "2|10", "3|30", "null|null"],
    ),
    (
        "SELECT k, v FROM a JOIN b ON k = b.j AND 1 = (SELECT count(*) FROM n WHERE n.j + 10 = b.v + a.k - 17) ORDER BY k, v",
        &[],
    ),
    (
        "SELECT k, v FROM a JOIN b ON k = b.j AND 1 = (SELECT count(*) FROM n WHERE n.j + 10 = b.v + a.k) ORDER BY k, v",
        &["2|10"],
    ),
    (
        "SELECT k FROM a LEFT ANTI JOIN b ON k = j AND k IN (SELECT j FROM n WHERE j > 2) ORDER BY k",
        &["1", "2", "null"],
    ),
    (
        "SELECT k, c FROM a JOIN LATERAL (SELECT count(*) AS c FROM b WHERE j = k) AS l ON c NOT IN (SELECT j FROM n) ORDER BY k",
        &["1|0", "3|1", "null|0"],
    ),
    (
        "SELECT j FROM n WHERE EXISTS (SELECT 1 FROM a LEFT JOIN b ON k = b.j AND v IN (SELECT n.j * 10 FROM n)
            WHERE k = n.j AND v IS NULL) ORDER BY j",
        &[],
    ),
];

const REFUSED: &[(&str, &str)] = &[
    (
        "SELECT k FROM a LEFT JOIN b ON EXISTS (SELECT 1 FROM n WHERE n.j = a.k AND n.j = b.j)",
        "a subquery that uses columns of both sides in ON of a LEFT JOIN is not supported",
    ),
    (
        "SELECT k FROM a FULL JOIN b ON k = b.j AND (random() < 2) = (k IN (SELECT j FROM n))",
        "a new value for each row in ON of a FULL JOIN",
    ),
    (
        "SELECT k FROM a LEFT JOIN LATERAL (SELECT count(*) AS c FROM b WHERE j = k) AS l ON c IN (SELECT j FROM n)",
        "a subquery that uses columns of LATERAL in ON of a LEFT JOIN",
    ),
];

#[tokio::test]
async fn conditions_of_joins_have_subqueries() {
    let bench = Bench::new().await;
    for partitions in [1, 3] {
        for (sql, expected) in CASES {
            let rows = bench.rows(&format!("{TABLES}{sql}"), partitions).await;
            let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
            assert_eq!(rows, *expected, "{partitions} partitions: {sql}");
        }
    }
    for (sql, told) in REFUSED {
        let refused = bench.try_rows(&format!("{TABLES}{sql}"), 1).await;
        let message = refused.expect_err("this is refused").to_string();
        assert!(message.contains(told), "{sql}: {message}");
    }
}
