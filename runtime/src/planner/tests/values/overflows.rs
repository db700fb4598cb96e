//! What does not fit its type is an error.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray};

use super::super::harness::Bench;
use super::{PARTITIONS, check, failure, write, wrong_rows};

/// Whole numbers at the edges, in three files: `big` is the largest BIGINT, `small` the least, `d` has 38 digits. Sums of
/// some files overflow, the sum of all does not.
pub(super) fn edges(folder: &Path) {
    let file = |ids: &[i64], numbers: &[i64], decimals: &[i128], text: &str| {
        let decimals = Decimal128Array::from(decimals.to_vec());
        vec![
            ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
            ("v", Arc::new(Int64Array::from(numbers.to_vec()))),
            ("d", Arc::new(decimals.with_precision_and_scale(38, 0).unwrap())),
            ("s", Arc::new(StringArray::from(vec![text; ids.len()]))),
        ]
    };
    let most = 10_i128.pow(38) - 1;
    let files = [
        file(&[0, 1], &[i64::MAX, i64::MAX], &[most, most], "12x"),
        file(&[2, 3], &[i64::MIN, i64::MIN], &[-most, -most], "12x"),
        file(&[4], &[7], &[7], "99999999999"),
    ];
    write(folder, "edges", &files);
}

/// Queries over [`edges`] whose values fit.
const FITTING: &[(&str, &[&str])] = &[
    ("SELECT sum(v), sum(d) FROM edges", &["5|7"]),
    ("SELECT id % 1, sum(v), sum(d), avg(d) FROM edges GROUP BY id % 1", &["0|5|7|1.4000"]),
    ("SELECT sum(DISTINCT v), sum(DISTINCT d) FROM edges", &["6|7"]),
    ("SELECT sum(v) FILTER (WHERE id IN (0, 2)) FROM edges", &["-1"]),
    (
        "SELECT sum(v) OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) FROM edges WHERE id IN (1, 2, 4)
         ORDER BY id",
        &["-1", "-9223372036854775801", "7"],
    ),
    ("SELECT sum(v) FROM edges WHERE v IS NULL", &["null"]),
    ("SELECT 7 % -1, -7 / 2, 1 << 62, id % 3 FROM edges WHERE id = 4", &["0|-3|4611686018427387904|1"]),
    ("SELECT v % -1 FROM edges WHERE id = 2", &["0"]),
    (
        "SELECT sum(i) = INTERVAL '3 days -5 seconds', count(i) FROM (SELECT CASE WHEN id < 2 THEN INTERVAL '2000000000 month'
         WHEN id < 4 THEN INTERVAL '-2000000000 month' ELSE INTERVAL '3 days -5 seconds' END AS i FROM edges) AS t",
        &["true|5"],
    ),
    (
        "SELECT id % 2, sum(i) = INTERVAL '1 day' FROM (SELECT id, CASE WHEN id < 2 THEN INTERVAL '2000000000 days'
         WHEN id < 4 THEN INTERVAL '-1999999999 days' END AS i FROM edges) AS t GROUP BY id % 2 ORDER BY id % 2",
        &["0|true", "1|true"],
    ),
    (
        "SELECT id, sum(i) OVER (ORDER BY id ROWS 1 PRECEDING) = INTERVAL '0 days' FROM (SELECT id, CASE WHEN id = 0 OR id = 2
         THEN INTERVAL '2000000000 days' ELSE INTERVAL '-2000000000 days' END AS i FROM edges WHERE id < 4) AS t ORDER BY id",
        &["0|false", "1|true", "2|true", "3|true"],
    ),
    ("SELECT sum(DISTINCT i) = INTERVAL '2 days' FROM (SELECT INTERVAL '2 days' AS i, id FROM edges) AS t", &["true"]),
    (
        "SELECT avg(arrow_cast(v, 'Duration(Second)')) = arrow_cast(9223372036854775807, 'Duration(Second)') FROM edges
         WHERE id < 2",
        &["true"],
    ),
];

/// Queries over [`edges`] that must fail, with what the error says.
const FAILING: &[(&str, &str)] = &[
    (
        "SELECT sum(v) FROM edges WHERE v > 7",
        "sum(edges.v) cannot be computed: overflow",
    ),
    (
        "SELECT sum(d) FROM edges WHERE id < 2",
        "sum(edges.d) cannot be computed: overflow",
    ),
    (
        "SELECT id % 2, sum(v) FROM edges WHERE id < 2 OR id = 4 GROUP BY id % 2",
        "does not fit BIGINT",
    ),
    ("SELECT sum(v) OVER (ORDER BY id) FROM edges", "overflow"),
    (
        "SELECT sum(v) OVER (ORDER BY id ROWS 1 PRECEDING) FROM edges",
        "overflow",
    ),
    (
        "SELECT sum(CASE WHEN id < 2 THEN INTERVAL '2000000000 month' ELSE INTERVAL '-1 month' END) FROM edges",
        "does not fit INTERVAL; sum fewer rows",
    ),
    (
        "SELECT id % 2, sum(CASE WHEN id < 4 THEN INTERVAL '9000000000 seconds' ELSE INTERVAL '-1 month' END) FROM edges
         GROUP BY id % 2",
        "does not fit INTERVAL",
    ),
    (
        "SELECT sum(CASE WHEN id < 4 THEN INTERVAL '2000000000 days' END) OVER (ORDER BY id ROWS 1 PRECEDING) FROM edges",
        "does not fit INTERVAL",
    ),
    (
        "SELECT avg(d) FROM edges WHERE id < 2",
        "avg(edges.d) cannot be computed: overflow",
    ),
    (
        "SELECT v + 1 FROM edges",
        "edges.v + 1 cannot be computed: overflow: 9223372036854775807 + 1 does not fit BIGINT",
    ),
    (
        "SELECT v - 1 FROM edges",
        "edges.v - 1 cannot be computed: overflow",
    ),
    (
        "SELECT v * 2 FROM edges",
        "edges.v * 2 cannot be computed: overflow",
    ),
    (
        "SELECT (v - 5) * (id + 3) FROM edges WHERE v > 7",
        "(edges.v - 5) * (edges.id + 3) cannot be computed",
    ),
    ("SELECT -v FROM edges", "-edges.v cannot be computed: overflow"),
    ("SELECT abs(v) FROM edges", "abs(edges.v) cannot be computed"),
    (
        "SELECT v / -1 FROM edges WHERE id = 2",
        "edges.v / -1 cannot be computed: overflow",
    ),
    (
        "SELECT v / (id - 4) FROM edges WHERE id = 4",
        "edges.v / (edges.id - 4) cannot be computed: division by zero",
    ),
    ("SELECT v % (id - 4) FROM edges", "division by zero"),
    ("SELECT d / (id - 4) FROM edges WHERE id = 4", "division by zero"),
    (
        "SELECT id << (v - 7 + 64) FROM edges WHERE id = 4",
        "a shift by 64 bits",
    ),
    (
        "SELECT id >> (id - 5) FROM edges WHERE id = 4",
        "a shift by -1 bits",
    ),
    (
        "SELECT d + d FROM edges WHERE id = 0",
        "edges.d + edges.d cannot be computed: overflow",
    ),
    (
        "SELECT d * d FROM edges WHERE id = 0",
        "edges.d * edges.d cannot be computed: overflow",
    ),
    ("SELECT d - (-1) FROM edges WHERE id = 0", "overflow"),
    (
        "SELECT CAST(v AS INT) FROM edges",
        "CAST(edges.v AS INT) cannot be computed: ",
    ),
    (
        "SELECT CAST(d AS BIGINT) FROM edges",
        "CAST(edges.d AS BIGINT) cannot be computed: ",
    ),
    (
        "SELECT CAST(s AS INT) FROM edges",
        "CAST(edges.s AS INT) cannot be computed: ",
    ),
    (
        "SELECT CAST(v AS DECIMAL(5, 2)) FROM edges",
        "CAST(edges.v AS DECIMAL(5, 2)) cannot be computed: ",
    ),
    (
        "SELECT CAST(CAST(v AS DOUBLE) * 4 AS BIGINT) FROM edges",
        "AS BIGINT) cannot be computed: ",
    ),
    (
        "SELECT id FROM edges WHERE CAST(s AS BIGINT) > 5",
        "CAST(edges.s AS BIGINT) cannot be computed: ",
    ),
    (
        "SELECT DATE '2024-01-31' + INTERVAL '178956970 years' FROM edges",
        "cannot be computed",
    ),
    (
        "SELECT CAST('2200-01-01' AS TIMESTAMP) + INTERVAL '1000 years' FROM edges",
        "cannot be computed",
    ),
    (
        "SELECT CAST(v AS TIMESTAMP) + INTERVAL '1 day' FROM edges",
        "cannot be computed",
    ),
    // Nothing is folded to a constant that would not fit.
    ("SELECT 9223372036854775807 + 1", "overflow"),
    ("SELECT 1 / 0", "1 / 0 cannot be computed: division by zero"),
];

#[tokio::test]
async fn what_does_not_fit_is_an_error_that_names_the_expression() {
    let bench = Bench::new().await;
    edges(bench.folder());
    let mut wrong = wrong_rows(&bench, FITTING).await;
    for partitions in PARTITIONS {
        for (sql, said) in FAILING {
            wrong.extend(check(sql, said, failure(&bench, sql, partitions).await).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_lies_under_null_overflows_nowhere() {
    let bench = Bench::new().await;
    let mut wrong = Vec::new();
    for (column, expressions) in [
        (
            "CAST(ts AS TIMESTAMP)",
            [
                "date_trunc('day', x)",
                "date_trunc('month', x)",
                "date_part('epoch', x)",
                "date_bin(INTERVAL '1 day', x)",
                "CAST(x AS DATE)",
                "x + INTERVAL '1 month'",
                "x - TIMESTAMP '2020-01-01'",
                "CAST(CAST(x AS DATE) AS TIMESTAMP)",
            ]
            .as_slice(),
        ),
        (
            "CAST(ts AS DATE)",
            &[
                "CAST(x AS TIMESTAMP)",
                "x + INTERVAL '1 day'",
                "x - DATE '2020-01-01'",
                "date_trunc('week', x)",
            ],
        ),
        (
            "id",
            &[
                "abs(x)",
                "- x",
                "x * 3",
                "x % 7",
                "gcd(x, 3)",
                "CAST(x AS INT)",
                "round(x)",
                "x - 1",
                "x + 1",
            ],
        ),
        (
            "d",
            &[
                "abs(x)",
                "- x",
                "x * 3",
                "x % 7",
                "CAST(x AS INT)",
                "round(x, 1)",
                "x - 1",
                "x + 1",
            ],
        ),
    ] {
        for aggregate in ["min", "max"] {
            for expression in expressions {
                let sql = format!(
                    "SELECT {expression} AS y FROM (SELECT g, {aggregate}({column}) FILTER (WHERE id < 0) AS x \
                     FROM mid GROUP BY g) ORDER BY g"
                );
                match bench.try_rows(&sql, 3).await {
                    Ok(rows) if rows.len() == 5 && rows.iter().all(|row| row == &["null"]) => {}
                    Ok(rows) => wrong.push(format!("{sql}\n  {rows:?}")),
                    Err(error) => wrong.push(format!("{sql}\n  {error}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
