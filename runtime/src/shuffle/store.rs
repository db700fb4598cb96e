//! The shuffle store of a worker: outputs of attempts, in memory up to a limit and on disk above it.
//!
//! One task owns all state. The `StreamTable` of `sluice-core` decides what to answer and what to spill; the task keeps
//! the bytes. File reads and writes run on blocking threads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, Incarnation, QueryId, StreamEpoch, StreamId};
use sluice_core::message::{ChunkHead, FetchRequest, MapOutputPartitionMeta};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};

use self::command::Command;
use self::disk::Disk;
pub use self::disk::SpillSpace;
use self::log::Piece;
use self::task::StoreTask;
use super::segment;

mod command;
mod disk;
mod log;
mod spill;
mod task;
#[cfg(test)]
mod tests;

/// The most chunks of one response.
const MAX_CHUNKS_PER_RESPONSE: u32 = 1024;
const QUEUED_COMMANDS: usize = 256;

/// Where the store keeps bytes, and how many.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The worker's incarnation; fetches for another one are refused.
    pub incarnation: Incarnation,
    /// Spill directories, at least one. Each segment goes to the volume with the most free space.
    pub spill_dirs: Vec<PathBuf>,
    /// The most bytes on disk, spills of operators included; `None` for no limit.
    pub spill_limit: Option<u64>,
    /// The most bytes in memory. Above 80 % of it, the store spills until half of it is in use.
    pub memory_bytes: u64,
    /// The memory pool for the bytes in memory.
    pub pool: Arc<dyn MemoryPool>,
    /// Notified when operators run out of memory: the store then spills all it can.
    pub pressure: Arc<Notify>,
}

/// Why a store operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The attempt was retired, or its query is not open at this worker.
    #[error("attempt {0} was retired")]
    Retired(AttemptId),
    /// The attempt's bytes were lost to a failing disk.
    #[error("the shuffle output of attempt {0} was lost: its spilled bytes cannot be read")]
    Lost(AttemptId),
    /// Memory and spill space are both used up.
    #[error("{0}")]
    Exhausted(String),
    /// The worker is shutting down.
    #[error("the shuffle store is closed")]
    Closed,
}

impl From<StoreError> for DataFusionError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exhausted(message) => Self::ResourcesExhausted(message),
            StoreError::Retired(_) | StoreError::Lost(_) | StoreError::Closed => Self::External(error.into()),
        }
    }
}

/// What the store has counted of one attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptCounts {
    /// Bytes of its streams that were moved to disk.
    pub spilled_bytes: u64,
    /// Appends that had to wait for memory.
    pub backpressure_events: u64,
}

/// What the store holds now, and has spilled so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of operators on disk, in addition to those.
    pub operator_bytes: u64,
    /// Bytes spilled so far, including those deleted since.
    pub spilled_bytes: u64,
    /// Attempts with output here, complete or not, empty ones included.
    pub attempts: usize,
}

/// A handle of the store. Clones share the store; its files are deleted when it is closed or the last handle is
/// dropped.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    commands: mpsc::Sender<Command>,
    space: Arc<SpillSpace>,
}

/// A frame that the store has not confirmed yet.
#[derive(Debug)]
#[must_use = "the store's answer tells when the next frame may follow"]
pub struct PendingAppend {
    answer: oneshot::Receiver<Result<(), StoreError>>,
}

impl PendingAppend {
    /// Waits until the frame is stored and the store's memory is within its limit.
    ///
    /// # Errors
    ///
    /// As [`StoreHandle::append`].
    pub async fn wait(self) -> Result<(), StoreError> {
        self.answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl StoreHandle {
    /// Starts the store on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// If the spill directory cannot be used.
    pub fn start(config: StoreConfig) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::channel(QUEUED_COMMANDS);
        let disk = Disk::open(&config)?;
        let space = Arc::clone(&disk.space);
        tokio::spawn(StoreTask::new(config, disk).run(receiver));
        Ok(Self { commands, space })
    }

    /// The disk space that the store shares with operators: the same folders and the same limit.
    pub fn space(&self) -> &SpillSpace {
        &self.space
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// A coordinator's session started: attempts of the query may be opened. Outputs of attempts of an earlier coordinator stay
    /// if `keeps_outputs`.
    pub async fn open_query(&self, query: QueryId, coordinator_epoch: CoordinatorEpoch, keeps_outputs: bool) {
        let opened = |reply| Command::OpenQuery {
            query,
            coordinator_epoch,
            keeps_outputs,
            reply,
        };
        self.ask(opened).await;
    }

    /// Opens the `partitions` streams of an attempt, which can be fetched from now on.
    ///
    /// # Errors
    ///
    /// If it was retired before, or the query is not open.
    pub async fn open_attempt(
        &self,
        query: QueryId,
        attempt: AttemptId,
        stream_epoch: StreamEpoch,
        partitions: u32,
    ) -> Result<(), StoreError> {
        let opened = |reply| Command::OpenAttempt {
            query,
            attempt,
            stream_epoch,
            partitions,
            reply,
        };
        self.ask(opened).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Appends one complete frame to a stream. Waits while the store is above its memory limit and spills.
    ///
    /// # Errors
    ///
    /// If the attempt was retired, or memory and spill space are both used up.
    pub async fn append(
        &self,
        query: QueryId,
        stream: StreamId,
        frame: Bytes,
        rows: u64,
    ) -> Result<(), StoreError> {
        self.begin_append(query, stream, frame, rows).await?.wait().await
    }

    /// Starts an append without waiting. Wait for each append before the next one: otherwise the store exceeds its
    /// memory.
    ///
    /// # Errors
    ///
    /// If the store is closed.
    pub async fn begin_append(
        &self,
        query: QueryId,
        stream: StreamId,
        frame: Bytes,
        rows: u64,
    ) -> Result<PendingAppend, StoreError> {
        let (reply, answer) = oneshot::channel();
        let append = Command::Append {
            query,
            stream,
            frame,
            rows,
            reply,
        };
        let sent = self.commands.send(append).await;
        sent.map_err(|_| StoreError::Closed)?;
        Ok(PendingAppend { answer })
    }

    /// Finalizes an attempt. Returns one entry per partition that has bytes.
    ///
    /// # Errors
    ///
    /// If the attempt was retired or some of its bytes are lost.
    pub async fn finalize(
        &self,
        query: QueryId,
        attempt: AttemptId,
    ) -> Result<Vec<MapOutputPartitionMeta>, StoreError> {
        let finalized = |reply| Command::Finalize {
            query,
            attempt,
            reply,
        };
        self.ask(finalized).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Deletes an attempt's output. The attempt can never be opened again.
    pub async fn retire(&self, query: QueryId, attempt: AttemptId) {
        let retired = |reply| Command::Retire {
            query,
            attempt,
            reply,
        };
        self.ask(retired).await;
    }

    /// Deletes everything of a query.
    pub async fn retire_query(&self, query: QueryId) {
        self.ask(|reply| Command::RetireQuery { query, reply }).await;
    }

    /// The attempts of the query whose complete, finalized output is here.
    pub async fn held_attempts(&self, query: QueryId) -> Vec<AttemptId> {
        let held = self.ask(|reply| Command::Held { query, reply });
        held.await.unwrap_or_default()
    }

    /// Closes the store for all handles and waits until its files are deleted.
    pub async fn close(&self) {
        self.ask(|reply| Command::Close { reply }).await;
    }

    /// What the store holds.
    pub async fn stats(&self) -> StoreStats {
        self.ask(|reply| Command::Stats { reply })
            .await
            .unwrap_or_default()
    }

    /// Counts of the query's attempts whose output is here, ended ones included; attempts with zero counts are omitted.
    /// Most spilled bytes belong to ended attempts, because their output is spilled first.
    pub async fn attempt_counts(&self, query: QueryId) -> BTreeMap<AttemptId, AttemptCounts> {
        let counts = self.ask(|reply| Command::Counts { query, reply });
        counts.await.unwrap_or_default()
    }

    /// One chunk of a stream from `start_offset` on; empty if there is no more yet.
    ///
    /// # Errors
    ///
    /// The refusal of the `StreamTable`, or `StorageFailed` if a file cannot be read.
    pub async fn fetch_chunk(&self, request: FetchRequest) -> Result<(ChunkHead, Bytes), FetchError> {
        let (query, stream) = (request.query.clone(), request.stream);
        let answer = self.ask(|reply| Command::Fetch { request, reply }).await;
        let (head, pieces) = answer.unwrap_or(Err(FetchError::Unreachable))?;
        match assemble(pieces).await {
            Ok(bytes) => Ok((head, bytes)),
            Err(error) => {
                tracing::warn!(%query, %stream, %error, "spilled bytes cannot be read");
                let failed = |reply| Command::ReadFailed { query, stream, reply };
                self.ask(failed).await;
                Err(FetchError::StorageFailed)
            }
        }
    }

    /// A fetch response: chunks until `max_bytes`, or until the stream has no more or has ended.
    pub fn fetch(&self, request: FetchRequest) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>> {
        let store = self.clone();
        let first = Some((request, 0));
        let chunks = stream::unfold(first, move |next| {
            let store = store.clone();
            async move {
                let (mut request, served) = next?;
                let answer = store.fetch_chunk(request.clone()).await;
                let next = answer.as_ref().ok().and_then(|(head, _)| {
                    let bytes = head.end_offset - head.start_offset;
                    let ended = bytes == 0 || (head.finalized && head.end_offset == head.watermark_offset);
                    request.start_offset = head.end_offset;
                    request.max_bytes = request.max_bytes.saturating_sub(bytes);
                    let full = request.max_bytes == 0 || served + 1 == MAX_CHUNKS_PER_RESPONSE;
                    let at_end = head.finalized && head.end_offset == head.watermark_offset;
                    let goes_on = !ended || (at_end && request.advance());
                    (goes_on && !full).then_some((request, served + 1))
                });
                Some((answer, next))
            }
        });
        chunks.boxed()
    }
}

/// The bytes of the pieces, in order. Uses a blocking thread only if files must be read.
async fn assemble(mut pieces: Vec<Piece>) -> std::io::Result<Bytes> {
    match pieces.as_mut_slice() {
        [] => return Ok(Bytes::new()),
        [Piece::Memory(bytes)] => return Ok(std::mem::take(bytes)),
        _ => {}
    }
    if pieces.iter().all(|piece| matches!(piece, Piece::Memory(_))) {
        return joined(pieces);
    }
    tokio::task::spawn_blocking(move || joined(pieces))
        .await
        .map_err(std::io::Error::other)?
}

fn joined(pieces: Vec<Piece>) -> std::io::Result<Bytes> {
    let length = |piece: &Piece| match piece {
        Piece::Memory(bytes) => bytes.len(),
        Piece::Disk { length, .. } => *length,
    };
    let mut out = Vec::with_capacity(pieces.iter().map(length).sum());
    for piece in pieces {
        match piece {
            Piece::Memory(bytes) => out.extend_from_slice(&bytes),
            Piece::Disk {
                path,
                position,
                length,
            } => segment::read(&path, position, length, &mut out)?,
        }
    }
    Ok(Bytes::from(out))
}
