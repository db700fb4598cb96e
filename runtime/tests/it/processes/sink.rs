//! Sinks from end to end: all files of a query or none, each row once.

use std::path::PathBuf;
use std::process::Command;

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::QuerySnapshot;
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;

use super::losses::frozen_in;
use super::program::{Folder, Worker, without_settings};
use super::query::{PATIENT, csv, plain, plain_csv, query, sorted_rows, tpch};

const ORDERS: &str = "select o_orderkey, o_totalprice, o_comment, count(*) as lines \
                      from orders join lineitem on o_orderkey = l_orderkey \
                      group by o_orderkey, o_totalprice, o_comment";

fn orders(scale_factor: f64, sink: &str) -> String {
    let tables = [tpch("orders", scale_factor), tpch("lineitem", scale_factor)];
    query(
        ORDERS,
        &[&tables[0], &tables[1]],
        &["shuffle: {partitions: 5}", sink],
    )
}

/// The files of rows in a sink's folder; the commit record is none.
fn data_files(folder: &Folder, location: &str) -> Vec<PathBuf> {
    let mut files = folder.files_below(location);
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('_')
    });
    files
}

/// The rows of a folder of files, read by plain DataFusion.
fn rows_of(folder: &Folder, location: &str, format: &str) -> String {
    let table = format!("{{name: t, location: {location}, format: {format}}}");
    plain_csv(&folder.write("read.yaml", query_of_rows(&table)))
}

fn query_of_rows(table: &str) -> String {
    query(
        "select o_orderkey, o_totalprice, o_comment, lines from t",
        &[table],
        &[],
    )
}

#[test]
fn every_format_arrives_whole_and_the_status_counts_it() {
    let folder = Folder::new();
    let mut expected = None;
    for format in ["parquet", "csv", "json", "arrow"] {
        let yaml = orders(
            0.01,
            &format!("sink: {{location: out/{format}, format: {format}}}"),
        );
        let status = folder.at("status.json");
        let status_path = status.to_string_lossy();
        let ended = folder
            .run(&yaml, &["--local-workers", "3", "--status", &status_path])
            .expect(0, &[]);
        assert_eq!(ended.stdout, "", "{format}: the rows go to the sink");
        let expected = expected.get_or_insert_with(|| plain_csv(&folder.at("query.yaml")));
        let written = rows_of(&folder, &format!("out/{format}"), format);
        // JSON has one kind of number, and readers order fields by name.
        if format == "parquet" || format == "arrow" {
            assert_eq!(sorted_rows(&written), sorted_rows(expected), "{format}");
        } else {
            assert_eq!(written.lines().count(), expected.lines().count(), "{format}");
        }
        let status = std::fs::read_to_string(status).expect("it was written");
        let status: ShuffleQueryStatus = serde_json::from_str(&status).expect("it is a status");
        let sink = status.sink.as_ref().expect("the sink has committed");
        let files = data_files(&folder, &format!("out/{format}"));
        assert_eq!(sink.files as usize, files.len(), "{format}: {files:?}");
        assert_eq!(sink.rows, 15_000, "{format}: one row an order");
        let bytes: u64 = files
            .iter()
            .map(|file| file.metadata().expect("it is there").len())
            .sum();
        assert_eq!(sink.bytes, bytes, "{format}: {files:?}");
        assert!(
            sink.location.ends_with(&format!("out/{format}")),
            "{}",
            sink.location
        );
        assert!(status.preview.is_none(), "{format}");
        assert_measured(&status, format);
    }
    let mut left: Vec<_> = std::fs::read_dir(folder.at("out"))
        .expect("it is there")
        .flatten()
        .collect();
    left.retain(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert!(left.is_empty(), "staging is left: {left:?}");
}

/// The status has the times of first rows of the query and its last stage, and how that stage read.
fn assert_measured(status: &ShuffleQueryStatus, format: &str) {
    let (first, end) = (&status.first_row_time, &status.end_time);
    assert!(
        first.is_some() && first <= end,
        "{format}: the rows are there at once"
    );
    assert!(status.time_to_first_row_millis > Some(0), "{format}");
    let root = status.stages.last().expect("a query has stages");
    assert_eq!(root.planned_reduce_tasks, 5, "{root:?}");
    assert_eq!(root.adaptive_reduce_tasks, root.tasks_planned, "{root:?}");
    assert!(
        root.adaptive_reduce_tasks < 5,
        "a megabyte is worth no five tasks: {root:?}"
    );
    assert!(root.adaptive_target_bytes > 0, "{root:?}");
    assert_eq!(root.reduce_fetch_window_partitions, 4, "{root:?}");
    let partitions: u32 = root.partition_bytes_histogram.iter().sum();
    assert_eq!(partitions, root.planned_reduce_tasks, "{root:?}");
    assert!(root.first_chunk_ms.is_some(), "{root:?}");
    assert!(root.first_chunk_ms <= root.first_reduce_row_ms, "{root:?}");
    assert!(root.first_reduce_row_ms <= Some(root.elapsed_millis), "{root:?}");
}

#[test]
fn a_sink_that_exists_is_refused_before_the_query_runs_or_replaced_as_a_whole() {
    let folder = Folder::new();
    folder.write("out/old.parquet", "not one of ours");
    let keep = orders(0.01, "sink: {location: out, format: parquet}");
    let ended = folder
        .run(&keep, &["--local-workers", "1"])
        .expect(2, &["out", "Replace"]);
    assert!(!ended.stderr.contains("stage 0"), "{}", ended.stderr);
    assert_eq!(folder.files_below("out"), [folder.at("out/old.parquet")]);
    let replace = orders(0.01, "sink: {location: out, format: parquet, ifExists: Replace}");
    folder
        .run(&replace, &["--local-workers", "1"])
        .expect(2, &["out", "holds old.parquet, which no query has written there"]);
    assert_eq!(folder.files_below("out"), [folder.at("out/old.parquet")]);
    std::fs::remove_file(folder.at("out/old.parquet")).expect("it was there");
    for arguments in [
        &["--local-workers", "2"][..],
        &["--local-workers", "2", "--processes"],
    ] {
        folder.run(&replace, arguments).expect(0, &[]);
        let expected = plain_csv(&folder.at("query.yaml"));
        assert_eq!(
            sorted_rows(&rows_of(&folder, "out", "parquet")),
            sorted_rows(&expected)
        );
    }
    assert_eq!(folder.names(), ["out", "query.yaml", "read.yaml", "spill"]);
}

#[test]
fn a_failed_query_leaves_neither_files_nor_the_old_ones_replaced() {
    let folder = Folder::new();
    folder.write("out/part-00000.csv", "n\n1\n");
    folder.write(
        "out/_sluice_commit.json",
        "{\"query\": \"before\", \"files\": 1, \"rows\": 1, \"bytes\": 4}",
    );
    let before = folder.files_below("out");
    let sql = "select l_orderkey, 1 / (l_linenumber - 7) from lineitem";
    let sink = "sink: {location: out, format: csv, ifExists: Replace}";
    let yaml = query(sql, &[&tpch("lineitem", 0.1)], &[sink]);
    folder
        .run(&yaml, &["--local-workers", "2"])
        .expect(3, &["division by zero"]);
    assert_eq!(folder.names(), ["out", "query.yaml", "spill"]);
    assert_eq!(folder.files_below("out"), before);
}

#[test]
fn a_sink_below_a_file_or_in_a_missing_folder_is_told() {
    let folder = Folder::new();
    folder.write("file", "");
    let yaml = orders(0.01, "sink: {location: file/below, format: csv}");
    let ended = folder.run(&yaml, &["--local-workers", "1"]);
    assert!(matches!(ended.code, Some(2 | 3)), "{ended:?}");
    assert!(ended.stderr.contains("file"), "{}", ended.stderr);
    assert_eq!(folder.names(), ["file", "query.yaml"]);
}

#[test]
fn an_empty_result_still_has_a_folder() {
    let folder = Folder::new();
    let sql = "select o_orderkey, o_totalprice, o_comment, 1 as lines from orders where o_orderkey < 0";
    let sink = "sink: {location: out, format: parquet}";
    folder
        .run(
            &query(sql, &[&tpch("orders", 0.01)], &[sink]),
            &["--local-workers", "2"],
        )
        .expect(0, &[]);
    assert_eq!(data_files(&folder, "out").len(), 1);
    assert_eq!(
        sorted_rows(&rows_of(&folder, "out", "parquet")),
        Vec::<&str>::new()
    );
}

/// A worker whose files cannot grow beyond some kilobytes, as on a full disk. The process must ignore SIGXFSZ from its
/// start, so that writes fail instead.
fn cramped_worker() -> Worker {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_sluice"));
    Worker::start_as(without_settings(command), "127.0.0.1:0", "512MiB", &[])
}

#[test]
fn a_sink_that_fails_in_mid_write_is_named_and_leaves_nothing() {
    let folder = Folder::new();
    let mut worker = cramped_worker();
    for format in ["csv", "parquet"] {
        let yaml = orders(0.01, &format!("sink: {{location: out, format: {format}}}"));
        let ended = folder.run(&yaml, &["--workers", &worker.address]);
        ended.expect(3, &["SinkFailed", "part.", "File too large"]);
        assert_eq!(folder.files_below("out"), Vec::<PathBuf>::new(), "{format}");
        worker.assert_well();
    }
    let hidden = |name: &String| name.starts_with('.');
    assert!(!folder.names().iter().any(hidden), "{:?}", folder.names());
    // The worker still works.
    let yaml = query("select 1 as n", &[], &[]);
    let ended = folder.run(&yaml, &["--workers", &worker.address, "--output", "csv"]);
    assert_eq!(ended.expect(0, &[]).stdout, "n\n1\n");
}

fn writing(seen: &QuerySnapshot) -> bool {
    let root = seen.stages.last().expect("a query has stages");
    root.running > 0 && root.done >= 1 && root.done < root.tasks
}

fn mid_write(_: &Folder) -> String {
    let sink = "sink: {location: out, format: parquet}";
    let tables = [tpch("orders", 0.3), tpch("lineitem", 0.3)];
    // A duplicate of what a frozen worker writes would end the query that the test looks at.
    let shuffle = "shuffle: {partitions: 5, adaptive: {mode: Off}, speculation: {mode: Off}}";
    let more = [shuffle, sink, PATIENT];
    query(ORDERS, &[&tables[0], &tables[1]], &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_mid_write_leaves_exactly_the_winners_files() {
    let mut workers = Worker::three();
    let (folder, query, mut held) = frozen_in(&workers, mid_write, "writing root attempts", writing).await;
    // A root attempt's file is not on its worker, so a root attempt that had won need not run again.
    let root = held.last_mut().expect("a query has stages");
    root.running_elsewhere += std::mem::take(&mut root.won);
    workers[0].kill();
    let over = query.end().await;
    over.assert_ran_again(&held);
    let root = over.last.stages.last().expect("a query has stages");
    assert_eq!(
        data_files(&folder, "out").len(),
        root.tasks as usize,
        "one file a winner"
    );
    assert_eq!(folder.names(), ["out", "query.yaml"]);
    let expected = csv(&plain(&folder.at("query.yaml")).await);
    let table = "{name: t, location: out, format: parquet}";
    let read = folder.write("read.yaml", query_of_rows(table));
    let written = csv(&plain(&read).await);
    assert_eq!(sorted_rows(&written), sorted_rows(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_cancelled_in_mid_write_leaves_nothing() {
    let mut workers = Worker::three();
    // With one worker frozen, the query cannot end before it is cancelled.
    let (folder, query, _) = frozen_in(&workers, mid_write, "writing root attempts", writing).await;
    query.cancel();
    workers[0].thaw();
    let over = query.end().await;
    assert_eq!(over.outcome, Outcome::Cancelled);
    assert_eq!(folder.names(), ["query.yaml"]);
    assert_eq!(folder.files_below("out"), Vec::<PathBuf>::new());
    workers.iter_mut().for_each(Worker::assert_well);
}
