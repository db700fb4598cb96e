//! The rows of queries over generated tables: the generator makes the same rows on every machine.

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

/// A query named `long` on `pool`, which runs long enough for a test to interrupt it.
pub fn long_query(pool: &str) -> Value {
    long_query_of_scale(pool, 5)
}

/// One like it that takes longer than any test waits for it.
pub fn endless_query(pool: &str) -> Value {
    long_query_of_scale(pool, 300)
}

/// It reads the orders that there are at scale 2, and of them what is the same at every larger one: of a larger one it reads
/// more, and neither shuffles nor answers more.
fn long_query_of_scale(pool: &str, scale: u32) -> Value {
    let generated = |name: &str| json!({"name": name, "tpch": {"scaleFactor": scale}});
    let spec = json!({
        "sql": "SELECT o_orderpriority, count(*) AS lines, count(DISTINCT l_shipdate) AS days, \
                sum(l_quantity * (1 - l_discount) * (1 + l_tax)) AS quantity \
                FROM orders JOIN lineitem ON l_orderkey = o_orderkey \
                WHERE o_orderkey <= 12000000 AND l_orderkey <= 12000000 \
                GROUP BY o_orderpriority ORDER BY o_orderpriority",
        "tables": [generated("orders"), generated("lineitem")],
        "shuffle": {"partitions": 8},
        "workerPoolRef": {"name": pool},
    });
    query("long", &spec)
}

/// Its rows, at any scale.
pub fn long_rows() -> Vec<Vec<String>> {
    table(&[
        "1-URGENT|2401324|2526|60518653.022500",
        "2-HIGH|2403355|2526|60577161.403000",
        "3-MEDIUM|2391978|2526|60262946.924100",
        "4-NOT SPECIFIED|2400912|2526|60453328.173700",
        "5-LOW|2400427|2526|60499666.441500",
    ])
}

/// Rows of text, their values separated by bars.
pub fn table(lines: &[&str]) -> Vec<Vec<String>> {
    let rows = lines
        .iter()
        .map(|line| line.split('|').map(str::to_owned).collect());
    rows.collect()
}
