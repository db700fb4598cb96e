//! How rows move between stages.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Millis};

/// Most partitions of one exchange.
pub const MAX_PARTITIONS: u32 = 65_536;
/// How many times as long as usual an attempt may have to run, at most, until it counts as slow.
pub const MAX_P95_MULTIPLIER: f64 = 100.0;
/// Largest reduce fetch window, in partitions.
pub const MAX_FETCH_WINDOW_PARTITIONS: u32 = 65_536;

/// The longest that shuffle data of a suspended query is kept.
pub const MAX_KEEP_WHILE_SUSPENDED: Millis = Millis::from_millis(86_400_000);

/// How rows move between stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShuffleSpec {
    /// Partitions of every exchange. Without it, one for each slot of all workers, and more if the tables that the query reads
    /// have more bytes than the slots times adaptive.targetBytes: at most 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_PARTITIONS))]
    pub partitions: Option<u32>,
    /// Compression of shuffle data. The schema tells what the type says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Partitions that a reduce attempt fetches at the same time.
    #[serde(default = "default_reduce_fetch_window_partitions")]
    #[schemars(range(min = 1, max = MAX_FETCH_WINDOW_PARTITIONS))]
    pub reduce_fetch_window_partitions: u32,
    /// Tasks that follow the data: how partitions are coalesced once their sizes are known.
    #[serde(default)]
    pub adaptive: AdaptiveSpec,
    /// Whether scans leave out rows by the join keys of other stages. The schema tells what the type says.
    #[serde(default)]
    pub runtime_filters: RuntimeFilters,
    /// In which order inner joins run. The schema tells what the type says.
    #[serde(default)]
    pub join_order: JoinOrderMode,
    /// Duplicates of slow attempts. An answer does not depend on them.
    #[serde(default)]
    pub speculation: SpeculationSpec,
    /// How long workers keep shuffle data: UntilRead, or UntilEnd of the query. The schema tells what the types say.
    #[serde(default)]
    pub retention: ShuffleRetention,
    /// How long workers keep shuffle data of the query while it is suspended; 0s: not at all. A query that resumes in that
    /// time runs only what had not ended. Meanwhile the data takes memory and disk that others may need. At most 24h.
    #[serde(default)]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("at most 24h"))]
    pub keep_while_suspended: Millis,
}

/// Whether scans leave out rows by the join keys that other stages have written, before they are shuffled and joined, and row
/// groups by what a join or a limit of their own task has found: Auto (where it is expected to pay) or Off.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RuntimeFilters {
    /// Where the other side of a join has been narrowed by a predicate and the scan is large.
    #[default]
    Auto,
    /// Nowhere.
    Off,
}

/// In which order inner joins run: Auto (that with the fewest rows between joins, by the statistics of the tables; as
/// written where there are none, or it gains little) or AsWritten.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum JoinOrderMode {
    /// By estimate.
    #[default]
    Auto,
    /// That of the text.
    AsWritten,
}

/// How the partitions of exchanges are coalesced into tasks, from the bytes that their writers really produced. An answer does
/// not depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.maxReduceTasks == 0 || self.minReduceTasks <= self.maxReduceTasks")
        .message("minReduceTasks must not be above maxReduceTasks")
)]
pub struct AdaptiveSpec {
    /// Auto: neighbouring partitions are read by one task as long as no slot stays idle for it. Off: one task for each
    /// partition.
    #[serde(default)]
    pub mode: AdaptiveMode,
    /// Bytes of shuffle data that one task reads at most, unless a single partition has more. At most an eighth of the memory
    /// of a worker's slot is used.
    #[serde(default = "default_target_bytes")]
    pub target_bytes: ByteSize,
    /// The least number of tasks of a stage, as far as it has partitions.
    #[serde(default = "default_min_reduce_tasks")]
    #[schemars(range(min = 1, max = MAX_PARTITIONS))]
    pub min_reduce_tasks: u32,
    /// The most tasks of a stage; 0: as many as were planned.
    #[serde(default)]
    #[schemars(range(max = MAX_PARTITIONS))]
    pub max_reduce_tasks: u32,
    /// The most partitions that one task reads; 0: any number. It holds even where it needs more tasks than
    /// maxReduceTasks.
    #[serde(default)]
    #[schemars(range(max = MAX_PARTITIONS))]
    pub max_partitions_per_task: u32,
    /// Whether joins are done in another way than planned, by what was observed. The schema tells what the type says.
    #[serde(default)]
    pub joins: AdaptiveJoins,
}

/// Whether joins are done in another way than planned, by what was observed: Auto or Off. Auto: a task whose hash join runs out
/// of memory runs again and sorts both sides, which spills; when one side of a join has no rows and the result needs some, the
/// other side is not read to its end; small inputs of a join are read whole by each of its tasks, which run where the large one
/// lies; the smaller side of a hash join becomes its build side. Off: such a task fails, and so does the query in the end; all tasks run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum AdaptiveJoins {
    /// By what was observed.
    #[default]
    Auto,
    /// As planned.
    Off,
}

/// Whether partitions are coalesced: Auto or Off.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum AdaptiveMode {
    /// Where it saves more than it costs.
    #[default]
    Auto,
    /// Never.
    Off,
}

fn default_target_bytes() -> ByteSize {
    ByteSize::from_mib(128)
}

fn default_min_reduce_tasks() -> u32 {
    1
}

impl Default for AdaptiveSpec {
    fn default() -> Self {
        Self {
            mode: AdaptiveMode::default(),
            target_bytes: default_target_bytes(),
            min_reduce_tasks: default_min_reduce_tasks(),
            max_reduce_tasks: 0,
            max_partitions_per_task: 0,
            joins: AdaptiveJoins::default(),
        }
    }
}

/// When an attempt that takes much longer than those of other tasks of its stage gets a duplicate on another worker. The first
/// of the two that succeeds wins, and the other one is cancelled. Duplicates take only slots for which no task of any query of
/// the pool waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpeculationSpec {
    /// Whether slow attempts get duplicates. The schema tells what the type says.
    #[serde(default)]
    pub mode: SpeculationMode,
    /// Tasks of a stage that must have ended before another one of it counts as slow.
    #[serde(default = "default_min_completed_samples")]
    #[schemars(range(min = 1, max = MAX_PARTITIONS))]
    pub min_completed_samples: u32,
    /// An attempt is slow once it has run this many times as long as 95 % of the stage's tasks took. A task that reads more than
    /// the average may take longer in proportion.
    #[serde(default = "default_p95_multiplier")]
    #[schemars(range(min = 1, max = MAX_P95_MULTIPLIER))]
    pub p95_multiplier: f64,
    /// No attempt that has run for less is slow.
    #[serde(default = "default_min_runtime")]
    pub min_runtime: Millis,
}

/// Whether slow attempts get duplicates: Auto (where slots are free, as long as few of them run in vain) or Off.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum SpeculationMode {
    /// Where slots are free.
    #[default]
    Auto,
    /// Never.
    Off,
}

fn default_min_completed_samples() -> u32 {
    5
}

fn default_p95_multiplier() -> f64 {
    1.5
}

fn default_min_runtime() -> Millis {
    Millis::from_millis(250)
}

impl Default for SpeculationSpec {
    fn default() -> Self {
        Self {
            mode: SpeculationMode::default(),
            min_completed_samples: default_min_completed_samples(),
            p95_multiplier: default_p95_multiplier(),
            min_runtime: default_min_runtime(),
        }
    }
}

/// How long workers keep what a stage wrote to its exchange. UntilRead: until all stages that read it have ended; a query
/// takes little memory and disk, and when a worker is lost, what its tasks had read has to be made again. UntilEnd: until the
/// query ends; only what the lost worker had runs again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ShuffleRetention {
    /// Until all stages that read it have ended.
    #[default]
    UntilRead,
    /// Until the query ends.
    UntilEnd,
}

/// Compression of shuffle data, in memory, on disk and on the wire: None, Lz4 (fast) or Zstd (small). Without it, None if
/// coordinator and workers run on one machine, else Lz4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// Bytes as they are.
    None,
    /// Fast, about half the size.
    Lz4,
    /// Smaller, costs more CPU.
    Zstd,
}

fn default_reduce_fetch_window_partitions() -> u32 {
    4
}

impl Default for ShuffleSpec {
    fn default() -> Self {
        Self {
            partitions: None,
            compression: None,
            reduce_fetch_window_partitions: default_reduce_fetch_window_partitions(),
            adaptive: AdaptiveSpec::default(),
            runtime_filters: RuntimeFilters::default(),
            join_order: JoinOrderMode::default(),
            speculation: SpeculationSpec::default(),
            retention: ShuffleRetention::default(),
            keep_while_suspended: Millis::default(),
        }
    }
}
