//! The machine of a worker's shuffle store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::event::{Action, Event, FetchId};
use crate::failure::FetchError;
use crate::ids::{
    AttemptId, CoordinatorEpoch, Incarnation, QueryId, StageEpoch, StreamEpoch, StreamId, TaskId,
};
use crate::message::{ChunkHead, FetchRequest, MapOutputPartitionMeta};

#[cfg(test)]
mod tests;

/// The most bytes of one chunk.
pub const MAX_CHUNK_BYTES: u64 = 1 << 20;

/// What one worker has published, for all queries.
///
/// States of an attempt:
///
/// ```text
/// (unknown) -> open -> finalized
///     \          \         \
///      `----------`---------`-> retired, until its query is
/// ```
///
/// An attempt that is held is served even while a newer attempt of the same task and stage epoch is open, since that one may
/// be a duplicate which loses. An attempt of an older stage epoch than the newest of its task is stale.
#[derive(Debug)]
pub struct StreamTable {
    incarnation: Incarnation,
    queries: BTreeMap<QueryId, Query>,
}

#[derive(Debug, Default)]
struct Query {
    coordinator_epoch: CoordinatorEpoch,
    attempts: BTreeMap<AttemptId, Attempt>,
    retired: BTreeSet<AttemptId>,
    newest_epochs: BTreeMap<TaskId, StageEpoch>,
}

#[derive(Debug)]
struct Attempt {
    stream_epoch: StreamEpoch,
    partitions: u32,
    finalized: bool,
    /// Streams that hold bytes; all others are empty.
    streams: BTreeMap<u32, Stream>,
    /// Streams whose bytes are gone.
    broken: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Stream {
    /// The end of the last whole frame.
    committed_offset: u64,
    rows: u64,
    /// Bytes below this offset are on disk.
    spilled_upto: u64,
    /// Bytes below this offset are on disk or on their way to it.
    spilling_upto: u64,
}

impl StreamTable {
    /// An empty table of the worker that was started as `incarnation`.
    pub fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            queries: BTreeMap::new(),
        }
    }

    /// The attempts of a query whose whole output is held, as a worker reports them to a coordinator that (again) opens
    /// a session.
    pub fn held_attempts(&self, query: &QueryId) -> Vec<AttemptId> {
        let attempts = self.queries.get(query).into_iter().flat_map(|q| &q.attempts);
        let whole = attempts.filter(|(_, attempt)| attempt.finalized && attempt.broken.is_empty());
        whole.map(|(id, _)| *id).collect()
    }

    /// Takes one event in and says what to do, in order. No time is passed in: a stream lives until its attempt or its
    /// query is retired.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::QueryOpened {
                query,
                coordinator_epoch,
                keeps_outputs,
            } => self.open_query(query, coordinator_epoch, keeps_outputs),
            Event::AttemptOpened {
                query,
                attempt,
                stream_epoch,
                partitions,
            } => self.open_attempt(query, attempt, stream_epoch, partitions),
            Event::FrameCommitted {
                query,
                stream,
                bytes,
                rows,
            } => self.commit_frame(query, stream, bytes, rows),
            Event::AttemptFinalized { query, attempt } => self.finalize(query, attempt),
            Event::AttemptRetired { query, attempt } => {
                if let Some(known) = self.queries.get_mut(&query) {
                    known.attempts.remove(&attempt);
                    known.retired.insert(attempt);
                }
                vec![Action::DropAttempt { query, attempt }]
            }
            Event::QueryRetired { query } => {
                self.queries.remove(&query);
                vec![Action::DropQuery { query }]
            }
            Event::StreamSpilled {
                query,
                stream,
                upto_offset,
            } => {
                if let Some(stream) = self.stream_mut(&query, stream) {
                    stream.spilled_upto = upto_offset.clamp(stream.spilled_upto, stream.committed_offset);
                    stream.spilling_upto = stream.spilling_upto.max(stream.spilled_upto);
                }
                Vec::new()
            }
            Event::SpillFailed { query, stream } => {
                if let Some(stream) = self.stream_mut(&query, stream) {
                    stream.spilling_upto = stream.spilled_upto;
                }
                Vec::new()
            }
            Event::MemoryPressed { target_bytes, kept } => self.choose_spills(target_bytes, &kept),
            Event::FetchArrived { fetch, request } => vec![self.answer_fetch(fetch, request)],
            Event::StorageFailed { query, stream } => self.break_stream(&query, stream),
        }
    }

    /// A successor starts the query over and numbers attempts as its predecessor did, so the data of the predecessor is
    /// dropped.
    fn open_query(
        &mut self,
        query: QueryId,
        coordinator_epoch: CoordinatorEpoch,
        keeps_outputs: bool,
    ) -> Vec<Action> {
        let opened = Query {
            coordinator_epoch,
            ..Query::default()
        };
        match self.queries.get_mut(&query) {
            Some(known) if known.coordinator_epoch >= coordinator_epoch => Vec::new(),
            Some(known) if keeps_outputs => {
                known.coordinator_epoch = coordinator_epoch;
                Vec::new()
            }
            Some(_) => {
                self.queries.insert(query.clone(), opened);
                vec![Action::DropQuery { query }]
            }
            None => {
                self.queries.insert(query, opened);
                Vec::new()
            }
        }
    }

    fn break_stream(&mut self, query: &QueryId, stream: StreamId) -> Vec<Action> {
        if let Some(attempt) = self.attempt_mut(query, stream.attempt) {
            attempt.broken.insert(stream.partition);
        }
        Vec::new()
    }

    fn attempt_mut(&mut self, query: &QueryId, attempt: AttemptId) -> Option<&mut Attempt> {
        self.queries.get_mut(query)?.attempts.get_mut(&attempt)
    }

    fn stream_mut(&mut self, query: &QueryId, stream: StreamId) -> Option<&mut Stream> {
        let attempt = self.attempt_mut(query, stream.attempt)?;
        attempt.streams.get_mut(&stream.partition)
    }

    fn open_attempt(
        &mut self,
        query: QueryId,
        attempt: AttemptId,
        stream_epoch: StreamEpoch,
        partitions: u32,
    ) -> Vec<Action> {
        let known = match self.queries.get_mut(&query) {
            Some(known) if !known.retired.contains(&attempt) => known,
            Some(_) | None => return vec![Action::DropAttempt { query, attempt }],
        };
        let newest = known.newest_epochs.entry(attempt.task_id()).or_default();
        *newest = attempt.stage_epoch.max(*newest);
        let opened = known.attempts.entry(attempt).or_insert_with(|| Attempt {
            stream_epoch,
            partitions,
            finalized: false,
            streams: BTreeMap::new(),
            broken: BTreeSet::new(),
        });
        opened.stream_epoch = stream_epoch.max(opened.stream_epoch);
        Vec::new()
    }

    fn commit_frame(&mut self, query: QueryId, stream: StreamId, bytes: u64, rows: u64) -> Vec<Action> {
        let Some(attempt) = self.attempt_mut(&query, stream.attempt) else {
            let attempt = stream.attempt;
            return vec![Action::DropAttempt { query, attempt }];
        };
        // Frames after the end, or of a partition that does not exist, stay invisible.
        if !attempt.finalized && stream.partition < attempt.partitions && bytes > 0 {
            let stream = attempt.streams.entry(stream.partition).or_default();
            stream.committed_offset = stream.committed_offset.saturating_add(bytes);
            stream.rows = stream.rows.saturating_add(rows);
        }
        Vec::new()
    }

    fn finalize(&mut self, query: QueryId, id: AttemptId) -> Vec<Action> {
        let Some(attempt) = self.attempt_mut(&query, id) else {
            return vec![Action::DropAttempt { query, attempt: id }];
        };
        if !attempt.broken.is_empty() {
            return Vec::new();
        }
        attempt.finalized = true;
        let outputs = attempt
            .streams
            .iter()
            .map(|(&partition, stream)| MapOutputPartitionMeta {
                partition,
                bytes: stream.committed_offset,
                rows: stream.rows,
            })
            .collect();
        vec![Action::ReportOutputs {
            query,
            attempt: id,
            outputs,
        }]
    }

    /// Spills whole streams: of finalized attempts first, the largest first. Few writes free the most memory, and streams that
    /// are still written are the likeliest to be read soon.
    fn choose_spills(&mut self, target_bytes: u64, kept: &BTreeSet<QueryId>) -> Vec<Action> {
        let mut in_memory = 0u64;
        let mut candidates = BTreeSet::new();
        for (query, known) in &self.queries {
            for (&id, attempt) in &known.attempts {
                for (&partition, stream) in &attempt.streams {
                    let bytes = stream.committed_offset.saturating_sub(stream.spilling_upto);
                    in_memory = in_memory.saturating_add(bytes);
                    if bytes > 0 && !attempt.broken.contains(&partition) && !kept.contains(query) {
                        let stream = StreamId {
                            attempt: id,
                            partition,
                        };
                        candidates.insert((!attempt.finalized, Reverse(bytes), query.clone(), stream));
                    }
                }
            }
        }
        let mut actions = Vec::new();
        for (_, Reverse(bytes), query, stream) in candidates {
            if in_memory <= target_bytes {
                break;
            }
            in_memory = in_memory.saturating_sub(bytes);
            if let Some(chosen) = self.stream_mut(&query, stream) {
                chosen.spilling_upto = chosen.committed_offset;
                let upto_offset = chosen.committed_offset;
                actions.push(Action::SpillStream {
                    query,
                    stream,
                    upto_offset,
                });
            }
        }
        actions
    }

    fn answer_fetch(&self, fetch: FetchId, request: FetchRequest) -> Action {
        match self.chunk_for(&request) {
            Ok(head) => Action::ServeChunk {
                fetch,
                query: request.query,
                stream: request.stream,
                head,
            },
            Err(error) => Action::RefuseFetch { fetch, error },
        }
    }

    /// A coordinator epoch above the known one is accepted: the successor may have opened a session with the reader's worker
    /// first. Only a session raises the known epoch.
    fn chunk_for(&self, request: &FetchRequest) -> Result<ChunkHead, FetchError> {
        if request.worker_incarnation != self.incarnation {
            return Err(FetchError::WrongIncarnation);
        }
        let query = self
            .queries
            .get(&request.query)
            .ok_or(FetchError::UnknownStream)?;
        if request.coordinator_epoch < query.coordinator_epoch {
            return Err(FetchError::StaleCoordinator);
        }
        let id = request.stream.attempt;
        let newest = query.newest_epochs.get(&id.task_id());
        if query.retired.contains(&id) || newest.is_some_and(|newest| id.stage_epoch < *newest) {
            return Err(FetchError::StaleAttempt);
        }
        let attempt = query.attempts.get(&id).ok_or(FetchError::UnknownStream)?;
        if attempt.stream_epoch < request.min_stream_epoch {
            return Err(FetchError::StaleStreamEpoch);
        }
        if request.stream.partition >= attempt.partitions {
            return Err(FetchError::UnknownStream);
        }
        if attempt.broken.contains(&request.stream.partition) {
            return Err(FetchError::StorageFailed);
        }
        attempt.chunk(request)
    }
}

impl Attempt {
    /// A cursor beyond the end of a finalized stream belongs to another stream. It is refused, since an empty chunk would tell
    /// the reader that all is read.
    fn chunk(&self, request: &FetchRequest) -> Result<ChunkHead, FetchError> {
        let stream = self.streams.get(&request.stream.partition);
        let watermark_offset = stream.map_or(0, |stream| stream.committed_offset);
        let start_offset = request.start_offset;
        if self.finalized && start_offset > watermark_offset {
            return Err(FetchError::Corrupt);
        }
        // An empty chunk below the watermark would look like the end, so there is always a byte.
        let most = request.max_bytes.clamp(1, MAX_CHUNK_BYTES);
        let end_offset = start_offset
            .saturating_add(most)
            .min(watermark_offset)
            .max(start_offset);
        Ok(ChunkHead {
            stream: request.stream,
            start_offset,
            end_offset,
            watermark_offset,
            finalized: self.finalized,
            stream_epoch: self.stream_epoch,
        })
    }
}
