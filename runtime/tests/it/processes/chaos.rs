//! Workers that die, freeze, come back and are shared, in the middle of a query.

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::snapshot::{QuerySnapshot, StageState};
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

use super::losses::{alone_in, frozen_in, seen_in};
use super::program::{Folder, Program, Worker, list};
use super::query::{PATIENT, by_part, csv, plain, plain_csv};
use super::watched::{Watched, first, second};

/// Large enough that a query lasts some seconds where workers are killed in it.
const SCALE: f64 = 0.2;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_after_its_first_won_map_costs_exactly_what_it_had() {
    let mut workers = Worker::three();
    let maps_only = |seen: &QuerySnapshot| first(seen).done >= 1 && second(seen).attempts == 0;
    let yaml = by_part(SCALE, &[PATIENT]);
    let (folder, query, held) = alone_in(&workers, &yaml, "its first won map", maps_only).await;
    assert!(held[0].won >= 1, "{held:#?}");
    workers[0].kill();
    workers[1..].iter().for_each(Worker::thaw);
    let over = query.end().await;
    over.assert_ran_again(&held);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_among_its_reduces_costs_exactly_the_maps_and_reduces_that_it_had() {
    let mut workers = Worker::three();
    let among_reduces = |seen: &QuerySnapshot| {
        let reduces = second(seen);
        reduces.done >= 1 && reduces.done < reduces.tasks
    };
    let yaml = by_part(SCALE, &[PATIENT]);
    let (folder, query, held) = alone_in(&workers, &yaml, "some reduces won", among_reduces).await;
    assert_eq!(held[0].won, first(&query.now()).tasks, "a barrier: {held:#?}");
    assert!(held[1].won >= 1, "{held:#?}");
    workers[0].kill();
    workers[1..].iter().for_each(Worker::thaw);
    let over = query.end().await;
    over.assert_ran_again(&held);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_fetch_costs_exactly_its_outputs_and_the_readers_of_them() {
    let mut workers = Worker::three();
    let fetching = |seen: &QuerySnapshot| {
        let reader = second(seen);
        reader.running > 0 && reader.done < reader.tasks && reader.metrics.shuffle_bytes_in > 0
    };
    let yaml = |_: &Folder| by_part(SCALE, &[PATIENT]);
    let (folder, query, held) = frozen_in(&workers, yaml, "a reader that fetches", fetching).await;
    assert!(held[0].won >= 1, "every worker wins a map: {held:#?}");
    assert_eq!(held[0].running, 0, "a barrier: {held:#?}");
    workers[0].kill();
    let over = query.end().await;
    over.assert_ran_again(&held);
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
    let mut workers = Worker::three();
    // Long enough for workers that share a busy core to send heartbeats.
    let yaml = |_: &Folder| by_part(0.5, &["retry: {workerLivenessTimeout: 5s}"]);
    let all_work = |seen: &QuerySnapshot| first(seen).running == 3 && first(seen).metrics.rows_out > 0;
    let (folder, mut query) = seen_in(&workers, yaml, "three workers at work", all_work).await;
    workers[0].freeze();
    query
        .until("the frozen worker counts as lost", |seen| seen.workers < 3)
        .await;
    workers[0].thaw();
    let over = query.end().await;
    over.assert_no_failures();
    // What ran there is lost. Its finished outputs count again, and the attempts in their place are cancelled.
    let again = first(&over.last).lost_attempts + first(&over.last).cancelled_attempts;
    assert!(again >= 1, "{:#?}", over.last);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_restarted_on_its_port_in_mid_query_works_again() {
    let first_port = Worker::start();
    let address = first_port.address.clone();
    drop(first_port);
    let mut workers = [
        Worker::start_on(&address, "512MiB"),
        Worker::start(),
        Worker::start(),
    ];
    let yaml = |_: &Folder| by_part(0.5, &[PATIENT]);
    let all_work = |seen: &QuerySnapshot| first(seen).running == 3;
    let (folder, mut query) = seen_in(&workers, yaml, "three workers at work", all_work).await;
    workers[1].freeze();
    workers[2].freeze();
    workers[0].kill();
    query.until("its loss", |seen| seen.workers == 2).await;
    workers[0] = Worker::start_on(&address, "512MiB");
    query.until("its return", |seen| seen.workers == 3).await;
    // The others are frozen: only the restarted worker can win tasks now.
    let done = first(&query.now()).done;
    query
        .until("a map won by it", |seen| first(seen).done > done)
        .await;
    workers[1].thaw();
    workers[2].thaw();
    let over = query.end().await;
    over.assert_no_failures();
    assert!(first(&over.last).lost_attempts >= 1, "{:#?}", over.last);
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
    workers.iter_mut().for_each(Worker::assert_well);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_with_which_two_workers_died_ends_its_query_and_harms_no_third() {
    let port = Worker::start();
    let address = port.address.clone();
    drop(port);
    let mut worker = [Worker::start_on(&address, "512MiB")];
    let folder = Folder::new();
    let mut query = Watched::start(&folder, &by_part(5.0, &[PATIENT]), &worker).await;
    for lost in 0..2 {
        query
            .until("its first task at work", |seen| {
                first(seen).running == 1 && first(seen).lost_attempts == lost
            })
            .await;
        worker[0].kill();
        query.until("the loss", |seen| seen.workers == 0).await;
        worker = [Worker::start_on(&address, "512MiB")];
    }
    let over = query.end().await;
    let Outcome::Failed(QueryFailure { reason, message, .. }) = over.outcome else {
        panic!("{:?}", over.outcome);
    };
    assert_eq!(reason, ErrorReason::PoisonTask, "{message}");
    assert!(
        message.contains("task s0.t0 (") && message.contains("2 times"),
        "{message}"
    );
    assert_eq!(first(&over.last).attempts, 2, "{:#?}", over.last);
    let next = Watched::start(&folder, &by_part(0.01, &[PATIENT]), &worker).await;
    next.end().await.assert_nothing_ran_again();
    worker[0].assert_well();
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
    let next = Watched::start(&folder, &by_part(0.01, &[PATIENT]), &workers)
        .await
        .end()
        .await;
    next.assert_nothing_ran_again();
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
