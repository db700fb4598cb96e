//! Desired state of a `WorkerPool`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::WorkerPoolStatus;
use crate::units::ByteSize;

/// Most workers of one pool.
pub const MAX_REPLICAS: u32 = 1000;
/// Least query memory of one worker. Below it not even one batch of rows and one shuffle buffer fit.
pub const MIN_MEMORY: ByteSize = ByteSize::from_mib(1);
/// Most slots of one worker.
pub const MAX_SLOTS_PER_WORKER: u32 = 256;

/// Desired state of a pool of workers, or of the inline workers of one query.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    plural = "workerpools",
    shortname = "wp",
    namespaced,
    status = "WorkerPoolStatus",
    derive = "PartialEq",
    doc = "A pool of workers that ShuffleQueries share.",
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".spec.replicas"}"#,
    printcolumn = r#"{"name":"Slots","type":"integer","jsonPath":".spec.slotsPerWorker"}"#,
    printcolumn = r#"{"name":"Memory","type":"string","jsonPath":".spec.memory"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct WorkerPoolSpec {
    /// Number of workers. With 0, queries wait until the pool grows.
    #[serde(default = "default_replicas")]
    #[schemars(range(max = MAX_REPLICAS))]
    pub replicas: u32,
    /// Attempts that one worker runs at the same time. 2 keeps a CPU busy while another attempt waits for input.
    #[serde(default = "default_slots_per_worker")]
    #[schemars(range(min = 1, max = MAX_SLOTS_PER_WORKER))]
    pub slots_per_worker: u32,
    /// Query memory of one worker: operators and shuffle buffers together, for example 2GiB. At least 1MiB.
    /// Without it the worker takes a share of the memory that it finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Disk space for what does not fit into memory. Without it the space is bounded by the disk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillSpec>,
}

/// Disk space of one worker for spilled data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpillSpec {
    /// Most bytes on disk of one worker, for example 50GiB. 0 forbids spilling: a query that would need it fails.
    pub limit: ByteSize,
}

fn default_replicas() -> u32 {
    2
}

fn default_slots_per_worker() -> u32 {
    2
}

impl Default for WorkerPoolSpec {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            slots_per_worker: default_slots_per_worker(),
            memory: None,
            spill: None,
        }
    }
}
