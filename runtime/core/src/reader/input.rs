//! One input of a reader: its map tasks, their streams, and the bytes that it may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::FetchId;
use super::machine::{Config, MIN_FETCH_BYTES};
use crate::ids::{AttemptId, StreamEpoch, StreamId, TaskId, WorkerId};
use crate::limits::MAX_STREAMS_PER_FETCH;
use crate::message::{AssignedInput, NextStream, Writer};
use crate::partition_set::PartitionSet;
use crate::ranges::ByteRange;
use crate::time::Instant;

/// Ready streams that are looked at for those of one worker.
const MAX_STREAMS_SCANNED: usize = 16 * MAX_STREAMS_PER_FETCH;

/// In what order the operators take an input's rows. The bound on held bytes must never stop the stream for which they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As rows come, whatever their stream.
    Arrival,
    /// Each stream by itself, as a merge of sorted streams reads them: it waits for rows of each.
    PerStream,
    /// One stream after the other, by stage, map task and partition.
    InOrder,
}

/// Who serves the winning attempt of a map task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub attempt: AttemptId,
    pub stream_epoch: StreamEpoch,
    pub worker: Arc<WorkerId>,
    /// The bytes to read of each stream; all, if there is none.
    pub range: Option<ByteRange>,
    /// The partitions that hold bytes; any may, if there are none named.
    pub filled: Option<PartitionSet>,
}

impl Source {
    /// Whether nothing of the partition is to be fetched.
    fn is_empty(&self, partition: u32) -> bool {
        let filled = self.filled.as_ref();
        filled.is_some_and(|filled| !filled.contains(partition))
    }
}

#[derive(Debug, Default)]
pub(super) struct MapTask {
    /// The winning attempt, once there is one.
    pub source: Option<Source>,
    /// By partition; empty without a source.
    pub streams: BTreeMap<u32, Stream>,
    /// Partitions without bytes whose end is not delivered yet. That waits until bytes of the map task are read, since until
    /// then another attempt may replace it.
    empty_partitions: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// The first byte to fetch.
    pub start: u64,
    /// The next byte to fetch.
    pub cursor: u64,
    /// One past the last byte to fetch, if that is not where the stream ends.
    pub end: Option<u64>,
    /// Bytes delivered and not consumed.
    pub held: u64,
    pub phase: Phase,
    /// Failures since the last byte came.
    pub retry_state: Option<RetryState>,
}

impl Stream {
    /// Whether no byte of it has come.
    fn is_unread(&self) -> bool {
        self.cursor == self.start
    }

    /// Whether all bytes that are wanted have come.
    pub fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.cursor >= end)
    }

    /// Whether more bytes are wanted than have come, however long the stream is.
    pub fn is_cut_short(&self) -> bool {
        self.end.is_some_and(|end| self.cursor < end)
    }
}

/// What a stream waits for.
///
/// ```text
///    ,--> Ready -> Fetching -> Ended
///    |              |    |
///    '---Waiting <--'    '--> Ready (the response was full)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// For room in the window and for its bytes.
    Ready,
    /// For the response of a fetch.
    Fetching(FetchId),
    /// For its next retry after a failure.
    Waiting(Instant),
    /// For nothing: it was read to its end.
    Ended,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RetryState {
    pub since: Instant,
    pub failures: u32,
}

/// A ready stream, in the order in which ready streams are fetched: those already begun go first, so that cut frames
/// become whole.
type QueueKey = (bool, TaskId, u32);

#[derive(Debug)]
pub(super) struct Input {
    delivery: Delivery,
    partitions: BTreeSet<u32>,
    /// Map tasks that have not been read to their end.
    pub tasks: BTreeMap<TaskId, MapTask>,
    /// Whether `EndInput` was said.
    pub ended: bool,
    /// Bytes delivered and not consumed.
    pub held: u64,
    /// Bytes that open fetches may still bring.
    pub reserved: u64,
    pub in_flight: u32,
    /// Ready streams that hold nothing.
    empty_streams: BTreeSet<QueueKey>,
    /// Ready streams that hold bytes.
    buffered_streams: BTreeSet<QueueKey>,
}

impl Input {
    pub fn new(assigned: &AssignedInput, delivery: Delivery) -> Self {
        let partitions: BTreeSet<u32> = assigned.assigned_reduce_partitions.iter().copied().collect();
        let mut tasks = BTreeMap::new();
        if !partitions.is_empty() {
            let map_tasks = assigned.writers.iter().flat_map(Writer::map_tasks);
            tasks.extend(map_tasks.map(|task| (task, MapTask::default())));
        }
        Self {
            delivery,
            partitions,
            tasks,
            ended: false,
            held: 0,
            reserved: 0,
            in_flight: 0,
            empty_streams: BTreeSet::new(),
            buffered_streams: BTreeSet::new(),
        }
    }

    pub fn stream_mut(&mut self, task: TaskId, partition: u32) -> Option<&mut Stream> {
        self.tasks.get_mut(&task)?.streams.get_mut(&partition)
    }

    /// Sets the attempt from which a map task is read, from its beginning.
    pub fn set_source(&mut self, task: TaskId, source: Source) {
        let Some(entry) = self.tasks.get_mut(&task) else {
            return;
        };
        let stream = |partition: u32| {
            let start = source.range.map_or(0, |range| range.start);
            let end = source.range.map(|range| range.end);
            let is_empty = source.is_empty(partition);
            Stream {
                start,
                cursor: start,
                end: if is_empty { Some(start) } else { end },
                held: 0,
                phase: if is_empty { Phase::Ended } else { Phase::Ready },
                retry_state: None,
            }
        };
        entry.streams = self.partitions.iter().map(|&p| (p, stream(p))).collect();
        let partitions = self.partitions.iter().copied();
        entry.empty_partitions = partitions
            .filter(|partition| source.is_empty(*partition))
            .collect();
        entry.source = Some(source);
        for partition in self.partitions.clone() {
            self.enqueue(task, partition);
        }
    }

    /// Queues a stream according to its state.
    pub fn enqueue(&mut self, task: TaskId, partition: u32) {
        let order = match self.delivery {
            Delivery::Arrival | Delivery::PerStream => [true, false],
            Delivery::InOrder => [false, false],
        };
        for fresh in order {
            self.empty_streams.remove(&(fresh, task, partition));
            self.buffered_streams.remove(&(fresh, task, partition));
        }
        let [fresh, begun] = order;
        let Some(stream) = self.stream_mut(task, partition) else {
            return;
        };
        if stream.phase != Phase::Ready {
            return;
        }
        let key = (if stream.is_unread() { fresh } else { begun }, task, partition);
        if stream.held == 0 {
            self.empty_streams.insert(key);
        } else {
            self.buffered_streams.insert(key);
        }
    }

    /// The next stream to fetch and the most bytes that it may bring, if there is room.
    pub fn next_fetch(&self, config: &Config) -> Option<(TaskId, u32, u64)> {
        let used = self.held.saturating_add(self.reserved);
        let free = config.input_bytes.saturating_sub(used);
        let room = free >= MIN_FETCH_BYTES || used == 0;
        let (empty_streams, buffered_streams) = (self.empty_streams.first(), self.buffered_streams.first());
        let key = match self.delivery {
            Delivery::Arrival => room.then_some(empty_streams.into_iter().chain(buffered_streams).min()?),
            Delivery::PerStream => empty_streams.or(buffered_streams.filter(|_| room)),
            Delivery::InOrder => {
                let first = empty_streams.into_iter().chain(buffered_streams).min()?;
                let awaited = empty_streams == Some(first) && self.is_first(first.1, first.2);
                (room || awaited).then_some(first)
            }
        };
        let grant = free.min(config.fetch_bytes).max(MIN_FETCH_BYTES);
        key.map(|&(_, task, partition)| {
            let stream = self
                .tasks
                .get(&task)
                .and_then(|entry| entry.streams.get(&partition));
            let left = stream.and_then(|stream| Some(stream.end?.saturating_sub(stream.cursor)));
            (task, partition, left.map_or(grant, |left| left.min(grant)))
        })
    }

    /// Streams of the same worker that one fetch may bring after this one: ready ones that are not begun, in order. None if each
    /// stream is delivered by itself or in part; where they are taken in their order, those of the map task.
    pub fn streams_after(&self, task: TaskId, partition: u32) -> Vec<(TaskId, u32)> {
        let stream = |(task, partition): (TaskId, u32)| self.tasks.get(&task)?.streams.get(&partition);
        let in_part = stream((task, partition)).is_none_or(|first| first.end.is_some());
        let of_map_task = match self.delivery {
            Delivery::Arrival => false,
            Delivery::InOrder => true,
            Delivery::PerStream => return Vec::new(),
        };
        if in_part {
            return Vec::new();
        }
        let worker = self.worker_of(task);
        let goes_along = |other: &(TaskId, u32)| match of_map_task {
            true => other.0 == task && other.1 > partition,
            false => *other != (task, partition) && self.worker_of(other.0) == worker,
        };
        let fresh = |other: &(TaskId, u32)| {
            stream(*other).is_some_and(|stream| stream.is_unread() && stream.end.is_none())
        };
        // Streams that are not begun hold nothing. They come last, unless all are in order.
        let begin = if of_map_task {
            (false, task, partition)
        } else {
            (true, TaskId::FIRST, 0)
        };
        let ready = self.empty_streams.range(begin..).take(MAX_STREAMS_SCANNED);
        let ready = ready.map(|(_, task, partition)| (*task, *partition));
        let along = ready.filter(goes_along).filter(fresh);
        along.take(MAX_STREAMS_PER_FETCH - 1).collect()
    }

    /// Who serves the map task.
    fn worker_of(&self, task: TaskId) -> Option<&Arc<WorkerId>> {
        Some(&self.tasks.get(&task)?.source.as_ref()?.worker)
    }

    /// Marks a stream as one that a fetch is to bring.
    pub fn set_fetching(&mut self, task: TaskId, partition: u32, fetch: FetchId) {
        if let Some(stream) = self.stream_mut(task, partition) {
            stream.phase = Phase::Fetching(fetch);
        }
        self.enqueue(task, partition);
    }

    /// Whether all streams before this one have been read.
    fn is_first(&self, task: TaskId, partition: u32) -> bool {
        let first = self.tasks.first_key_value();
        first.is_some_and(|(&id, entry)| {
            let mut streams = entry.streams.iter();
            let open = streams.find(|(_, stream)| stream.phase != Phase::Ended);
            id == task && open.is_some_and(|(&first, _)| first == partition)
        })
    }

    /// Whether rows of the map task were delivered: then no other attempt of it may be read.
    pub fn is_partly_read(&self, task: TaskId) -> bool {
        let streams = self.tasks.get(&task).map(|entry| entry.streams.values());
        let read =
            |stream: &Stream| !stream.is_unread() || (stream.phase == Phase::Ended && !stream.is_complete());
        streams.is_some_and(|mut streams| streams.any(read))
    }

    /// Clears the attempt from which a map task was to be read.
    pub fn clear_source(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else {
            return;
        };
        entry.source = None;
        entry.streams.clear();
        entry.empty_partitions.clear();
        for partition in self.partitions.clone() {
            self.enqueue(task, partition);
        }
    }

    /// Marks a stream as read to its end, and its map task if that was the last one.
    pub fn end_stream(&mut self, task: TaskId, partition: u32) {
        if let Some(stream) = self.stream_mut(task, partition) {
            stream.phase = Phase::Ended;
            stream.retry_state = None;
        }
        self.enqueue(task, partition);
        let ended = |entry: &MapTask| entry.streams.values().all(|s| s.phase == Phase::Ended);
        if self.tasks.get(&task).is_some_and(ended) {
            self.tasks.remove(&task);
        }
    }

    /// Ends a map task of which nothing is to be read; returns its streams.
    pub fn end_complete(&mut self, task: TaskId) -> Vec<StreamId> {
        let Some(entry) = self.tasks.get(&task) else {
            return Vec::new();
        };
        if !entry.streams.values().all(Stream::is_complete) {
            return Vec::new();
        }
        let ids: Vec<StreamId> = entry
            .streams
            .keys()
            .filter_map(|&partition| self.stream_id(task, partition))
            .collect();
        for id in &ids {
            self.end_stream(task, id.partition);
        }
        ids
    }

    /// Takes the streams without bytes whose end can be delivered, because bytes of their map task are read.
    pub fn take_empty(&mut self, task: TaskId) -> Vec<StreamId> {
        let entry = self.tasks.get_mut(&task);
        let partitions = entry.map(|entry| std::mem::take(&mut entry.empty_partitions));
        let partitions = partitions.into_iter().flatten();
        partitions
            .filter_map(|partition| self.stream_id(task, partition))
            .collect()
    }

    /// The stream of a map task as a fetch names it.
    pub fn next_stream(&self, task: TaskId, partition: u32) -> Option<NextStream> {
        let source = self.tasks.get(&task)?.source.as_ref()?;
        let attempt = source.attempt;
        Some(NextStream {
            stream: StreamId { attempt, partition },
            min_stream_epoch: source.stream_epoch,
        })
    }

    pub fn map_attempt(&self, task: TaskId) -> Option<AttemptId> {
        Some(self.tasks.get(&task)?.source.as_ref()?.attempt)
    }

    pub fn stream_id(&self, task: TaskId, partition: u32) -> Option<StreamId> {
        let attempt = self.map_attempt(task)?;
        Some(StreamId { attempt, partition })
    }
}

/// An input's index; an assignment's inputs are counted in 32 bits.
pub(super) fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
