//! Observed state of a `ShuffleQuery`: computed from the coordinator's snapshot, never edited, always bounded.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status_bounds::{
    HISTOGRAM_CLASSES, MAX_CONDITIONS, MAX_LABEL, MAX_SHORT_MESSAGE, MAX_STAGES, PREVIEW_MAX_COLUMNS,
    PREVIEW_MAX_ROWS, PREVIEW_MAX_TEXT,
};
use crate::conditions::{Condition, ConditionReason, ErrorReason, MAX_MESSAGE, QueryConditionType};

/// The observed state of a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShuffleQueryStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The phase: Pending, Running, Suspended, Succeeded, Failed or Cancelled.
    #[serde(default)]
    pub phase: QueryPhase,
    /// Why the query is in this phase: why it waits, or why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ConditionReason>,
    /// The same for people, cut to 256 characters. Absent when the reason says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_SHORT_MESSAGE))]
    pub message: Option<String>,
    /// Observations, one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_CONDITIONS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition<QueryConditionType>>,
    /// The pool whose workers run the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub pool_name: Option<String>,
    /// Epoch of the newest coordinator; 0 before the first. It never decreases, so that every older coordinator can be
    /// refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub coordinator_epoch: u64,
    /// Coordinators that were started again for any reason.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pod_retries: u32,
    /// Coordinators that were started again after a failure of the query itself: out of memory, no workers, a failing sink.
    /// `retry.maxTaskAttempts` bounds them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub coordinator_failures: u32,
    /// The multiple of the pool's coordinator memory that the newest coordinator gets; absent while it is 1. It doubles
    /// whenever a coordinator runs out of memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub coordinator_memory_factor: u32,
    /// When the query was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the query was admitted to the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_time: Option<Time>,
    /// Since when the query is suspended, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_time: Option<Time>,
    /// How long the query was suspended in all before its last resumption, in milliseconds. It does not count toward
    /// the deadline.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suspended_millis: u64,
    /// When a client could first read a row of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_row_time: Option<Time>,
    /// When the query ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Time from submission to the first result row that a client can read, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_row_millis: Option<u64>,
    /// Time from submission to the end, in milliseconds. Submissions and ends are told in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_millis: Option<u64>,
    /// Stages done of stages planned, such as 2/5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub stages_done: Option<String>,
    /// Tasks done of tasks planned, such as 13/40. Tasks that a LIMIT does not need are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tasks_done: Option<String>,
    /// Attempts that ran near their data of those that should have, such as 87%. Absent if the tables declare no
    /// locality and no worker holds most of what a task reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub local_attempts: Option<String>,
    /// The duplicates of slow attempts over the whole query, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<SpeculationCounts>,
    /// What the successor of a lost coordinator found at workers, if it found anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryCounts>,
    /// Rows and bytes over the whole query.
    #[serde(default)]
    pub totals: QueryTotals,
    /// Tasks over the whole query.
    #[serde(default)]
    pub tasks: TaskCounts,
    /// Stages in the order of their ids; a bounded list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_STAGES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"])
    )]
    pub stages: Vec<StageStatus>,
    /// Stages that the list leaves out because of its bounds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stages_omitted: u32,
    /// Why the query failed or was cancelled: the first cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<QueryError>,
    /// First rows of the result of a query without a sink, unless spec.preview is None. At most 20 rows and 64 columns, and 4 KiB of JSON. Values are cut to
    /// 256 characters, and further before rows are left out; one row stays in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<ResultPreview>,
    /// What a query with a sink has committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkStatus>,
}

/// Absent counters are 0: a status has many of them and little room.
fn is_zero<T: Default + PartialEq>(count: &T) -> bool {
    *count == T::default()
}

/// The phase of a query.
///
/// ```text
/// Pending <--> Running --> Succeeded
///    |            |------> Failed
///    |            |------> Cancelled
///    |            `------> Suspended --> Pending    with suspend: true, and back with false
///    |-------------------> Suspended --> Cancelled
///    |-------------------> Failed
///    `-------------------> Cancelled
/// ```
///
/// Back to Pending when a new coordinator must start over.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum QueryPhase {
    /// Not planned yet, or no attempt was assigned yet.
    #[default]
    Pending,
    /// Attempts were assigned.
    Running,
    /// The user suspended the query; nothing of it runs.
    Suspended,
    /// The result is complete. Final.
    Succeeded,
    /// The query ended without a result. Final.
    Failed,
    /// The user cancelled the query. Final.
    Cancelled,
}

impl QueryPhase {
    /// Whether the phase is final.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Suspended => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// Rows and bytes over the whole query. Only attempts that won count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryTotals {
    /// Rows read from tables.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_read: u64,
    /// Bytes read from tables, as stored.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_read: u64,
    /// Rows written to exchanges.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_shuffled: u64,
    /// Bytes written to exchanges, as encoded and compressed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_shuffled: u64,
    /// Bytes that went to disk for lack of memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_spilled: u64,
    /// Rows of the result.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_written: u64,
    /// Bytes of the result, as written to the sink or sent to the client.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_written: u64,
}

/// Tasks over the whole query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskCounts {
    /// Tasks of all stages.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub planned: u32,
    /// Tasks with a running attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub running: u32,
    /// Tasks with an attempt that won.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub done: u32,
    /// Tasks that need not run: a LIMIT has enough rows without them, or a join has nothing to join with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u32,
    /// Attempts that failed. Cancelled attempts and speculative losers do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_attempts: u32,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Number of the stage within the query; inputs have smaller numbers than their readers.
    pub id: u32,
    /// What the stage does, in a few words.
    #[schemars(length(max = MAX_LABEL))]
    pub label: String,
    /// Waiting, Running or Done.
    pub state: StageState,
    /// Tasks of the stage.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks_planned: u32,
    /// Tasks with a running attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks_running: u32,
    /// Tasks with an attempt that won.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks_done: u32,
    /// Tasks that need not run: a LIMIT has enough rows without them, or a join has nothing to join with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks_skipped: u32,
    /// Attempts that failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_failed: u32,
    /// Rows read from tables and exchanges.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_read: u64,
    /// Bytes read from tables and exchanges.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_read: u64,
    /// Rows written to the exchange, or to the result.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_out: u64,
    /// Bytes written to the exchange, or to the result.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_out: u64,
    /// Bytes that went to disk for lack of memory: of the stage's operators, and of what it wrote to its exchange.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_spilled: u64,
    /// How often rows for the exchange waited until a worker had room for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub backpressure_events: u64,
    /// Time since the first assignment of the stage, in milliseconds; it stops when the stage is done.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub elapsed_millis: u64,
    /// Tasks that were planned to read the stage's inputs; absent if it reads tables only, as are the fields below.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub planned_reduce_tasks: u32,
    /// Tasks that read them, once all of them are written: neighbouring partitions are read by one task, and a hot one by
    /// several.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adaptive_reduce_tasks: u32,
    /// Bytes that one task reads at most, unless a single partition has more; absent if partitions are not coalesced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adaptive_target_bytes: u64,
    /// How often the division of the inputs among the tasks was decided or voided; absent if it was decided once and holds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layout_events: u32,
    /// How often it was decided: again each time that the stage started over. Absent if it was decided once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layout_finalize_count: u32,
    /// Of those tasks, the ones that read a part of a hot partition.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skew_split_tasks: u32,
    /// Partitions that each attempt fetches at the same time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reduce_fetch_window_partitions: u32,
    /// The partitions that the tasks divide among them, by their bytes over all inputs: how many have less than 64 KiB,
    /// how many of the others less than 256 KiB, and so on in steps of four; the tenth number counts those of 4 GiB and
    /// more. Zeros at the end are left out. One number far behind the others is a hot key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = HISTOGRAM_CLASSES))]
    pub partition_bytes_histogram: Vec<u32>,
    /// Time from the first assignment to the first bytes that came in through an exchange, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_chunk_ms: Option<u64>,
    /// Time from the first assignment to the first row that a task produced, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_reduce_row_ms: Option<u64>,
    /// Where attempts ran, if the query declares the locality of the data that the stage scans, or one worker holds most of what
    /// a task reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<StageLocality>,
    /// The runtime filters that the stage makes and uses, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<StageFilters>,
    /// The joins that were done in another way than planned, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_switches: Option<StageJoinSwitches>,
    /// The duplicates of its slow attempts, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<SpeculationCounts>,
}

/// What the successor of a lost coordinator found at workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryCounts {
    /// Tasks that did not have to run again, because a worker held their output.
    pub recovered_tasks: u32,
    /// Outputs that could not be used, because the plan has changed or the work was divided otherwise. Their tasks ran again if
    /// they were needed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub discarded_outputs: u32,
}

/// Speculative attempts: duplicates of attempts that took much longer than others of their stage. Those that neither won nor
/// were wasted run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpeculationCounts {
    /// Duplicates that were started.
    pub launched: u32,
    /// Of those, the ones that ended first, or in place of an attempt that was lost.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub won: u32,
    /// Of those, the ones that ended in vain.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wasted: u32,
    /// How long the wasted ones occupied slots, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wasted_ms: u64,
}

/// Joins of a stage that were done in another way than planned, by what their inputs turned out to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageJoinSwitches {
    /// Tasks that ran out of memory with hash joins and ran again with both sides sorted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sorted_tasks: u32,
    /// Joins of which the probe side turned out smaller and became the build side.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub swapped_joins: u32,
    /// Tasks that read all rows of the small inputs of their joins, and of the large one what was written at one worker.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub broadcast_tasks: u32,
}

/// The runtime filters of a stage: sets of join keys by which scans leave out rows that would find no match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageFilters {
    /// Filters that the stage makes for others, of the rows that it writes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub made: u32,
    /// Filters that its scans use, once it has started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub used: u32,
    /// Filters that were not complete when it started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u32,
    /// Time that it waited for filters while the query had nothing else to start, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waited_ms: u64,
    /// Rows that its scans left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_filtered: u64,
}

/// Where attempts ran of a stage that scans data of declared locality, or of whose tasks some read most of their input from one
/// worker, counted at assignment. Tasks whose input is spread over the workers run anywhere and do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageLocality {
    /// Attempts that should run near their data.
    pub asked: u32,
    /// Of those, the ones that ran at the worker that holds most of their input.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub worker: u32,
    /// Those that ran on a node that holds the data, or on that of the worker that holds most of their input.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub node: u32,
    /// Those that ran in a zone that holds the data, or in that of the worker that holds most of their input.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub zone: u32,
    /// Those that ran elsewhere because no worker near the data took attempts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub no_worker_near: u32,
    /// Those that ran elsewhere because the workers near the data were busy, or the task had just failed there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub near_workers_busy: u32,
    /// Attempts of scans that ran at the worker that reads their files in every query, whose page cache may have them. They do
    /// not count as asked, since they wait for no slot.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub same_files: u32,
}

/// The state of a stage.
///
/// ```text
/// Waiting --> Running <--> Done    back when a worker is lost together with outputs that are still needed
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum StageState {
    /// No attempt was assigned yet.
    #[default]
    Waiting,
    /// Attempts were assigned.
    Running,
    /// Every task has an attempt that won.
    Done,
}

/// Why a query failed or was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryError {
    /// The kind of failure.
    pub reason: ErrorReason,
    /// What happened, where, and what to do about it.
    #[schemars(length(max = MAX_MESSAGE))]
    pub message: String,
    /// Stage in which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<u32>,
    /// Task of that stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<u32>,
}

/// First rows of a result, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultPreview {
    /// Names of the columns.
    #[schemars(length(max = PREVIEW_MAX_COLUMNS), inner(length(max = PREVIEW_MAX_TEXT)))]
    pub columns: Vec<String>,
    /// Values, row by row, as text.
    #[schemars(length(max = PREVIEW_MAX_ROWS), inner(length(max = PREVIEW_MAX_COLUMNS), inner(length(max = PREVIEW_MAX_TEXT))))]
    pub rows: Vec<Vec<String>>,
    /// Whether rows, columns or parts of values are left out.
    #[serde(default)]
    pub truncated: bool,
}

/// What a sink has committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkStatus {
    /// Folder that holds the result.
    #[schemars(length(max = 1024))]
    pub location: String,
    /// Number of files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub files: u32,
    /// Rows in all files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// Bytes of all files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
}
