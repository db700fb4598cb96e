//! Result rows on their way to the client.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sluice_core::coordinator::Outcome;
use tokio::time::timeout;

use super::program::{Folder, TIMEOUT, Worker};
use super::query::{PATIENT, by_part, csv, plain, query, sorted_rows, tpch};
use super::watched::{Watched, first};

/// The spilled output of the last of these tasks that has any, and the task.
fn last_output(worker: &Worker, tasks: u32) -> (u32, PathBuf) {
    let files = worker.files();
    let output = |task: u32| {
        let name = format!(".t{task}.a0.segment");
        let named = |file: &&PathBuf| file.to_string_lossy().ends_with(&name);
        Some((task, files.iter().find(named)?.clone()))
    };
    (0..tasks).rev().find_map(output).expect("outputs have spilled")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_be_read_runs_again_if_only_rows_of_others_have_left() {
    let folder = Folder::new();
    let mut workers = [Worker::start_on("127.0.0.1:0", "16MiB")];
    let sql = "select l_orderkey, l_linenumber, l_comment from lineitem";
    let more = "shuffle: {partitions: 40, compression: None}";
    let yaml = query(sql, &[&tpch("lineitem", 0.2)], &[more]);
    let (mut query, mut rows) = Watched::start_untaken(&folder, &yaml, &workers).await;
    let taken = timeout(TIMEOUT, rows.recv()).await.expect("rows come");
    let taken = taken.expect("the query has rows");
    let won = |seen: &sluice_core::snapshot::QuerySnapshot| first(seen).done == first(seen).tasks;
    let seen = query.until("outputs of all tasks", won).await;
    // Tasks are read in their order, and the reader holds no more than the rows of a few.
    let tasks = first(&seen).tasks;
    let (task, output) = last_output(&workers[0], tasks);
    assert!(task > tasks / 2 + 10, "{task} of {tasks} may have been read");
    let file = OpenOptions::new().write(true).open(&output).expect("it is there");
    file.write_all_at(&[0x55; 256], 0).expect("it can be written");
    query.take(vec![taken], rows);
    let over = query.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded, "{:#?}", over.last);
    assert_eq!(first(&over.last).lost_attempts, 1, "{:#?}", over.last);
    let expected = csv(&plain(&folder.at("query.yaml")).await);
    let got = csv(&over.rows);
    assert!(sorted_rows(&got) == sorted_rows(&expected), "each row once");
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_no_slot_and_its_rows_wait_on_disk() {
    let folder = Folder::new();
    let mut workers = [Worker::start_on("127.0.0.1:0", "16MiB")];
    let sql = "select l_orderkey, l_linenumber, l_comment from lineitem";
    let more = "shuffle: {partitions: 40, compression: None}";
    let yaml = query(sql, &[&tpch("lineitem", 0.2)], &[more]);
    let (mut idle, rows) = Watched::start_untaken(&folder, &yaml, &workers).await;
    let won = |seen: &sluice_core::snapshot::QuerySnapshot| first(seen).done == first(seen).tasks;
    idle.until("outputs of all tasks", won).await;
    let peak = workers[0].peak_bytes();
    assert!(peak < 700 << 20, "{peak} bytes");
    assert!(workers[0].has_spilled(), "its rows do not fit into memory");
    let beside = Folder::new();
    let next = Watched::start(&beside, &by_part(0.05, &[PATIENT]), &workers).await;
    let over = next.end().await;
    over.assert_no_failures();
    assert_eq!(csv(&over.rows), csv(&plain(&beside.at("query.yaml")).await));
    idle.take(Vec::new(), rows);
    let over = idle.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded, "{:#?}", over.last);
    let got: usize = over.rows.iter().map(|batch| batch.num_rows()).sum();
    let expected: usize = plain(&folder.at("query.yaml"))
        .await
        .iter()
        .map(|batch| batch.num_rows())
        .sum();
    assert_eq!(got, expected);
    workers.iter_mut().for_each(Worker::assert_well);
}

#[test]
fn a_row_may_be_larger_than_any_message() {
    let folder = Folder::new();
    let sql = "select repeat(r_name, 14000000) as s from region where r_name = 'AFRICA' or r_name = 'x'";
    let yaml = query(sql, &[&tpch("region", 1.0)], &[]);
    for extra in [&[][..], &["--processes"]] {
        let arguments = [
            &["--local-workers", "1", "--memory", "1GiB", "--output", "csv"],
            extra,
        ]
        .concat();
        let ended = folder.run(&yaml, &arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let row = ended.stdout.strip_prefix("s\n").expect("a header");
        assert!(
            row.len() == 84_000_001 && row.ends_with("AFRICA\n"),
            "{} bytes",
            row.len()
        );
    }
}
