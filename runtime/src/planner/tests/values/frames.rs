//! Moving windows at the edges of types, and over NaN and infinities.

use super::super::harness::Bench;
use super::wrong_rows;

/// Keys within ten of either end of BIGINT, and NULL, in frames of ten.
const RANGES: &[(&str, &[&str])] = &[
    (
        "SELECT v, count(*) OVER (ORDER BY v NULLS LAST RANGE BETWEEN CURRENT ROW AND 10 FOLLOWING) FROM edge ORDER BY v",
        &["-9223372036854775808|2", "-9223372036854775803|1", "0|1", "9223372036854775802|2", "9223372036854775807|1", "null|1"],
    ),
    (
        "SELECT v, count(*) OVER (ORDER BY v NULLS FIRST RANGE BETWEEN 10 PRECEDING AND CURRENT ROW) FROM edge ORDER BY v",
        &["-9223372036854775808|1", "-9223372036854775803|2", "0|1", "9223372036854775802|1", "9223372036854775807|2", "null|1"],
    ),
    (
        "SELECT v, count(*) OVER (ORDER BY v RANGE BETWEEN UNBOUNDED PRECEDING AND 10 FOLLOWING) FROM edge ORDER BY v",
        &["-9223372036854775808|2", "-9223372036854775803|2", "0|3", "9223372036854775802|5", "9223372036854775807|5", "null|6"],
    ),
    (
        "SELECT v, count(*) OVER (ORDER BY v RANGE BETWEEN 10 FOLLOWING AND UNBOUNDED FOLLOWING) FROM edge ORDER BY v",
        &["-9223372036854775808|4", "-9223372036854775803|4", "0|3", "9223372036854775802|1", "9223372036854775807|1", "null|1"],
    ),
    (
        "SELECT v, count(*) OVER (ORDER BY v DESC RANGE BETWEEN 10 PRECEDING AND CURRENT ROW) AS n FROM edge ORDER BY v",
        &["-9223372036854775808|2", "-9223372036854775803|1", "0|1", "9223372036854775802|2", "9223372036854775807|1", "null|1"],
    ),
    (
        "SELECT v, count(*) OVER (ORDER BY CAST(v % 128 AS TINYINT) RANGE BETWEEN 1 PRECEDING AND 127 FOLLOWING) AS n
         FROM edge ORDER BY v",
        &["-9223372036854775808|4", "-9223372036854775803|3", "0|4", "9223372036854775802|2", "9223372036854775807|1", "null|1"],
    ),
    (
        "SELECT v, sum(n) OVER (ORDER BY CAST(v AS DECIMAL(10, 2)) RANGE BETWEEN 1.5 PRECEDING AND 1 FOLLOWING) AS s
         FROM (VALUES (1.25, 1), (2.25, 10), (2.75, 100), (99999999.99, 1000), (NULL, 10000)) AS t(v, n) ORDER BY v",
        &["1.25|11", "2.25|111", "2.75|111", "99999999.99|1000", "null|10000"],
    ),
];

const EDGE: &str =
    "WITH edge(v) AS (VALUES (-9223372036854775807 - 1), (-9223372036854775803), (CAST(NULL AS BIGINT)),
     (9223372036854775802), (9223372036854775807), (0)) ";

#[tokio::test]
async fn ranges_end_where_keys_end() {
    let bench = Bench::new().await;
    let queries: Vec<_> = RANGES
        .iter()
        .map(|(sql, rows)| (format!("{EDGE}{sql}"), *rows))
        .collect();
    let queries: Vec<_> = queries.iter().map(|(sql, rows)| (sql.as_str(), *rows)).collect();
    let wrong = wrong_rows(&bench, &queries).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A frame of two rows moves over what no subtraction takes away again. Of every frame without it the value is exact.
const MOMENTS: &[(&str, &[&str])] = &[
    (
        "var(f)",
        &[
            "null", "2.0", "NaN", "NaN", "8.0", "NaN", "NaN", "8.0", "null", "null", "2.0",
        ],
    ),
    (
        "var_pop(f)",
        &[
            "0.0", "1.0", "NaN", "NaN", "4.0", "NaN", "NaN", "4.0", "0.0", "0.0", "1.0",
        ],
    ),
    (
        "stddev_samp(2 * f)",
        &[
            "null", "2.8284", "NaN", "NaN", "5.6569", "NaN", "NaN", "5.6569", "null", "null", "2.8284",
        ],
    ),
    (
        "stddev_pop(f)",
        &[
            "0.0", "1.0", "NaN", "NaN", "2.0", "NaN", "NaN", "2.0", "0.0", "0.0", "1.0",
        ],
    ),
    (
        "covar_samp(f, g)",
        &[
            "null", "4.0", "NaN", "NaN", "16.0", "NaN", "NaN", "16.0", "null", "null", "4.0",
        ],
    ),
    (
        "covar_pop(f, g)",
        &[
            "0.0", "2.0", "NaN", "NaN", "8.0", "NaN", "NaN", "8.0", "0.0", "0.0", "2.0",
        ],
    ),
    (
        "corr(f, g)",
        &[
            "null", "1.0", "null", "null", "1.0", "null", "null", "1.0", "null", "null", "1.0",
        ],
    ),
    (
        "regr_slope(g, f)",
        &[
            "null", "2.0", "NaN", "NaN", "2.0", "NaN", "NaN", "2.0", "null", "null", "2.0",
        ],
    ),
    (
        "regr_intercept(g, f)",
        &[
            "null", "0.0", "NaN", "NaN", "0.0", "NaN", "NaN", "0.0", "null", "null", "0.0",
        ],
    ),
    (
        "regr_r2(g, f)",
        &[
            "null", "1.0", "NaN", "NaN", "1.0", "NaN", "NaN", "1.0", "null", "null", "1.0",
        ],
    ),
    (
        "regr_sxx(g, f)",
        &[
            "0.0", "2.0", "NaN", "NaN", "8.0", "NaN", "NaN", "8.0", "0.0", "0.0", "2.0",
        ],
    ),
    (
        "regr_avgx(g, f)",
        &[
            "1.0", "2.0", "NaN", "NaN", "3.0", "NaN", "NaN", "5.0", "7.0", "1e17", "2.0",
        ],
    ),
    (
        "regr_count(g, f)",
        &["1", "2", "2", "2", "2", "2", "2", "2", "1", "1", "2"],
    ),
    (
        "sum(f)",
        &[
            "1.0", "4.0", "NaN", "NaN", "6.0", "inf", "inf", "10.0", "7.0", "1e17", "4.0",
        ],
    ),
    (
        "min(f)",
        &[
            "1.0", "1.0", "3.0", "5.0", "1.0", "1.0", "3.0", "3.0", "7.0", "1e17", "1.0",
        ],
    ),
    (
        "max(f)",
        &[
            "1.0", "3.0", "NaN", "NaN", "5.0", "inf", "inf", "7.0", "7.0", "1e17", "3.0",
        ],
    ),
    (
        "median(f)",
        &[
            "1.0", "2.0", "NaN", "NaN", "3.0", "inf", "inf", "5.0", "7.0", "1e17", "2.0",
        ],
    ),
];

const MOVING: &str = "WITH t(id, f, g) AS (VALUES (0, 1.0, 2.0), (1, 3.0, 6.0), (2, CAST('NaN' AS DOUBLE), 1.0), (3, 5.0, 10.0),
     (4, 1.0, 2.0), (5, CAST('inf' AS DOUBLE), 3.0), (6, 3.0, 6.0), (7, 7.0, 14.0), (8, NULL, 1.0), (9, 1e17, 1.0),
     (10, 3.0, 6.0), (11, 1.0, 2.0)) ";

#[tokio::test]
async fn moving_windows_forget_what_has_left_them() {
    let bench = Bench::new().await;
    let window = "OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";
    let queries: Vec<_> = MOMENTS
        .iter()
        .map(|(function, rows)| {
            let value = match function.contains('2') && function.starts_with("stddev") {
                true => format!("round({function} {window}, 4)"),
                false => format!("{function} {window}"),
            };
            let sql = format!(
                "{MOVING}SELECT x FROM (SELECT id, {value} AS x FROM t) AS w WHERE id <> 10 ORDER BY id"
            );
            (sql, *rows)
        })
        .collect();
    let queries: Vec<_> = queries.iter().map(|(sql, rows)| (sql.as_str(), *rows)).collect();
    let wrong = wrong_rows(&bench, &queries).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
