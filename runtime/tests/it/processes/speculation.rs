//! A worker that hardly runs: another one runs a duplicate of its attempt.

use std::time::Duration;

use sluice_core::snapshot::QuerySnapshot;
use tokio::time::sleep;

use super::discovery::{Names, start};
use super::program::{Folder, Worker};
use super::query::{BY_PART, PATIENT, csv, plain, query, tpch};
use super::watched::first;

/// How long the slow worker runs at a time: a small part of what a task takes.
const SLICE: Duration = Duration::from_millis(20);
/// How long it stands still in between: not so long that its connection breaks.
const PAUSE: Duration = Duration::from_secs(3);

/// Twelve tasks a stage.
fn speculative() -> String {
    let shuffle = "shuffle: {partitions: 12, adaptive: {mode: Off}, speculation: {mode: Auto}}";
    query(BY_PART, &[&tpch("lineitem", 0.3)], &[shuffle, PATIENT])
}

/// Keeps the worker slow.
async fn hardly_run(worker: &Worker) {
    loop {
        sleep(PAUSE).await;
        worker.thaw();
        sleep(SLICE).await;
        worker.freeze();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_ends_through_the_duplicate_of_what_a_slow_worker_runs() {
    let folder = Folder::new();
    let names = Names::default();
    let [slow, a, b] = Worker::three();
    names.list(&[&slow]);
    let mut query = start(&folder, &speculative(), &names).await;
    // As long as it is the only worker, it has an attempt at any time.
    query
        .until("it has an attempt", |seen| first(seen).running == 1)
        .await;
    slow.freeze();
    names.list(&[&slow, &a, &b]);
    let is_done = |seen: &QuerySnapshot| first(seen).done == first(seen).tasks;
    let seen = tokio::select! {
        seen = query.until("all tasks of the first stage have won", is_done) => seen,
        () = hardly_run(&slow) => unreachable!("it goes on"),
    };
    let stage = first(&seen);
    assert_eq!((stage.tasks, stage.lost_attempts), (12, 0), "{stage:#?}");
    assert!(stage.speculation.won >= 1, "{stage:#?}");
    slow.thaw();
    let over = query.end().await;
    over.assert_no_failures();
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}
