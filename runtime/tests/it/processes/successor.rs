//! Coordinator processes that are stopped, succeeded or superseded, and their termination messages.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_core::snapshot::QuerySnapshot;
use sluice_core::termination::Termination;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_proto::{QueryReport, wire};
use tonic::transport::Channel;
use wire::coordinator_client::CoordinatorClient;

use super::program::{Folder, Program, TIMEOUT, Worker, list, sluice, wait_until};
use super::query::{by_part, plain_csv, query, sorted_rows, tpch};

/// A coordinator process of one query.
pub(super) struct Coordinator {
    pub(super) program: Program,
    client: CoordinatorClient<Channel>,
    query: String,
}

/// The command for one epoch of the query in `query.yaml`. The termination message goes to `words-<epoch>`.
pub(super) fn command(folder: &Folder, workers: &str, query: &str, epoch: u64) -> std::process::Command {
    let mut command = sluice();
    command.args(["coordinator", "--listen", "127.0.0.1:0", "--total-slots", "3"]);
    command.args(["--workers", workers, "--query-id", query]);
    command.arg("--epoch").arg(epoch.to_string());
    command.arg(folder.at("query.yaml"));
    let words = folder.write(&format!("words-{epoch}"), "");
    command.env("SLUICE_TERMINATION_LOG", words);
    command
}

impl Coordinator {
    async fn start(folder: &Folder, workers: &str, query: &str, epoch: u64) -> Self {
        let mut program = Program::start(command(folder, workers, query, epoch));
        program.wait_for("serves on ");
        let said = program.said();
        let (_, address) = said.split_once("serves on ").expect("it was waited for");
        let address = address.lines().next().expect("an address").trim();
        let client = CoordinatorClient::connect(format!("http://{address}"));
        Self {
            program,
            client: client.await.expect("it serves"),
            query: query.to_owned(),
        }
    }

    fn reference(&self) -> wire::QueryRef {
        wire::QueryRef {
            query: self.query.clone(),
        }
    }

    /// Waits for a state. It asks again and again: who watches is told once a second, and some states are shorter.
    async fn until(&mut self, is_so: impl Fn(&QuerySnapshot) -> bool) -> QueryReport {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            let status = self.client.get_query_status(self.reference()).await;
            let status = status.expect("it serves").into_inner();
            let report = QueryReport::try_from(status).expect("a report");
            if is_so(&report.snapshot) {
                return report;
            }
            assert_eq!(report.snapshot.outcome, None, "the query ended before");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain for a state");
    }
}

fn words(folder: &Folder, epoch: u64) -> Option<Termination> {
    let text = std::fs::read_to_string(folder.at(&format!("words-{epoch}"))).expect("it is there");
    (!text.is_empty()).then(|| Termination::decode(&text).expect("last words"))
}

/// These columns of the rows in the sink.
fn read_back(folder: &Folder, columns: &str) -> String {
    let table = "{name: t, location: out/rows, format: parquet}";
    let sql = format!("select {columns} from t");
    plain_rows(&folder.write("read.yaml", query(&sql, &[table], &[])))
}

fn plain_rows(file: &Path) -> String {
    let file = file.to_owned();
    // It creates its own runtime.
    std::thread::spawn(move || plain_csv(&file))
        .join()
        .expect("plain rows")
}

fn halfway(seen: &QuerySnapshot) -> bool {
    seen.stages.iter().any(|stage| stage.done > 0) && seen.outcome.is_none()
}

/// Parts by the number of their lines: a scan, a stage that reads it by the layout of what was written, and the root. In four waves on
/// three slots, so that a stage is seen halfway.
fn parts_by_lines(scale_factor: f64, condition: &str) -> String {
    let sql = format!(
        "select lines, count(*) as parts, sum(quantity) as quantity, min(comment) as comment from \
         (select l_partkey, count(*) as lines, sum(l_quantity) as quantity, min(l_comment) as comment \
         from lineitem where {condition} group by l_partkey) group by lines"
    );
    query(
        &sql,
        &[&tpch("lineitem", scale_factor)],
        &[
            "sink: {location: out/rows, format: parquet}",
            "shuffle: {partitions: 24, speculation: {mode: Off}, adaptive: {minReduceTasks: 12, maxReduceTasks: 12}}",
        ],
    )
}

/// Tasks of a stage that have won.
fn done(seen: &QuerySnapshot, stage: usize) -> u32 {
    seen.stages.get(stage).map_or(0, |stage| stage.done)
}

/// `moment` says when the first coordinator is killed; it has won `stage`'s tasks as seen then.
async fn nothing_that_has_won_runs_again(moment: impl Fn(&QuerySnapshot) -> bool, stage: usize) {
    let folder = Folder::new();
    folder.write("query.yaml", parts_by_lines(0.5, "true"));
    let mut workers = Worker::three();
    let addresses = list(&workers);
    let mut first = Coordinator::start(&folder, &addresses, "q-1", 1).await;
    let seen = first.until(moment).await.snapshot;
    first.program.signal(Signal::KILL);
    drop(first);

    let mut second = Coordinator::start(&folder, &addresses, "q-1", 2).await;
    let report = second.until(|seen| seen.outcome.is_some()).await;
    assert_eq!(report.status().phase, QueryPhase::Succeeded);
    let snapshot = &report.snapshot;
    let recovery = snapshot.recovery;
    assert!(
        recovery.recovered_tasks >= done(&seen, stage),
        "{recovery:?} of {seen:#?}"
    );
    assert_eq!(recovery.discarded_outputs, 0);
    for stage in &snapshot.stages {
        assert!(stage.attempts <= stage.tasks, "a task ran again: {stage:#?}");
    }
    second.program.end().expect(0, &[]);
    let written = read_back(&folder, "lines, parts, quantity, comment");
    let expected = plain_rows(&folder.at("query.yaml"));
    assert_eq!(sorted_rows(&written), sorted_rows(&expected));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_goes_on_where_some_maps_have_won() {
    let some = |seen: &QuerySnapshot| done(seen, 0) > 0 && done(seen, 1) == 0;
    nothing_that_has_won_runs_again(some, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_goes_on_by_the_layout_of_its_predecessor() {
    nothing_that_has_won_runs_again(|seen| done(seen, 1) > 0 && seen.outcome.is_none(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_with_another_plan_starts_over_and_says_so() {
    let folder = Folder::new();
    folder.write("query.yaml", parts_by_lines(0.5, "true"));
    let mut workers = Worker::three();
    let addresses = list(&workers);
    let mut first = Coordinator::start(&folder, &addresses, "q-1", 1).await;
    first.until(|seen| done(seen, 0) > 0).await;
    first.program.signal(Signal::KILL);
    drop(first);

    folder.write("query.yaml", parts_by_lines(0.5, "l_quantity < 9"));
    let mut second = Coordinator::start(&folder, &addresses, "q-1", 2).await;
    let report = second.until(|seen| seen.outcome.is_some()).await;
    let recovery = report.snapshot.recovery;
    assert!(
        recovery.recovered_tasks == 0 && recovery.discarded_outputs > 0,
        "{recovery:?}"
    );
    second.program.end().expect(0, &["another plan"]);
    let written = read_back(&folder, "lines, parts, quantity, comment");
    let expected = plain_rows(&folder.at("query.yaml"));
    assert_eq!(sorted_rows(&written), sorted_rows(&expected));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_runs_on_the_same_workers_and_the_old_one_is_refused() {
    let folder = Folder::new();
    folder.write(
        "query.yaml",
        by_part(0.5, &["sink: {location: out/rows, format: parquet}"]),
    );
    let mut workers = Worker::three();
    let addresses = list(&workers);
    let mut first = Coordinator::start(&folder, &addresses, "q-1", 1).await;
    first.until(halfway).await;
    first.program.signal(Signal::TERM);
    first.program.end().expect(143, &["stopped"]);
    assert_eq!(words(&folder, 1), None, "the query has not ended");

    let mut second = Coordinator::start(&folder, &addresses, "q-1", 2).await;
    second.until(|seen| seen.workers == 3).await;
    let old = Program::start(command(&folder, &addresses, "q-1", 1));
    old.end().expect(143, &["superseded"]);
    let report = second.until(|seen| seen.outcome.is_some()).await;
    assert_eq!(report.status().phase, QueryPhase::Succeeded);
    for stage in &report.snapshot.stages {
        assert_eq!((stage.failed_attempts, stage.lost_attempts), (0, 0), "{stage:#?}");
    }
    second.program.end().expect(0, &[]);
    let said = words(&folder, 2).expect("the query has ended");
    assert_eq!(said.phase, QueryPhase::Succeeded);
    let sink = said.sink.expect("it has a sink");
    let written = read_back(&folder, "lines, parts, quantity, comment");
    let expected = plain_rows(&folder.at("query.yaml"));
    assert_eq!(sorted_rows(&written), sorted_rows(&expected));
    assert_eq!(sink.rows as usize, sorted_rows(&expected).len());
    let names = std::fs::read_dir(folder.at("out")).expect("it is there").count();
    assert_eq!(names, 1, "staging is left");

    // Its pod and its termination message are lost: nobody could run the query again.
    workers.iter_mut().for_each(Worker::assert_well);
    workers.iter_mut().for_each(Worker::kill);
    let mut third = Coordinator::start(&folder, &addresses, "q-1", 3).await;
    let report = third.until(|seen| seen.outcome.is_some()).await;
    assert_eq!(report.status().sink, Some(sink.clone()));
    third.program.end().expect(0, &[]);
    let said = words(&folder, 3).expect("the query has ended");
    assert_eq!((said.phase, said.sink), (QueryPhase::Succeeded, Some(sink)));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_is_a_call_or_ctrl_c_and_ends_with_a_termination_message() {
    for by_call in [true, false] {
        let folder = Folder::new();
        folder.write("query.yaml", by_part(20.0, &[]));
        let worker = [Worker::start()];
        let mut coordinator = Coordinator::start(&folder, &list(&worker), "q-1", 1).await;
        coordinator.until(|seen| seen.workers == 1).await;
        if by_call {
            let reference = coordinator.reference();
            let cancelled = coordinator.client.cancel_query(reference).await;
            cancelled.expect("it serves");
        } else {
            coordinator.program.signal(Signal::INT);
        }
        coordinator.until(|seen| seen.outcome.is_some()).await;
        coordinator.program.end().expect(130, &["cancelled"]);
        let said = words(&folder, 1).expect("the query has ended");
        assert_eq!(
            (said.phase, said.reason),
            (QueryPhase::Cancelled, Some(ErrorReason::Cancelled))
        );
    }
}

#[test]
fn a_query_that_cannot_be_planned_says_why_in_its_termination_message() {
    let cases = [
        ("select nothing from lineitem", ErrorReason::InvalidSql),
        ("select * from '/etc/passwd'", ErrorReason::InvalidSql),
    ];
    for (sql, reason) in cases {
        let folder = Folder::new();
        folder.write("query.yaml", query(sql, &[&tpch("lineitem", 0.01)], &[]));
        let ended = Program::start(command(&folder, "127.0.0.1:1", "q-1", 1));
        ended.end().expect(2, &["error"]);
        let said = words(&folder, 1).expect("it has ended");
        assert_eq!(
            (said.phase, said.reason),
            (QueryPhase::Failed, Some(reason)),
            "{sql}"
        );
    }
}

#[test]
fn a_worker_place_that_is_none_is_refused_by_name() {
    let folder = Folder::new();
    folder.write("query.yaml", query("select 1", &[], &[]));
    for place in [
        "host",
        "host:",
        "host:0",
        "host:70000",
        ":7400",
        "a b:1",
        "http://host:1",
    ] {
        let ended = Program::start(command(&folder, place, "q-1", 1));
        ended.end().expect(2, &[place, "host:port"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_state_is_served_until_somebody_has_taken_it() {
    let folder = Folder::new();
    folder.write("query.yaml", query("select 1 as one", &[], &[]));
    let worker = [Worker::start()];
    let coordinator = Coordinator::start(&folder, &list(&worker), "q-1", 1).await;
    wait_until("last words", || words(&folder, 1).is_some());
    // It lingers for ten seconds and still answers.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut client = coordinator.client.clone();
    let status = client.get_query_status(coordinator.reference()).await;
    let report = QueryReport::try_from(status.expect("it serves").into_inner()).expect("a report");
    let preview = report.status().preview.expect("one row");
    assert_eq!(preview.rows, [["1"]]);
    coordinator.program.end().expect(0, &[]);
}
