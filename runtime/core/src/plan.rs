//! The stage graph: what the planner hands to the coordinator. It has the shapes of stages and exchanges; the plans
//! themselves are opaque to decisions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{ExchangeId, FilterId, StageId};
use crate::locality::{DataLocality, FilesHash};

/// A query cut at its exchanges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageGraph {
    /// The stages, `stages[i].id == StageId(i)`; a stage's inputs are written by stages before it.
    pub stages: Vec<Stage>,
    /// The exchanges, `exchanges[i].id == ExchangeId(i)`.
    pub exchanges: Vec<Exchange>,
    /// The exchange that holds the query's rows (partition 0 of each writing task), or the sink's receipts.
    pub result: ExchangeId,
    /// Whether the rows have an order: that of each root task, one task after the other.
    #[serde(default)]
    pub ordered: bool,
    /// Filters that stages make for scans of others, `filters[i].id == FilterId(i)`.
    #[serde(default)]
    pub filters: Vec<RuntimeFilter>,
}

/// A filter of join keys: one stage makes it of the rows that it writes, and scans of others leave out rows that find no
/// match by it. A target may go without it: the join drops those rows anyway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFilter {
    /// Its number.
    pub id: FilterId,
    /// The stage that makes it. Each of its runs must write the same keys.
    pub source: StageId,
    /// The stages that use it. None of them is an input of `source`, directly or through others.
    pub targets: Vec<StageId>,
    /// How long a target waits for it at most while the query has nothing else to start.
    pub max_wait: Duration,
}

/// The work between exchanges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its number.
    pub id: StageId,
    /// What it does, for people: `scan lineitem`, `join`, `aggregate`.
    pub label: String,
    /// How many tasks are planned, at least 1. The layout decides how many there are.
    pub tasks: u32,
    /// The exchanges that it reads, in the order of the fragment's shuffle-read leaves.
    pub inputs: Vec<StageInput>,
    /// The exchange that it writes.
    pub output: ExchangeId,
    /// What another attempt of one of its tasks may change.
    pub determinism: Determinism,
    /// Whether a task may read several partitions of hash exchanges: then their rows have no common order.
    #[serde(default)]
    pub coalesces: bool,
    /// Whether its tasks have a hash join that they can also do by sorting both sides, which spills.
    #[serde(default)]
    pub has_sortable_join: bool,
    /// Its hash joins whose sides may change places.
    #[serde(default)]
    pub swappable_joins: Vec<SwappableJoin>,
    /// Where the rows are that its scans read, as far as the query declares it.
    #[serde(default)]
    pub data: DataLocality,
    /// By task, the hash of the files that it reads; empty if some task reads none, or there are more than
    /// [`MAX_TASKS_WITH_FILES`](crate::locality::MAX_TASKS_WITH_FILES).
    #[serde(default)]
    pub files: Vec<FilesHash>,
}

/// A hash join of which each side has the rows of one input, and nothing relies on their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwappableJoin {
    /// Which one: the hash joins of the fragment are counted from the root, each before those of its build side, those of its
    /// probe side last.
    pub join: u32,
    /// The input of the stage that is its build side.
    pub build: u32,
    /// The input of the stage that is its probe side.
    pub probe: u32,
}

/// How a stage reads one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageInput {
    /// The exchange.
    pub exchange: ExchangeId,
    /// Which partitions a task reads.
    pub read: ReadKind,
    /// Whether a task that reads no row of it writes none: the side of an inner join, what groups are made of.
    #[serde(default)]
    pub empty_ends: bool,
    /// Whether a partition's rows may be shared among tasks that each read the other inputs whole: together they write the rows
    /// that one task would, and whoever reads those takes them from any number of tasks.
    #[serde(default)]
    pub may_split: bool,
}

/// Which partitions of an exchange task `i` of a stage reads, from all of its map tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadKind {
    /// Partition `i`, or the partitions that the layout gives to task `i` (hash exchanges).
    OwnPartition,
    /// Of each sorted run the rows within the bounds of task `i` (range exchanges). A stage reads one exchange so.
    OwnRange,
    /// All partitions (forward exchanges into one task, and broadcast).
    AllPartitions,
}

/// Where a plan is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Its number.
    pub id: ExchangeId,
    /// How rows find their partition.
    pub kind: ExchangeKind,
    /// How many partitions each map task writes, at least 1.
    pub partitions: u32,
    /// The stages that write it, at least one.
    pub writers: Vec<StageId>,
    /// How many rows satisfy the reader, whichever they are, if it is a limit and the only reader. `None` means all rows.
    #[serde(default)]
    pub fetch: Option<u64>,
}

/// How rows find their partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeKind {
    /// All rows go to partition 0, in the order of the map task.
    Forward,
    /// By the hash of key expressions.
    Hash,
    /// Each map task writes one sorted run, and readers share them by bounds of sampled keys.
    Range,
    /// All rows go to partition 0, which every reading task reads.
    Broadcast,
}

impl ExchangeKind {
    /// The word used in status, logs and `explain`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Hash => "hash",
            Self::Range => "range",
            Self::Broadcast => "broadcast",
        }
    }
}

/// What another attempt of a task may change, given inputs that hold the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Determinism {
    /// The same rows in the same order.
    Determinate,
    /// The same rows in each partition, perhaps in another order.
    Unordered,
    /// Other rows, or rows in other partitions: all consumers must start over.
    Indeterminate,
}

/// What one scan leaf of one task reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Split {
    /// Byte ranges of files.
    Files(Vec<FileRange>),
    /// Part `part` (from 0) of `parts` of a generated TPC-H table.
    Tpch {
        /// The part, from 0.
        part: u32,
        /// The number of parts.
        parts: u32,
    },
    /// The leaf reads nothing that can be divided (values, generated series): one task reads it whole.
    Whole,
}

/// A byte range of one pinned input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRange {
    /// The file as the manifest names it.
    pub file: InputFile,
    /// The first byte.
    pub start: u64,
    /// One past the last byte. A Parquet row group belongs to the range that holds the first page of its first column,
    /// as DataFusion has it; a text line to the range that holds its first byte.
    pub end: u64,
}

/// One line of the input manifest: a file as it was when the query was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// The absolute path in its object store, no scheme.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub modified_nanos: i64,
    /// The store's version tag, if it has one.
    pub etag: Option<String>,
}
