//! Subqueries as SQL defines them, with NULL, without rows, with limits; or refused.

use super::harness::Bench;

/// A query over `a`, `b` and `e`, and its rows. `None`: it is refused.
type Case = (&'static str, Option<&'static [&'static str]>);

/// `a` has a key that nothing refers to and NULL, `b` a key twice and NULL, `e` no row.
const TABLES: &str = "WITH a(k) AS (VALUES (1), (2), (3), (CAST(NULL AS INT))),
     b(j, v) AS (VALUES (2, 10), (2, 20), (3, 30), (CAST(NULL AS INT), 40)),
     e(j) AS (SELECT j FROM b WHERE v < 0), n(j) AS (SELECT j FROM b WHERE v > 10 AND v < 40) ";

const CASES: &[Case] = &[
    // = ANY, <> ALL, and the others; b.j is (2, 2, 3, NULL), n.j is (2, 3).
    (
        "SELECT k, k = ANY (SELECT j FROM b) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|true", "3|true", "null|null"]),
    ),
    (
        "SELECT k, k = ANY (SELECT j FROM n) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|true", "3|true", "null|null"]),
    ),
    (
        "SELECT k, k = SOME (SELECT j FROM e) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|false", "3|false", "null|false"]),
    ),
    (
        "SELECT k, k <> ALL (SELECT j FROM b) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|false", "3|false", "null|null"]),
    ),
    (
        "SELECT k, k <> ALL (SELECT j FROM n) AS x FROM a ORDER BY k",
        Some(&["1|true", "2|false", "3|false", "null|null"]),
    ),
    (
        "SELECT k, k <> ALL (SELECT j FROM e) AS x FROM a ORDER BY k",
        Some(&["1|true", "2|true", "3|true", "null|true"]),
    ),
    (
        "SELECT k, k > ANY (SELECT j FROM b) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|null", "3|true", "null|null"]),
    ),
    (
        "SELECT k, k > ALL (SELECT j FROM b) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|false", "3|false", "null|null"]),
    ),
    (
        "SELECT k, k <= ALL (SELECT j FROM b) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|null", "3|false", "null|null"]),
    ),
    (
        "SELECT k, k >= ALL (SELECT j FROM n) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|false", "3|true", "null|null"]),
    ),
    (
        "SELECT k, k < ANY (SELECT j FROM n) AS x, k <= ANY (SELECT j FROM n) AS y FROM a ORDER BY k",
        Some(&["1|true|true", "2|true|true", "3|false|true", "null|null|null"]),
    ),
    (
        "SELECT k, k < ALL (SELECT j FROM e) AS x, k > ANY (SELECT j FROM e) AS y FROM a ORDER BY k",
        Some(&["1|true|false", "2|true|false", "3|true|false", "null|true|false"]),
    ),
    (
        "SELECT k, k <> ANY (SELECT j FROM b) AS x, k = ALL (SELECT j FROM b) AS y FROM a ORDER BY k",
        Some(&["1|true|false", "2|true|false", "3|true|false", "null|null|null"]),
    ),
    (
        "SELECT k, k <> ANY (SELECT j FROM b WHERE v <= 20 OR v = 40) AS x, \
         k = ALL (SELECT j FROM b WHERE v <= 20) AS y FROM a ORDER BY k",
        Some(&["1|true|false", "2|null|true", "3|true|false", "null|null|null"]),
    ),
    // Numbers and text are compared as in k > s.
    (
        "SELECT k, k * 5 > ALL (SELECT CAST(v AS VARCHAR) FROM b WHERE v < 15) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|false", "3|true", "null|null"]),
    ),
    (
        "SELECT k, k > ANY (SELECT v FROM b WHERE b.j = a.k) AS x, \
         k < ALL (SELECT v FROM b WHERE b.j = a.k) AS y FROM a ORDER BY k",
        Some(&["1|false|true", "2|false|true", "3|false|true", "null|false|true"]),
    ),
    (
        "SELECT k FROM a WHERE k > 2 OR k < ALL (SELECT v FROM b WHERE v > a.k * 10) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT j FROM n UNION SELECT 1) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT NULL AS x UNION SELECT j FROM n) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN ((SELECT k AS x FROM a WHERE k = 1) UNION (SELECT j AS y FROM n WHERE j > 2)) ORDER BY k",
        Some(&["2"]),
    ),
    (
        "SELECT k FROM a WHERE k = 1 OR k IN (SELECT j + 0 FROM n UNION ALL SELECT 5) ORDER BY k",
        Some(&["1", "2", "3"]),
    ),
    (
        "SELECT count(*) FROM a HAVING count(*) = 0 OR count(*) IN (SELECT count(*) FROM b)",
        Some(&["4"]),
    ),
    (
        "SELECT k FROM a WHERE k IN (VALUES (1), (3)) OR k IS NULL ORDER BY k",
        Some(&["1", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE k IN (VALUES (1), (3)) ORDER BY k",
        Some(&["1", "3"]),
    ),
    (
        "SELECT k FROM a WHERE k = ANY (SELECT j FROM b) ORDER BY k",
        Some(&["2", "3"]),
    ),
    (
        "SELECT k FROM a WHERE NOT k = ANY (SELECT j FROM b) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE NOT k = ANY (SELECT j FROM n) ORDER BY k",
        Some(&["1"]),
    ),
    (
        "SELECT k FROM a WHERE k <> ALL (SELECT j FROM b) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k <> ALL (SELECT j FROM n) ORDER BY k",
        Some(&["1"]),
    ),
    (
        "SELECT k FROM a WHERE k <> ALL (SELECT j FROM e) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE k > ANY (SELECT j FROM b) ORDER BY k",
        Some(&["3"]),
    ),
    (
        "SELECT k FROM a WHERE k > ALL (SELECT j FROM b) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k > ALL (SELECT j FROM e) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE NOT k > ALL (SELECT j FROM b) ORDER BY k",
        Some(&["1", "2", "3"]),
    ),
    (
        "SELECT k FROM a WHERE (k > ALL (SELECT j FROM b)) IS NULL ORDER BY k",
        Some(&["null"]),
    ),
    (
        "SELECT k FROM a WHERE k = ANY (SELECT j FROM b WHERE b.v > a.k * 10) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k <> ANY (SELECT j FROM n) ORDER BY k",
        Some(&["1", "2", "3"]),
    ),
    (
        "SELECT k FROM a WHERE k = ALL (SELECT j FROM n) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k = ANY (ARRAY[1, 3]) ORDER BY k",
        Some(&["1", "3"]),
    ),
    // EXISTS over what has a row for nothing, and over limits.
    (
        "SELECT k FROM a WHERE EXISTS (SELECT count(*) FROM b WHERE b.j = a.k LIMIT 1) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT count(*) FROM b WHERE b.j = a.k LIMIT 0) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT count(*) FROM b WHERE b.j = a.k OFFSET 1) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE NOT EXISTS (SELECT count(*) FROM b WHERE b.j = a.k OFFSET 1) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT count(*) FROM b WHERE b.j = a.k ORDER BY 1 LIMIT 5) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT sum(v) FROM b WHERE b.j = a.k HAVING count(*) = 0) ORDER BY k",
        Some(&["1", "null"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT sum(v) FROM b WHERE b.j = a.k HAVING count(*) > 1 LIMIT 1) ORDER BY k",
        Some(&["2"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.j = a.k LIMIT 1) ORDER BY k",
        Some(&["2", "3"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.j = a.k LIMIT 0) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.j = a.k OFFSET 1) ORDER BY k",
        Some(&["2"]),
    ),
    (
        "SELECT k FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.j = a.k OFFSET 1) ORDER BY k",
        Some(&["1", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT j FROM b WHERE b.j = a.k GROUP BY j HAVING count(*) > 1) ORDER BY k",
        Some(&["2"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b OFFSET 4) ORDER BY k",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b OFFSET 3) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k, EXISTS (SELECT 1 FROM b WHERE b.j = a.k LIMIT 0) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|false", "3|false", "null|false"]),
    ),
    (
        "SELECT k, EXISTS (SELECT 1 FROM b WHERE b.j = a.k OFFSET 1) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|true", "3|false", "null|false"]),
    ),
    // IN with limits.
    (
        "SELECT k FROM a WHERE k * 5 IN (SELECT v FROM b WHERE b.j = a.k ORDER BY v LIMIT 1) ORDER BY k",
        None,
    ),
    (
        "SELECT k FROM a WHERE k * 10 IN (SELECT v FROM b WHERE b.j = a.k ORDER BY v LIMIT 1) ORDER BY k",
        None,
    ),
    (
        "SELECT k FROM a WHERE k IN (SELECT j FROM b ORDER BY v LIMIT 2) ORDER BY k",
        Some(&["2"]),
    ),
    // Conditions on the outer query alone.
    (
        "SELECT k FROM a WHERE k IN (SELECT j FROM b WHERE a.k > 2) ORDER BY k",
        Some(&["3"]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT j FROM n WHERE a.k > 2) ORDER BY k",
        Some(&["1", "2", "null"]),
    ),
    (
        "SELECT k FROM a WHERE k = 1 OR k IN (SELECT DISTINCT j FROM b WHERE a.k > 2) ORDER BY k",
        Some(&["1", "3"]),
    ),
    (
        "SELECT k, k IN (SELECT j FROM b WHERE a.k < 3) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|true", "3|false", "null|false"]),
    ),
    (
        "SELECT k, EXISTS (SELECT 1 FROM b WHERE a.k > 2) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|false", "3|true", "null|false"]),
    ),
    (
        "SELECT k FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE a.k > 2 AND b.j = a.k) ORDER BY k",
        Some(&["1", "2", "null"]),
    ),
    // Scalars in aggregates, groups, windows and sorts.
    (
        "SELECT sum(k + (SELECT max(j) FROM b)) AS s FROM a",
        Some(&["15"]),
    ),
    (
        "SELECT k, sum(k + (SELECT max(j) FROM b)) OVER () AS s FROM a ORDER BY k",
        Some(&["1|15", "2|15", "3|15", "null|15"]),
    ),
    (
        "SELECT (SELECT 42) AS x, max(k) AS m FROM a GROUP BY x",
        Some(&["42|3"]),
    ),
    (
        "SELECT k FROM a ORDER BY k = (SELECT max(j) FROM n) DESC NULLS LAST, k",
        Some(&["3", "1", "2", "null"]),
    ),
    (
        "SELECT (SELECT (SELECT (SELECT 99))) AS x, (SELECT max(j) + (SELECT min(j) FROM b) FROM b) AS y",
        Some(&["99|5"]),
    ),
    // Conditions that fold to NULL before they are a join.
    (
        "SELECT k FROM a WHERE 5 NOT IN (SELECT CAST(NULL AS INT) FROM b)",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE CAST(NULL AS INT) NOT IN (SELECT CAST(NULL AS INT) FROM b)",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE CAST(NULL AS INT) NOT IN (SELECT j FROM n)",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT x FROM (SELECT CAST(NULL AS INT) AS x FROM b) AS s)",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT nullif(1, 1) FROM b)",
        Some(&[]),
    ),
    (
        "SELECT x FROM (SELECT k AS y, CAST(NULL AS INT) AS x FROM a) AS s WHERE x NOT IN (SELECT j FROM n)",
        Some(&[]),
    ),
    (
        "SELECT k FROM a WHERE CAST(NULL AS INT) NOT IN (SELECT j FROM e) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE 5 NOT IN (SELECT 6 FROM b) ORDER BY k",
        Some(&["1", "2", "3", "null"]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT 2 FROM b) ORDER BY k",
        Some(&["1", "3"]),
    ),
    (
        "SELECT k FROM a WHERE k + 1 NOT IN (SELECT j FROM n) ORDER BY k",
        Some(&["3"]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT j FROM n UNION SELECT v FROM b WHERE v > 30) ORDER BY k",
        Some(&["1"]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT j FROM b ORDER BY v LIMIT 2) ORDER BY k",
        Some(&["1", "3"]),
    ),
    (
        "SELECT k FROM a WHERE k * 0 IN (SELECT count(*) FROM b WHERE b.j = a.k HAVING count(*) < 5) ORDER BY k",
        Some(&["1"]),
    ),
    (
        "SELECT k FROM a WHERE k NOT IN (SELECT count(*) FROM b WHERE b.j = a.k HAVING count(*) > 1) ORDER BY k",
        Some(&["1", "3", "null"]),
    ),
    (
        "SELECT k, k IN (SELECT count(*) FROM b WHERE b.j = a.k HAVING count(*) > 1) AS x FROM a ORDER BY k",
        Some(&["1|false", "2|true", "3|false", "null|false"]),
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.j = a.k ORDER BY v LIMIT 1 OFFSET 1) ORDER BY k",
        Some(&["2"]),
    ),
    // Values.
    (
        "SELECT k, (SELECT v FROM b WHERE b.j = a.k ORDER BY v DESC LIMIT 1) AS x FROM a ORDER BY k",
        None,
    ),
    (
        "SELECT k, (SELECT max(v) FROM b WHERE b.j = a.k LIMIT 1) AS x FROM a ORDER BY k",
        None,
    ),
    (
        "SELECT k, (SELECT max(v) FROM b WHERE b.j = a.k LIMIT 0) AS x FROM a ORDER BY k",
        None,
    ),
    (
        "SELECT k, (SELECT max(v) FROM b WHERE b.j = a.k OFFSET 1) AS x FROM a ORDER BY k",
        None,
    ),
    (
        "SELECT k, (SELECT v FROM b ORDER BY v OFFSET 2 LIMIT 1) AS x FROM a ORDER BY k",
        Some(&["1|30", "2|30", "3|30", "null|30"]),
    ),
    (
        "SELECT k, (SELECT v FROM b ORDER BY v OFFSET 7 LIMIT 1) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|null", "3|null", "null|null"]),
    ),
    (
        "SELECT k, (SELECT count(*) FROM b WHERE b.j = a.k) AS x FROM a ORDER BY k",
        Some(&["1|0", "2|2", "3|1", "null|0"]),
    ),
    (
        "SELECT k, (SELECT count(*) + 1 FROM b WHERE b.j = a.k) AS x FROM a ORDER BY k",
        Some(&["1|1", "2|3", "3|2", "null|1"]),
    ),
    (
        "SELECT k, (SELECT coalesce(sum(v), 7) FROM b WHERE b.j = a.k) AS x FROM a ORDER BY k",
        Some(&["1|7", "2|30", "3|30", "null|7"]),
    ),
    (
        "SELECT k, (SELECT CASE WHEN count(*) = 0 THEN 'no' END FROM b WHERE b.j = a.k) AS x FROM a ORDER BY k",
        Some(&["1|no", "2|null", "3|null", "null|no"]),
    ),
    (
        "SELECT k, (SELECT count(*) FROM b WHERE b.j = a.k GROUP BY b.j) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|2", "3|1", "null|null"]),
    ),
    (
        "SELECT k, (SELECT count(*) FROM b WHERE b.j = a.k HAVING count(*) > 1) AS x FROM a ORDER BY k",
        Some(&["1|null", "2|2", "3|null", "null|null"]),
    ),
    (
        "SELECT k, (SELECT count(*) FROM b WHERE b.j = a.k HAVING count(*) = 0) AS x FROM a ORDER BY k",
        Some(&["1|0", "2|null", "3|null", "null|0"]),
    ),
    (
        "SELECT k, (SELECT sum(v) FROM b WHERE b.j = a.k HAVING count(*) <> 1) IS NULL AS x FROM a ORDER BY k",
        Some(&["1|true", "2|false", "3|true", "null|true"]),
    ),
    (
        "SELECT k FROM a WHERE (SELECT count(*) FROM b WHERE b.j = a.k) = 0 ORDER BY k",
        Some(&["1", "null"]),
    ),
    (
        "SELECT k FROM a WHERE (SELECT count(*) FROM b WHERE b.j > a.k) = 1 ORDER BY k",
        Some(&["2"]),
    ),
    // LATERAL.
    (
        "SELECT k, c FROM a CROSS JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.j = a.k) l ORDER BY k",
        Some(&["1|0", "2|2", "3|1", "null|0"]),
    ),
    (
        "SELECT k, v FROM a, LATERAL (SELECT v FROM b WHERE b.j = a.k) l ORDER BY k, v",
        Some(&["2|10", "2|20", "3|30"]),
    ),
    (
        "SELECT k, v FROM a LEFT JOIN LATERAL (SELECT v FROM b WHERE b.j = a.k) l ON true ORDER BY k, v",
        Some(&["1|null", "2|10", "2|20", "3|30", "null|null"]),
    ),
    (
        "SELECT k, v FROM a, LATERAL (SELECT v FROM b WHERE b.j = a.k ORDER BY v LIMIT 1) l ORDER BY k, v",
        None,
    ),
    (
        "SELECT k, v FROM a, LATERAL (SELECT v FROM b WHERE b.j = a.k ORDER BY v OFFSET 1) l ORDER BY k, v",
        None,
    ),
    (
        "SELECT k, s FROM a LEFT JOIN LATERAL (SELECT sum(v) AS s FROM b WHERE b.j = a.k) l ON s > 10 ORDER BY k",
        Some(&["1|null", "2|30", "3|30", "null|null"]),
    ),
    (
        "SELECT k, c FROM a LEFT JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.j = a.k) l ON c > 0 ORDER BY k",
        Some(&["1|null", "2|2", "3|1", "null|null"]),
    ),
    (
        "SELECT k, c FROM a CROSS JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.j = a.k HAVING count(*) <> 1) l ORDER BY k",
        None,
    ),
    (
        "SELECT k, c FROM a CROSS JOIN LATERAL (SELECT count(*) AS c FROM b WHERE b.j = a.k LIMIT 0) l ORDER BY k",
        None,
    ),
];

#[tokio::test]
async fn subqueries_have_the_rows_of_sql_or_are_refused() {
    let bench = Bench::new().await;
    let mut wrong = Vec::new();
    for partitions in [1, 3] {
        for (sql, expected) in CASES {
            let sql = format!("{TABLES}{sql}");
            let rows = bench.try_rows(&sql, partitions).await;
            let rows = rows.map(|rows| rows.iter().map(|row| row.join("|")).collect::<Vec<_>>());
            let (query, told) = (&sql[TABLES.len()..], format!("{rows:?}"));
            let right = match (&rows, expected) {
                (Ok(rows), Some(expected)) => rows == expected,
                (Err(_), None) => true,
                (Ok(_), None) | (Err(_), Some(_)) => false,
            };
            if !right {
                let told: String = told.chars().take(300).collect();
                wrong.push(format!("{partitions}: {query}\n  {expected:?}, not {told}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
