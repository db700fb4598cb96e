//! Workers that appear and disappear behind a DNS name while a query runs.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::BoxStream;
use sluice::coordinator::Resolve;
use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_crds::ErrorReason;
use sluice_proto::wire;
use tokio::net::TcpListener;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::program::{Folder, Worker};
use super::query::{PATIENT, by_part, csv, plain, query};
use super::watched::{Watched, first};

/// A resolver that the test controls. It knows one name, `pool:7400`.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<Option<BTreeSet<SocketAddr>>>>);

impl Names {
    pub(super) fn list(&self, workers: &[&Worker]) {
        let addresses = workers
            .iter()
            .map(|worker| worker.address.parse().expect("ip:port"));
        self.set(addresses.collect());
    }

    fn set(&self, addresses: BTreeSet<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(addresses);
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<BTreeSet<SocketAddr>> {
        assert_eq!(name, "pool:7400");
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone().ok_or_else(|| io::Error::other("no such name"))
    }
}

/// Starts the query of this YAML on the workers that the names stand for.
pub(super) async fn start(folder: &Folder, yaml: &str, names: &Names) -> Watched {
    let name = vec!["pool:7400".to_owned()];
    Watched::start_found(folder, yaml, name, 3, Arc::new(names.clone())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_waits_for_its_name_and_takes_workers_in_as_they_come_and_go() {
    let folder = Folder::new();
    let names = Names::default();
    let mut query = start(&folder, &by_part(0.3, &[]), &names).await;
    assert_eq!(query.now().workers, 0);
    let [mut a, b, c] = Worker::three();
    names.list(&[&a]);
    query
        .until("the first worker's rows", |seen| first(seen).running > 0)
        .await;
    names.list(&[&a, &b, &c]);
    query.until("three workers", |seen| seen.workers == 3).await;
    // A pod that stops: first its DNS record goes, which changes nothing, then its process.
    names.list(&[&b, &c]);
    a.kill();
    query.until("two workers", |seen| seen.workers == 2).await;
    let over = query.end().await;
    over.assert_no_failures();
    let expected = csv(&plain(&folder.at("query.yaml")).await);
    assert_eq!(csv(&over.rows), expected);
}

#[test]
fn a_host_name_is_resolved_by_the_system() {
    let folder = Folder::new();
    let worker = Worker::start();
    let (_, port) = worker.address.rsplit_once(':').expect("host:port");
    let name = format!("localhost:{port}");
    let ended = folder
        .run(&by_part(0.01, &[]), &["--workers", &name, "--output", "csv"])
        .expect(0, &[]);
    assert_eq!(ended.stdout, super::query::plain_csv(&folder.at("query.yaml")));
}

/// A worker of another build.
struct OtherBuild;

#[async_trait]
impl wire::worker_server::Worker for OtherBuild {
    type SessionStream = UnboundedReceiverStream<Result<wire::WorkerMessage, Status>>;
    type FetchStream = BoxStream<'static, Result<wire::FetchChunk, Status>>;

    async fn session(
        &self,
        _: Request<Streaming<wire::CoordinatorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = tokio::sync::mpsc::unbounded_channel();
        let refused = wire::worker_message::Message::Refused(wire::Refused {
            reason: wire::RefusedReason::BuildMismatch.into(),
            message: "the worker is 0.0.0+other".into(),
        });
        outbound
            .send(Ok(wire::WorkerMessage::of(refused)))
            .expect("the receiver is here");
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn fetch(&self, _: Request<wire::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("nothing is held here"))
    }

    async fn get_worker_status(
        &self,
        _: Request<wire::WorkerStatusRequest>,
    ) -> Result<Response<wire::WorkerStatus>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn drain(&self, _: Request<wire::DrainRequest>) -> Result<Response<wire::WorkerStatus>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

async fn other_build() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = wire::worker_server::WorkerServer::new(OtherBuild);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(server)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_another_build_are_left_alone_while_others_may_come() {
    let folder = Folder::new();
    let names = Names::default();
    let other = other_build().await;
    names.set([other].into());
    let query = start(&folder, &by_part(0.01, &[PATIENT]), &names).await;
    let worker = Worker::start();
    names.set([other, worker.address.parse().expect("ip:port")].into());
    let over = query.end().await;
    over.assert_nothing_ran_again();
    let expected = csv(&plain(&folder.at("query.yaml")).await);
    assert_eq!(csv(&over.rows), expected);
}

async fn failure(names: &Names) -> QueryFailure {
    let folder = Folder::new();
    let yaml = query("select 1", &[], &["retry: {noWorkersGrace: 3s}"]);
    match start(&folder, &yaml, names).await.end().await.outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("it ended with {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_meets_only_other_builds_fails_after_the_grace_and_says_so() {
    let names = Names::default();
    let other = other_build().await;
    names.set([other].into());
    let failure = failure(&names).await;
    assert_eq!(failure.reason, ErrorReason::BuildMismatch, "{}", failure.message);
    for part in [&other.to_string(), "another build", "0.0.0+other"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_never_resolves_is_told_after_the_grace() {
    let failure = failure(&Names::default()).await;
    assert_eq!(failure.reason, ErrorReason::WorkersLost);
    let said = "pool:7400 does not resolve: no such name";
    assert!(failure.message.contains(said), "{}", failure.message);
}
