//! Scans leave out row groups by what was found out since the query was planned.

use sluice_crds::shuffle_query::RuntimeFilters;

use crate::compare::differences;
use crate::harness::{AMPLE_MEMORY, Fleet, plain, run};
use crate::tpch;

/// Runs a query with and without runtime filters, and asserts that the scans read less than half as many rows with them. The files of
/// lineitem and orders have their rows in the order of the order keys.
async fn assert_reads_less(fleet: &Fleet, sql: &str, partitions: u32) {
    let tables = tpch::tables().await;
    let expected = plain(&tables, sql).await.expect("plain DataFusion has rows");
    let mut read = Vec::new();
    for mode in [RuntimeFilters::Auto, RuntimeFilters::Off] {
        let mut query = tables.query(sql, Some(partitions));
        query.query.spec.shuffle.runtime_filters = mode;
        let ran = run(fleet, &query)
            .await
            .unwrap_or_else(|no_rows| panic!("{no_rows}"));
        let found = differences(&expected.rows, &expected.order, &ran.rows, ran.ordered);
        assert_eq!(found, None, "{sql}");
        let stages = ran.snapshot.stages.iter();
        read.push(stages.map(|stage| stage.metrics.rows_read).sum::<u64>());
    }
    let [auto, off] = read.as_slice() else {
        unreachable!("two modes");
    };
    assert!(auto * 2 < *off, "{sql}: {auto} rows of {off}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_reads_less_for_what_its_join_or_its_limit_has_found() {
    let fleet = Fleet::start(1, 1, AMPLE_MEMORY).await;
    for sql in [
        "select l_orderkey, l_linenumber from lineitem order by l_orderkey, l_linenumber limit 5",
        "select count(*), sum(l_quantity) from lineitem join (select max(o_orderkey) as k from orders) o on l_orderkey = o.k",
    ] {
        assert_reads_less(&fleet, sql, 1).await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_reads_less_for_the_least_and_the_greatest_key_of_another_stage() {
    // The lines are grouped before they are joined, so no join of their own task sees them.
    let fleet = Fleet::start(2, 1, AMPLE_MEMORY).await;
    let sql = "select count(*), sum(l.q), max(o.c) from
        (select l_orderkey, sum(l_quantity) as q from lineitem group by l_orderkey) l join
        (select o_orderkey as k, o_comment as c from orders where o_orderkey = 1 or o_comment = o_clerk) o
        on l_orderkey = o.k";
    assert_reads_less(&fleet, sql, 2).await;
    fleet.stop().await;
}
