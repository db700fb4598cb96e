//! Workers that die, freeze, come back and are shared, in the middle of a query.

use std::time::Duration;

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::snapshot::{QuerySnapshot, StageState};
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

use super::program::{Folder, Program, Worker, list};
use super::query::{by_part, csv, plain, plain_csv};
use super::watched::{Watched, first, second};
use super::wire_noise::holds;

/// Large enough that a query lasts some seconds where workers are killed in it.
const SCALE: f64 = 0.2;

/// The state once nothing moves any more, because every worker is frozen.
async fn settled(query: &Watched) -> QuerySnapshot {
    let mut before = query.now();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = query.now();
        if now.stages == before.stages {
            return now;
        }
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_after_its_first_won_map_costs_exactly_what_it_had() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let yaml = by_part(SCALE, &[]);
    // Alone at first: the first map that is won is its own.
    workers[1].freeze();
    workers[2].freeze();
    let mut query = Watched::start(&folder, &yaml, &workers).await;
    query
        .until("its first won map", |seen| first(seen).done >= 1)
        .await;
    workers[0].freeze();
    let held = settled(&query).await;
    assert_eq!(
        held.workers, 1,
        "the frozen ones have not answered yet: {held:#?}"
    );
    let lost = first(&held).done + first(&held).running;
    workers[0].kill();
    workers[1].thaw();
    workers[2].thaw();
    let over = query.end().await;
    over.assert_only_losses_ran_again();
    assert!(lost >= 1);
    assert_eq!(first(&over.last).lost_attempts, lost, "{:#?}", over.last);
    for stage in &over.last.stages[1..] {
        assert_eq!(
            stage.attempts, stage.tasks,
            "no attempt of it had begun: {stage:#?}"
        );
    }
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_fetch_costs_exactly_its_outputs_and_the_readers_of_them() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let fetching = |seen: &QuerySnapshot| {
        let reader = second(seen);
        reader.running > 0 && reader.done < reader.tasks && reader.metrics.shuffle_bytes_in > 0
    };
    // Readers take two tenths of a second, and a snapshot comes each tenth: the moment may be missed.
    let mut missed = 0;
    let query = loop {
        let mut query = Watched::start(&folder, &by_part(SCALE, &[]), &workers).await;
        if fetching(&query.until_or_end("a reader that fetches", fetching).await) {
            break query;
        }
        assert_eq!(query.end().await.outcome, Outcome::Succeeded);
        missed += 1;
        assert!(missed < 5, "no reader was seen that fetches");
    };
    workers[0].freeze();
    let maps = first(&query.now()).tasks;
    // All of a frozen worker's outputs are those that its peers do not hold.
    let mut held_elsewhere = 0;
    for worker in &workers[1..] {
        for task in 0..maps {
            held_elsewhere += u32::from(holds(&worker.address, &query.id, task).await);
        }
    }
    workers[0].kill();
    let over = query.end().await;
    over.assert_only_losses_ran_again();
    assert!(held_elsewhere < maps, "the killed worker had won no map");
    let stages = &over.last.stages;
    assert_eq!(stages[0].lost_attempts, maps - held_elsewhere, "{stages:#?}");
    assert_eq!(stages[0].cancelled_attempts, 0, "{stages:#?}");
    // Its own reader is lost; those of the others may wait for the new maps, or give their slots up to them.
    let readers = stages[1].lost_attempts + stages[1].cancelled_attempts;
    assert!((1..=stages[1].tasks).contains(&readers), "{stages:#?}");
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}

#[test]
fn a_query_whose_workers_are_all_killed_fails_within_the_grace_time() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let yaml = by_part(5.0, &["retry: {noWorkersGrace: 2s}"]);
    let status = folder.at("status.json");
    let workers_list = list(&workers);
    let status_path = status.to_string_lossy();
    let arguments = [
        "--workers",
        &workers_list,
        "--output",
        "csv",
        "--status",
        &status_path,
    ];
    let mut run = Program::start(folder.run_command(&yaml, &arguments));
    run.wait_for("stage 0");
    for worker in &mut workers {
        worker.kill();
    }
    let ended = run.end().expect(4, &["WorkersLost"]);
    for worker in &workers {
        assert!(
            ended.stderr.contains(&worker.address),
            "no word on {}: {}",
            worker.address,
            ended.stderr
        );
    }
    assert_eq!(ended.stdout, "");
    let text = std::fs::read_to_string(status).expect("the status was written");
    let status: ShuffleQueryStatus = serde_json::from_str(&text).expect("it is a status");
    assert_eq!(status.phase, QueryPhase::Failed);
    assert_eq!(
        status.error.expect("a failed query has an error").reason,
        ErrorReason::WorkersLost
    );
}

#[test]
fn a_query_that_never_finds_a_worker_fails_within_the_grace_time() {
    let folder = Folder::new();
    let mut worker = Worker::start();
    let address = worker.address.clone();
    worker.kill();
    let yaml = by_part(0.01, &["retry: {noWorkersGrace: 1s}"]);
    folder
        .run(&yaml, &["--workers", &address])
        .expect(4, &["WorkersLost", &address]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_past_the_liveness_timeout_and_thawed_changes_no_row() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let yaml = by_part(SCALE, &["retry: {workerLivenessTimeout: 2s}"]);
    let mut query = Watched::start(&folder, &yaml, &workers).await;
    let all_work = |seen: &QuerySnapshot| first(seen).running == 3 && first(seen).metrics.rows_out > 0;
    query.until("three workers at work", all_work).await;
    workers[0].freeze();
    query
        .until("the frozen worker counts as lost", |seen| seen.workers < 3)
        .await;
    workers[0].thaw();
    let over = query.end().await;
    over.assert_only_losses_ran_again();
    // What ran there is lost; an output that it held counts again, and the attempt in its place is cancelled.
    let again = first(&over.last).lost_attempts + first(&over.last).cancelled_attempts;
    assert!(again >= 1, "{:#?}", over.last);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_restarted_on_its_port_in_mid_query_works_again() {
    let folder = Folder::new();
    let first_port = Worker::start();
    let address = first_port.address.clone();
    drop(first_port);
    let mut workers = [
        Worker::start_on(&address, "512MiB"),
        Worker::start(),
        Worker::start(),
    ];
    let mut query = Watched::start(&folder, &by_part(SCALE, &[]), &workers).await;
    query
        .until("three workers at work", |seen| first(seen).running == 3)
        .await;
    workers[1].freeze();
    workers[2].freeze();
    workers[0].kill();
    query.until("its loss", |seen| seen.workers == 2).await;
    workers[0] = Worker::start_on(&address, "512MiB");
    query.until("its return", |seen| seen.workers == 3).await;
    // The others stand still: what is won now, the restarted worker wins.
    let done = first(&query.now()).done;
    query
        .until("a map won by it", |seen| first(seen).done > done)
        .await;
    workers[1].thaw();
    workers[2].thaw();
    let over = query.end().await;
    over.assert_only_losses_ran_again();
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[test]
fn two_runs_at_once_share_three_workers_and_both_finish() {
    let (one, two) = (Folder::new(), Folder::new());
    let mut workers = Worker::three();
    let addresses = list(&workers);
    let arguments = ["--workers", &addresses, "--output", "csv"];
    let mut first_run = Program::start(one.run_command(&by_part(0.2, &[]), &arguments));
    first_run.wait_for("stage 0");
    let second_run = Program::start(two.run_command(&by_part(0.1, &[]), &arguments));
    let (first_run, second_run) = (first_run.end().expect(0, &[]), second_run.end().expect(0, &[]));
    assert_eq!(first_run.stdout, plain_csv(&one.at("query.yaml")));
    assert_eq!(second_run.stdout, plain_csv(&two.at("query.yaml")));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_frees_its_workers() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let mut query = Watched::start(&folder, &by_part(5.0, &[]), &workers).await;
    query
        .until("three workers at work", |seen| first(seen).running == 3)
        .await;
    query.cancel();
    let over = query.end().await;
    assert_eq!(over.outcome, Outcome::Cancelled);
    assert!(
        over.last.stages.iter().all(|stage| stage.running == 0),
        "{:#?}",
        over.last
    );
    let next = Watched::start(&folder, &by_part(0.01, &[]), &workers)
        .await
        .end()
        .await;
    next.assert_only_losses_ran_again();
    assert!(
        next.last
            .stages
            .iter()
            .all(|stage| stage.state == StageState::Done)
    );
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_query_that_runs_too_long() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let query = Watched::start(&folder, &by_part(50.0, &["deadlineSeconds: 1"]), &workers).await;
    let over = query.end().await;
    let Outcome::Failed(QueryFailure { reason, message, .. }) = over.outcome else {
        panic!("{:?}", over.outcome);
    };
    assert_eq!(reason, ErrorReason::DeadlineExceeded);
    assert!(message.contains("deadlineSeconds"), "{message}");
    workers.iter_mut().for_each(Worker::assert_well);
}

#[test]
fn a_worker_told_to_stop_in_mid_query_goes_and_the_query_ends_on_the_others() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let addresses = list(&workers);
    let yaml = by_part(SCALE, &[]);
    let mut run = Program::start(folder.run_command(&yaml, &["--workers", &addresses, "--output", "csv"]));
    run.wait_for("stage 0");
    assert_eq!(workers[0].stop(), Some(0));
    assert_eq!(workers[0].files(), Vec::<std::path::PathBuf>::new());
    let ended = run.end().expect(0, &[]);
    assert_eq!(ended.stdout, plain_csv(&folder.at("query.yaml")));
}
