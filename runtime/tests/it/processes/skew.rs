//! Joins of which one key has most of the rows: tasks share its partition.

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::{QuerySnapshot, StageSnapshot};

use super::losses::seen_in;
use super::program::Worker;
use super::query::{PATIENT, csv, plain, query, tpch};

/// Two of three rows of lineitem have one key, and so have a few orders.
const JOIN: &str = "
    SELECT o.part, count(*) AS lines, sum(l.price) AS price, min(l.comment) AS comment FROM
        (SELECT CASE WHEN (l_orderkey + l_linenumber) % 3 > 0 THEN 0 ELSE l_orderkey END AS key,
            l_extendedprice AS price, l_comment AS comment FROM lineitem) l
    JOIN (SELECT CASE WHEN o_orderkey < 8 THEN 0 ELSE o_orderkey END AS key, o_orderkey % 7 AS part,
            o_comment AS comment FROM orders) o
    ON l.key = o.key AND l.comment <> o.comment GROUP BY o.part ORDER BY o.part";
const SCALE: f64 = 0.2;

fn skewed(mode: &str) -> String {
    let shuffle = format!("shuffle: {{partitions: 6, adaptive: {{mode: {mode}, joins: Off}}}}");
    let tables = [&*tpch("lineitem", SCALE), &*tpch("orders", SCALE)];
    query(JOIN, &tables, &[PATIENT, &shuffle])
}

fn shards(stage: &StageSnapshot) -> u32 {
    stage.reduce.as_ref().map_or(0, |reduce| reduce.skew_split_tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_a_hot_partition_and_a_killed_one_runs_again() {
    let mut workers = Worker::three();
    let among_shards = |seen: &QuerySnapshot| {
        let mut split = seen.stages.iter().filter(|stage| shards(stage) > 0);
        split.any(|stage| stage.done > 0 && stage.done < stage.tasks)
    };
    let yaml = |_: &_| skewed("Auto");
    let (folder, watched) = seen_in(&workers, yaml, "a part of the shards won", among_shards).await;
    workers[0].kill();
    let over = watched.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded);
    let lost: u32 = over.last.stages.iter().map(|stage| stage.lost_attempts).sum();
    assert!(lost > 0, "{:#?}", over.last);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}
