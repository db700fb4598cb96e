//! ORDER BY of many rows: tasks merge ranges of sorted runs, and the result is still in order.

use crate::harness::{AMPLE_MEMORY, Case, Division, Fleet, Ran, Tables, compare};
use crate::tpch;

/// Orders of many kinds over 600,000 rows.
const ORDERS: &[(&str, &str)] = &[
    (
        "text before numbers",
        "select l_shipmode, l_orderkey, l_linenumber, l_comment from lineitem \
         order by l_shipmode, l_orderkey desc, l_linenumber",
    ),
    // A key for every third row: runs share those ranges.
    (
        "few keys",
        "select l_returnflag, l_comment, l_orderkey from lineitem order by l_returnflag",
    ),
    (
        "nulls and floats",
        "select case when l_linenumber < 3 then null else cast(l_extendedprice as double) end as price, l_orderkey, \
         l_linenumber, l_comment from lineitem order by price desc nulls first, l_orderkey, l_linenumber",
    ),
    // The column of the order is not selected.
    (
        "hidden keys",
        "select l_comment, l_shipinstruct, l_shipdate from lineitem order by l_shipdate, l_comment, l_orderkey",
    ),
];

/// Keys that share a longer prefix than range bounds keep, so that no bound lies between them.
const ALIKE: &str = "select repeat('x', 80) || l_comment as text, l_orderkey, l_linenumber from lineitem \
                     order by text, l_orderkey, l_linenumber";

/// Tasks of the last stage that had rows to merge, by the sizes of their ranges.
fn mergers(ran: &Ran) -> u32 {
    let last = ran.snapshot.stages.last().expect("a query has stages");
    let reduce = last.reduce.as_ref().expect("it reads runs");
    // The first bucket counts empty ranges.
    reduce.partition_bytes_histogram.iter().skip(1).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_ranges_come_in_order() {
    let fleet = Fleet::start(3, 1, AMPLE_MEMORY).await;
    let tables: Tables = tpch::tables().await;
    let ran = compare(&fleet, &tables, &Case::all(ORDERS), &[Division::Planned(3)]).await;
    for ran in &ran {
        assert!(
            ran.explained.contains("rows are divided by ranges of"),
            "{}",
            ran.explained
        );
        assert!(ran.ordered, "{}", ran.explained);
        let merged = mergers(ran);
        assert!(merged > 1, "{merged} tasks merge: {:?}", ran.snapshot.stages);
    }
    let alike = compare(
        &fleet,
        &tables,
        &Case::all(&[("alike", ALIKE)]),
        &[Division::Planned(3)],
    )
    .await;
    assert_eq!(alike.iter().map(mergers).collect::<Vec<_>>(), [1]);
    fleet.stop().await;
}
