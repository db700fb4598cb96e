//! The coordinator's gRPC service, as the operator uses it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;
use sluice_proto::auth::{Bearer, Claims, TokenSigner};
use sluice_proto::wire::coordinator_client::CoordinatorClient;
use sluice_proto::{MAX_REPORT_BYTES, QueryReport, wire};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::Target;
use crate::objects::coordinator::COORDINATOR_PORT;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a cancellation may take.
const CANCEL: Duration = Duration::from_secs(5);
/// How long the token of a call is good for; a stream is opened with it and outlives it.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// Why a coordinator did not answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// It was not reached, or has refused.
    #[error("{0}")]
    Refused(String),
    /// What it said makes no sense.
    #[error("its report cannot be read: {0}")]
    Unreadable(String),
}

/// Reports of one coordinator, newest last.
pub type Reports = BoxStream<'static, Result<ShuffleQueryStatus, RpcError>>;

/// What the operator asks of a coordinator.
pub trait CoordinatorRpc: Send + Sync + 'static {
    /// Its reports, whenever something changed, until its query ends.
    fn watch(&self, target: &Target) -> BoxFuture<'static, Result<Reports, RpcError>>;
    /// Ends its query as cancelled.
    fn cancel(&self, target: &Target) -> BoxFuture<'static, Result<(), RpcError>>;
}

/// Coordinators in pods.
pub struct GrpcCoordinators {
    signer: Arc<TokenSigner>,
}

type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

impl GrpcCoordinators {
    /// Calls them with tokens of this signer.
    pub fn new(signer: Arc<TokenSigner>) -> Self {
        Self { signer }
    }

    fn connect(&self, target: &Target) -> impl Future<Output = Result<Client, RpcError>> + Send + use<> {
        let token = self.signer.sign(&Claims::operator(TOKEN_LIFETIME));
        let address = host(&target.address);
        async move {
            let refused = |error: &dyn std::error::Error| RpcError::Refused(error.to_string());
            let token = token.map_err(|error| refused(&error))?;
            let channel = Endpoint::from_shared(format!("http://{address}:{COORDINATOR_PORT}"))
                .map_err(|error| refused(&error))?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                // A node that went away says nothing.
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true)
                .connect()
                .await
                .map_err(|error| refused(&error))?;
            let client = CoordinatorClient::with_interceptor(channel, Bearer(Some(token)));
            Ok(client.max_decoding_message_size(MAX_REPORT_BYTES))
        }
    }
}

/// The address as it stands in a URL.
fn host(address: &str) -> String {
    if address.contains(':') {
        return format!("[{address}]");
    }
    address.to_owned()
}

fn reference(target: &Target) -> wire::QueryRef {
    wire::QueryRef {
        query: target.uid.clone(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn refused(status: tonic::Status) -> RpcError {
    RpcError::Refused(format!("{:?}: {}", status.code(), status.message()))
}

impl CoordinatorRpc for GrpcCoordinators {
    fn watch(&self, target: &Target) -> BoxFuture<'static, Result<Reports, RpcError>> {
        let (client, reference) = (self.connect(target), reference(target));
        async move {
            let states = client
                .await?
                .watch_query_status(reference)
                .await
                .map_err(refused)?;
            let reports = states.into_inner().map(|state| {
                let report = QueryReport::try_from(state.map_err(refused)?);
                let report = report.map_err(|error| RpcError::Unreadable(error.to_string()))?;
                Ok(report.status())
            });
            Ok(Box::pin(reports) as Pin<Box<_>>)
        }
        .boxed()
    }

    fn cancel(&self, target: &Target) -> BoxFuture<'static, Result<(), RpcError>> {
        let (client, reference) = (self.connect(target), reference(target));
        let cancel = async move {
            client.await?.cancel_query(reference).await.map_err(refused)?;
            Ok(())
        };
        async move {
            let ended = tokio::time::timeout(CANCEL, cancel).await;
            ended.unwrap_or_else(|_| Err(RpcError::Refused("no answer".to_owned())))
        }
        .boxed()
    }
}
