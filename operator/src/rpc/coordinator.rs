//! Calls of the operator to coordinators, at the IP of their pod.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kube::runtime::reflector::ObjectRef;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_crds::ShuffleQuery;
use sluice_crds::process::port;
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;
use sluice_proto::auth::{Audience, AuthError, Bearer, Claims, PoolId, Verb};
use sluice_proto::wire::coordinator_client::CoordinatorClient;
use sluice_proto::{MAX_REPORT_BYTES, QueryReport, wire};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::{RpcError, bearer, refused, with_causes};
use crate::signing::SigningKeys;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The coordinator of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorTarget {
    pub query: ObjectRef<ShuffleQuery>,
    pub uid: String,
    pub epoch: u64,
    pub pool: PoolId,
    pub address: String,
}

impl CoordinatorTarget {
    /// The span of its log lines.
    pub(crate) fn span(&self) -> tracing::Span {
        let namespace = self.query.namespace.as_deref().unwrap_or_default();
        tracing::error_span!("query", query = self.query.name, namespace, uid = self.uid)
    }
}

/// The reports of one coordinator, newest last.
pub type Reports = BoxStream<'static, Result<ShuffleQueryStatus, RpcError>>;

pub trait CoordinatorRpc: Send + Sync + 'static {
    /// Its reports after each change, until its query ends.
    fn watch(&self, target: &CoordinatorTarget) -> BoxFuture<'static, Result<Reports, RpcError>>;
    /// Renews the token of its query.
    fn renew(&self, target: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>>;
    /// Cancels its query.
    fn cancel(&self, target: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>>;
}

pub struct GrpcCoordinators {
    signer: Arc<SigningKeys>,
}

type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

impl GrpcCoordinators {
    pub fn new(signer: Arc<SigningKeys>) -> Self {
        Self { signer }
    }

    fn connect(
        &self,
        target: &CoordinatorTarget,
        verb: Verb,
    ) -> impl Future<Output = Result<Client, RpcError>> + Send + use<> {
        let bearer = query_id(target).and_then(|query| {
            bearer(
                &self.signer,
                Audience::Coordinator(query),
                verb,
                target.pool.clone(),
            )
        });
        let address = host(&target.address);
        async move {
            let failed = |error: &dyn std::error::Error| RpcError::Refused(with_causes(error));
            let bearer = bearer.map_err(|error| failed(&error))?;
            let channel = Endpoint::from_shared(format!("http://{address}:{}", port::COORDINATOR))
                .map_err(|error| failed(&error))?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                // A lost node closes no connection.
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true)
                .connect()
                .await
                .map_err(|error| failed(&error))?;
            let client = CoordinatorClient::with_interceptor(channel, bearer);
            Ok(client.max_decoding_message_size(MAX_REPORT_BYTES))
        }
    }
}

/// The host part of a URL.
fn host(address: &str) -> String {
    if address.contains(':') {
        return format!("[{address}]");
    }
    address.to_owned()
}

fn query_id(target: &CoordinatorTarget) -> Result<QueryId, AuthError> {
    QueryId::new(target.uid.clone()).ok_or(AuthError::Malformed)
}

fn reference(target: &CoordinatorTarget) -> wire::QueryRef {
    wire::QueryRef {
        query: target.uid.clone(),
    }
}

impl CoordinatorRpc for GrpcCoordinators {
    fn watch(&self, target: &CoordinatorTarget) -> BoxFuture<'static, Result<Reports, RpcError>> {
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

    fn renew(&self, target: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>> {
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

    fn cancel(&self, target: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>> {
        let (client, reference) = (self.connect(target, Verb::Cancel), reference(target));
        let cancel = async move {
            client.await?.cancel_query(reference).await.map_err(refused)?;
            Ok(())
        };
        answered(cancel).boxed()
    }
}

async fn answered(call: impl Future<Output = Result<(), RpcError>>) -> Result<(), RpcError> {
    let ended = tokio::time::timeout(CALL_TIMEOUT, call).await;
    ended.unwrap_or_else(|_| Err(RpcError::Refused("no answer".to_owned())))
}
