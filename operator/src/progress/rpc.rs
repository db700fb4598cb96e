//! The coordinator's gRPC service, as the operator uses it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;
use sluice_proto::auth::{Audience, AuthError, Bearer, Claims, Verb};
use sluice_proto::wire::coordinator_client::CoordinatorClient;
use sluice_proto::{MAX_REPORT_BYTES, QueryReport, wire};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::Target;
use crate::objects::coordinator::COORDINATOR_PORT;
use crate::signing::SigningKeys;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a cancellation or a renewal may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the token of a call is good for: it is made for one call to the coordinator of one query. A stream is opened with
/// it and outlives it.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

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
    /// Prolongs the token of its query.
    fn renew(&self, target: &Target) -> BoxFuture<'static, Result<(), RpcError>>;
    /// Ends its query as cancelled.
    fn cancel(&self, target: &Target) -> BoxFuture<'static, Result<(), RpcError>>;
}

/// Coordinators in pods.
pub struct GrpcCoordinators {
    signer: Arc<SigningKeys>,
}

type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

impl GrpcCoordinators {
    /// Calls them with tokens of this signer.
    pub fn new(signer: Arc<SigningKeys>) -> Self {
        Self { signer }
    }

    fn connect(
        &self,
        target: &Target,
        verb: Verb,
    ) -> impl Future<Output = Result<Client, RpcError>> + Send + use<> {
        let token = query_id(target).and_then(|query| {
            let audience = Audience::Coordinator(query);
            let claims = Claims::operator(audience, verb, target.pool.clone(), TOKEN_LIFETIME);
            self.signer.sign(&claims)
        });
        let address = host(&target.address);
        async move {
            let refused = |error: &dyn std::error::Error| RpcError::Refused(with_causes(error));
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

/// The error and what has caused it: that of a transport alone says nothing.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut messages: Vec<_> = causes.map(ToString::to_string).collect();
    // Some repeat what they were caused by.
    messages.dedup();
    messages.join(": ")
}

/// The address as it stands in a URL.
fn host(address: &str) -> String {
    if address.contains(':') {
        return format!("[{address}]");
    }
    address.to_owned()
}

fn query_id(target: &Target) -> Result<QueryId, AuthError> {
    QueryId::new(target.uid.clone()).ok_or(AuthError::Malformed)
}

fn reference(target: &Target) -> wire::QueryRef {
    wire::QueryRef {
        query: target.uid.clone(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn refused(status: tonic::Status) -> RpcError {
    RpcError::Refused(format!("{}: {}", status.code().description(), status.message()))
}

impl CoordinatorRpc for GrpcCoordinators {
    fn watch(&self, target: &Target) -> BoxFuture<'static, Result<Reports, RpcError>> {
        let (client, reference) = (self.connect(target, Verb::ReadStatus), reference(target));
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

    fn renew(&self, target: &Target) -> BoxFuture<'static, Result<(), RpcError>> {
        let client = self.connect(target, Verb::Renew);
        let renewal = query_id(target).and_then(|query| {
            let epoch = CoordinatorEpoch(target.epoch);
            let claims = Claims::renewal(query, epoch, target.pool.clone());
            self.signer.sign(&claims)
        });
        let query = target.uid.clone();
        let renew = async move {
            let renewal = renewal.map_err(|error| RpcError::Refused(error.to_string()))?;
            let renewal = wire::TokenRenewal {
                query,
                renewal: renewal.as_text().to_owned(),
            };
            client.await?.renew_token(renewal).await.map_err(refused)?;
            Ok(())
        };
        answered(renew).boxed()
    }

    fn cancel(&self, target: &Target) -> BoxFuture<'static, Result<(), RpcError>> {
        let (client, reference) = (self.connect(target, Verb::Cancel), reference(target));
        let cancel = async move {
            client.await?.cancel_query(reference).await.map_err(refused)?;
            Ok(())
        };
        answered(cancel).boxed()
    }
}

async fn answered(call: impl Future<Output = Result<(), RpcError>>) -> Result<(), RpcError> {
    let ended = tokio::time::timeout(ANSWER, call).await;
    ended.unwrap_or_else(|_| Err(RpcError::Refused("no answer".to_owned())))
}
