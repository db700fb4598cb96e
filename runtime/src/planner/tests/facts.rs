//! What is known of rows below an operator and holds no more above it: constants, equalities, orders.

use super::harness::Bench;

/// A query that orders its rows or groups them, and its rows in order.
const ROWS: &[(&str, &[&str])] = &[
    // A constant of the side of an outer join that may be missing.
    (
        "SELECT a.id, b.c FROM (VALUES (1), (2), (3), (4)) a(id)
         LEFT JOIN (SELECT 5 AS c, x FROM (VALUES (2), (4)) v(x)) b ON a.id = b.x ORDER BY b.c, a.id",
        &["2|5", "4|5", "1|null", "3|null"],
    ),
    (
        "SELECT a.id, b.c FROM (SELECT 5 AS c, x FROM (VALUES (2), (4)) v(x)) b
         RIGHT JOIN (VALUES (1), (2), (3), (4)) a(id) ON a.id = b.x ORDER BY b.c NULLS FIRST, a.id DESC",
        &["3|null", "1|null", "4|5", "2|5"],
    ),
    (
        "SELECT a.id, a.one, b.c FROM (SELECT id, 1 AS one FROM (VALUES (1), (2)) t(id)) a
         FULL JOIN (SELECT 5 AS c, x FROM (VALUES (2), (4)) v(x)) b ON a.id = b.x ORDER BY a.one, b.c",
        &["2|1|5", "1|1|null", "null|null|5"],
    ),
    (
        "SELECT a.id, b.k FROM (SELECT id FROM tiny WHERE id < 4) a LEFT JOIN (SELECT id, k FROM mid WHERE k = 15) b
         ON a.id = b.id ORDER BY b.k DESC NULLS LAST, a.id",
        &["2|15", "0|null", "1|null", "3|null"],
    ),
    (
        "SELECT a.id, b.c FROM (VALUES (1), (2), (3)) a(id) LEFT JOIN (SELECT 5 AS c, x FROM (VALUES (2)) v(x)) b
         ON a.id > b.x ORDER BY coalesce(b.c, 9), a.id",
        &["3|5", "1|null", "2|null"],
    ),
    (
        "SELECT b.c, count(*) FROM generate_series(1, 30000) a(id) LEFT JOIN (SELECT 5 AS c, value AS x FROM
         generate_series(1, 30000, 2)) b ON a.id = b.x GROUP BY b.c ORDER BY b.c",
        &["5|15000", "null|15000"],
    ),
    (
        "SELECT DISTINCT b.c FROM generate_series(1, 30000) a(id) LEFT JOIN (SELECT 5 AS c, value AS x FROM
         generate_series(1, 30000, 2)) b ON a.id = b.x ORDER BY b.c",
        &["5", "null"],
    ),
    (
        "SELECT c, max(n) FROM (SELECT b.c, row_number() OVER (PARTITION BY b.c) AS n FROM generate_series(1, 30000) a(id)
         LEFT JOIN (SELECT 5 AS c, value AS x FROM generate_series(1, 30000, 2)) b ON a.id = b.x) GROUP BY c ORDER BY c",
        &["5|15000", "null|15000"],
    ),
    // Keys that are NULL in some sets.
    (
        "SELECT g, count(*) FROM big WHERE g = 1 GROUP BY ROLLUP (g) ORDER BY g",
        &["1|240", "null|240"],
    ),
    (
        "SELECT g, count(*) FROM big WHERE g = 1 GROUP BY ROLLUP (g) ORDER BY g NULLS FIRST",
        &["null|240", "1|240"],
    ),
    (
        "SELECT 1 AS one, g, count(*) FROM big WHERE g < 2 GROUP BY CUBE (one, g) ORDER BY one NULLS FIRST, g",
        &["null|0|240", "null|1|240", "null|null|480", "1|0|240", "1|1|240", "1|null|480"],
    ),
    (
        "SELECT a.g, b.g AS h, count(*) FROM big a JOIN mid b ON a.id = b.id AND a.g = b.g WHERE a.g < 2
         GROUP BY ROLLUP (a.g, b.g) ORDER BY a.g, h",
        &["0|0|60", "0|null|60", "1|1|60", "1|null|60", "null|null|120"],
    ),
    (
        "SELECT a.g, b.g AS h, count(*) FROM big a JOIN mid b ON a.id = b.id AND a.g = b.g WHERE a.g < 2
         GROUP BY GROUPING SETS ((a.g), (b.g)) ORDER BY h, a.g",
        &["null|0|60", "null|1|60", "0|null|60", "1|null|60"],
    ),
    (
        "SELECT a.g, b.g AS h, count(*) FROM big a JOIN mid b ON a.id = b.id AND a.g = b.g WHERE a.g < 2
         GROUP BY GROUPING SETS ((a.g, b.g), (b.g)) ORDER BY a.g, h",
        &["0|0|60", "1|1|60", "null|0|60", "null|1|60"],
    ),
    (
        "SELECT a, g, count(*) FROM (SELECT value / 10000 AS a, (value % 10000) / 5000 AS g FROM generate_series(0, 39999)
         ORDER BY a, g LIMIT 100000) GROUP BY GROUPING SETS ((a, g), (g)) ORDER BY a, g",
        &[
            "0|0|5000", "0|1|5000", "1|0|5000", "1|1|5000", "2|0|5000", "2|1|5000", "3|0|5000", "3|1|5000",
            "null|0|20000", "null|1|20000",
        ],
    ),
    (
        "SELECT a, g, count(*), first_value(v ORDER BY a, g, v) FROM (SELECT value / 10000 AS a, (value % 10000) / 5000 AS g,
         value AS v FROM generate_series(0, 39999)) GROUP BY GROUPING SETS ((a, g), (g)) ORDER BY a, g",
        &[
            "0|0|5000|0", "0|1|5000|5000", "1|0|5000|10000", "1|1|5000|15000", "2|0|5000|20000", "2|1|5000|25000",
            "3|0|5000|30000", "3|1|5000|35000", "null|0|20000|0", "null|1|20000|5000",
        ],
    ),
    (
        "SELECT a, g, count(*), cardinality(array_agg(v ORDER BY a, g, v)) FROM (SELECT value / 10000 AS a,
         (value % 10000) / 5000 AS g, value AS v FROM generate_series(0, 39999)) GROUP BY GROUPING SETS ((a, g), (g))
         ORDER BY a, g",
        &[
            "0|0|5000|5000", "0|1|5000|5000", "1|0|5000|5000", "1|1|5000|5000", "2|0|5000|5000", "2|1|5000|5000",
            "3|0|5000|5000", "3|1|5000|5000", "null|0|20000|20000", "null|1|20000|20000",
        ],
    ),
    // The order of one side within equal rows of the other.
    (
        "SELECT r.a, l.b FROM (SELECT x, b FROM (VALUES (1, 1), (1, 2), (1, 3)) v(x, b) ORDER BY b LIMIT 10) l
         JOIN (SELECT x, a FROM (VALUES (1, 7), (1, 7), (1, 8)) w(x, a) ORDER BY a LIMIT 10) r ON l.x = r.x
         ORDER BY r.a, l.b",
        &["7|1", "7|1", "7|2", "7|2", "7|3", "7|3", "8|1", "8|2", "8|3"],
    ),
    (
        "SELECT l.a, r.b FROM (SELECT x, a FROM (VALUES (1, 7), (1, 7), (1, 8)) w(x, a) ORDER BY a LIMIT 10) l
         JOIN (SELECT x, b FROM (VALUES (1, 1), (1, 2), (1, 3)) v(x, b) ORDER BY b LIMIT 10) r ON l.x = r.x
         ORDER BY l.a, r.b",
        &["7|1", "7|1", "7|2", "7|2", "7|3", "7|3", "8|1", "8|2", "8|3"],
    ),
    (
        "SELECT r.a, l.b FROM (SELECT x, b FROM (VALUES (1, 1), (1, 2), (1, 3)) v(x, b) ORDER BY b LIMIT 10) l
         RIGHT JOIN (SELECT x, a FROM (VALUES (1, 7), (1, 7), (2, 7)) w(x, a) ORDER BY a LIMIT 10) r ON l.x = r.x
         ORDER BY r.a, l.b",
        &["7|1", "7|1", "7|2", "7|2", "7|3", "7|3", "7|null"],
    ),
    (
        "SELECT l.x, l.a, r.b FROM (SELECT x, a FROM (VALUES (1, 7), (1, 7), (2, 8)) w(x, a) ORDER BY x, a LIMIT 10) l
         JOIN (SELECT x, b FROM (VALUES (1, 1), (1, 2), (1, 3)) v(x, b) ORDER BY x, b LIMIT 10) r ON l.x = r.x
         ORDER BY l.x, l.a, r.b",
        &["1|7|1", "1|7|1", "1|7|2", "1|7|2", "1|7|3", "1|7|3"],
    ),
    (
        "SELECT l.x, l.a, r.b FROM (SELECT x, a FROM (VALUES (1, 7), (1, 7), (2, 8)) w(x, a) ORDER BY x, a LIMIT 10) l
         LEFT JOIN (SELECT x, b FROM (VALUES (1, 1), (1, 2), (1, 3)) v(x, b) ORDER BY x, b LIMIT 10) r ON l.x = r.x
         ORDER BY l.x, l.a, r.b",
        &["1|7|1", "1|7|1", "1|7|2", "1|7|2", "1|7|3", "1|7|3", "2|8|null"],
    ),
    (
        "SELECT l.x, r.x AS y, l.v FROM (SELECT x, v FROM (VALUES (1, 7), (1, 8), (1, 7)) w(x, v)) l
         LEFT JOIN (SELECT x, b FROM (VALUES (1, 7)) v(x, b)) r ON l.x = r.x AND l.v > r.b ORDER BY l.x, y, l.v",
        &["1|1|8", "1|null|7", "1|null|7"],
    ),
    (
        "SELECT l.x, r.x AS y, l.v FROM (SELECT x, b FROM (VALUES (1, 7)) v(x, b)) r
         RIGHT JOIN (SELECT x, v FROM (VALUES (1, 7), (1, 8), (1, 7)) w(x, v)) l ON l.x = r.x AND l.v > r.b
         ORDER BY l.x, y, l.v",
        &["1|1|8", "1|null|7", "1|null|7"],
    ),
    (
        "SELECT r.x, r.a, l.b FROM (SELECT x, b FROM (VALUES (1, 1), (1, 2), (1, 3)) v(x, b) ORDER BY x, b LIMIT 10) l
         RIGHT JOIN (SELECT x, a FROM (VALUES (1, 7), (1, 7), (2, 8)) w(x, a) ORDER BY x, a LIMIT 10) r ON l.x = r.x
         ORDER BY r.x, r.a, l.b",
        &["1|7|1", "1|7|1", "1|7|2", "1|7|2", "1|7|3", "1|7|3", "2|8|null"],
    ),
    // Constants of the branches of a union, of windows, of values that are made from them.
    (
        "SELECT c, x FROM (SELECT 2 AS c, x FROM (VALUES (1), (2)) v(x) UNION ALL SELECT NULL, 3 UNION ALL SELECT 1, 4)
         ORDER BY c NULLS FIRST, x",
        &["null|3", "1|4", "2|1", "2|2"],
    ),
    (
        "SELECT c + 1 AS d, x FROM (SELECT 2 AS c, x FROM (VALUES (1), (2)) v(x) UNION ALL SELECT 1, 3) ORDER BY d, x",
        &["2|3", "3|1", "3|2"],
    ),
    (
        "SELECT n, x FROM (SELECT x, count(*) OVER (PARTITION BY g) AS n FROM (VALUES (1, 1), (1, 2), (2, 3)) v(g, x))
         ORDER BY n, x",
        &["1|3", "2|1", "2|2"],
    ),
    (
        "SELECT e, x FROM (SELECT x, x IN (SELECT 2) AS e FROM (VALUES (1), (2), (3)) v(x)) ORDER BY e, x",
        &["false|1", "false|3", "true|2"],
    ),
];

#[tokio::test]
async fn nothing_is_taken_for_known_that_holds_no_more() {
    let bench = Bench::new().await;
    let mut wrong = Vec::new();
    for (partitions, options) in [
        (1, &[][..]),
        (3, &[]),
        (13, &[]),
        (1, &[("datafusion.optimizer.prefer_hash_join", "false")]),
        (3, &[("datafusion.optimizer.prefer_hash_join", "false")]),
        (
            3,
            &[("datafusion.optimizer.hash_join_single_partition_threshold", "0")],
        ),
    ] {
        for (sql, expected) in ROWS {
            let told = match bench.rows_with(sql, partitions, options).await {
                Ok(rows) => {
                    let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
                    (rows != *expected).then(|| format!("{expected:?}, not {rows:?}"))
                }
                Err(error) => Some(error.to_string()),
            };
            wrong.extend(told.map(|told| format!("{partitions} partitions, {options:?}: {sql}\n  {told}")));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
