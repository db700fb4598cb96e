//! Calls of the operator to workers, at the IP of their pod.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use sluice_proto::auth::{Audience, Bearer, PoolId, Verb};
use sluice_proto::wire::worker_client::WorkerClient;
use sluice_proto::wire::{DrainRequest, WorkerStatus, WorkerStatusRequest};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::{RpcError, bearer, refused, with_causes};
use crate::signing::SigningKeys;

/// Longest time of one call, and of the connection before it.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The report of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    pub slots: u32,
    /// Slots granted to coordinators or taken by attempts.
    pub slots_in_use: u32,
    /// Shuffle bytes in memory and on disk.
    pub held_bytes: u64,
    /// Bytes on disk.
    pub spill_used_bytes: u64,
    /// Queries with a session, or with data that waits for one.
    pub queries: u32,
    pub draining: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerAddress {
    /// The uid of its pod.
    pub uid: String,
    pub pool: PoolId,
    pub socket: SocketAddr,
}

/// Calls to workers. Both end within seconds and are safe to repeat.
pub trait WorkerRpc: Send + Sync + 'static {
    fn get_status(
        &self,
        worker: &WorkerAddress,
    ) -> impl Future<Output = Result<WorkerReport, RpcError>> + Send;

    /// Makes the worker take no new attempts.
    fn drain(&self, worker: &WorkerAddress) -> impl Future<Output = Result<WorkerReport, RpcError>> + Send;
}

#[derive(Clone)]
pub struct GrpcWorkers {
    signer: Arc<SigningKeys>,
}

type Client = WorkerClient<InterceptedService<Channel, Bearer>>;

impl GrpcWorkers {
    pub fn new(signer: Arc<SigningKeys>) -> Self {
        Self { signer }
    }

    /// Connects for one call. That is cheaper than a permanent connection to every worker of every pool.
    async fn connect(&self, worker: &WorkerAddress, verb: Verb) -> Result<Client, RpcError> {
        let failed = |error: &dyn std::error::Error| RpcError::Refused(with_causes(error));
        let audience = Audience::Worker(worker.uid.clone());
        let bearer = bearer(&self.signer, audience, verb, worker.pool.clone());
        let bearer = bearer.map_err(|error| failed(&error))?;
        let channel = Endpoint::from_shared(format!("http://{}", worker.socket))
            .map_err(|error| failed(&error))?
            .connect_timeout(CALL_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .connect()
            .await
            .map_err(|error| failed(&error))?;
        Ok(WorkerClient::with_interceptor(channel, bearer))
    }
}

impl WorkerRpc for GrpcWorkers {
    async fn get_status(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcError> {
        let mut client = self.connect(worker, Verb::ReadStatus).await?;
        let status = client.get_worker_status(WorkerStatusRequest {}).await;
        status.map(|status| report(&status.into_inner())).map_err(refused)
    }

    async fn drain(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcError> {
        let mut client = self.connect(worker, Verb::Drain).await?;
        let status = client.drain(DrainRequest {}).await;
        status.map(|status| report(&status.into_inner())).map_err(refused)
    }
}

fn report(status: &WorkerStatus) -> WorkerReport {
    WorkerReport {
        slots: status.slots,
        slots_in_use: status.slots_in_use,
        held_bytes: status.held_bytes,
        spill_used_bytes: status.spill_used_bytes,
        queries: status.queries,
        draining: status.draining,
    }
}
