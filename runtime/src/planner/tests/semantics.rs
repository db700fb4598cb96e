//! Where DataFusion gives other rows than SQL asks for, the rows of SQL; and clauses that are refused, not dropped.

use sluice_core::plan::Determinism;

use super::super::{PlanError, plan};
use super::harness::Bench;

/// A query and its rows: cells joined by `|`, rows in the order of the query.
const ROWS: &[(&str, &[&str])] = &[
    (
        "SELECT k FROM (VALUES (1), (2)) a(k) FULL JOIN (VALUES (2), (3)) b(k) USING (k) ORDER BY k",
        &["1", "2", "3"],
    ),
    (
        "SELECT k, x, y FROM (VALUES (1, 10), (2, 20)) a(k, x) NATURAL FULL JOIN (VALUES (2, 200), (3, 300)) b(y_k, y)
         ORDER BY k NULLS LAST, y",
        &["1|10|200", "1|10|300", "2|20|200", "2|20|300"],
    ),
    (
        "SELECT * FROM (SELECT 1 AS k, 10 AS x) a NATURAL RIGHT JOIN (SELECT * FROM (VALUES (2, 200)) v(\"K\", k)) b ORDER BY k",
        &["200|null|2"],
    ),
    (
        "WITH a AS (SELECT column1 AS k, column2 AS x FROM (VALUES (1, 10), (2, 20)) v), b(k, y) AS (VALUES (2, 200), (3, 300))
         SELECT k, x, y FROM a NATURAL FULL JOIN b WHERE k > 0 ORDER BY k",
        &["1|10|null", "2|20|200", "3|null|300"],
    ),
    (
        "WITH a AS (SELECT id, id + 1 AS n FROM tiny WHERE id < 2)
         SELECT id, n, count(*) FROM a AS x NATURAL FULL JOIN (SELECT a.*, 1 AS one FROM a WHERE id > 0 UNION ALL
         SELECT 7, 8, 9) AS y GROUP BY id, n ORDER BY id",
        &["0|1|1", "1|2|1", "7|8|1"],
    ),
    (
        "SELECT count(*) FROM (SELECT id AS a FROM tiny WHERE id < 0) x NATURAL FULL JOIN (SELECT id AS b FROM tiny) y",
        &["7"],
    ),
    (
        "SELECT k, x, count(*) FROM (SELECT 1 AS k, 5 AS x) FULL JOIN (SELECT 2 AS k) USING (k) GROUP BY k, x ORDER BY k",
        &["1|5|1", "2|null|1"],
    ),
    // Each branch is sorted by one of two equal columns, which are others in the other branch.
    (
        "SELECT k AS a, k AS b, v AS c FROM (VALUES (1, 5), (2, 4)) x(k, v)
         UNION ALL SELECT v AS p, k AS q, v AS r FROM (VALUES (1, 0), (3, 1)) y(k, v) ORDER BY a, b, c",
        &["0|1|0", "1|1|5", "1|3|1", "2|2|4"],
    ),
    // A join that takes NULL for equal, beside conditions that do not.
    (
        "SELECT count(*) FROM (VALUES (1, CAST(NULL AS INT))) a(x, n) JOIN (VALUES (CAST(NULL AS INT))) b(n) ON a.n = b.n
         JOIN (VALUES (1)) c(x) ON a.x IS NOT DISTINCT FROM c.x",
        &["0"],
    ),
    (
        "SELECT count(*) FROM (VALUES (1, CAST(NULL AS INT))) a(x, n) JOIN (VALUES (1, CAST(NULL AS INT))) b(x, n)
         ON a.x IS NOT DISTINCT FROM b.x WHERE a.n = b.n",
        &["0"],
    ),
    (
        "SELECT count(*) FROM (VALUES (1, CAST(NULL AS INT)), (2, 3)) a(x, n) JOIN (VALUES (1, CAST(NULL AS INT)), (2, 3))
         b(x, n) ON a.n IS NOT DISTINCT FROM b.n AND a.x = b.x JOIN (VALUES (CAST(NULL AS INT)), (3)) c(n) ON a.n = c.n",
        &["1"],
    ),
    // Keys of two types, and an ANTI JOIN above: rules of DataFusion ask for the columns of USING.
    (
        "WITH w AS (SELECT k FROM (SELECT CAST(k AS TEXT) AS k FROM (VALUES (1)) a(k)) x JOIN (VALUES (1)) b(k) USING (k))
         SELECT count(*) FROM (VALUES (1), (2)) t(n) LEFT ANTI JOIN (SELECT NULL AS c FROM w) AS v ON true",
        &["0"],
    ),
    (
        "SELECT k, x, y FROM (VALUES (1, 10), (2, 20)) a(k, x) RIGHT JOIN (VALUES (2, 200), (3, 300)) b(k, y) USING (k)
         ORDER BY k",
        &["2|20|200", "3|null|300"],
    ),
    (
        "SELECT k, count(*) FROM (VALUES (1), (2)) a(k) FULL JOIN (VALUES (2), (3)) b(k) USING (k) WHERE k > 1
         GROUP BY k ORDER BY k",
        &["2|1", "3|1"],
    ),
    (
        "SELECT k, x FROM (VALUES (1, 5), (2, 6)) a(k, x) LEFT JOIN (VALUES (2)) b(k) USING (k)
         WHERE k < 2 OR k * 3 = x ORDER BY k",
        &["1|5", "2|6"],
    ),
    (
        "SELECT k FROM (VALUES (1), (2)) a(k) JOIN (VALUES (2), (1)) b(k) USING (k) JOIN (VALUES (2)) c(k) USING (k)
         WHERE k IS DISTINCT FROM 1",
        &["2"],
    ),
    (
        "SELECT k + 1, count(*) FROM (VALUES (1), (2)) a(k) JOIN (VALUES (2), (1)) b(k) USING (k)
         LEFT JOIN (VALUES (2)) c(k) USING (k) GROUP BY k ORDER BY k DESC",
        &["3|1", "2|1"],
    ),
    ("SELECT * FROM (VALUES (2)) a(k) JOIN (VALUES (2)) b(k) USING (k) JOIN (VALUES (2)) c(k) USING (k)", &["2"]),
    (
        "SELECT k FROM (SELECT 1 AS k, 2 AS x) NATURAL JOIN (SELECT 1 AS k, 3 AS y) WHERE k = 1 AND x < y",
        &["1"],
    ),
    // It has rows without a match, as there is nothing to match.
    (
        "SELECT x FROM (SELECT 1 AS x) a NATURAL LEFT JOIN (SELECT id AS y FROM tiny WHERE id < 0) b",
        &["1"],
    ),
    (
        "SELECT k FROM (VALUES (1), (2)) t(k)
         WHERE k = 1 OR k NOT IN (SELECT x FROM (VALUES (5), (CAST(NULL AS INT))) s(x)) ORDER BY k",
        &["1"],
    ),
    (
        "SELECT k, (k IN (SELECT x FROM (VALUES (1), (CAST(NULL AS INT))) s(x))) IS NULL FROM (VALUES (1), (2)) t(k)
         ORDER BY k",
        &["1|false", "2|true"],
    ),
    (
        "SELECT k FROM (VALUES (1), (2)) a(k)
         WHERE EXISTS (SELECT count(*) FROM (VALUES (2)) b(j) WHERE b.j = a.k) ORDER BY k",
        &["1", "2"],
    ),
    ("SELECT 1 IS DISTINCT FROM 2 AND false", &["false"]),
    (
        "SELECT s LIKE 'a!%b' ESCAPE '!', s LIKE 'a!!b' ESCAPE '!', s LIKE 'a!b' ESCAPE '!', s NOT LIKE 'a\\%' ESCAPE '!',
            s ILIKE 'A#_b%' ESCAPE '#', s LIKE 'a\\%b' ESCAPE '\\'
            FROM (VALUES (1, 'a%b'), (2, 'axb'), (3, 'a!b'), (4, 'ab'), (5, 'a\\b'), (6, 'A_bc')) v(n, s) ORDER BY n",
        &[
            "true|false|false|true|false|true",
            "false|false|false|true|false|false",
            "false|true|false|true|false|false",
            "false|false|true|true|false|false",
            "false|false|false|false|false|false",
            "false|false|false|true|true|false",
        ],
    ),
    ("SELECT 1 IS NOT DISTINCT FROM 1 AND false OR true", &["true"]),
    (
        "SELECT g, count(*) FROM (VALUES (1), (1), (2)) t(g) GROUP BY g WITH ROLLUP ORDER BY g NULLS LAST",
        &["1|2", "2|1", "null|3"],
    ),
    ("SELECT k FROM (VALUES (3), (1), (2)) t(k) ORDER BY k FETCH FIRST 2 ROWS ONLY", &["1", "2"]),
    // Grouping sets that are empty: a row for each.
    ("SELECT count(*) FROM big WHERE id < 10 GROUP BY GROUPING SETS (())", &["10"]),
    ("SELECT count(*), sum(id) FROM big WHERE id < 3 GROUP BY GROUPING SETS ((), ())", &["3|3", "3|3"]),
    ("SELECT count(*), sum(id) FROM big WHERE id < 0 GROUP BY GROUPING SETS ((), ())", &["0|null", "0|null"]),
    ("SELECT 7 AS x FROM big WHERE id < 0 GROUP BY GROUPING SETS ((), (), ())", &["7", "7", "7"]),
    ("SELECT count(*) FROM big WHERE id < 10 GROUP BY GROUPING SETS ((), ()) HAVING count(*) > 10", &[]),
    ("SELECT count(*) + 1 FROM big WHERE id < 10 GROUP BY GROUPING SETS (()) HAVING count(*) = 10", &["11"]),
    ("SELECT (SELECT count(*) FROM big WHERE id < 4 GROUP BY GROUPING SETS (())) AS c", &["4"]),
    (
        "SELECT c, count(*) FROM (SELECT count(*) AS c FROM big WHERE id < 4 GROUP BY GROUPING SETS ((), ())) GROUP BY c",
        &["4|2"],
    ),
    (
        "SELECT c, row_number() OVER (ORDER BY c) AS n FROM (SELECT count(*) AS c FROM big WHERE id < 4
         GROUP BY GROUPING SETS ((), ())) ORDER BY n",
        &["4|1", "4|2"],
    ),
    ("SELECT g, count(*) FROM big WHERE id < 0 GROUP BY GROUPING SETS ((g), (), ())", &["null|0", "null|0"]),
    ("SELECT g, count(*) FROM big WHERE id < 0 GROUP BY ROLLUP (g)", &["null|0"]),
    ("SELECT count(*) FROM big WHERE id < 5 GROUP BY ()", &["5"]),
    ("SELECT k FROM (VALUES (1), (2)) t(k) WHERE k IN (SELECT count(*) FROM big WHERE id < 2 GROUP BY GROUPING SETS (()))",
     &["2"]),
    (
        "SELECT k FROM (VALUES (1), (2)) a(k) WHERE EXISTS (SELECT count(*) FROM (VALUES (2)) b(j) WHERE b.j = a.k
         GROUP BY GROUPING SETS ((), ())) ORDER BY k",
        &["1", "2"],
    ),
    (
        "SELECT k FROM (VALUES (1), (2)) a(k) WHERE EXISTS (SELECT j, count(*) FROM (VALUES (2)) b(j) WHERE b.j = a.k
         GROUP BY ROLLUP (j)) ORDER BY k",
        &["1", "2"],
    ),
    (
        "SELECT k FROM (VALUES (1), (2)) a(k) WHERE EXISTS (SELECT count(*) FROM (VALUES (2)) b(j) WHERE b.j = a.k
         GROUP BY GROUPING SETS (()) HAVING count(*) = 0) ORDER BY k",
        &["1"],
    ),
    // Rows are counted by INTERSECT ALL and EXCEPT ALL; NULL is NULL.
    (
        "SELECT x FROM (SELECT x FROM (VALUES (1), (1), (1), (2), (NULL), (NULL), (3)) a(x) INTERSECT ALL
         SELECT x FROM (VALUES (1), (1), (2), (2), (NULL), (4)) b(x)) ORDER BY x NULLS LAST",
        &["1", "1", "2", "null"],
    ),
    (
        "SELECT x FROM (SELECT x FROM (VALUES (1), (1), (1), (2), (NULL), (NULL), (3)) a(x) EXCEPT ALL
         SELECT x FROM (VALUES (1), (1), (2), (2), (NULL), (4)) b(x)) ORDER BY x NULLS LAST",
        &["1", "3", "null"],
    ),
    (
        "SELECT g, count(*) FROM (SELECT g FROM big WHERE id < 100 EXCEPT ALL SELECT g FROM big WHERE id < 91) GROUP BY g
         ORDER BY g",
        &["0|1", "1|2", "2|2", "3|2", "4|2"],
    ),
    (
        "SELECT x, y FROM (SELECT x, y FROM (VALUES (1, 'a'), (1, 'a'), (1, 'b')) a(x, y) EXCEPT ALL
         SELECT x, y FROM (VALUES (1, 'a'), (2, 'b')) b(x, y)) ORDER BY y",
        &["1|a", "1|b"],
    ),
    // Other names and types, the same table, and operations in a row.
    (
        "SELECT x FROM (SELECT CAST(x AS BIGINT) AS x FROM (VALUES (1), (1), (2)) a(x) INTERSECT ALL
         SELECT y FROM (VALUES (1.0), (1.0), (1.0), (2.5)) b(y)) ORDER BY x",
        &["1", "1"],
    ),
    ("SELECT count(*) FROM (SELECT g FROM mid EXCEPT ALL SELECT g FROM mid)", &["0"]),
    ("SELECT count(*) = (SELECT count(*) FROM mid) FROM (SELECT g FROM mid INTERSECT ALL SELECT g FROM mid)", &["true"]),
    (
        "WITH v AS (SELECT x FROM (VALUES (1), (1), (1), (1)) v(x)) SELECT count(*) FROM (SELECT x FROM v EXCEPT ALL
         (SELECT x FROM v EXCEPT ALL SELECT 1) INTERSECT ALL SELECT x FROM v)",
        &["1"],
    ),
    ("SELECT DISTINCT x FROM (VALUES (1), (1)) a(x) INTERSECT ALL SELECT x FROM (VALUES (1), (1)) b(x)", &["1"]),
    // A filter that is false of its own stays above the group of all rows.
    ("SELECT count(*) FROM big HAVING 1 = 2", &[]),
    ("SELECT count(*) FROM big HAVING random() > 2", &[]),
    ("SELECT 1 AS one FROM none HAVING count(*) = 0 AND count(*) = 1", &[]),
    ("SELECT c FROM (SELECT g, count(*) AS c FROM big GROUP BY ROLLUP (g)) WHERE random() > 2", &[]),
    ("SELECT c FROM (SELECT g, count(*) AS c FROM big GROUP BY CUBE (g)) WHERE c = 1 AND c = 2", &[]),
    ("SELECT g, c FROM (SELECT g, count(*) AS c FROM big GROUP BY ROLLUP (g)) WHERE g = 1 AND g = 2", &[]),
    ("SELECT c FROM (SELECT 1 AS one, count(*) AS c FROM big GROUP BY ROLLUP (g)) WHERE one > 1", &[]),
    ("SELECT c FROM (SELECT count(*) AS c, 2 AS two FROM big) WHERE two < 1 OR NULL", &[]),
    ("SELECT c FROM (SELECT count(*) AS c FROM big WHERE id < 3) WHERE random() >= 0", &["3"]),
    ("SELECT count(*) FROM (SELECT g, count(*) AS c FROM big GROUP BY g) WHERE random() >= 0 AND c > 0", &["5"]),
];

#[tokio::test]
async fn rows_are_those_of_sql_in_any_number_of_partitions() {
    let bench = Bench::new().await;
    let mut wrong = Vec::new();
    for partitions in [1, 3, 13] {
        for (sql, expected) in ROWS {
            match bench.try_rows(sql, partitions).await {
                Ok(rows) => {
                    let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
                    if rows != *expected {
                        wrong.push(format!(
                            "{partitions} partitions: {sql}\n  {expected:?}, not {rows:?}"
                        ));
                    }
                }
                Err(error) => wrong.push(format!("{partitions} partitions: {sql}\n  {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// Which of some equal rows has a number is not to be seen: the attempts of a task have the same rows.
#[tokio::test]
async fn rows_that_are_counted_are_determinate() {
    let bench = Bench::new().await;
    let session = bench.session(3, &[]).await;
    for (sql, determinate) in [
        ("SELECT g, k FROM big EXCEPT ALL SELECT g, k FROM mid", true),
        (
            "SELECT g, k, row_number() OVER (PARTITION BY g) AS n FROM big",
            false,
        ),
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let worst = planned.graph.stages.iter().map(|stage| stage.determinism).max();
        assert_eq!(
            worst < Some(Determinism::Indeterminate),
            determinate,
            "{sql}: {worst:?}"
        );
    }
}

#[tokio::test]
async fn clauses_that_are_not_planned_are_refused_by_name() {
    let bench = Bench::new().await;
    let session = bench.session(2, &[]).await;
    for (sql, clause) in [
        ("SELECT id FROM big FOR UPDATE", "FOR UPDATE at line 1, column 20"),
        (
            "SELECT id FROM big ORDER BY id LIMIT 3 BY g",
            "BY at line 1, column 32",
        ),
        ("SELECT id FROM big FETCH FIRST 3 ROWS WITH TIES", "FETCH"),
        ("SELECT upper(s) OVER () FROM big", "OVER"),
    ] {
        let error = plan(&session.state(), sql).await.err();
        let error = error.unwrap_or_else(|| panic!("accepted: {sql}"));
        assert!(matches!(error, PlanError::Clause { .. }), "{sql}: {error:?}");
        assert!(error.to_string().contains(clause), "{sql}: {error}");
    }
}
