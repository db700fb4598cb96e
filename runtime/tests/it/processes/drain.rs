//! Workers that drain before they stop.

use rustix::process::Signal;
use sluice_core::snapshot::QuerySnapshot;
use sluice_proto::{LIVENESS_SERVICE, wire};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wire::worker_client::WorkerClient;

use super::losses::seen_in;
use super::program::{Folder, Program, Worker, wait_until};
use super::query::{PATIENT, by_part, csv, plain};
use super::watched::{Watched, first};
use super::wire_noise::welcome;

async fn channel(worker: &Worker) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", worker.address)).expect("an address");
    endpoint.connect().await.expect("the worker listens")
}

async fn status(worker: &Worker) -> wire::WorkerStatus {
    let mut client = WorkerClient::new(channel(worker).await);
    let status = client.get_worker_status(wire::WorkerStatusRequest {}).await;
    status.expect("it tells").into_inner()
}

async fn drain(worker: &Worker) -> wire::WorkerStatus {
    let mut client = WorkerClient::new(channel(worker).await);
    let status = client.drain(wire::DrainRequest {}).await;
    status.expect("it drains").into_inner()
}

async fn health(worker: &Worker, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(channel(worker).await);
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = client.check(request).await.expect("it tells its health");
    answer.into_inner().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_gets_no_more_work_and_the_query_loses_nothing() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let mut query = Watched::start(&folder, &by_part(0.3, &[PATIENT]), &workers).await;
    query
        .until("the first winner", |seen| {
            seen.workers == 3 && first(seen).done > 0
        })
        .await;
    let before = status(&workers[0]).await;
    assert_eq!((before.slots, before.queries, before.draining), (1, 1, false));
    assert_eq!(health(&workers[0], "").await, ServingStatus::Serving);
    for _ in 0..2 {
        assert!(drain(&workers[0]).await.draining);
    }
    assert_eq!(health(&workers[0], "").await, ServingStatus::NotServing);
    assert_eq!(
        health(&workers[0], LIVENESS_SERVICE).await,
        ServingStatus::Serving
    );
    let over = query.end().await;
    over.assert_nothing_ran_again();
    assert_eq!(csv(&over.rows), csv(&plain(&folder.at("query.yaml")).await));
    let mut after = status(&workers[0]).await;
    while after.queries > 0 {
        after = status(&workers[0]).await;
    }
    assert_eq!((after.held_bytes, after.slots_in_use), (0, 0));
    workers[0].assert_well();

    // It accepts no new query from now on.
    let yaml = by_part(0.01, &["retry: {noWorkersGrace: 1s}"]);
    let arguments = ["--workers", &workers[0].address];
    let command = folder.run_command(&yaml, &arguments);
    let ended = tokio::task::spawn_blocking(move || Program::start(command).end()).await;
    ended.expect("it ended").expect(4, &["draining"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_stop_serves_until_nobody_needs_it() {
    let folder = Folder::new();
    let mut workers: [Worker; 3] =
        std::array::from_fn(|_| Worker::start_with("127.0.0.1:0", "512MiB", &["--drain-grace", "1h"]));
    let mut query = Watched::start(&folder, &by_part(0.3, &[PATIENT]), &workers).await;
    query
        .until("the first winner", |seen| {
            seen.workers == 3 && first(seen).done > 0
        })
        .await;
    workers[0].signal(Signal::TERM);
    let over = query.end().await;
    over.assert_nothing_ran_again();
    wait_until("the worker's end", || workers[0].has_ended());
    assert_eq!(workers[0].files(), Vec::<std::path::PathBuf>::new());
    // An unused worker stops at once.
    assert_eq!(workers[1].stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_when_its_time_to_drain_is_over_and_no_failure_counts() {
    let short = Worker::start_with("127.0.0.1:0", "512MiB", &["--drain-grace", "100ms"]);
    let mut workers = [short, Worker::start(), Worker::start()];
    let yaml = |_: &Folder| by_part(1.0, &[PATIENT]);
    let all_work = |seen: &QuerySnapshot| first(seen).running == 3;
    let (_folder, query) = seen_in(&workers, yaml, "work everywhere", all_work).await;
    assert_eq!(workers[0].stop(), Some(0));
    let over = query.end().await;
    over.assert_no_failures();
    let lost: u32 = over.last.stages.iter().map(|stage| stage.lost_attempts).sum();
    assert!(lost >= 1, "{:#?}", over.last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_its_node_and_its_zone_once_that_is_known() {
    let folder = Folder::new();
    let zone = folder.at("zone");
    let zone = zone.to_string_lossy();
    let arguments = ["--node", "node-1", "--zone-file", &zone];
    let worker = Worker::start_with("127.0.0.1:0", "512MiB", &arguments);
    let before = welcome(&worker.address).await;
    assert_eq!((before.node.as_str(), before.zone.as_str()), ("node-1", ""));
    folder.write("zone", "zone-a\n");
    assert_eq!(welcome(&worker.address).await.zone, "zone-a");
}
