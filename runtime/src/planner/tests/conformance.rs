//! Kinds of faults that files of sqllogictest and attacks have found.

use sluice_core::failure::{AttemptFailure, BadInputKind};

use super::super::plan;
use super::harness::Bench;
use crate::source::classify_error;

const PARTITIONS: [usize; 2] = [1, 3];

async fn check(cases: &[(&str, &str)]) {
    let bench = Bench::new().await;
    let mut wrong = Vec::new();
    for partitions in PARTITIONS {
        for (sql, expected) in cases {
            match bench.try_rows(sql, partitions).await {
                Ok(rows) => {
                    let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
                    if rows.join(", ") != *expected {
                        wrong.push(format!("{sql}\n    {} in place of {expected}", rows.join(", ")));
                    }
                }
                Err(error) => wrong.push(format!("{sql}\n    {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn columns_of_subqueries_keep_their_names() {
    let bench = Bench::new().await;
    let session = bench.session(3, &[]).await;
    for sql in [
        "SELECT (SELECT max(id) FROM mid), id FROM mid",
        "SELECT (SELECT id FROM mid LIMIT 1) + id FROM mid",
        "SELECT (SELECT 1), (SELECT 2)",
        "SELECT (SELECT (SELECT 42))",
        "SELECT (SELECT count(*) AS c FROM mid m WHERE m.g = mid.g HAVING count(*) > 1), id FROM mid",
        "SELECT id IN (SELECT k FROM big), EXISTS (SELECT 1 FROM big WHERE big.k = mid.k) FROM mid",
        "SELECT sum(id + (SELECT max(k) FROM big)) FROM mid",
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let plain = bench.plain().sql(sql).await.unwrap();
        let names = |fields: &datafusion::arrow::datatypes::Fields| -> Vec<String> {
            fields.iter().map(|field| field.name().clone()).collect()
        };
        assert_eq!(
            names(planned.schema.fields()),
            names(plain.schema().fields()),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn series_of_which_no_column_is_read_have_their_rows() {
    check(&[
        ("SELECT count(*) FROM generate_series(1, 20000)", "20000"),
        ("SELECT count(*) FROM generate_series(1, 0)", "0"),
        (
            "SELECT count(*) FROM range(DATE '2020-01-01', DATE '2020-02-01', INTERVAL '1 day')",
            "31",
        ),
        (
            "SELECT count(*), sum(1) FROM generate_series(1, 3) CROSS JOIN (VALUES (1), (2)) AS v(n)",
            "6|6",
        ),
        (
            "SELECT array_length(generate_series(arrow_cast('2021-01-01', 'Timestamp(Second, None)'), \
             TIMESTAMP '2021-01-01 15:00:00', INTERVAL '1 hour')) AS n",
            "16",
        ),
        ("SELECT 7 AS seven FROM generate_series(1, 2)", "7, 7"),
    ])
    .await;
}

#[tokio::test]
async fn a_union_of_which_one_branch_is_left_keeps_its_names() {
    let nothing = "SELECT id AS a FROM mid WHERE NOT EXISTS (SELECT max(id) FROM mid)";
    check(&[
        (
            &format!("({nothing} ORDER BY a) UNION ALL (SELECT id AS b FROM tiny ORDER BY b DESC) ORDER BY a LIMIT 2"),
            "0, 1",
        ),
        (
            &format!("SELECT a + 1 AS n FROM ({nothing} UNION ALL SELECT id FROM tiny UNION ALL {nothing}) ORDER BY n DESC LIMIT 1"),
            "7",
        ),
    ])
    .await;
}

#[tokio::test]
async fn numbers_keep_the_digits_that_are_written() {
    check(&[
        (
            "SELECT 99999999999999999999999999999999999999 AS x",
            "99999999999999999999999999999999999999",
        ),
        ("SELECT 99999999999999999999::DECIMAL(38, 0) + 1 AS x", "100000000000000000000"),
        ("SELECT -99999999999999999999 AS x", "-99999999999999999999"),
        ("SELECT 18446744073709551616 = 18446744073709551615 AS x", "false"),
        (
            "SELECT CAST(0.12345678901234567890123 AS DECIMAL(38, 23)) AS x",
            "0.12345678901234567890123",
        ),
        (
            "SELECT CAST(-1.1234567890123456789 AS NUMERIC(38, 19)) AS x, -1.1234567890123456789::DECIMAL(38, 19) AS y",
            "-1.1234567890123456789|-1.1234567890123456789",
        ),
        ("SELECT CAST(1.25 AS DECIMAL(3, 1)) + 1e2 AS x", "101.3"),
    ])
    .await;
}

#[tokio::test]
async fn frames_beyond_all_rows_are_whole() {
    let bench = Bench::new().await;
    let of = |bounds: &str| {
        format!("SELECT id, sum(k) OVER (ORDER BY id {bounds}) AS s FROM mid ORDER BY id LIMIT 3")
    };
    let whole = "BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING";
    let far = "BETWEEN 18446744073709551615 PRECEDING AND 18446744073709551615 FOLLOWING";
    for units in ["ROWS", "GROUPS"] {
        let expected = bench.rows(&of(&format!("{units} {whole}")), 3).await;
        assert_eq!(bench.rows(&of(&format!("{units} {far}")), 3).await, expected);
    }
}

#[tokio::test]
async fn arguments_that_a_function_refuses_end_the_query() {
    let bench = Bench::new().await;
    for (sql, says) in [
        ("SELECT encode('a', 'nope') AS x", "no built-in encoding"),
        (
            "SELECT approx_percentile_cont(k, 1.5) AS x FROM mid",
            "between 0.0 and 1.0",
        ),
        (
            "SELECT count(*) FROM mid WHERE w ~ '(\\w{1,1000}){1,1000}'",
            "make its repetitions smaller",
        ),
    ] {
        let error = bench.try_rows(sql, 3).await.unwrap_err();
        let failure = classify_error(&error, &[]);
        let AttemptFailure::BadInput {
            kind: BadInputKind::InvalidValue,
            message,
        } = &failure
        else {
            panic!("{sql}: {failure:?}");
        };
        assert!(
            message.contains(says) && !message.contains("Error during"),
            "{message}"
        );
    }
}

/// Each branch of the union is sorted by `c3` too, the rows of both together are not.
#[tokio::test]
async fn a_merge_has_the_order_by_which_it_merges_and_no_other() {
    let both = "SELECT 2 AS c2, k AS c3 FROM (SELECT DISTINCT k FROM mid WHERE k IN (1, 2) ORDER BY k LIMIT 2) \
                UNION ALL (SELECT 1 AS c2, 1000000 AS c3 FROM mid LIMIT 1)";
    let limited = format!("SELECT * FROM ({both}) ORDER BY c2 LIMIT 100");
    check(&[
        (&format!("{both} ORDER BY c2"), "1|1000000, 2|1, 2|2"),
        (
            &format!("SELECT c2, c3 FROM ({limited}) ORDER BY c3"),
            "2|1, 2|2, 1|1000000",
        ),
        (
            "SELECT sum(c9), count(*) FROM ((SELECT 'ab' AS c8, k AS c9 FROM (SELECT DISTINCT k FROM mid WHERE k IN (1, 2, 3)) \
             ORDER BY c8 DESC, c9 DESC OFFSET 1) UNION ALL (SELECT 'ab', NULL FROM mid LIMIT 1))",
            "3|3",
        ),
        (
            &format!("SELECT c2, rank() OVER (ORDER BY c3) AS r FROM ({limited}) ORDER BY c2, r"),
            "1|3, 2|1, 2|2",
        ),
    ])
    .await;
}
