//! Scans leave out row groups by what joins and sorts of their task find out while it runs.

use sluice_crds::shuffle_query::RuntimeFilters;

use crate::compare::differences;
use crate::harness::{AMPLE_MEMORY, Fleet, plain, run};
use crate::tpch;

/// The files of lineitem and orders have their rows in the order of the order keys.
const QUERIES: [&str; 2] = [
    "select l_orderkey, l_linenumber from lineitem order by l_orderkey, l_linenumber limit 5",
    "select count(*), sum(l_quantity) from lineitem join (select max(o_orderkey) as k from orders) o on l_orderkey = o.k",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_task_reads_less_for_what_its_join_or_its_limit_has_found() {
    let tables = tpch::tables().await;
    let fleet = Fleet::start(1, 1, AMPLE_MEMORY).await;
    for sql in QUERIES {
        let expected = plain(&tables, sql).await.expect("plain DataFusion has rows");
        let mut read = Vec::new();
        for mode in [RuntimeFilters::Auto, RuntimeFilters::Off] {
            let mut query = tables.query(sql, None);
            query.query.spec.shuffle.runtime_filters = mode;
            let ran = run(&fleet, &query)
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
    fleet.stop().await;
}
