//! The programs of the test's pods: coordinators that report the snapshots of a script, and idle workers. Both serve the real
//! protocol at the pod's address, and check the operator's token.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use jiff::Timestamp;
use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::ids::{QueryId, StageId};
use sluice_core::locality::LocalityCounts;
use sluice_core::metrics::AttemptMetrics;
use sluice_core::snapshot::{
    JoinSwitches, QuerySnapshot, RecoveryCounts, SpeculationCounts, StageSnapshot, StageState,
};
use sluice_core::status::StatusContext;
use sluice_core::termination::Termination;
use sluice_core::time::Instant;
use sluice_crds::ErrorReason;
use sluice_crds::process::port;
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_operator::objects::labels;
use sluice_proto::auth::{Authorizer, PoolId, TokenSigner, TokenVerifier, TrustedKeys, Verb};
use sluice_proto::wire::coordinator_server::CoordinatorServer;
use sluice_proto::wire::worker_server::WorkerServer;
use sluice_proto::{QueryReport, wire};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::harness::SIGNING_KEY;
use crate::kubelet::{Container, Exit, Program};

/// What a coordinator does.
pub type Script = Arc<dyn Fn(Coordinator) -> BoxFuture<'static, Exit> + Send + Sync>;

/// How long a coordinator whose query has ended waits until its last state is read, as real ones do.
const LINGER: Duration = Duration::from_secs(10);

/// The programs of pods: workers that are ready and idle, and coordinators that follow `script`.
pub fn programs<F>(script: impl Fn(Coordinator) -> F + Send + Sync + 'static) -> Program
where
    F: Future<Output = Exit> + Send + 'static,
{
    programs_with(|_| idle(), script)
}

/// Like [`programs`], with workers of this status.
pub fn programs_with<F>(
    workers: impl Fn(&Container) -> wire::WorkerStatus + Send + Sync + 'static,
    script: impl Fn(Coordinator) -> F + Send + Sync + 'static,
) -> Program
where
    F: Future<Output = Exit> + Send + 'static,
{
    let script: Script = Arc::new(move |coordinator| script(coordinator).boxed());
    let workers = Arc::new(workers);
    Arc::new(move |container: Container| {
        let (script, workers) = (script.clone(), workers.clone());
        async move {
            match container.label(labels::COMPONENT) {
                "worker" => {
                    let state = workers(&container);
                    Worker::run(container, state).await
                }
                "coordinator" => Coordinator::run(container, script).await,
                other => panic!("{other} is no component"),
            }
        }
        .boxed()
    })
}

/// A coordinator that plans two tasks, runs them, and succeeds. SIGTERM stops it.
pub async fn succeeds(coordinator: Coordinator) -> Exit {
    coordinator.container.report_running(true).await;
    for done in 0..2 {
        coordinator.report(&snapshot(2, done, None));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            () = coordinator.container.terminated() => return Exit::stopped(),
            () = coordinator.cancelled() => return coordinator.end(Outcome::Cancelled).await,
        }
    }
    coordinator.end(Outcome::Succeeded).await
}

/// The outcome of a query that has failed for this reason.
pub fn failure(reason: ErrorReason, message: &str) -> Outcome {
    Outcome::Failed(QueryFailure {
        reason,
        message: message.to_owned(),
        attempt: None,
    })
}

/// A query of one stage at some moment: `done` of its `tasks` are won, and the others run.
pub fn snapshot(tasks: u32, done: u32, outcome: Option<Outcome>) -> QuerySnapshot {
    let ended = outcome.is_some().then_some(Instant(1_000));
    let complete = done == tasks;
    let stage = StageSnapshot {
        id: StageId(0),
        label: "scan t".to_owned(),
        output: "the result".to_owned(),
        state: if complete {
            StageState::Done
        } else {
            StageState::Running
        },
        tasks,
        running: if ended.is_some() { 0 } else { tasks - done },
        done,
        skipped: 0,
        failed_attempts: 0,
        lost_attempts: 0,
        cancelled_attempts: 0,
        attempts: tasks,
        locality: LocalityCounts::default(),
        reduce: None,
        filters: None,
        join_switches: JoinSwitches::default(),
        speculation: SpeculationCounts::default(),
        metrics: AttemptMetrics {
            rows_read: 100 * u64::from(done),
            rows_out: 10 * u64::from(done),
            ..AttemptMetrics::default()
        },
        started: Some(Instant(10)),
        ended: complete.then_some(Instant(900)),
    };
    QuerySnapshot {
        now: Instant(1_000),
        started: Instant(0),
        first_row: (done > 0).then_some(Instant(500)),
        ended,
        outcome,
        workers: 1,
        slots: 2,
        no_workers: None,
        recovery: RecoveryCounts::default(),
        stages: vec![stage],
    }
}

/// The first rows of every result.
pub fn preview() -> ResultPreview {
    ResultPreview {
        columns: vec!["a".to_owned()],
        rows: vec![vec!["1".to_owned()]],
        truncated: false,
    }
}

fn keys() -> TrustedKeys {
    let signer = TokenSigner::from_file(Path::new(SIGNING_KEY)).unwrap();
    TokenVerifier::from_pem(&signer.public_pem()).unwrap().into()
}

/// The pool of a pod.
fn pool(container: &Container) -> PoolId {
    PoolId {
        namespace: container.pod.metadata.namespace.clone().unwrap_or_default(),
        name: container.label(labels::POOL).to_owned(),
    }
}

/// The authorizer of a coordinator's query, or of a worker.
fn authorizer(container: &Container) -> Authorizer {
    let metadata = &container.pod.metadata;
    if container.label(labels::COMPONENT) == "worker" {
        let uid = metadata.uid.clone().unwrap_or_default();
        return Authorizer::for_worker(keys(), pool(container), uid);
    }
    // A test removes the owner.
    let owner = metadata.owner_references.iter().flatten().next();
    let query = QueryId::new(owner.map_or("nobody", |owner| owner.uid.as_str())).unwrap();
    Authorizer::for_coordinator(keys(), pool(container), query)
}

async fn listen(container: &Container, port: u16) -> TcpIncoming {
    let address = SocketAddr::new(container.address.into(), port);
    TcpIncoming::from(TcpListener::bind(address).await.unwrap()).with_nodelay(Some(true))
}

/// A report, and whether it is the last.
#[derive(Clone)]
struct LastReport {
    report: wire::QueryStatus,
    last: bool,
}

/// A coordinator's process.
pub struct Coordinator {
    pub container: Container,
    reports: watch::Sender<Option<LastReport>>,
    cancelled: CancellationToken,
    taken: CancellationToken,
    context: StatusContext,
    _serves: AbortOnDropHandle<()>,
}

impl Coordinator {
    async fn run(container: Container, script: Script) -> Exit {
        let incoming = listen(&container, port::COORDINATOR).await;
        let reports = watch::Sender::new(None);
        let (cancelled, taken) = (CancellationToken::new(), CancellationToken::new());
        let service = CoordinatorServer::new(CoordinatorService {
            reports: reports.subscribe(),
            cancelled: cancelled.clone(),
            taken: taken.clone(),
            authorizer: authorizer(&container),
        });
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let serves = AbortOnDropHandle::new(tokio::spawn(serving.map(Result::unwrap)));
        script(Self {
            container,
            reports,
            cancelled,
            taken,
            context: StatusContext {
                start_time: Timestamp::now(),
                result_stages: vec![StageId(0)],
                sink: None,
            },
            _serves: serves,
        })
        .await
    }

    pub fn query(&self) -> &str {
        self.container.label(labels::QUERY)
    }

    pub fn epoch(&self) -> u64 {
        self.container.label(labels::EPOCH).parse().unwrap()
    }

    fn as_report(&self, snapshot: &QuerySnapshot) -> QueryReport {
        QueryReport {
            snapshot: snapshot.clone(),
            context: self.context.clone(),
            preview: snapshot.outcome.is_some().then(preview),
        }
    }

    /// Reports a snapshot.
    pub fn report(&self, snapshot: &QuerySnapshot) {
        let report = wire::QueryStatus::try_from(&self.as_report(snapshot)).unwrap();
        let last = snapshot.outcome.is_some();
        self.reports.send_replace(Some(LastReport { report, last }));
    }

    /// Waits until the operator has cancelled the query.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Ends the query and exits with a termination message, as a real coordinator does.
    pub async fn end(self, outcome: Outcome) -> Exit {
        let (code, done) = match &outcome {
            Outcome::Succeeded => (0, 2),
            Outcome::Failed(_) => (1, 0),
            Outcome::Cancelled => (130, 0),
        };
        let snapshot = snapshot(2, done, Some(outcome));
        self.report(&snapshot);
        let termination = Termination::from(&self.as_report(&snapshot).status());
        tokio::select! {
            () = self.taken.cancelled() => {}
            () = self.container.terminated() => {}
            () = tokio::time::sleep(LINGER) => {}
        }
        Exit::with(code, termination.encode().unwrap())
    }
}

struct CoordinatorService {
    reports: watch::Receiver<Option<LastReport>>,
    cancelled: CancellationToken,
    taken: CancellationToken,
    authorizer: Authorizer,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl wire::coordinator_server::Coordinator for CoordinatorService {
    type WatchQueryStatusStream = Answers<wire::QueryStatus>;
    type ReadResultStream = Answers<wire::ResultChunk>;

    async fn get_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<wire::QueryStatus>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::ReadStatus)?;
        let report = self.reports.borrow().clone();
        report
            .map(|reported| Response::new(reported.report))
            .ok_or_else(|| Status::unavailable("it starts"))
    }

    async fn watch_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<Self::WatchQueryStatusStream>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::ReadStatus)?;
        let mut reports = self.reports.clone();
        reports.mark_changed();
        let taken = self.taken.clone();
        let states = stream::unfold((reports, false), move |(mut reports, ended)| {
            let taken = taken.clone();
            async move {
                if ended {
                    // It asks for more: it has received the last report.
                    taken.cancel();
                    return None;
                }
                loop {
                    reports.changed().await.ok()?;
                    let reported = reports.borrow_and_update().clone();
                    if let Some(LastReport { report, last }) = reported {
                        return Some((Ok(report), (reports, last)));
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(states)))
    }

    async fn read_result(
        &self,
        _: Request<wire::QueryRef>,
    ) -> Result<Response<Self::ReadResultStream>, Status> {
        Err(Status::failed_precondition("nobody reads it in these tests"))
    }

    async fn cancel_query(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<wire::CancelAck>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::Cancel)?;
        self.cancelled.cancel();
        Ok(Response::new(wire::CancelAck {}))
    }

    async fn renew_token(
        &self,
        request: Request<wire::TokenRenewal>,
    ) -> Result<Response<wire::RenewAck>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::Renew)?;
        Ok(Response::new(wire::RenewAck {}))
    }
}

/// The status of an idle worker with two slots.
pub fn idle() -> wire::WorkerStatus {
    wire::WorkerStatus {
        slots: 2,
        ..wire::WorkerStatus::default()
    }
}

/// A worker's process. Once it drains it takes no new attempts.
struct Worker {
    state: Arc<Mutex<wire::WorkerStatus>>,
    drains: CancellationToken,
    authorizer: Authorizer,
}

impl Worker {
    async fn run(container: Container, state: wire::WorkerStatus) -> Exit {
        let incoming = listen(&container, port::WORKER).await;
        let drains = CancellationToken::new();
        let service = WorkerServer::new(Self {
            state: Arc::new(Mutex::new(state)),
            drains: drains.clone(),
            authorizer: authorizer(&container),
        });
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let _serves = AbortOnDropHandle::new(tokio::spawn(serving.map(Result::unwrap)));
        container.report_running(true).await;
        tokio::select! {
            () = container.terminated() => return Exit::with(0, ""),
            () = drains.cancelled() => {}
        }
        // As its health service says.
        container.report_running(false).await;
        container.terminated().await;
        Exit::with(0, "")
    }
}

#[tonic::async_trait]
impl wire::worker_server::Worker for Worker {
    type SessionStream = Answers<wire::WorkerMessage>;
    type FetchStream = Answers<wire::FetchChunk>;

    async fn session(
        &self,
        _: Request<tonic::Streaming<wire::CoordinatorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::failed_precondition("no coordinator comes in these tests"))
    }

    async fn fetch(&self, _: Request<wire::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Err(Status::failed_precondition("nobody fetches in these tests"))
    }

    async fn get_worker_status(
        &self,
        request: Request<wire::WorkerStatusRequest>,
    ) -> Result<Response<wire::WorkerStatus>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::ReadStatus)?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Response::new(*state))
    }

    async fn drain(
        &self,
        request: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::WorkerStatus>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::Drain)?;
        self.drains.cancel();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.draining = true;
        Ok(Response::new(*state))
    }
}
