//! Workers asked over gRPC, at the IP of their pod.

use std::sync::Arc;
use std::time::Duration;

use sluice_proto::auth::{Audience, Bearer, Claims, Verb};
use sluice_proto::wire::worker_client::WorkerClient;
use sluice_proto::wire::{DrainRequest, WorkerStatus, WorkerStatusRequest};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::signing::SigningKeys;

use super::rpc::{RpcFailed, WorkerAddress, WorkerReport, WorkerRpc};

/// Longest time of one question, and of the connection before it.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// How long a token of the operator is good for: it is made for one question to one worker.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

/// Asks workers in the operator's name.
#[derive(Clone)]
pub struct GrpcWorkers {
    signer: Arc<SigningKeys>,
}

type Client = WorkerClient<InterceptedService<Channel, Bearer>>;

impl GrpcWorkers {
    /// Workers that trust the key of `signer`.
    pub fn new(signer: Arc<SigningKeys>) -> Self {
        Self { signer }
    }

    /// A connection for one question: it is cheaper than keeping one to every worker of every pool.
    async fn connect(&self, worker: &WorkerAddress, verb: Verb) -> Result<Client, RpcFailed> {
        let failed = |doing: &str, error: &dyn std::fmt::Display| RpcFailed(format!("{doing}: {error}"));
        let audience = Audience::Worker(worker.uid.clone());
        let claims = Claims::operator(audience, verb, worker.pool.clone(), TOKEN_LIFETIME);
        let token = self
            .signer
            .sign(&claims)
            .map_err(|error| failed("signing a token", &error))?;
        let endpoint = Endpoint::from_shared(format!("http://{}", worker.socket));
        let endpoint = endpoint.map_err(|error| failed("the worker's address", &error))?;
        let channel = endpoint
            .connect_timeout(TIME_LIMIT)
            .timeout(TIME_LIMIT)
            .connect()
            .await
            .map_err(|error| failed("connecting", &error))?;
        Ok(WorkerClient::with_interceptor(channel, Bearer(Some(token))))
    }
}

impl WorkerRpc for GrpcWorkers {
    async fn get_status(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcFailed> {
        let mut client = self.connect(worker, Verb::ReadStatus).await?;
        let status = client.get_worker_status(WorkerStatusRequest {}).await;
        status
            .map(|status| report(&status.into_inner()))
            .map_err(|status| RpcFailed(status.to_string()))
    }

    async fn drain(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcFailed> {
        let mut client = self.connect(worker, Verb::Drain).await?;
        let status = client.drain(DrainRequest {}).await;
        status
            .map(|status| report(&status.into_inner()))
            .map_err(|status| RpcFailed(status.to_string()))
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
