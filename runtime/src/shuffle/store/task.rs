//! The task that owns the store's state.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, QueryId, StreamEpoch, StreamId};
use sluice_core::message::{ChunkHead, FetchRequest, MapOutputPartitionMeta};
use sluice_core::stream::{Action, Event, FetchId, StreamTable};
use tokio::sync::{mpsc, oneshot};

use super::command::{Command, answer};
use super::disk::Disk;
use super::log::{Piece, StreamLog};
use super::spill::{SpillRequest, WriteResult};
use super::{AttemptCounts, StoreConfig, StoreError, StoreStats};

mod spilling;

/// The bytes of one attempt.
#[derive(Debug)]
struct AttemptLog {
    /// The path of its file; `None` before the first write.
    path: Option<Arc<Path>>,
    /// The length of the file, pending writes included.
    file_bytes: u64,
    streams: BTreeMap<u32, StreamLog>,
    counts: AttemptCounts,
}

#[derive(Debug)]
pub struct StoreTask {
    config: StoreConfig,
    disk: Disk,
    table: StreamTable,
    logs: BTreeMap<(QueryId, AttemptId), AttemptLog>,
    stats: StoreStats,
    reservation: MemoryReservation,
    spill_requests: Vec<SpillRequest>,
    /// Files and directories to delete.
    removals: Vec<Arc<Path>>,
    /// Bytes in memory that are chosen to be spilled.
    spilling_bytes: u64,
    writing: bool,
    /// Why the last write failed.
    write_failure: Option<String>,
    /// Queries that have used up their disk share, with the message for it.
    over_quota: BTreeMap<QueryId, String>,
    /// Appends that wait until memory is within its limit.
    blocked_appends: Vec<(QueryId, oneshot::Sender<Result<(), StoreError>>)>,
    written_sender: mpsc::UnboundedSender<Vec<WriteResult>>,
    written: mpsc::UnboundedReceiver<Vec<WriteResult>>,
    /// The sender of `Close`.
    closing: Option<oneshot::Sender<()>>,
}

impl StoreTask {
    pub fn new(config: StoreConfig, disk: Disk) -> Self {
        let (written_sender, written) = mpsc::unbounded_channel();
        Self {
            disk,
            table: StreamTable::new(config.incarnation),
            logs: BTreeMap::new(),
            stats: StoreStats::default(),
            reservation: MemoryConsumer::new("shuffle store").register(&config.pool),
            spill_requests: Vec::new(),
            removals: Vec::new(),
            spilling_bytes: 0,
            writing: false,
            write_failure: None,
            over_quota: BTreeMap::new(),
            blocked_appends: Vec::new(),
            written_sender,
            written,
            closing: None,
            config,
        }
    }

    /// Runs until `Close`, or until the last handle is dropped.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let pressure = Arc::clone(&self.config.pressure);
        while self.closing.is_none() {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                Some(written) = self.written.recv() => self.on_written(written),
                () = pressure.notified() => self.spill_down_to(0),
            }
        }
        // A running write would recreate its file below the directory that is deleted now.
        if self.writing {
            self.written.recv().await;
        }
        let closing = self.closing.take();
        drop(self);
        if let Some(reply) = closing {
            answer(reply, ());
        }
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.table.handle(event)
    }

    /// Feeds the event to the table and executes its actions, except those that are replies, which it returns.
    fn apply(&mut self, event: Event) -> Vec<Action> {
        let mut answers = Vec::new();
        for action in self.handle(event) {
            match action {
                Action::DropAttempt { query, attempt } => {
                    self.drop_attempt(&query, attempt);
                    answers.push(Action::DropAttempt { query, attempt });
                }
                Action::DropQuery { query } => self.drop_query(&query),
                Action::SpillStream {
                    query,
                    stream,
                    upto_offset,
                } => self.spill_requests.push(SpillRequest {
                    query,
                    stream,
                    upto_offset,
                }),
                answer @ (Action::ServeChunk { .. }
                | Action::RefuseFetch { .. }
                | Action::ReportOutputs { .. }) => answers.push(answer),
            }
        }
        answers
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::OpenQuery {
                query,
                coordinator_epoch,
                keeps_outputs,
                reply,
            } => {
                self.apply(Event::QueryOpened {
                    query,
                    coordinator_epoch,
                    keeps_outputs,
                });
                answer(reply, ());
            }
            Command::OpenAttempt {
                query,
                attempt,
                stream_epoch,
                partitions,
                reply,
            } => answer(reply, self.open_attempt(query, attempt, stream_epoch, partitions)),
            Command::Append {
                query,
                stream,
                frame,
                rows,
                reply,
            } => self.append(query, stream, frame, rows, reply),
            Command::Finalize {
                query,
                attempt,
                reply,
            } => answer(reply, self.finalize(query, attempt)),
            Command::Retire {
                query,
                attempt,
                reply,
            } => {
                self.apply(Event::AttemptRetired { query, attempt });
                answer(reply, ());
            }
            Command::RetireQuery { query, reply } => {
                self.apply(Event::QueryRetired { query });
                answer(reply, ());
            }
            Command::Fetch { request, reply } => answer(reply, self.fetch(request)),
            Command::ReadFailed { query, stream, reply } => {
                self.apply(Event::StorageFailed { query, stream });
                answer(reply, ());
            }
            Command::Counts { query, reply } => answer(reply, self.counts(&query)),
            Command::Held { query, reply } => answer(reply, self.table.held_attempts(&query)),
            Command::Stats { reply } => answer(reply, self.stats()),
            Command::Close { reply } => self.closing = Some(reply),
        }
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            attempts: self.logs.len(),
            disk_bytes: self.disk.used(),
            operator_bytes: self.disk.space.spilled_by_operators(),
            ..self.stats
        }
    }

    fn open_attempt(
        &mut self,
        query: QueryId,
        attempt: AttemptId,
        stream_epoch: StreamEpoch,
        partitions: u32,
    ) -> Result<(), StoreError> {
        let opened = Event::AttemptOpened {
            query: query.clone(),
            attempt,
            stream_epoch,
            partitions,
        };
        if !self.apply(opened).is_empty() {
            return Err(StoreError::Retired(attempt));
        }
        self.logs.entry((query, attempt)).or_insert(AttemptLog {
            path: None,
            file_bytes: 0,
            streams: BTreeMap::new(),
            counts: AttemptCounts::default(),
        });
        Ok(())
    }

    fn counts(&self, query: &QueryId) -> BTreeMap<AttemptId, AttemptCounts> {
        let logs = self.logs.range((query.clone(), AttemptId::default())..);
        let of_query = logs.take_while(|((of, _), _)| of == query);
        let counts = of_query.map(|((_, attempt), log)| (*attempt, log.counts));
        counts
            .filter(|(_, counts)| *counts != AttemptCounts::default())
            .collect()
    }

    fn append(
        &mut self,
        query: QueryId,
        stream: StreamId,
        frame: Bytes,
        rows: u64,
        reply: oneshot::Sender<Result<(), StoreError>>,
    ) {
        let bytes = frame.len() as u64;
        let key = (query.clone(), stream.attempt);
        let Some(log) = self.logs.get_mut(&key) else {
            return answer(reply, Err(StoreError::Retired(stream.attempt)));
        };
        log.streams.entry(stream.partition).or_default().append(frame);
        self.stats.memory_bytes += bytes;
        self.reservation.grow(frame_memory(bytes));
        let committed = Event::FrameCommitted {
            query: query.clone(),
            stream,
            bytes,
            rows,
        };
        if !self.apply(committed).is_empty() {
            return answer(reply, Err(StoreError::Retired(stream.attempt)));
        }
        let staying = self.stats.memory_bytes.saturating_sub(self.spilling_bytes);
        if staying > self.config.memory_bytes / 5 * 4 {
            self.spill_down_to(self.config.memory_bytes / 2);
        }
        self.blocked_appends.push((query, reply));
        self.answer_blocked();
        if !self.blocked_appends.is_empty()
            && let Some(log) = self.logs.get_mut(&key)
        {
            log.counts.backpressure_events += 1;
        }
    }

    /// Confirms blocked appends once memory is within its limit. If it is not and no write runs, appends fail whose
    /// query cannot spill: no other query has bytes left in memory that could be spilled.
    fn answer_blocked(&mut self) {
        let over = self.stats.memory_bytes > self.config.memory_bytes;
        if over && !self.writing && self.write_failure.is_none() {
            // More was appended during the last write than it freed, or disk space was freed.
            self.over_quota.clear();
            self.spill_down_to(self.config.memory_bytes / 2);
            if !self.writing {
                // The queries over their quota are known now: spill those of others.
                self.spill_down_to(self.config.memory_bytes / 2);
            }
        }
        let within = self.stats.memory_bytes <= self.config.memory_bytes;
        if !within && self.writing {
            return;
        }
        for (query, reply) in std::mem::take(&mut self.blocked_appends) {
            let why = self
                .write_failure
                .as_ref()
                .or_else(|| self.over_quota.get(&query));
            let result = match why {
                Some(why) if !within => Err(StoreError::Exhausted(format!(
                    "shuffle data fills the {} bytes of memory that a worker has for it, and cannot go to disk: {why}",
                    self.config.memory_bytes,
                ))),
                Some(_) | None => Ok(()),
            };
            answer(reply, result);
        }
    }

    fn finalize(
        &mut self,
        query: QueryId,
        attempt: AttemptId,
    ) -> Result<Vec<MapOutputPartitionMeta>, StoreError> {
        match self.apply(Event::AttemptFinalized { query, attempt }).pop() {
            Some(Action::ReportOutputs { outputs, .. }) => Ok(outputs),
            Some(_) => Err(StoreError::Retired(attempt)),
            None => Err(StoreError::Lost(attempt)),
        }
    }

    fn fetch(&mut self, request: FetchRequest) -> Result<(ChunkHead, Vec<Piece>), FetchError> {
        // Answered at once, so one id is enough.
        let fetch = FetchId(0);
        match self.apply(Event::FetchArrived { fetch, request }).pop() {
            Some(Action::ServeChunk {
                query, stream, head, ..
            }) => {
                if head.start_offset == head.end_offset {
                    return Ok((head, Vec::new()));
                }
                let log = self.logs.get(&(query, stream.attempt));
                let pieces = log.and_then(|log| {
                    let stream = log.streams.get(&stream.partition)?;
                    stream.range(head.start_offset, head.end_offset, log.path.as_ref())
                });
                Ok((head, pieces.ok_or(FetchError::StorageFailed)?))
            }
            Some(Action::RefuseFetch { error, .. }) => Err(error),
            Some(_) | None => Err(FetchError::UnknownStream),
        }
    }

    fn drop_attempt(&mut self, query: &QueryId, attempt: AttemptId) {
        let Some(log) = self.logs.remove(&(query.clone(), attempt)) else {
            return;
        };
        let in_memory: u64 = log.streams.values().map(StreamLog::bytes_in_memory).sum();
        self.release(in_memory);
        if log.file_bytes > 0 {
            self.disk.free(query, log.file_bytes);
            self.removals.extend(log.path);
        }
        self.start_disk_job();
        self.answer_blocked();
    }

    fn drop_query(&mut self, query: &QueryId) {
        let attempts = self.logs.keys().filter(|(of, _)| of == query);
        let attempts: Vec<AttemptId> = attempts.map(|(_, attempt)| *attempt).collect();
        for attempt in attempts {
            self.drop_attempt(query, attempt);
        }
        let dirs = self.disk.dirs.query_dirs(query);
        self.removals.extend(dirs.map(Arc::from));
        self.disk.remove_query(query);
        self.over_quota.remove(query);
        self.start_disk_job();
    }

    fn release(&mut self, bytes: u64) {
        self.stats.memory_bytes = self.stats.memory_bytes.saturating_sub(bytes);
        self.reservation
            .shrink(frame_memory(bytes).min(self.reservation.size()));
    }
}

fn frame_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
