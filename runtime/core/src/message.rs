//! What coordinator and workers tell each other, as domain types. `sluice-proto` puts them on the wire under the
//! same names.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{
    AttemptId, CoordinatorEpoch, FilterId, Incarnation, QueryId, StageId, StreamEpoch, StreamId, TaskId,
    WorkerId,
};
use crate::key_filter::KeyFilter;
use crate::layout::{Layout, LayoutId};
use crate::metrics::AttemptMetrics;
use crate::partition_set::PartitionSet;
use crate::ranges::{ByteRange, KeyRange, SortedRun};

/// Runs one attempt. It consumes a granted slot. Inputs carry no locations; those follow as
/// [`InputUpdate`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The attempt.
    pub attempt: AttemptId,
    /// The epoch of the streams that it publishes.
    pub stream_epoch: StreamEpoch,
    /// How many partitions it writes.
    pub output_partitions: u32,
    /// Per input of the stage, in order, what to wait for and read.
    pub inputs: Vec<AssignedInput>,
    /// The layout of the stage; the report of a success carries it back.
    pub layout: LayoutId,
    /// How many streams to fetch at once.
    pub recommended_reduce_fetch_window_partitions: u32,
    /// The runtime filters that its scans use.
    pub filters: Vec<AssignedFilter>,
    /// Whether it sorts both sides of its joins, where it can, instead of keeping one in memory.
    #[serde(default)]
    pub sort_joins: bool,
    /// The joins whose sides change places: see [`crate::plan::SwappableJoin::join`].
    #[serde(default)]
    pub swapped_joins: Vec<u32>,
}

/// A runtime filter that is complete. The shell sends its keys once in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedFilter {
    /// Which one.
    pub id: FilterId,
    /// The keys of all rows of its source.
    #[serde(serialize_with = "serialize_shared", deserialize_with = "deserialize_shared")]
    pub keys: Arc<KeyFilter>,
}

pub(crate) fn serialize_shared<T: Serialize, S: Serializer>(
    shared: &Arc<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    shared.as_ref().serialize(serializer)
}

pub(crate) fn deserialize_shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<T>, D::Error> {
    T::deserialize(deserializer).map(Arc::new)
}

/// What one attempt reads of one exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedInput {
    /// The writing stages and their map tasks: each of those must be read to its end.
    pub writers: Vec<Writer>,
    /// The partitions to read of each map task (`assigned_reduce_partitions`).
    pub assigned_reduce_partitions: Vec<u32>,
    /// The rows to take of sorted runs; all, if there is none.
    pub range: Option<AssignedRange>,
}

/// What one attempt takes of sorted runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedRange {
    /// The rows.
    pub keys: KeyRange,
    /// Where they lie in the runs that have won when the attempt is assigned. It is told of later ones by
    /// [`ReaderRange`]s.
    pub runs: Vec<RunBytes>,
}

/// Where a range lies in a sorted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBytes {
    /// The attempt that wrote the run.
    pub map_attempt: AttemptId,
    /// The frames that hold the range.
    pub bytes: ByteRange,
}

impl AssignedInput {
    /// The numbers that ranges know the runs of the map tasks to read by, in the order of these tasks. All tasks of all writers
    /// are counted, in their order: those that are not read have a number too.
    pub fn run_numbers(&self) -> Vec<u32> {
        let mut before = 0u32;
        let mut numbers = Vec::new();
        for writer in &self.writers {
            let of_writer = writer.map_tasks();
            numbers.extend(of_writer.map(|task| (task, before.saturating_add(task.task))));
            before = before.saturating_add(writer.tasks);
        }
        numbers.sort_unstable();
        numbers.into_iter().map(|(_, number)| number).collect()
    }
}

/// A stage that writes an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The stage.
    pub stage: StageId,
    /// Its number of tasks.
    pub tasks: u32,
    /// The tasks to read, ascending, if readers need no others; `None` means all.
    #[serde(default)]
    pub only: Option<Vec<u32>>,
}

impl Writer {
    /// The map tasks to read.
    pub fn map_tasks(&self) -> impl Iterator<Item = TaskId> {
        let all = if self.only.is_none() { self.tasks } else { 0 };
        let only = self.only.iter().flatten().copied();
        let stage = self.stage;
        (0..all).chain(only).map(move |task| TaskId { stage, task })
    }

    /// How many map tasks are to be read.
    pub fn count(&self) -> u64 {
        match &self.only {
            Some(only) => only.len() as u64,
            None => u64::from(self.tasks),
        }
    }
}

/// Where the output of one map task is to be read, and whether it counts: the same for all attempts that read it. A
/// later update for the same map task replaces the earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputUpdate {
    /// The map attempt (its task is the map task).
    pub map_attempt: AttemptId,
    /// The epoch of its streams; fetches ask for at least this one.
    pub stream_epoch: StreamEpoch,
    /// Who serves it. There is an update for each map task: those of one worker share it.
    #[serde(serialize_with = "serialize_shared", deserialize_with = "deserialize_shared")]
    pub worker: Arc<WorkerId>,
    /// Whether it counts.
    pub state: InputState,
    /// The partitions that hold bytes; the others are not fetched. `None` means that any may hold bytes.
    pub filled_partitions: Option<PartitionSet>,
}

/// Where the range of a reading attempt lies in a sorted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderRange {
    /// The reading attempt.
    pub reader: AttemptId,
    /// The run, and the frames of it.
    pub run: RunBytes,
}

/// What one reader is told of the output of a map task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderUpdate {
    /// What all readers at the worker are told.
    pub update: Arc<InputUpdate>,
    /// The frames of it that hold the reader's range of a sorted run; all, if there is none.
    pub range: Option<ByteRange>,
}

impl From<InputUpdate> for ReaderUpdate {
    fn from(update: InputUpdate) -> Self {
        Self {
            update: Arc::new(update),
            range: None,
        }
    }
}

/// Whether a map attempt's output counts for its readers.
///
/// ```text
/// won -> lost -> (a new attempt: won)
///   \-> superseded
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InputState {
    /// The attempt has won: its rows count.
    Won,
    /// Another attempt counts, or the stage started over: its rows do not count.
    Superseded,
    /// It had won and its bytes are gone; another attempt will win.
    Lost,
}

/// What a map attempt reports of one of its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapOutputPartitionMeta {
    /// The partition.
    pub partition: u32,
    /// Encoded bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
}

/// The layout of a stage and what was decided with it. Workers keep it beside the outputs of the stage's tasks, for a successor
/// of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageLayout {
    /// The stage.
    pub stage: StageId,
    /// Which part of its inputs each of its tasks reads.
    pub layout: Layout,
    /// The joins whose sides change places: see [`crate::plan::SwappableJoin::join`].
    pub swapped_joins: Vec<u32>,
}

/// What a worker holds of the attempts of an earlier coordinator of the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The layouts of the stages whose tasks it ran.
    pub layouts: Vec<StageLayout>,
    /// Finalized outputs, if that coordinator had the same plan.
    pub outputs: Vec<FinishedOutput>,
    /// How many finalized outputs it has dropped, because that coordinator had another plan.
    pub discarded: u32,
}

/// A finalized output of an attempt: the report of its success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedOutput {
    /// The attempt.
    pub attempt: AttemptId,
    /// The layout by which it read its inputs.
    pub layout: LayoutId,
    /// One entry a partition that holds bytes.
    pub outputs: Vec<MapOutputPartitionMeta>,
    /// Of an attempt that wrote a range exchange, where its keys are.
    pub run: Option<SortedRun>,
    /// The runtime filters that its stage makes, in their order; missing ones admit everything.
    pub filters: Vec<KeyFilter>,
    /// Its final counters.
    pub metrics: AttemptMetrics,
}

/// A reader's request for a range of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// The query.
    pub query: QueryId,
    /// Stage, stage epoch, map task, attempt and partition.
    pub stream: StreamId,
    /// Other streams of the worker. Each follows the end of the one before it, from its beginning, as far as the response
    /// has room. At most [`crate::limits::MAX_STREAMS_PER_FETCH`] with the first.
    pub next_streams: VecDeque<NextStream>,
    /// The first byte wanted.
    pub start_offset: u64,
    /// The most bytes that one response may bring.
    pub max_bytes: u64,
    /// The lowest stream epoch that will do.
    pub min_stream_epoch: StreamEpoch,
    /// The epoch of the coordinator that sent the reader here.
    pub coordinator_epoch: CoordinatorEpoch,
    /// The start of the worker to which the request is addressed.
    pub worker_incarnation: Incarnation,
}

/// A stream that a fetch brings after others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStream {
    /// The stream.
    pub stream: StreamId,
    /// The lowest stream epoch that will do.
    pub min_stream_epoch: StreamEpoch,
}

impl FetchRequest {
    /// Turns a request for several streams to the next one; false if there is none.
    pub fn advance(&mut self) -> bool {
        let Some(next) = self.next_streams.pop_front() else {
            return false;
        };
        self.stream = next.stream;
        self.min_stream_epoch = next.min_stream_epoch;
        self.start_offset = 0;
        true
    }
}

/// The head of one chunk of a response; its bytes follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// The stream.
    pub stream: StreamId,
    /// Offset of the first byte.
    pub start_offset: u64,
    /// One past the last byte; equal to `start_offset` in an empty chunk.
    pub end_offset: u64,
    /// The committed offset: how far a reader may read now.
    pub watermark_offset: u64,
    /// Whether the watermark is the end of the stream. EOF: an empty chunk that is finalized.
    pub finalized: bool,
    /// The epoch of the stream.
    pub stream_epoch: StreamEpoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_keep_their_numbers_where_others_are_not_read() {
        let writer = |stage, tasks, only: Option<&[u32]>| Writer {
            stage: StageId(stage),
            tasks,
            only: only.map(<[u32]>::to_vec),
        };
        for (writers, numbers) in [
            (vec![writer(0, 2, None), writer(1, 2, None)], vec![0, 1, 2, 3]),
            (vec![writer(0, 2, Some(&[])), writer(1, 1, None)], vec![2]),
            (
                vec![writer(0, 3, Some(&[2])), writer(1, 2, Some(&[0]))],
                vec![2, 3],
            ),
        ] {
            let input = AssignedInput {
                writers,
                assigned_reduce_partitions: vec![0],
                range: None,
            };
            assert_eq!(input.run_numbers(), numbers);
        }
    }
}
