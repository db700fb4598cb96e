//! Connections to workers and coordinators.

use std::fmt;
use std::time::Duration;

use sluice_proto::MAX_SESSION_MESSAGE_BYTES;
use sluice_proto::auth::{Bearer, Token};
use sluice_proto::wire::coordinator_client::CoordinatorClient;
use sluice_proto::wire::worker_client::WorkerClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Error};

use super::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a connection is probed, idle or not, and how long the answer may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest HTTP/2 frame: about a chunk, which would else come in 64 pieces.
const MAX_FRAME_BYTES: u32 = 1 << 20;

/// A channel whose calls carry a token.
pub(crate) type AuthenticatedChannel = InterceptedService<Channel, Bearer>;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    Address { address: String, cause: Error },
    Connect(Error),
}

impl DialError {
    pub(crate) fn cause(&self) -> &Error {
        match self {
            Self::Address { cause, .. } | Self::Connect(cause) => cause,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, cause } => write!(f, "{address} is not host:port: {cause}"),
            Self::Connect(cause) => write!(f, "cannot connect: {}", root_cause(cause)),
        }
    }
}

/// A client for one session with the worker at `address` (host:port).
pub(crate) async fn session_client(
    address: &str,
    token: Option<Token>,
) -> Result<WorkerClient<AuthenticatedChannel>, DialError> {
    let client = WorkerClient::with_interceptor(connect(address).await?, Bearer(token));
    Ok(client
        .max_decoding_message_size(MAX_SESSION_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_SESSION_MESSAGE_BYTES))
}

/// A client for fetches from the worker at `address` (host:port), which connects with its first call. Fetches show a
/// key of their own instead of a token.
pub(crate) fn fetch_client(address: &str) -> Result<WorkerClient<Channel>, DialError> {
    Ok(WorkerClient::new(endpoint(address)?.connect_lazy()))
}

/// A client of the coordinator at `address` (host:port).
pub(crate) async fn coordinator_client(
    address: &str,
    token: Token,
) -> Result<CoordinatorClient<AuthenticatedChannel>, DialError> {
    let client = CoordinatorClient::with_interceptor(connect(address).await?, Bearer(Some(token)));
    Ok(client.max_decoding_message_size(MAX_SESSION_MESSAGE_BYTES))
}

async fn connect(address: &str) -> Result<Channel, DialError> {
    endpoint(address)?.connect().await.map_err(DialError::Connect)
}

fn endpoint(address: &str) -> Result<Endpoint, DialError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|cause| DialError::Address {
        address: address.to_owned(),
        cause,
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
