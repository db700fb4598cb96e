//! The rules of docs/sql.md about values: NaN and -0.0, overflows, and what functions may allocate.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Decimal128Array, Float32Array, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use datafusion::arrow::datatypes::Float64Type;
use parquet::arrow::ArrowWriter;
use sluice_core::failure::{AttemptFailure, BadInputKind};

use super::super::plan;
use super::harness::{Bench, run, texts};
use crate::source::classify_error;

const PARTITIONS: [usize; 3] = [1, 3, 13];

fn write(folder: &Path, table: &str, files: &[Vec<(&str, ArrayRef)>]) {
    let folder = folder.join(table);
    std::fs::create_dir_all(&folder).unwrap();
    for (number, columns) in files.iter().enumerate() {
        let columns = columns.iter();
        let columns = columns.map(|(name, column)| (*name, Arc::clone(column), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let file = std::fs::File::create(folder.join(format!("{number}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// Floats as files may hold them: NaN of either sign, zeros of either sign, infinities and NULL, in two files.
fn floats(folder: &Path) {
    let negative_nan = f64::from_bits(0xfff8_0000_0000_0000);
    let odd_nan = f64::from_bits(0x7ff8_0000_0000_0007);
    let files = [
        vec![Some(0.0), Some(f64::NAN), Some(1.5), None, Some(f64::INFINITY)],
        vec![
            Some(-0.0),
            Some(negative_nan),
            Some(odd_nan),
            Some(f64::NEG_INFINITY),
        ],
    ];
    let mut id = 0;
    let files = files.map(|values| {
        let ids: Vec<i64> = values
            .iter()
            .map(|_| {
                id += 1;
                id - 1
            })
            .collect();
        let lists = values.iter().map(|value| Some(vec![*value]));
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the values are exact in either width"
        )]
        let narrow = values.iter().map(|value| value.map(|value| value as f32));
        let narrow: Float32Array = narrow.collect();
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(lists);
        vec![
            ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
            ("f", Arc::new(Float64Array::from(values))),
            ("g", Arc::new(narrow)),
            ("l", Arc::new(lists)),
        ]
    });
    write(folder, "floats", &files);
}

/// A query over [`floats`] and its rows.
const FLOATS: &[(&str, &[&str])] = &[
    (
        "SELECT f, count(*) FROM floats GROUP BY f ORDER BY f NULLS FIRST",
        &["null|1", "-inf|1", "0.0|2", "1.5|1", "inf|1", "NaN|3"],
    ),
    (
        "SELECT g, count(*) FROM floats GROUP BY g ORDER BY g NULLS FIRST",
        &["null|1", "-inf|1", "0.0|2", "1.5|1", "inf|1", "NaN|3"],
    ),
    (
        "SELECT f, id - id, count(*) FROM floats GROUP BY f, id - id ORDER BY f NULLS FIRST",
        &["null|0|1", "-inf|0|1", "0.0|0|2", "1.5|0|1", "inf|0|1", "NaN|0|3"],
    ),
    (
        "SELECT l, count(*) FROM floats GROUP BY l ORDER BY count(*) DESC, l DESC LIMIT 2",
        &["[NaN]|3", "[0.0]|2"],
    ),
    (
        "SELECT count(DISTINCT f), count(DISTINCT g) FROM floats",
        &["5|5"],
    ),
    (
        "SELECT DISTINCT f FROM floats WHERE f >= 0 ORDER BY f DESC",
        &["NaN", "inf", "1.5", "0.0"],
    ),
    ("SELECT count(*) FROM (SELECT DISTINCT f FROM floats)", &["6"]),
    (
        "SELECT max(f), min(f), max(g), min(g) FROM floats",
        &["NaN|-inf|NaN|-inf"],
    ),
    (
        "SELECT max(f), min(f) FROM floats WHERE f <> 'NaN'",
        &["inf|-inf"],
    ),
    (
        "SELECT f, max(f) FROM floats GROUP BY f ORDER BY max(f) DESC LIMIT 2",
        &["null|null", "NaN|NaN"],
    ),
    (
        "SELECT f FROM floats ORDER BY f DESC NULLS LAST LIMIT 4",
        &["NaN", "NaN", "NaN", "inf"],
    ),
    ("SELECT count(*) FROM floats WHERE f > 1000", &["4"]),
    ("SELECT count(*) FROM floats WHERE f = 0.0", &["2"]),
    ("SELECT count(*) FROM floats WHERE f = -0.0", &["2"]),
    ("SELECT count(*) FROM floats WHERE f < 0.0", &["1"]),
    ("SELECT count(*) FROM floats WHERE f = 'NaN'", &["3"]),
    (
        "SELECT count(*) FROM floats WHERE f BETWEEN 1e300 AND CAST('NaN' AS DOUBLE)",
        &["4"],
    ),
    (
        "SELECT count(*) FROM floats WHERE f IN (-0.0, CAST('NaN' AS DOUBLE), 7.0)",
        &["5"],
    ),
    (
        "SELECT count(*) FROM floats WHERE f IN (SELECT f FROM floats WHERE id < 2)",
        &["5"],
    ),
    (
        "SELECT count(*) FROM floats WHERE f NOT IN (SELECT f FROM floats WHERE id < 2)",
        &["3"],
    ),
    (
        "SELECT count(*) FROM floats a JOIN floats b ON a.f = b.f",
        &["16"],
    ),
    (
        "SELECT count(*) FROM floats a JOIN floats b ON a.f = b.g",
        &["16"],
    ),
    (
        "SELECT count(*) FROM floats a LEFT JOIN floats b ON a.f = b.f AND a.id < b.id",
        &["10"],
    ),
    (
        "SELECT f FROM floats INTERSECT SELECT f * -1 FROM floats ORDER BY f NULLS FIRST",
        &["null", "-inf", "0.0", "inf", "NaN"],
    ),
    ("SELECT f FROM floats EXCEPT SELECT -f FROM floats", &["1.5"]),
    (
        "SELECT f FROM floats UNION SELECT -f FROM floats ORDER BY f NULLS FIRST",
        &["null", "-inf", "-1.5", "0.0", "1.5", "inf", "NaN"],
    ),
    (
        "SELECT DISTINCT f, count(*) OVER (PARTITION BY f) FROM floats ORDER BY f NULLS FIRST",
        &["null|1", "-inf|1", "0.0|2", "1.5|1", "inf|1", "NaN|3"],
    ),
    (
        "SELECT DISTINCT f, rank() OVER (ORDER BY f DESC NULLS LAST) FROM floats ORDER BY f NULLS FIRST",
        &["null|9", "-inf|8", "0.0|6", "1.5|5", "inf|4", "NaN|1"],
    ),
    (
        "SELECT DISTINCT max(f) OVER (), min(f) OVER () FROM floats",
        &["NaN|-inf"],
    ),
    // What leaves a window leaves nothing behind.
    (
        "SELECT id, sum(f) OVER (ORDER BY id ROWS 1 PRECEDING) FROM floats ORDER BY id",
        &[
            "0|0.0", "1|NaN", "2|NaN", "3|1.5", "4|inf", "5|inf", "6|NaN", "7|NaN", "8|NaN",
        ],
    ),
    (
        "SELECT sum(f) OVER (ORDER BY id ROWS 1 PRECEDING)
         FROM (VALUES (1, 1e300), (2, 1.0), (3, 2.0), (4, 0.5)) t(id, f) ORDER BY id",
        &["1e300", "1e300", "3.0", "2.5"],
    ),
    // What an expression makes is in the same form.
    (
        "SELECT DISTINCT f - f FROM floats WHERE f > 1e300 OR id = 0 ORDER BY 1",
        &["0.0", "NaN"],
    ),
    ("SELECT DISTINCT -f FROM floats WHERE f = 0", &["0.0"]),
    (
        "SELECT DISTINCT 0 * f FROM floats WHERE f IN (1.5, 'NaN') ORDER BY 1",
        &["0.0", "NaN"],
    ),
    (
        "SELECT DISTINCT round(-0.4 * (id - id + 1)) FROM floats",
        &["0.0"],
    ),
    (
        "SELECT count(DISTINCT sum) FROM (SELECT id % 2, sum(f - f) AS sum FROM floats GROUP BY id % 2)",
        &["1"],
    ),
    (
        "SELECT DISTINCT v FROM (SELECT avg(f) OVER (ORDER BY id ROWS 1 PRECEDING) AS v FROM floats) WHERE v > 1e300 ORDER BY v",
        &["inf", "NaN"],
    ),
    (
        "SELECT CAST('-0' AS DOUBLE) = 0.0, CAST('-0' AS DOUBLE), CAST(CAST(-1e-320 AS DOUBLE) AS FLOAT)",
        &["true|0.0|0.0"],
    ),
    (
        "SELECT nullif(f, 0.0), greatest(f, 1.0) FROM floats WHERE id IN (1, 5) ORDER BY id",
        &["NaN|NaN", "null|1.0"],
    ),
    (
        "SELECT count(*) FROM floats WHERE f IS NOT DISTINCT FROM CAST('NaN' AS DOUBLE)",
        &["3"],
    ),
    (
        "WITH RECURSIVE r AS (SELECT f FROM floats UNION SELECT -f FROM r) SELECT count(*) FROM r",
        &["7"],
    ),
];

#[tokio::test]
async fn nan_is_one_value_and_the_largest_and_zero_has_no_sign() {
    let bench = Bench::new().await;
    floats(bench.folder());
    let mut wrong = Vec::new();
    for partitions in PARTITIONS {
        for (sql, expected) in FLOATS {
            let rows = bench.rows(sql, partitions).await;
            let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
            if &rows != expected {
                wrong.push(format!("{partitions} partitions: {sql}\n  {rows:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whole numbers at the edges, in three files: `big` is the largest BIGINT, `small` the least, `d` has 38 digits. Sums of
/// some files overflow, the sum of all does not.
fn edges(folder: &Path) {
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

/// The failure of a query.
async fn failure(bench: &Bench, sql: &str, partitions: usize) -> Result<AttemptFailure, String> {
    let session = bench.session(partitions, &[]).await;
    let planned = plan(&session.state(), sql)
        .await
        .map_err(|error| error.to_string())?;
    match run(&planned, &session.runtime_env()).await {
        Ok(rows) => Err(format!("rows: {:?}", texts(&rows))),
        Err(error) => Ok(classify_error(&error, &[])),
    }
}

fn check(sql: &str, said: &str, got: Result<AttemptFailure, String>) -> Result<(), String> {
    match got {
        Ok(AttemptFailure::BadInput {
            kind: BadInputKind::InvalidValue,
            message,
        }) if message.contains(said) && !message.contains("rror:") => Ok(()),
        other => Err(format!("{sql}\n  {other:?}")),
    }
}

#[tokio::test]
async fn what_does_not_fit_is_an_error_that_names_the_expression() {
    let bench = Bench::new().await;
    edges(bench.folder());
    let mut wrong = Vec::new();
    for partitions in PARTITIONS {
        for (sql, expected) in FITTING {
            let rows = bench.rows(sql, partitions).await;
            let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
            if &rows != expected {
                wrong.push(format!("{partitions} partitions: {sql}\n  {rows:?}"));
            }
        }
        for (sql, said) in FAILING {
            wrong.extend(check(sql, said, failure(&bench, sql, partitions).await).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

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
