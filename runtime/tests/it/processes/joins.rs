//! Joins whose build side turns out much smaller than it was estimated: tasks read all of it, and of the probe side what lies at
//! their worker.

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::{QuerySnapshot, StageSnapshot};

use super::losses::seen_in;
use super::program::Worker;
use super::query::{PATIENT, csv, plain, query, tpch};

/// A fifth of all orders by estimate, a hundredth in truth.
const JOIN: &str = "
    SELECT o.o_orderpriority AS priority, count(*) AS lines, sum(l.l_quantity) AS quantity, max(o.o_clerk) AS clerk,
        min(l.l_comment) AS comment
    FROM lineitem l LEFT JOIN (SELECT * FROM orders WHERE o_orderkey % 97 = 3) o
    ON l.l_orderkey = o.o_orderkey AND l.l_comment <> o.o_comment
    GROUP BY o.o_orderpriority ORDER BY o.o_orderpriority";
const SCALE: f64 = 0.2;

fn joined() -> String {
    let shuffle = "shuffle: {partitions: 16, adaptive: {targetBytes: 4MiB}}";
    let tables = [&*tpch("lineitem", SCALE), &*tpch("orders", SCALE)];
    query(JOIN, &tables, &[PATIENT, shuffle])
}

fn broadcast_tasks(stage: &StageSnapshot) -> u32 {
    stage.join_switches.broadcast_tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_read_a_small_build_side_whole_and_a_killed_one_runs_again() {
    let mut workers = Worker::three();
    let among_them = |seen: &QuerySnapshot| {
        let mut broadcast = seen.stages.iter().filter(|stage| broadcast_tasks(stage) > 0);
        broadcast.any(|stage| stage.done > 0 && stage.done < stage.tasks)
    };
    let yaml = |_: &_| joined();
    let (folder, watched) = seen_in(&workers, yaml, "a part of the tasks won", among_them).await;
    workers[0].kill();
    let over = watched.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded);
    let lost: u32 = over.last.stages.iter().map(|stage| stage.lost_attempts).sum();
    assert!(lost > 0, "{:#?}", over.last);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}
