//! What queries over generated tables answer: the generator makes the same rows on every machine.

use serde_json::{Value, json};

use crate::harness::query;

/// Rows of `manifests/samples/tpch-pricing-summary.yaml`.
pub fn pricing_summary() -> Vec<Vec<String>> {
    table(&[
        "A|F|3774200.00|5320753880.69|5054096266.6828|5256751331.449234|25.537587|36002.123829|0.050144|147790",
        "N|F|95257.00|133737795.84|127132372.6512|132286291.229445|25.300664|35521.326916|0.049394|3765",
        "N|O|7459297.00|10512270008.90|9986238338.3847|10385578376.585467|25.545537|36000.924688|0.050095|292000",
        "R|F|3785523.00|5337950526.47|5071818532.9420|5274405503.049367|25.525943|35994.029214|0.049989|148301",
    ])
}

/// Rows of `manifests/samples/tpch-join.yaml`.
pub fn join() -> Vec<Vec<String>> {
    table(&[
        "Customer#000001075|12|1892474.1376",
        "Customer#000013624|11|1842227.3172",
        "Customer#000000349|10|1826650.2153",
        "Customer#000004237|11|1802330.2051",
        "Customer#000003709|12|1742816.6831",
        "Customer#000001114|11|1680080.5754",
        "Customer#000009853|9|1668772.3111",
        "Customer#000014365|10|1651259.9858",
        "Customer#000011971|8|1649138.1502",
        "Customer#000004879|9|1643722.1802",
    ])
}

/// A query called `long` for `pool`, which takes long enough to be met in the middle.
pub fn long_query(pool: &str) -> Value {
    longer_query(pool, 1)
}

/// The same over `times` as many lines, for what takes longer than it to be done.
pub fn longer_query(pool: &str, times: usize) -> Value {
    let generated = |name: &str| json!({"name": name, "tpch": {"scaleFactor": 2}});
    let lines = vec!["SELECT * FROM lineitem"; times].join(" UNION ALL ");
    let sql = format!(
        "SELECT o_orderpriority, count(*) AS lines, count(DISTINCT l_suppkey) AS suppliers, \
         sum(l_extendedprice * (1 - l_discount)) AS revenue \
         FROM orders JOIN ({lines}) AS lineitem ON l_orderkey = o_orderkey \
         GROUP BY o_orderpriority ORDER BY o_orderpriority"
    );
    let spec = json!({
        "sql": sql,
        "tables": [generated("orders"), generated("lineitem")],
        "shuffle": {"partitions": 8},
        "workerPoolRef": {"name": pool},
    });
    query("long", &spec)
}

/// Its rows.
pub fn long_rows() -> Vec<Vec<String>> {
    table(&[
        "1-URGENT|2401324|20000|87255076690.0158",
        "2-HIGH|2403355|20000|87341083881.4095",
        "3-MEDIUM|2391978|20000|86911793314.1573",
        "4-NOT SPECIFIED|2400912|20000|87173547826.4252",
        "5-LOW|2400427|20000|87250021851.7350",
    ])
}

/// The rows of [`longer_query`]: `times` as many lines and as much revenue, of the same suppliers.
pub fn longer_rows(times: u64) -> Vec<Vec<String>> {
    let multiplied = |number: &str| {
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits: u64 = format!("{whole}{part}").parse().expect("a number");
        let mut product = (digits * times).to_string();
        if !part.is_empty() {
            product.insert(product.len() - part.len(), '.');
        }
        product
    };
    let mut rows = long_rows();
    for row in &mut rows {
        for value in [1, 3] {
            row[value] = multiplied(&row[value]);
        }
    }
    rows
}

/// Rows of text, their values separated by bars.
pub fn table(lines: &[&str]) -> Vec<Vec<String>> {
    let rows = lines
        .iter()
        .map(|line| line.split('|').map(str::to_owned).collect());
    rows.collect()
}
