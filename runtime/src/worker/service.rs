//! The worker's gRPC face.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use sluice_core::message::FetchRequest;
use sluice_proto::{Hello, RefusedReason, Welcome, refuse_fetch, wire};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};
use wire::coordinator_message::Message as FromCoordinator;
use wire::worker_message::Message as ToCoordinator;

use super::session::{Session, SessionEnd};
use super::{Shared, build_id};

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
        tokio::spawn(greet(Arc::clone(&self.shared), request.into_inner(), outbound));
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn fetch(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = FetchRequest::try_from(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let chunks = self.shared.store.fetch(request);
        let chunks = chunks.map(|chunk| match chunk {
            Ok((head, data)) => Ok(wire::FetchChunk::new(head, data)),
            Err(error) => Err(refuse_fetch(error)),
        });
        Ok(Response::new(chunks.boxed()))
    }
}

async fn greet(shared: Arc<Shared>, mut inbound: Streaming<wire::CoordinatorMessage>, outbound: Outbound) {
    let hello = match inbound.message().await {
        Ok(Some(wire::CoordinatorMessage {
            message: Some(FromCoordinator::Hello(hello)),
        })) => Hello::try_from(hello),
        Ok(_) => {
            return refuse(
                &outbound,
                RefusedReason::BadHello,
                "the first message must be a hello".into(),
            );
        }
        Err(_) => return,
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => return refuse(&outbound, RefusedReason::BadHello, error.to_string()),
    };
    if hello.build_id != build_id() {
        let message = format!("the worker is {}, the coordinator {}", build_id(), hello.build_id);
        return refuse(&outbound, RefusedReason::BuildMismatch, message);
    }
    if shared.draining.is_cancelled() {
        return refuse(
            &outbound,
            RefusedReason::Draining,
            "the worker is draining".into(),
        );
    }
    let replaced = shared.stopping.child_token();
    let Some(id) = shared
        .queries
        .enter(&hello.query, hello.coordinator_epoch, replaced.clone())
    else {
        let message = "a coordinator of a later epoch runs this query".into();
        return refuse(&outbound, RefusedReason::StaleCoordinator, message);
    };
    shared
        .store
        .open_query(hello.query.clone(), hello.coordinator_epoch)
        .await;
    let welcome = Welcome {
        worker: shared.id.clone(),
        build_id: build_id(),
        slots: shared.options.slots,
        memory_bytes: shared.options.memory_bytes,
        held: shared.store.held_attempts(hello.query.clone()).await,
    };
    let _ = outbound.send(Ok(wire::WorkerMessage::of(ToCoordinator::Welcome(
        welcome.into(),
    ))));
    let (query, lease) = (hello.query.clone(), hello.lease);
    tracing::info!(%query, "session opened");
    let slots = shared.slots.open(id);
    let end = Session::new(Arc::clone(&shared), hello, slots, outbound, replaced)
        .serve(inbound)
        .await;
    tracing::info!(%query, ?end, "session ended");
    if end == SessionEnd::Broken {
        wait_out(lease, &shared.stopping).await;
    }
    if shared.queries.leave(&query, id) {
        shared.store.retire_query(query).await;
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
