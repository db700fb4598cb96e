//! The servers of workers and coordinators.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use sluice_proto::listener::BoundedListener;
use sluice_proto::wire::coordinator_server::{Coordinator, CoordinatorServer};
use sluice_proto::wire::worker_server::{Worker, WorkerServer};
use sluice_proto::{LIVENESS_SERVICE, MAX_SESSION_MESSAGE_BYTES};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::server::Router;
use tonic::transport::{Error, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use super::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Calls that one connection has open at once: fetches of all attempts of one worker from another share one.
const MAX_STREAMS: u32 = 1024;
/// Bytes of the headers of one call; a token has a few hundred.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Calls that were reset and are not yet forgotten.
const MAX_RESET_STREAMS: usize = 64;
/// How long a call may take to the head of its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the request of a call that only names a query.
const MAX_SMALL_REQUEST_BYTES: usize = 64 * 1024;

/// A port that is bound; callers wait until it is served.
pub(crate) struct Listener {
    inner: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds the address that `--listen` names; port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let inner = TcpListener::bind(address)
            .await
            .with_context(|| format!("--listen: cannot listen on {address}"))?;
        let address = inner.local_addr()?;
        Ok(Self { inner, address })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The health service of a process that lives and serves `S`.
pub(crate) async fn health<S: NamedService>() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = health_reporter();
    for name in [S::NAME, LIVENESS_SERVICE] {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    (reporter, service)
}

/// Serves a worker until `stop`.
pub(crate) async fn serve_worker(
    listener: Listener,
    health: HealthServer<impl Health>,
    worker: impl Worker,
    stop: CancellationToken,
) -> Result<(), Error> {
    let worker = WorkerServer::new(worker)
        .max_decoding_message_size(MAX_SESSION_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_SESSION_MESSAGE_BYTES);
    run(router(health).add_service(worker), listener, stop).await
}

/// Serves a coordinator until `stop`.
pub(crate) async fn serve_coordinator(
    listener: Listener,
    health: HealthServer<impl Health>,
    coordinator: impl Coordinator,
    stop: CancellationToken,
) -> Result<(), Error> {
    let coordinator = CoordinatorServer::new(coordinator)
        .max_decoding_message_size(MAX_SMALL_REQUEST_BYTES)
        .max_encoding_message_size(MAX_SESSION_MESSAGE_BYTES);
    run(router(health).add_service(coordinator), listener, stop).await
}

fn router(health: HealthServer<impl Health>) -> Router {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(MAX_RESET_STREAMS))
        .timeout(ANSWER_TIMEOUT)
        .add_service(health.max_decoding_message_size(MAX_SMALL_REQUEST_BYTES))
}

async fn run(router: Router, listener: Listener, stop: CancellationToken) -> Result<(), Error> {
    let incoming = BoundedListener::new(listener.inner).incoming();
    router
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}
