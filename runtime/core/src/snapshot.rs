//! The state of a query at one moment, as `GetQueryStatus` answers and status is computed from.

use serde::{Deserialize, Serialize};

use crate::ids::StageId;
use crate::locality::LocalityCounts;
use crate::metrics::AttemptMetrics;
use crate::query_outcome::Outcome;
use crate::time::Instant;

/// A query at one moment. Times are on the coordinator's monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerySnapshot {
    /// When the snapshot was taken.
    pub now: Instant,
    /// When the query was submitted.
    pub started: Instant,
    /// When the first row could be read: by the client, or in the sink, which shows all rows at once.
    pub first_row: Option<Instant>,
    /// When it ended.
    pub ended: Option<Instant>,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// Workers with a live session.
    pub workers: u32,
    /// Their slots in all.
    pub slots: u32,
    /// Why there is no worker, as far as addresses and past sessions tell; `None` while there is one.
    #[serde(default)]
    pub no_workers: Option<String>,
    /// What was taken over from an earlier coordinator.
    #[serde(default)]
    pub recovery: RecoveryCounts,
    /// The stages, by number.
    pub stages: Vec<StageSnapshot>,
}

/// What the successor of a lost coordinator found at workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryCounts {
    /// Tasks that did not have to run again, because a worker held their output.
    pub recovered_tasks: u32,
    /// Outputs that could not be used: the plan has changed, or another coordinator divided the work otherwise.
    pub discarded_outputs: u32,
}

impl QuerySnapshot {
    /// A query whose result a predecessor of this coordinator has committed. Its stages are not known any more.
    pub fn committed_before() -> Self {
        Self {
            now: Instant::default(),
            started: Instant::default(),
            first_row: None,
            ended: Some(Instant::default()),
            outcome: Some(Outcome::Succeeded),
            workers: 0,
            slots: 0,
            no_workers: None,
            recovery: RecoveryCounts::default(),
            stages: Vec::new(),
        }
    }
}

/// A stage at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageSnapshot {
    /// Its number.
    pub id: StageId,
    /// What it does.
    pub label: String,
    /// The kind of exchange that it writes, in words.
    pub output: String,
    /// Where it stands.
    pub state: StageState,
    /// Tasks: as many as were planned until the layout is decided, then as many as it has.
    pub tasks: u32,
    /// Tasks with an attempt at work.
    pub running: u32,
    /// Tasks won.
    pub done: u32,
    /// Tasks that need not run: a limit has enough rows without them, or a join has nothing to join with.
    #[serde(default)]
    pub skipped: u32,
    /// Attempts that failed (not: cancelled, lost with their worker, or made void by a lost input).
    pub failed_attempts: u32,
    /// Attempts lost with their worker or with an input, or that ended because others held what they needed.
    pub lost_attempts: u32,
    /// Attempts that the coordinator stopped: their slot was needed while they waited for a lost input, another attempt won,
    /// or the query ended. Every attempt started has failed, is lost, was cancelled, runs, or has won.
    #[serde(default)]
    pub cancelled_attempts: u32,
    /// Attempts started in all.
    pub attempts: u32,
    /// Where attempts ran, if the query says where the stage's data is.
    #[serde(default)]
    pub locality: LocalityCounts,
    /// How it reads exchanges, if it reads any.
    #[serde(default)]
    pub reduce: Option<ReduceSnapshot>,
    /// The runtime filters that it makes and uses, if there are any.
    #[serde(default)]
    pub filters: Option<FilterSnapshot>,
    /// How often joins are done in another way than planned.
    #[serde(default)]
    pub join_switches: JoinSwitches,
    /// The duplicates of its slow attempts.
    #[serde(default)]
    pub speculation: SpeculationCounts,
    /// Counters of the winning and the running attempts, of each task one.
    pub metrics: AttemptMetrics,
    /// When the first attempt was assigned.
    pub started: Option<Instant>,
    /// When the last task was won.
    pub ended: Option<Instant>,
}

/// The speculative attempts of a stage: duplicates of attempts that took too long. Each that was launched has won, was wasted,
/// or runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeculationCounts {
    /// Those that were started.
    pub launched: u32,
    /// Those that ended before the attempt that they duplicate, or in its place.
    pub won: u32,
    /// Those that ended otherwise.
    pub wasted: u32,
    /// How long the wasted ones ran, in milliseconds.
    pub wasted_ms: u64,
}

/// Joins of a stage that are done in another way than planned, by what was observed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinSwitches {
    /// Tasks that ran out of memory with hash joins and were told to sort instead.
    pub sorted_tasks: u32,
    /// Joins of which the sides changed places.
    pub swapped_joins: u32,
    /// Tasks that read small inputs whole, and of the large one what was written at one worker.
    pub broadcast_tasks: u32,
}

/// The runtime filters of a stage, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterSnapshot {
    /// Filters that it makes for other stages.
    pub made: u32,
    /// Filters that its scans use, once that is decided.
    pub used: u32,
    /// Filters that were not complete when it started.
    pub missed: u32,
    /// How long it waited for filters while the query had nothing else to start, in milliseconds.
    pub waited_ms: u64,
}

/// How a stage reads exchanges, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReduceSnapshot {
    /// Tasks that were planned to read.
    pub planned_reduce_tasks: u32,
    /// Tasks that the stage's layout has, once it is decided.
    pub adaptive_reduce_tasks: Option<u32>,
    /// Bytes to which partitions are coalesced; `None` if each task reads one partition or range.
    pub adaptive_target_bytes: Option<u64>,
    /// How often a layout was decided or voided.
    pub layout_events: u32,
    /// Tasks that read a part of a hot partition.
    pub skew_split_tasks: u32,
    /// How often a layout was decided: once in each epoch of the stage.
    pub layout_finalize_count: u32,
    /// Streams that each attempt fetches at once.
    pub reduce_fetch_window_partitions: u32,
    /// The partitions that tasks divide among them, by their bytes: see [`crate::metrics::partition_bytes_histogram`].
    pub partition_bytes_histogram: Vec<u32>,
    /// From the stage's first assignment to the first bytes that an attempt got of an exchange, in milliseconds.
    pub first_chunk_ms: Option<u64>,
    /// From the stage's first assignment to the first row that an attempt put out, in milliseconds.
    pub first_reduce_row_ms: Option<u64>,
}

/// Where a stage stands.
///
/// ```text
/// Waiting -> Schedulable -> Running -> Done
///    ^____________|____________|________|   (an input or an output was lost)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StageState {
    /// Some map task of an input has not won (`map_running`).
    Waiting,
    /// All inputs are won and the layout is final (`reduce_schedulable`); no attempt runs yet.
    Schedulable,
    /// An attempt runs or has won.
    Running,
    /// Every task has a winner (`map_done`, to its consumers).
    Done,
}
