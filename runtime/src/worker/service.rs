//! The worker's gRPC face.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use sluice_core::ids::QueryId;
use sluice_core::message::FetchRequest;
use sluice_proto::auth::{AuthError, Claims, Subject, Token};
use sluice_proto::{Hello, RefusedReason, Welcome, refuse_fetch, wire};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};
use wire::coordinator_message::Message as FromCoordinator;
use wire::worker_message::Message as ToCoordinator;

use super::session::{Session, SessionEnd};
use super::{Shared, build_id};

/// How long a session may be silent before its hello: as long as a coordinator waits for the answer.
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
        let pass = Pass {
            claims: self.shared.options.guard.authenticate(request.metadata())?,
            token: Token::of(request.metadata()),
        };
        if let Some(Subject::Operator) = pass.claims.as_ref().map(|claims| &claims.subject) {
            return Err(AuthError::WrongSubject(Subject::Operator).into());
        }
        let greeting = greet(Arc::clone(&self.shared), pass, request.into_inner(), outbound);
        tokio::spawn(greeting);
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn fetch(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let request =
            FetchRequest::try_from(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let latest = self.shared.queries.latest(&request.query);
        let reader = (&request.query, request.coordinator_epoch);
        self.shared.options.guard.admit_fetch(&metadata, reader, latest)?;
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
        self.shared.options.guard.admit_operator(request.metadata())?;
        Ok(Response::new(self.shared.status().await))
    }

    async fn drain(
        &self,
        request: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::WorkerStatus>, Status> {
        self.shared.options.guard.admit_operator(request.metadata())?;
        self.shared.drain().await;
        Ok(Response::new(self.shared.status().await))
    }
}

/// What a session's call was opened with.
struct Pass {
    /// The claims of its token, where tokens are checked.
    claims: Option<Claims>,
    /// The token itself, for fetches on the query's behalf.
    token: Option<Token>,
}

async fn greet(
    shared: Arc<Shared>,
    pass: Pass,
    mut inbound: Streaming<wire::CoordinatorMessage>,
    outbound: Outbound,
) {
    let Some(hello) = hello(&mut inbound, &outbound).await else {
        return;
    };
    let (query, epoch, lease) = (hello.query.clone(), hello.coordinator_epoch, hello.lease);
    let opened = pass.claims.map(|claims| claims.opens_epoch(&query, epoch));
    if let Some(Err(error)) = opened {
        tracing::warn!(%query, %error, "refused a session");
        let _ = outbound.send(Err(error.into()));
        return;
    }
    if let Err((reason, message)) = admit(&shared, &hello) {
        return refuse(&outbound, reason, message);
    }
    let replaced = shared.stopping.child_token();
    let Some(entered) = shared.queries.enter(&query, epoch, replaced.clone()) else {
        let message = "a coordinator of a later epoch runs this query".into();
        return refuse(&outbound, RefusedReason::StaleCoordinator, message);
    };
    let stopped = entered.stopped.drop_guard();
    if let Some((before, true)) = &entered.before {
        // What the predecessor's attempts still write would pass for this coordinator's: they have the same numbers.
        before.cancelled().await;
        if replaced.is_cancelled() {
            return;
        }
    }
    shared.store.open_query(query.clone(), epoch).await;
    let _ = outbound.send(Ok(wire::WorkerMessage::of(ToCoordinator::Welcome(
        welcome(&shared, &query).await.into(),
    ))));
    tracing::info!(%query, %epoch, "session opened");
    let slots = shared.slots.open(entered.session);
    let peers = shared.peers.with_token(pass.token);
    let end = Session::new(Arc::clone(&shared), hello, slots, peers, (outbound, replaced))
        .serve(inbound)
        .await;
    tracing::info!(%query, %epoch, ?end, "session ended");
    if let Some((before, _)) = &entered.before {
        before.cancelled().await;
    }
    drop(stopped);
    if end == SessionEnd::Broken {
        wait_out(lease, &shared.stopping).await;
    }
    if shared.queries.leave(&query, entered.session) {
        shared.store.retire_query(query).await;
    }
}

/// The coordinator's first message. Whoever sends another one, or none, is told.
async fn hello(inbound: &mut Streaming<wire::CoordinatorMessage>, outbound: &Outbound) -> Option<Hello> {
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

/// Whether this worker may serve the coordinator at all. One that drains does so only where it holds the query's data.
fn admit(shared: &Shared, hello: &Hello) -> Result<(), (RefusedReason, String)> {
    if hello.build_id != build_id() {
        let message = format!("the worker is {}, the coordinator {}", build_id(), hello.build_id);
        return Err((RefusedReason::BuildMismatch, message));
    }
    if shared.draining.is_cancelled() && !shared.queries.is_here(&hello.query) {
        return Err((RefusedReason::Draining, "the worker is draining".into()));
    }
    Ok(())
}

async fn welcome(shared: &Shared, query: &QueryId) -> Welcome {
    Welcome {
        worker: shared.id.clone(),
        build_id: build_id(),
        slots: shared.options.slots,
        memory_bytes: shared.options.memory_bytes,
        held: shared.store.held_attempts(query.clone()).await,
        node: shared.options.node.clone(),
        zone: shared.zone().await,
    }
}

async fn wait_out(lease: std::time::Duration, stopping: &CancellationToken) {
    tokio::select! {
        () = sleep(lease) => {}
        () = stopping.cancelled() => {}
    }
}

fn refuse(outbound: &Outbound, reason: RefusedReason, message: String) {
    tracing::warn!(?reason, message, "refused a session");
    let reason = wire::RefusedReason::from(reason).into();
    let refused = wire::Refused { reason, message };
    let _ = outbound.send(Ok(wire::WorkerMessage::of(ToCoordinator::Refused(refused))));
}
