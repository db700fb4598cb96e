//! LIMIT without an order: tasks that it does not need do not run, also when a worker is killed meanwhile.

use std::collections::BTreeSet;

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::QuerySnapshot;

use super::losses::seen_in;
use super::program::{Folder, Worker};
use super::query::{PATIENT, csv, query, sorted_rows, tpch};
use super::watched::{Over, Watched, first};

const FILES: u32 = 200;
const ROWS_PER_FILE: u32 = 7;

/// Writes a table of many files, large enough for some tasks; each row has a number of its own.
fn write_files(folder: &Folder) {
    let text = "x".repeat(10_000);
    for file in 0..FILES {
        let rows = (0..ROWS_PER_FILE).map(|row| format!("{},{text}\n", file * ROWS_PER_FILE + row));
        let lines: String = std::iter::once("v,text\n".to_owned()).chain(rows).collect();
        folder.write(&format!("t/{file:03}.csv"), lines);
    }
}

fn over_files(sql: &str) -> String {
    let table = "{name: t, location: t, format: csv}";
    query(
        sql,
        &[table],
        &[&format!("shuffle: {{partitions: {FILES}}}"), PATIENT],
    )
}

/// Asserts that the scan, the first stage, has ended without all of its tasks.
fn assert_ended_early(over: &Over) {
    assert_eq!(over.outcome, Outcome::Succeeded, "{:#?}", over.last);
    let scan = first(&over.last);
    assert!(scan.attempts < scan.tasks, "{scan:#?}");
    assert!(scan.skipped > 0, "{scan:#?}");
    assert_eq!(scan.done + scan.skipped, scan.tasks, "{scan:#?}");
    assert_eq!(scan.running, 0, "{scan:#?}");
}

/// Asserts that these are so many different rows.
fn assert_distinct(over: &Over, count: usize) {
    let text = csv(&over.rows);
    let rows = sorted_rows(&text);
    let distinct: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!((rows.len(), distinct.len()), (count, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_over_two_hundred_files_reads_a_few() {
    let workers = [Worker::start(), Worker::start()];
    for (sql, rows) in [
        ("select v from t limit 10", 10),
        ("select v from t where v % 2 = 0 limit 10 offset 15", 10),
        ("select v from t union all select v + 100000 from t limit 20", 20),
        ("select count(*) as c from (select v from t limit 30)", 1),
    ] {
        let folder = Folder::new();
        write_files(&folder);
        let over = Watched::start(&folder, &over_files(sql), &workers)
            .await
            .end()
            .await;
        assert!(first(&over.last).tasks >= 10, "{:#?}", over.last);
        assert_ended_early(&over);
        assert_distinct(&over, rows);
        let read: u64 = over.last.stages.iter().map(|stage| stage.metrics.rows_read).sum();
        assert!(
            read < u64::from(FILES * ROWS_PER_FILE) / 2,
            "{read} rows for {sql}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_all_rows_do_not_fill_reads_all_files() {
    let folder = Folder::new();
    write_files(&folder);
    let workers = [Worker::start()];
    let over = Watched::start(&folder, &over_files("select v from t limit 5000"), &workers).await;
    let over = over.end().await;
    assert_distinct(&over, (FILES * ROWS_PER_FILE) as usize);
    assert_eq!(first(&over.last).skipped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_before_a_limit_has_enough_rows_changes_no_row() {
    let mut workers = Worker::three();
    let sql = "select l_orderkey, l_linenumber from lineitem limit 200000";
    let yaml = |_: &Folder| {
        query(
            sql,
            &[&tpch("lineitem", 0.1)],
            &["shuffle: {partitions: 200}", PATIENT],
        )
    };
    let some_won = |seen: &QuerySnapshot| {
        let scan = first(seen);
        scan.done >= 3 && scan.skipped == 0
    };
    let (_folder, query) = seen_in(&workers, yaml, "some scans won, not enough", some_won).await;
    workers[0].kill();
    let over = query.end().await;
    assert_eq!(over.outcome, Outcome::Succeeded, "{:#?}", over.last);
    assert!(first(&over.last).skipped > 0, "{:#?}", over.last);
    assert_distinct(&over, 200_000);
}
