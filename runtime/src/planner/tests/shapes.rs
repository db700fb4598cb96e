//! What TPC-H does not have: unions, windows, grouping sets, limits, nested types, recursion.

use super::harness::Bench;

async fn all(queries: &[&str]) {
    let bench = Bench::new().await;
    let queries: Vec<String> = queries.iter().map(|sql| (*sql).to_owned()).collect();
    bench.same_all(&queries, &[1, 3, 4], &[&[]]).await;
}

#[tokio::test]
async fn scans_filters_and_aggregates() {
    all(&[
        "SELECT * FROM big",
        "SELECT id, k + 1 AS k1, upper(s) FROM big WHERE d > 10 AND s LIKE '%1%'",
        "SELECT count(*) FROM big",
        "SELECT count(*), sum(d), min(ts), max(s), avg(d) FROM big WHERE k > 20",
        "SELECT sum(d) FROM none",
        "SELECT g, count(*), sum(d), count(DISTINCT k) FROM big GROUP BY g",
        "SELECT k, g, max(w) FROM big GROUP BY k, g HAVING count(*) > 2",
        "SELECT DISTINCT k, s FROM big",
        "SELECT DISTINCT f FROM big",
        "SELECT f, count(*) FROM big GROUP BY f",
        "SELECT ts, w, count(*) FROM big GROUP BY ts, w",
        "SELECT p, count(*) FROM big GROUP BY p",
        "SELECT p['x'] AS x, count(*) FROM big GROUP BY x",
        "SELECT count(DISTINCT s), count(DISTINCT k) FROM big",
        "SELECT g, sum(d) FILTER (WHERE k > 10) FROM big GROUP BY g",
        "SELECT g, array_agg(id ORDER BY id) FROM mid GROUP BY g",
        "SELECT g, first_value(id ORDER BY d, id) FROM mid GROUP BY g",
        "SELECT date_trunc('month', ts) AS m, median(d) FROM big GROUP BY m",
        "SELECT CASE WHEN k > 10 THEN 'high' WHEN k IS NULL THEN 'none' ELSE s END AS c, count(*) FROM big GROUP BY c",
    ])
    .await;
}

#[tokio::test]
async fn grouping_sets() {
    all(&[
        "SELECT g, w, sum(d), grouping(g) FROM big GROUP BY ROLLUP (g, w)",
        "SELECT g, w, count(*) FROM big GROUP BY CUBE (g, w)",
        "SELECT g, s, count(*) FROM big GROUP BY GROUPING SETS ((g), (s), ())",
    ])
    .await;
}

#[tokio::test]
async fn unions_intersections_and_differences() {
    all(&[
        "SELECT id, s FROM big UNION ALL SELECT id, s FROM mid",
        "SELECT k FROM big UNION SELECT k FROM mid",
        "SELECT k, g FROM big INTERSECT SELECT k, g FROM mid",
        "SELECT k, g FROM big EXCEPT SELECT k, g FROM mid",
        "SELECT k, count(*) FROM (SELECT k FROM big UNION ALL SELECT k FROM mid UNION ALL SELECT k FROM none) GROUP BY k",
        "SELECT t.k, b.s FROM (SELECT k, 1 AS one FROM big UNION ALL SELECT k, NULL FROM mid) t JOIN tiny b ON t.k = b.k",
        "SELECT t.id, u.id FROM (SELECT id, k FROM mid UNION ALL SELECT id, k FROM tiny) t \
         JOIN (SELECT id, k FROM mid UNION ALL SELECT id, k FROM tiny) u ON t.k = u.k",
        "SELECT k, n FROM (SELECT k, count(*) n FROM big GROUP BY k UNION ALL SELECT k, count(*) n FROM mid GROUP BY k)",
        "SELECT k, sum(n) FROM (SELECT k, count(*) n FROM big GROUP BY k UNION ALL SELECT k, count(*) n FROM mid GROUP BY k) GROUP BY k",
        "SELECT id FROM big UNION ALL SELECT id FROM mid ORDER BY id LIMIT 20",
        "SELECT x FROM (VALUES (1), (2), (NULL)) t(x) UNION ALL SELECT k FROM big",
        "SELECT 1 AS one UNION ALL SELECT 2 UNION ALL SELECT NULL",
        "SELECT id FROM mid UNION ALL (SELECT id FROM big ORDER BY d, id LIMIT 5)",
    ])
    .await;
}

#[tokio::test]
async fn orders_limits_and_offsets() {
    all(&[
        "SELECT id, d FROM big ORDER BY d DESC NULLS LAST, id",
        "SELECT id FROM big ORDER BY id LIMIT 10",
        "SELECT id FROM big ORDER BY id DESC LIMIT 10 OFFSET 7",
        "SELECT id FROM big ORDER BY id OFFSET 1190",
        "SELECT g, sum(d) AS t FROM big GROUP BY g ORDER BY t LIMIT 3",
        "SELECT k, g, count(*) c FROM big GROUP BY k, g ORDER BY c DESC, k, g LIMIT 9",
        "SELECT f, id FROM big ORDER BY f NULLS FIRST, id LIMIT 200",
        "SELECT * FROM (SELECT id, k FROM big ORDER BY id LIMIT 50) WHERE k > 10",
        "SELECT count(*) FROM (SELECT id FROM big LIMIT 77)",
        "SELECT count(*) FROM (SELECT id FROM big LIMIT 77 OFFSET 1150)",
        "SELECT count(*) FROM (SELECT id FROM big WHERE k > 5 LIMIT 0)",
        "SELECT count(*) FROM (SELECT DISTINCT k FROM big LIMIT 5)",
        "SELECT count(*) FROM (SELECT id FROM big UNION ALL SELECT id FROM mid LIMIT 1000)",
        "SELECT count(*) FROM (SELECT a.id FROM big a JOIN mid b ON a.k = b.k LIMIT 33)",
        "SELECT DISTINCT g FROM big ORDER BY g",
        "SELECT s FROM big ORDER BY id DESC",
        "SELECT s, k FROM big ORDER BY id LIMIT 40",
        "SELECT * FROM (SELECT s FROM big ORDER BY id)",
        "SELECT id, row_number() OVER (ORDER BY id) FROM mid ORDER BY id LIMIT 12",
    ])
    .await;
}

#[tokio::test]
async fn windows() {
    all(&[
        "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) FROM big",
        "SELECT id, rank() OVER (PARTITION BY g ORDER BY d), dense_rank() OVER (PARTITION BY g ORDER BY d) FROM big",
        "SELECT id, sum(d) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM mid",
        "SELECT id, sum(d) OVER () FROM mid",
        "SELECT id, lag(id) OVER (PARTITION BY w ORDER BY id), lead(s, 2) OVER (PARTITION BY w ORDER BY id) FROM mid",
        "SELECT * FROM (SELECT id, g, row_number() OVER (PARTITION BY g ORDER BY d DESC, id) AS n FROM big) WHERE n <= 3",
        "SELECT g, sum(t) OVER (PARTITION BY g % 2 ORDER BY g) FROM (SELECT g, sum(d) AS t FROM big GROUP BY g)",
        "SELECT id, count(*) OVER (PARTITION BY k), avg(d) OVER (PARTITION BY s ORDER BY id) FROM mid",
        "SELECT id, ntile(4) OVER (ORDER BY id), first_value(id) OVER (PARTITION BY g ORDER BY id DESC) FROM mid",
        "SELECT id, sum(k) OVER (PARTITION BY g ORDER BY ts RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW) FROM mid",
    ])
    .await;
}

#[tokio::test]
async fn nested_types_values_and_series() {
    all(&[
        "SELECT id, unnest(l) FROM mid",
        "SELECT u, count(*) FROM (SELECT unnest(l) AS u FROM big) GROUP BY u",
        "SELECT id, l, array_length(l), p FROM mid WHERE id < 50",
        "SELECT l, count(*) FROM big GROUP BY l",
        "SELECT unnest(p) FROM tiny",
        "SELECT * FROM (VALUES (1, 'a'), (2, NULL)) t(a, b)",
        "SELECT 1 + 1",
        "SELECT 1 WHERE false",
        "SELECT value FROM generate_series(1, 20)",
        "SELECT b.id, v.value FROM mid b JOIN generate_series(1, 20) v ON b.k = v.value",
        "SELECT m.id, t.c FROM mid m JOIN (VALUES (1, 'x'), (2, 'y')) t(g, c) ON m.g = t.g",
        "SELECT id FROM none ORDER BY id",
        "SELECT a.id FROM none a LEFT JOIN big b ON a.id = b.id",
    ])
    .await;
}

#[tokio::test]
async fn recursive_queries() {
    all(&[
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 25) SELECT * FROM t",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION SELECT (n + 1) % 7 FROM t) SELECT n FROM t ORDER BY n",
        "WITH RECURSIVE t(id, depth, unread) AS (SELECT id, 0, s FROM mid WHERE id = 1 \
         UNION ALL SELECT b.id, t.depth + 1, b.s FROM t JOIN mid b ON b.id = t.id * 2) \
         SELECT depth, count(*) FROM t GROUP BY depth",
        "WITH RECURSIVE t(n) AS (SELECT max(k) FROM big UNION ALL SELECT n - 7 FROM t WHERE n > 0) \
         SELECT t.n, count(b.id) FROM t LEFT JOIN big b ON b.k = t.n GROUP BY t.n",
        "WITH RECURSIVE t(n, c) AS (SELECT CAST(0 AS BIGINT) AS n, CAST(1 AS BIGINT) AS c UNION ALL \
         SELECT t.n + 1, x.c FROM t CROSS JOIN \
         (SELECT count(*) AS c FROM (SELECT DISTINCT k FROM big UNION ALL SELECT k FROM mid)) x WHERE t.n < 3) \
         SELECT * FROM t",
        "WITH RECURSIVE t(n) AS (SELECT 1 AS n UNION ALL SELECT t.n + 1 FROM t JOIN \
         (SELECT g, count(*) c FROM big GROUP BY g UNION ALL SELECT g, count(*) c FROM mid GROUP BY g) x \
         ON x.g = t.n WHERE t.n < 4) SELECT n, count(*) FROM t GROUP BY n",
    ])
    .await;
}

#[tokio::test]
async fn ctes_and_subqueries_in_from() {
    all(&[
        "WITH t AS (SELECT k, sum(d) AS t FROM big GROUP BY k) SELECT a.k, a.t, b.t FROM t a JOIN t b ON a.k = b.k + 1",
        "WITH t AS (SELECT g, sum(d) AS t FROM big GROUP BY g) SELECT g FROM t WHERE t = (SELECT max(t) FROM t)",
        "SELECT a.g, b.n FROM (SELECT g, max(id) AS m FROM big GROUP BY g) a JOIN (SELECT id, k AS n FROM big) b ON a.m = b.id",
    ])
    .await;
}
