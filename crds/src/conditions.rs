//! Conditions of both resources, and every reason that a status may give.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::process::exit_code;

/// Most characters of a message in a status.
pub const MAX_MESSAGE: usize = 1024;

/// One observation about an object. Equal on the wire to the condition type of Kubernetes
/// (`meta/v1` Condition), with its type and reason bounded to ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition<T> {
    /// What is observed.
    #[serde(rename = "type")]
    pub type_: T,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why the condition has this status.
    pub reason: ConditionReason,
    /// The same for people. Empty when the reason says it all.
    #[serde(default)]
    #[schemars(length(max = MAX_MESSAGE))]
    pub message: String,
    /// Generation of the spec that was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status last changed from one value to another.
    pub last_transition_time: Time,
}

/// What a condition of a ShuffleQuery observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum QueryConditionType {
    /// The spec is valid; once a coordinator runs, the SQL was planned too.
    Accepted,
    /// The query is admitted to a pool.
    Admitted,
    /// The coordinator's pod is scheduled and serves.
    CoordinatorReady,
    /// At least one worker offers slots to the query.
    WorkersReady,
    /// The query succeeded. Unknown while it has not ended.
    Succeeded,
    /// The query ended, well or not; the reason says how. Every query comes to it, so it is the condition to wait for.
    Complete,
}

/// What a condition of a WorkerPool observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PoolConditionType {
    /// Every worker that the spec asks for is ready, and runs the image that it asks for.
    Ready,
}

/// Whether a condition holds.
///
/// ```text
/// Unknown <-> True <-> False    any change moves lastTransitionTime
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

/// Why a condition has its status: progress, or the error that ended the query. One flat string on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConditionReason {
    /// Nothing failed.
    Progress(ProgressReason),
    /// The query failed or was cancelled.
    Error(ErrorReason),
}

/// Reasons that are not failures of a query: how far it is, or what it or a pool waits for. Where a user must act, the
/// message says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProgressReason {
    /// The query waits to be planned.
    Pending,
    /// The spec is valid. It was not planned yet.
    Valid,
    /// The spec is valid, and the query is planned.
    Planned,
    /// No worker has registered yet.
    WaitingForWorkers,
    /// Workers registered.
    WorkersRegistered,
    /// Stages run.
    Running,
    /// The query ended and its result is complete.
    Completed,
    /// The query ended and its result was complete, but the status has no rows of it: the coordinator exited before the
    /// operator received its last report, and is of a build whose termination message has no rows.
    ResultLost,
    /// The query is admitted to its pool.
    Admitted,
    /// The pool that the query names does not exist.
    PoolNotFound,
    /// The pool has fewer ready workers of its image than a query needs.
    WaitingForPool,
    /// The pool runs as many queries as it may (`maxConcurrentQueries`).
    Queued,
    /// The namespace runs as many queries, or uses as many slots, as the operator allows.
    NamespaceQuotaReached,
    /// The ConfigMap, or its key, that holds the SQL does not exist.
    SqlNotFound,
    /// The coordinator's pod starts.
    CoordinatorStarting,
    /// The coordinator serves.
    CoordinatorServing,
    /// The coordinator's pod runs, but the operator does not reach it.
    CoordinatorUnreachable,
    /// The coordinator was lost, and the next one waits for its back-off.
    CoordinatorRestarting,
    /// The user suspended the query.
    Suspended,
    /// Workers start.
    WorkersStarting,
    /// Workers drain: the pool shrinks, or an older image is replaced.
    WorkersDraining,
    /// All workers of the pool are ready.
    WorkersReady,
    /// The pool should have no workers.
    ScaledToZero,
    /// The kubelet cannot pull the image.
    ImagePullFailed,
    /// The container of a pod cannot be created, or ends again and again.
    ContainerFailed,
    /// The quota of the namespace leaves no room for a pod.
    QuotaExceeded,
    /// The API server rejects the pod, such as by a policy of the cluster.
    PodRefused,
    /// A claim is not bound, or what a pod mounts (a volume, a Secret, a ConfigMap) is missing or cannot be attached.
    VolumeUnavailable,
    /// Not every pod of the pool can mount a claim.
    VolumesUnmountable,
    /// Every suitable node has a taint that the pod does not tolerate.
    Tainted,
    /// No suitable node has room for a pod, or there is no suitable node.
    Unschedulable,
    /// An object of the needed name exists and has another owner.
    NameTaken,
}

/// Why a query failed. Each reason shows who can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ErrorReason {
    /// A field of the spec is wrong; the message names it.
    InvalidSpec,
    /// The SQL does not parse, does not type-check, or is not one SELECT statement.
    InvalidSql,
    /// The SQL names a table that the spec does not declare, or its location holds no file.
    TableNotFound,
    /// An input file changed after the query had listed it.
    InputChanged,
    /// An input file cannot be decoded.
    InputCorrupt,
    /// A location is outside of what the query may read or write.
    ForbiddenPath,
    /// The plan has a shape that cannot be executed.
    UnsupportedPlan,
    /// The sink's location exists and `ifExists` is Fail.
    SinkExists,
    /// The result could not be written.
    SinkFailed,
    /// Memory ran out where spilling is impossible, or the disk space for spilling did.
    ResourcesExhausted,
    /// A task failed on every allowed attempt.
    TaskFailed,
    /// A task was lost together with its worker twice, and would take more workers down.
    PoisonTask,
    /// Shuffle data could not be fetched, although its worker answers.
    FetchFailed,
    /// No worker was left for longer than the grace time.
    WorkersLost,
    /// The coordinator ran out of memory, even with the most that it may have.
    OutOfMemory,
    /// The coordinator was lost and may not start again.
    CoordinatorLost,
    /// The query ran longer than `deadlineSeconds`.
    DeadlineExceeded,
    /// The user cancelled the query.
    Cancelled,
    /// Work was lost after some of its rows had been read.
    ResultPartiallyRead,
    /// Coordinator and workers are different builds.
    BuildMismatch,
    /// A defect of Sluice itself.
    Internal,
}

impl ErrorReason {
    /// Whether the query was not accepted: what it asks for cannot be planned.
    pub const fn is_rejection(self) -> bool {
        match self {
            Self::InvalidSpec
            | Self::InvalidSql
            | Self::TableNotFound
            | Self::ForbiddenPath
            | Self::UnsupportedPlan => true,
            Self::InputChanged
            | Self::InputCorrupt
            | Self::SinkExists
            | Self::SinkFailed
            | Self::ResourcesExhausted
            | Self::TaskFailed
            | Self::PoisonTask
            | Self::FetchFailed
            | Self::WorkersLost
            | Self::OutOfMemory
            | Self::CoordinatorLost
            | Self::DeadlineExceeded
            | Self::Cancelled
            | Self::ResultPartiallyRead
            | Self::BuildMismatch
            | Self::Internal => false,
        }
    }

    /// Whether another coordinator may succeed. It cannot with the same input, nor after a defect, and a task that failed on
    /// every attempt was tried on several workers already. After `BuildMismatch` the next coordinator has the workers' build.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::WorkersLost | Self::SinkFailed | Self::BuildMismatch => true,
            Self::InvalidSpec
            | Self::InvalidSql
            | Self::TableNotFound
            | Self::InputChanged
            | Self::InputCorrupt
            | Self::ForbiddenPath
            | Self::UnsupportedPlan
            | Self::SinkExists
            | Self::ResourcesExhausted
            | Self::TaskFailed
            | Self::PoisonTask
            | Self::FetchFailed
            | Self::OutOfMemory
            | Self::CoordinatorLost
            | Self::DeadlineExceeded
            | Self::Cancelled
            | Self::ResultPartiallyRead
            | Self::Internal => false,
        }
    }

    /// The exit code of a process whose query failed with this reason.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::InvalidSpec
            | Self::InvalidSql
            | Self::TableNotFound
            | Self::InputChanged
            | Self::InputCorrupt
            | Self::ForbiddenPath
            | Self::UnsupportedPlan
            | Self::SinkExists => exit_code::INVALID_INPUT,
            Self::WorkersLost => exit_code::NO_WORKERS,
            Self::Cancelled => exit_code::CANCELLED,
            Self::SinkFailed
            | Self::ResourcesExhausted
            | Self::TaskFailed
            | Self::PoisonTask
            | Self::FetchFailed
            | Self::OutOfMemory
            | Self::CoordinatorLost
            | Self::DeadlineExceeded
            | Self::ResultPartiallyRead
            | Self::BuildMismatch
            | Self::Internal => exit_code::QUERY_FAILED,
        }
    }
}

impl From<ErrorReason> for ConditionReason {
    fn from(reason: ErrorReason) -> Self {
        Self::Error(reason)
    }
}

impl From<ProgressReason> for ConditionReason {
    fn from(reason: ProgressReason) -> Self {
        Self::Progress(reason)
    }
}

impl JsonSchema for ConditionReason {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ConditionReason".into()
    }

    // An upper-case identifier, as Kubernetes demands of any reason; not the list of ours, so that a resource
    // written by a newer operator still passes an older schema.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 64, "pattern": "^[A-Z][A-Za-z]*$" })
    }
}

#[cfg(test)]
mod tests;
