//! What functions may allocate.

use super::super::harness::Bench;
use super::overflows::edges;
use super::{check, failure};

/// Queries that ask for more than a worker or a coordinator has.
const GREEDY: &[(&str, &str)] = &[
    (
        "SELECT max(cardinality(array_repeat(v, 2000000000))) FROM edges",
        "array_repeat(edges.v, 2000000000) cannot be computed: it asks for 32000000000 bytes for one batch of rows",
    ),
    (
        "SELECT length(repeat('x', 2000000000))",
        "repeat('x', 2000000000) cannot be computed: it asks for 2000000000 bytes",
    ),
    (
        "SELECT repeat(s, 1000000000) FROM edges",
        "repeat(edges.s, 1000000000) cannot be computed",
    ),
    ("SELECT lpad(s, 2000000000, 'ab') FROM edges", "lpad(edges.s"),
    ("SELECT rpad(s, 2000000000) FROM edges", "rpad(edges.s"),
    (
        "SELECT cardinality(range(0, v)) FROM edges WHERE id = 0",
        "range(0, edges.v)",
    ),
    (
        "SELECT generate_series(DATE '0001-01-01', DATE '9999-12-31', INTERVAL '1 day')",
        "generate_series(",
    ),
    (
        "SELECT generate_series(TIMESTAMP '1700-01-01', TIMESTAMP '2200-01-01', INTERVAL '1 nanosecond')",
        "generate_series(",
    ),
    (
        "SELECT generate_series(DATE '2000-01-31', DATE '2100-01-01', INTERVAL '1 month -31 days')",
        "of both signs",
    ),
    (
        "SELECT cardinality(array_resize(make_array(v), 2000000000, 1)) FROM edges",
        "array_resize(",
    ),
    (
        "SELECT replace(repeat(s, 1000000), '2', repeat(s, 1000)) FROM edges",
        "replace(",
    ),
    (
        "SELECT regexp_replace(repeat(s, 1000000), '2', repeat(s, 1000), 'g') FROM edges",
        "regexp_replace(",
    ),
    (
        "SELECT array_to_string(array_repeat(v, 1000000), repeat('x', 1000)) FROM edges",
        "array_to_string(",
    ),
    (
        "WITH a AS (SELECT repeat(s, 9999999) AS s FROM edges), b AS (SELECT concat(s, s, s, s) AS s FROM a)
         SELECT length(concat(s, s, s, s)) FROM b",
        "concat(",
    ),
    (
        "WITH a AS (SELECT repeat(s, 9999999) AS s FROM edges), b AS (SELECT s || s || s || s AS s FROM a)
         SELECT length(s || s || s || s) FROM b",
        "||",
    ),
];

#[tokio::test]
async fn nothing_asks_for_more_than_a_batch_may_have() {
    let bench = Bench::new().await;
    edges(bench.folder());
    let mut wrong = Vec::new();
    for (sql, said) in GREEDY {
        wrong.extend(check(sql, said, failure(&bench, sql, 1).await).err());
    }
    let rows = bench
        .rows(
            "SELECT length(regexp_replace(repeat(s, 1000000), '2', 'yy')) FROM edges WHERE id = 0",
            1,
        )
        .await;
    assert_eq!(rows, [["3000001"]], "what might be too much is not");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
