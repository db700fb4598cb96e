//! A worker that stands still: the others run duplicates of its attempts.

use std::time::Duration;

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::{QuerySnapshot, SpeculationCounts};
use tokio::time::timeout;

use super::losses::seen_in;
use super::program::Worker;
use super::query::{BY_PART, PATIENT, csv, plain, query, tpch};

/// How long a query may take that needs nothing of the frozen worker.
const SOON: Duration = Duration::from_secs(30);
/// How often the worker may be frozen too late, when it has won a task that only it can serve.
const MISSES: u32 = 12;

/// Twelve tasks a stage, and a worker that does not count as lost.
fn speculative() -> String {
    let shuffle = "shuffle: {partitions: 12, adaptive: {mode: Off}, speculation: {mode: Auto}}";
    query(BY_PART, &[&tpch("lineitem", 0.5)], &[shuffle, PATIENT])
}

fn speculation(seen: &QuerySnapshot) -> SpeculationCounts {
    seen.stages[0].speculation
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_through_the_duplicate_of_what_a_frozen_worker_runs() {
    let workers = Worker::three();
    let all_at_first_tasks = |seen: &QuerySnapshot| seen.stages[0].running == 3 && seen.stages[0].done == 0;
    for _ in 0..MISSES {
        let yaml = |_: &_| speculative();
        let (folder, mut watched) = seen_in(&workers, yaml, "three first tasks", all_at_first_tasks).await;
        workers[0].freeze();
        let won = |seen: &QuerySnapshot| seen.stages.iter().all(|stage| stage.done == stage.tasks);
        let ended = timeout(SOON, watched.until_or_end("all tasks won", won))
            .await
            .is_ok();
        let frozen_in_time = ended && speculation(&watched.now()).won > 0;
        // The client may still need rows of the last stage, none of which ran at the frozen worker.
        workers[0].thaw();
        let over = watched.end().await;
        assert_eq!(over.outcome, Outcome::Succeeded);
        assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
        if !frozen_in_time {
            continue;
        }
        let counts = speculation(&over.last);
        assert!(counts.launched >= 1 && counts.won >= 1, "{counts:?}");
        let failed: u32 = over.last.stages.iter().map(|stage| stage.failed_attempts).sum();
        assert_eq!(failed, 0, "no loser is a failure");
        return;
    }
    panic!("missed {MISSES} times");
}
