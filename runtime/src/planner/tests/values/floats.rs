//! NaN is one value and the largest, zero has no sign.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, ListArray};
use datafusion::arrow::datatypes::Float64Type;

use super::super::harness::Bench;
use super::{write, wrong_rows};

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
    // Keys of groups that come and go while the first ones are kept.
    (
        "SELECT DISTINCT f FROM floats ORDER BY f DESC NULLS FIRST LIMIT 2",
        &["null", "NaN"],
    ),
    (
        "(SELECT f FROM floats WHERE f > 100) UNION (SELECT f FROM floats) ORDER BY f NULLS LAST LIMIT 2",
        &["-inf", "0.0"],
    ),
    (
        "SELECT id, max(f) FROM floats GROUP BY id ORDER BY max(f) DESC NULLS LAST, id LIMIT 1",
        &["1|NaN"],
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
    (
        "SELECT var(f), corr(f, id), regr_avgx(id, f), regr_avgy(id, f) FROM floats WHERE f > 1 AND f <> 'NaN'",
        &["NaN|null|NaN|3.0"],
    ),
    (
        "SELECT id % 2 = 0, stddev_pop(f), covar_pop(f, id), corr(f, id), regr_avgx(id, f) FROM floats
         WHERE abs(f) > 1 AND f <> 'NaN' AND id <> 8 GROUP BY id % 2 = 0",
        &["true|NaN|NaN|null|NaN"],
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
    let wrong = wrong_rows(&bench, FLOATS).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
