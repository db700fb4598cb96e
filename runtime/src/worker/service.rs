//! The worker's gRPC service.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use sluice_core::failure::FetchError;
use sluice_core::message::FetchRequest;
use sluice_proto::auth::{Claims, FetchKey, Verb};
use sluice_proto::{Hello, RefusedReason, Welcome, refuse_fetch, wire};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::Instrument as _;
use wire::coordinator_message::Message as FromCoordinator;
use wire::worker_message::Message as ToCoordinator;

use super::Shared;
use super::path_policy::PathPolicy;
use super::session::{Session, SessionEnd, SessionPermit};
use crate::build_id::build_id;

/// How long to wait for the hello of a session: as long as a coordinator waits for the answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Messages to a coordinator.
type Outbound = mpsc::UnboundedSender<Result<wire::WorkerMessage, Status>>;

#[async_trait]
impl wire::worker_server::Worker for Service {
    type SessionStream = UnboundedReceiverStream<Result<wire::WorkerMessage, Status>>;
    type FetchStream = BoxStream<'static, Result<wire::FetchChunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::CoordinatorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = mpsc::unbounded_channel();
        let authorizer = &self.shared.options.authorizer;
        let claims = authorizer.authorize(request.metadata(), Verb::OpenSession)?;
        let session = accept_session(Arc::clone(&self.shared), claims, request.into_inner(), outbound);
        tokio::spawn(session);
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn fetch(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let request =
            FetchRequest::try_from(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.worker_incarnation != self.shared.id.incarnation {
            return Err(refuse_fetch(FetchError::WrongIncarnation));
        }
        let key = FetchKey::of(&metadata);
        let key = (key.as_ref(), self.shared.options.authorizer.accepts_all());
        let sessions = &self.shared.sessions;
        sessions.admit_fetch(&request.query, request.coordinator_epoch, key)?;
        let chunks = self.shared.store.fetch(request);
        let chunks = chunks.map(|chunk| match chunk {
            Ok((head, data)) => Ok(wire::FetchChunk::new(head, data)),
            Err(error) => Err(refuse_fetch(error)),
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn get_worker_status(
        &self,
        request: Request<wire::WorkerStatusRequest>,
    ) -> Result<Response<wire::WorkerStatus>, Status> {
        let authorizer = &self.shared.options.authorizer;
        authorizer.authorize(request.metadata(), Verb::ReadStatus)?;
        Ok(Response::new(self.shared.status().await))
    }

    async fn drain(
        &self,
        request: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::WorkerStatus>, Status> {
        let authorizer = &self.shared.options.authorizer;
        authorizer.authorize(request.metadata(), Verb::Drain)?;
        self.shared.drain().await;
        Ok(Response::new(self.shared.status().await))
    }
}

/// Serves one session to its end; `claims` are those of its token, where tokens are checked.
async fn accept_session(
    shared: Arc<Shared>,
    claims: Option<Claims>,
    mut inbound: Streaming<wire::CoordinatorMessage>,
    outbound: Outbound,
) {
    let Some(hello) = read_hello(&mut inbound, &outbound).await else {
        return;
    };
    let span = tracing::error_span!("query", query = hello.query_name, uid = %hello.query);
    serve_session(shared, claims, hello, (inbound, outbound))
        .instrument(span)
        .await;
}

/// Serves a session after its hello.
async fn serve_session(
    shared: Arc<Shared>,
    claims: Option<Claims>,
    hello: Hello,
    (inbound, outbound): (Streaming<wire::CoordinatorMessage>, Outbound),
) {
    let (query, epoch, lease) = (hello.query.clone(), hello.coordinator_epoch, hello.lease);
    let opened = claims.as_ref().map(|claims| claims.opens_epoch(&query, epoch));
    if let Some(Err(error)) = opened {
        tracing::warn!(%error, "refused a session");
        let _ = outbound.send(Err(error.into()));
        return;
    }
    if let Err((reason, message)) = check_hello(&shared, &hello) {
        return refuse(&outbound, reason, message);
    }
    let replaced = shared.stopping.child_token();
    let Some(opened) = shared.sessions.open(&query, epoch, replaced.clone()) else {
        let message = "a coordinator of a later epoch runs this query".into();
        return refuse(&outbound, RefusedReason::StaleCoordinator, message);
    };
    let stopped = opened.stopped.drop_guard();
    if let Some((before, true)) = &opened.previous {
        // What the predecessor's attempts have not finished is dropped as they end.
        before.cancelled().await;
        if replaced.is_cancelled() {
            return;
        }
    }
    let discarded = open_query(&shared, &hello).await;
    let (recovered, welcome) = welcome(&shared, &hello, discarded, opened.fetch_key.clone()).await;
    for message in recovered
        .into_iter()
        .chain([ToCoordinator::Welcome(welcome.into())])
    {
        let _ = outbound.send(Ok(wire::WorkerMessage::of(message)));
    }
    tracing::info!(%epoch, "session opened");
    let slots = shared.slots.open(opened.session);
    let paths = path_policy(&shared, claims.as_ref()).await;
    let permit = SessionPermit { claims, paths };
    let end = Session::new(Arc::clone(&shared), hello, slots, permit, (outbound, replaced))
        .serve(inbound)
        .await;
    tracing::info!(%epoch, end = end.reason(), "session ended");
    if let Some((before, _)) = &opened.previous {
        before.cancelled().await;
    }
    drop(stopped);
    if end == SessionEnd::Broken {
        hold_lease(lease, &shared.stopping).await;
    }
    if shared.sessions.close(&query, opened.session) {
        shared.records.forget_query(&query);
        shared.store.retire_query(query).await;
    }
}

/// Opens the query to attempts. Outputs of an earlier coordinator stay if it had the same plan; answers how many do not.
async fn open_query(shared: &Shared, hello: &Hello) -> u32 {
    let (query, epoch) = (hello.query.clone(), hello.coordinator_epoch);
    let same_plan = shared.records.open(&query, hello.plan_fingerprint);
    let before = match same_plan {
        true => Vec::new(),
        false => shared.store.held_attempts(query.clone()).await,
    };
    shared.store.open_query(query, epoch, same_plan).await;
    u32::try_from(before.len()).unwrap_or(u32::MAX)
}

async fn path_policy(shared: &Arc<Shared>, claims: Option<&Claims>) -> Arc<PathPolicy> {
    let (shared, folders) = (Arc::clone(shared), claims.map(|claims| claims.folders.clone()));
    let policy = move || PathPolicy::new(&shared.options, folders.as_ref());
    // It fails only when the process ends. The fallback must allow nothing.
    let policy = tokio::task::spawn_blocking(policy).await;
    Arc::new(policy.unwrap_or_else(|_| PathPolicy::nothing()))
}

/// The coordinator's first message. Refuses the session if it is not a hello, or does not arrive in time.
async fn read_hello(inbound: &mut Streaming<wire::CoordinatorMessage>, outbound: &Outbound) -> Option<Hello> {
    let hello = match timeout(HELLO_TIMEOUT, inbound.message()).await {
        Err(_) => Err(format!("no hello came within {HELLO_TIMEOUT:?}")),
        Ok(Ok(Some(wire::CoordinatorMessage {
            message: Some(FromCoordinator::Hello(hello)),
        }))) => Hello::try_from(hello).map_err(|error| error.to_string()),
        Ok(Ok(_)) => Err("the first message must be a hello".into()),
        Ok(Err(_)) => return None,
    };
    hello
        .map_err(|message| refuse(outbound, RefusedReason::BadHello, message))
        .ok()
}

/// Whether this worker may serve the coordinator. A draining worker serves only queries whose data it holds.
fn check_hello(shared: &Shared, hello: &Hello) -> Result<(), (RefusedReason, String)> {
    if hello.build_id != build_id() {
        let message = format!("the worker is {}, the coordinator {}", build_id(), hello.build_id);
        return Err((RefusedReason::BuildMismatch, message));
    }
    if shared.draining.is_cancelled() && !shared.sessions.has_query(&hello.query) {
        return Err((RefusedReason::Draining, "the worker is draining".into()));
    }
    Ok(())
}

/// The welcome, and what comes before it.
async fn welcome(
    shared: &Shared,
    hello: &Hello,
    discarded: u32,
    fetch_key: FetchKey,
) -> (Vec<ToCoordinator>, Welcome) {
    let held = shared.store.held_attempts(hello.query.clone()).await;
    let found = shared.records.found(&hello.query, hello.coordinator_epoch, &held);
    let welcome = Welcome {
        worker: shared.id.clone(),
        slots: shared.options.slots,
        held: found.held,
        node: shared.options.node.clone(),
        zone: shared.zone().await,
        fetch_key,
        discarded,
    };
    (found.recovered, welcome)
}

async fn hold_lease(lease: std::time::Duration, stopping: &CancellationToken) {
    tokio::select! {
        () = sleep(lease) => {}
        () = stopping.cancelled() => {}
    }
}

fn refuse(outbound: &Outbound, reason: RefusedReason, message: String) {
    tracing::warn!(message, "refused a session");
    let reason = wire::RefusedReason::from(reason).into();
    let refused = wire::Refused { reason, message };
    let _ = outbound.send(Ok(wire::WorkerMessage::of(ToCoordinator::Refused(refused))));
}
