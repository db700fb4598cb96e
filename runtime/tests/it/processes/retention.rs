//! How long workers keep shuffle data: `shuffle.retention`.

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::{QuerySnapshot, StageState};
use sluice_proto::wire;

use super::losses::frozen_in;
use super::program::{Folder, TIMEOUT, Worker};
use super::query::{PATIENT, csv, plain, query, sorted_rows, tpch};
use super::watched::Watched;
use super::wire_noise::{Output, incarnation, output_at};

/// Three stages, and more rows than fit between the query and a client that does not read.
const SQL: &str =
    "select l_orderkey, count(*) as lines, max(l_comment) as comment from lineitem group by l_orderkey";

fn yaml(retention: &str) -> String {
    // The outputs of duplicates would be counted too.
    let shuffle = format!("shuffle: {{partitions: 3, speculation: {{mode: Off}}, retention: {retention}}}");
    query(SQL, &[&tpch("lineitem", 0.2)], &[&shuffle, PATIENT])
}

/// Tasks of the stage whose first output is at the worker.
async fn kept(worker: &Worker, query: &Watched, stage: u32, tasks: u32) -> u32 {
    let start = incarnation(&worker.address).await;
    let mut count = 0;
    for task in 0..tasks {
        let attempt = wire::AttemptRef {
            stage,
            stage_epoch: 0,
            task,
            attempt: 0,
        };
        let output = output_at(&worker.address, start, &query.id, attempt).await;
        count += u32::from(output == Output::Finished);
    }
    count
}

/// A query whose tasks have all won and whose client has not read: it stands still.
async fn ready(
    folder: &Folder,
    workers: &[Worker],
    retention: &str,
) -> (Watched, sluice::coordinator::ResultBatches) {
    let (mut query, rows) = Watched::start_untaken(folder, &yaml(retention), workers).await;
    let all_done = |seen: &QuerySnapshot| seen.stages.iter().all(|stage| stage.state == StageState::Done);
    let seen = query.until("all tasks won", all_done).await;
    assert_eq!(seen.outcome, None, "the client has not read");
    (query, rows)
}

/// Lets the client read and checks the rows.
async fn take_all(folder: &Folder, mut query: Watched, rows: sluice::coordinator::ResultBatches) {
    query.take(Vec::new(), rows);
    let over = query.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded, "{:#?}", over.last);
    let (got, expected) = (csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
    assert!(sorted_rows(&got) == sorted_rows(&expected), "each row once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drops_what_was_read_while_the_query_runs() {
    let (folder, workers) = (Folder::new(), [Worker::start()]);
    let (query, rows) = ready(&folder, &workers, "UntilRead").await;
    let seen = query.now();
    let [maps, roots] = seen.stages.as_slice() else {
        panic!("two stages: {seen:#?}")
    };
    assert_eq!((maps.done, roots.done), (maps.tasks, roots.tasks));
    // The worker hears of it a moment after the coordinator has decided.
    let dropped = async {
        while kept(&workers[0], &query, 0, maps.tasks).await > 0 {
            tokio::task::yield_now().await;
        }
    };
    let dropped = tokio::time::timeout(TIMEOUT, dropped).await;
    dropped.expect("the outputs of the scan are dropped");
    assert_eq!(kept(&workers[0], &query, 1, roots.tasks).await, roots.tasks);
    take_all(&folder, query, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_keeps_what_was_read_until_the_end_if_it_is_told_to() {
    let (folder, workers) = (Folder::new(), [Worker::start()]);
    let (query, rows) = ready(&folder, &workers, "UntilEnd").await;
    let tasks = query.now().stages[0].tasks;
    assert_eq!(kept(&workers[0], &query, 0, tasks).await, tasks);
    take_all(&folder, query, rows).await;
}

/// Two shuffles one after the other.
const TWICE: &str = "\
select count(*) as parts, sum(lines) as lines, max(comment) as comment
from (select part, count(*) as lines, max(comment) as comment
      from (select l_orderkey, min(l_partkey) as part, max(l_comment) as comment from lineitem group by l_orderkey) as orders
      group by part) as parts";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_made_again_for_what_a_killed_worker_takes_along() {
    let mut workers = Worker::three();
    let yaml = |_: &Folder| {
        // Exactly what the killed worker had runs again, and no duplicate besides.
        let shuffle = "shuffle: {partitions: 6, speculation: {mode: Off}}";
        query(TWICE, &[&tpch("lineitem", 0.2)], &[shuffle, PATIENT])
    };
    let in_second_shuffle = |seen: &QuerySnapshot| match seen.stages.as_slice() {
        [_, writer, reader, _] => {
            writer.state == StageState::Done && reader.running > 0 && reader.done < reader.tasks
        }
        other => panic!("four stages: {other:#?}"),
    };
    let what = "readers of the second shuffle";
    // Nobody has outputs of the scan any more, so all of its tasks run again.
    let (folder, running, held) = frozen_in(&workers, yaml, what, in_second_shuffle).await;
    assert_eq!(held[0].won, running.now().stages[0].tasks, "{held:#?}");
    assert!(held[1].won < running.now().stages[1].tasks, "{held:#?}");
    workers[0].kill();
    let over = running.end().await;
    over.assert_ran_again(&held);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}
