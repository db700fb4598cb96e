//! The shuffle store of a worker: what attempts have published, in memory first and on disk above a bound.
//!
//! One task owns all state. It asks the `StreamTable` of `sluice-core` what to answer and what to spill, and keeps the
//! bytes; reads and writes of files run on threads for blocking work.

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
    /// The start of the worker; fetches for another one are refused.
    pub incarnation: Incarnation,
    /// The directories below which files lie, at least one. Each segment goes where the most space is free.
    pub spill_dirs: Vec<PathBuf>,
    /// The most bytes on disk, those that operators spill included; `None` is as many as fit.
    pub spill_limit: Option<u64>,
    /// The most bytes in memory. Above 80 % of it bytes go to disk until half of it is in use.
    pub memory_bytes: u64,
    /// The worker's memory, which the bytes in memory are charged to.
    pub pool: Arc<dyn MemoryPool>,
    /// Rung when operators ran out of memory: the store then moves all it can to disk.
    pub pressure: Arc<Notify>,
}

/// Why the store did not do as it was told.
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
    /// Frames that waited for room.
    pub backpressure_events: u64,
}

/// What the store holds now, and has spilled so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes that operators have on disk, beside those.
    pub operator_bytes: u64,
    /// Bytes moved to disk so far; those deleted since included.
    pub spilled_bytes: u64,
    /// Attempts whose output is here or being written, empty ones included.
    pub attempts: usize,
}

/// The store, for whoever writes, reads or retires. Clones are the same store; its files are deleted when it is
/// closed or the last one is gone.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    commands: mpsc::Sender<Command>,
    space: Arc<SpillSpace>,
}

/// A frame on its way into the store.
#[derive(Debug)]
#[must_use = "the store's answer tells when the next frame may follow"]
pub struct PendingAppend {
    answer: oneshot::Receiver<Result<(), StoreError>>,
}

impl PendingAppend {
    /// Waits until the frame is stored and the store's memory within its bound.
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

    /// The disk that the store shares with operators: the same folders, the same limit.
    pub fn space(&self) -> &SpillSpace {
        &self.space
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// A coordinator's session began: attempts of the query may be opened.
    pub async fn open_query(&self, query: QueryId, coordinator_epoch: CoordinatorEpoch) {
        let opened = |reply| Command::OpenQuery {
            query,
            coordinator_epoch,
            reply,
        };
        self.ask(opened).await;
    }

    /// An attempt begins to publish `partitions` streams, which can be fetched from now on.
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

    /// Stores one whole frame at the end of a stream. It waits while more memory is used than the store has and
    /// files are being written.
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

    /// Gives a frame to the store, and leaves for later to wait for what [`Self::append`] waits for. Whoever does not
    /// wait for one answer before the next frame takes more memory than the store has.
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

    /// No more frames will come. Returns an entry for each partition that holds bytes.
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

    /// Deletes what the attempt wrote; it is never opened again.
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

    /// The attempts of the query whose whole, finalized output is here.
    pub async fn held_attempts(&self, query: QueryId) -> Vec<AttemptId> {
        let held = self.ask(|reply| Command::Held { query, reply });
        held.await.unwrap_or_default()
    }

    /// Ends the store for all its handles and waits until its files are deleted.
    pub async fn close(&self) {
        self.ask(|reply| Command::Close { reply }).await;
    }

    /// What the store holds in all.
    pub async fn stats(&self) -> StoreStats {
        self.ask(|reply| Command::Stats { reply })
            .await
            .unwrap_or_default()
    }

    /// What was counted of the query's attempts whose output is here, ended ones too; those without any counts are left
    /// out. Most of what goes to disk is of attempts that have ended: their output goes first.
    pub async fn attempt_counts(&self, query: QueryId) -> BTreeMap<AttemptId, AttemptCounts> {
        let counts = self.ask(|reply| Command::Counts { query, reply });
        counts.await.unwrap_or_default()
    }

    /// One chunk of a stream: what is there now from `start_offset` on, or an empty chunk.
    ///
    /// # Errors
    ///
    /// As the `StreamTable` refuses, or `StorageFailed` if a file cannot be read.
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

    /// A response: chunks until `max_bytes` were served, the stream has no more for now, or it has ended.
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
                    (!ended && !full).then_some((request, served + 1))
                });
                Some((answer, next))
            }
        });
        chunks.boxed()
    }
}

/// The bytes of the pieces, in order. Only files are worth a thread of their own.
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
