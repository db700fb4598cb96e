//! The knobs of scheduling and recovery, in the units of the machines. Defaults live in the CRD types only.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_crds::shuffle_query::ShuffleRetention;

use crate::ids::CoordinatorEpoch;
use crate::joins::JoinPolicy;
use crate::layout::AdaptivePolicy;
use crate::locality::LocalityPolicy;
use crate::speculation::SpeculationPolicy;

/// Limits, time-outs and windows of one query, and which coordinator of it this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Failed attempts of one task before the query fails.
    pub max_task_attempts: u32,
    /// The wait before the second attempt; it doubles with each further failure, up to 64 times.
    pub retry_backoff_base: Duration,
    /// Failures on one worker before it gets no more attempts of this query.
    pub exclude_worker_after_failures: u32,
    /// Silence after which a worker is lost.
    pub worker_liveness_timeout: Duration,
    /// Which coordinator of the query this is, from 1. Each numbers its attempts above those of the ones before.
    pub coordinator_epoch: CoordinatorEpoch,
    /// How long the successor of a lost coordinator waits for workers to tell what they hold before it starts tasks; zero for
    /// the first coordinator of a query.
    #[serde(default)]
    pub recovery_wait: Duration,
    /// How long a query may be without a usable worker.
    pub no_workers_grace: Duration,
    /// How long a running attempt may make no progress before it counts as failed.
    pub attempt_stall_timeout: Duration,
    /// The most time the query may take, from its start.
    pub deadline: Option<Duration>,
    /// Streams that a reduce attempt fetches at once.
    pub reduce_fetch_window_partitions: u32,
    /// The least bytes of a range of sorted runs, at least 1. Tasks beyond the last range read nothing.
    pub min_range_bytes: u64,
    /// How neighbouring partitions are coalesced; `None`: each task reads one.
    #[serde(default)]
    pub adaptive: Option<AdaptivePolicy>,
    /// When joins are done in another way than planned, by what was observed; `None`: never.
    #[serde(default)]
    pub joins: Option<JoinPolicy>,
    /// When slow attempts get a duplicate; `None`: never.
    #[serde(default)]
    pub speculation: Option<SpeculationPolicy>,
    /// When tasks prefer the worker that holds most of their input.
    pub locality: LocalityPolicy,
    /// How long the output of a stage is kept once all stages that read it have ended.
    pub retention: ShuffleRetention,
    /// Whether the result goes to a sink (committed at the end) or to a client (read as it is won).
    pub sink: bool,
}
