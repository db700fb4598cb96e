//! What the operator asks of workers.

use std::net::SocketAddr;

use futures::Future;
use sluice_proto::auth::PoolId;

/// What a worker tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Attempts that it can run at a time.
    pub slots: u32,
    /// Slots granted to coordinators or taken by attempts.
    pub slots_in_use: u32,
    /// Shuffle bytes in memory and on disk.
    pub held_bytes: u64,
    /// Bytes on disk.
    pub spill_used_bytes: u64,
    /// Queries with a session, or with data that waits for one.
    pub queries: u32,
    /// Whether it takes no new attempts.
    pub draining: bool,
}

/// Where a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerAddress {
    /// The uid of its pod.
    pub uid: String,
    /// Its pool.
    pub pool: PoolId,
    /// Where it serves.
    pub socket: SocketAddr,
}

/// Why a worker told nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RpcFailed(pub String);

/// The questions. Both answer within seconds or fail, and are safe to repeat.
pub trait WorkerRpc: Send + Sync + 'static {
    /// What the worker does and holds now.
    fn get_status(
        &self,
        worker: &WorkerAddress,
    ) -> impl Future<Output = Result<WorkerReport, RpcFailed>> + Send;

    /// Has the worker take no new attempts from now on.
    fn drain(&self, worker: &WorkerAddress) -> impl Future<Output = Result<WorkerReport, RpcFailed>> + Send;
}
