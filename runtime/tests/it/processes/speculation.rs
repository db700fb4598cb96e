//! A worker that hardly runs: another one runs a duplicate of its attempt.

use std::time::{Duration, Instant};

use sluice_core::snapshot::QuerySnapshot;
use tokio::time::sleep;

use super::discovery::{Names, start};
use super::program::{Folder, TIMEOUT, Worker};
use super::query::{BY_PART, PATIENT, csv, plain, query, tpch};
use super::watched::{Watched, first};

/// How long the slow worker runs at a time: a small part of what a task takes.
const SLICE: Duration = Duration::from_millis(10);
/// How long it stands still before it has an attempt: longer than the query's state takes to be seen.
const SHORT_PAUSE: Duration = Duration::from_millis(150);
/// How long it stands still then: not so long that its connection breaks.
const LONG_PAUSE: Duration = Duration::from_secs(3);

/// Twelve tasks a stage.
fn speculative() -> String {
    let shuffle = "shuffle: {partitions: 12, adaptive: {mode: Off}, speculation: {mode: Auto}}";
    query(BY_PART, &[&tpch("lineitem", 0.3)], &[shuffle, PATIENT])
}

/// Lets a frozen worker run for a slice.
async fn run_a_slice(worker: &Worker) {
    worker.thaw();
    sleep(SLICE).await;
    worker.freeze();
}

/// Lets the worker run for a slice at a time until it has an attempt, which it has then hardly begun.
async fn freeze_in_first_attempt(worker: &Worker, query: &Watched) {
    let begun = Instant::now();
    while first(&query.now()).running == 0 {
        assert!(begun.elapsed() < TIMEOUT, "it gets no attempt");
        run_a_slice(worker).await;
        sleep(SHORT_PAUSE).await;
    }
    assert_eq!(first(&query.now()).done, 0, "a task takes longer than a slice");
}

/// Keeps the worker slow.
async fn hardly_run(worker: &Worker) {
    loop {
        sleep(LONG_PAUSE).await;
        run_a_slice(worker).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_ends_through_the_duplicate_of_what_a_slow_worker_runs() {
    let folder = Folder::new();
    let names = Names::default();
    let [slow, a, b] = Worker::three();
    names.list(&[&slow]);
    let mut query = start(&folder, &speculative(), &names).await;
    freeze_in_first_attempt(&slow, &query).await;
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
