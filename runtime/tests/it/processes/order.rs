//! ORDER BY of many rows on processes: ranges survive the loss of a worker, and files of a sink follow each other.

use std::path::PathBuf;

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::QuerySnapshot;

use super::losses::frozen_in;
use super::program::{Folder, Worker};
use super::query::{PATIENT, csv, plain, query, tpch};

const SORTED: &str = "select l_shipmode, l_orderkey, l_linenumber, l_comment from lineitem \
                      order by l_shipmode, l_orderkey, l_linenumber";

fn sorted(_: &Folder) -> String {
    let sink = "sink: {location: out, format: csv}";
    // A duplicate of what a frozen worker merges would end the query that the test looks at.
    let shuffle = "shuffle: {partitions: 5, speculation: {mode: Off}}";
    query(SORTED, &[&tpch("lineitem", 0.1)], &[shuffle, sink, PATIENT])
}

/// Some ranges are merged, one is being merged.
fn merging(seen: &QuerySnapshot) -> bool {
    let root = seen.stages.last().expect("a query has stages");
    root.running > 0 && root.done >= 1 && root.done < root.tasks
}

/// The rows of a sink's CSV files, one file after the other by name.
fn rows_by_file(folder: &Folder) -> Vec<String> {
    let mut files: Vec<PathBuf> = folder.files_below("out");
    files.retain(|file| file.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    assert!(files.len() > 2, "{files:?}");
    let text = |file: &PathBuf| std::fs::read_to_string(file).expect("a file of the sink is read");
    let lines = |file| text(file).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    files.iter().flat_map(lines).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_among_ranges_changes_neither_rows_nor_their_order() {
    let mut workers = Worker::three();
    let (folder, query, mut held) = frozen_in(&workers, sorted, "merging ranges", merging).await;
    // A root attempt's file is not on its worker, so a root attempt that had won need not run again.
    let root = held.last_mut().expect("a query has stages");
    root.running_elsewhere += std::mem::take(&mut root.won);
    workers[0].kill();
    let over = query.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded);
    over.assert_ran_again(&held);
    let expected = csv(&plain(&folder.at("query.yaml")).await);
    let expected: Vec<&str> = expected.lines().skip(1).collect();
    let written = rows_by_file(&folder);
    assert_eq!(written.len(), expected.len());
    let differs = written
        .iter()
        .zip(&expected)
        .position(|(written, expected)| written != expected);
    assert_eq!(differs, None, "the first row that is another one");
}
