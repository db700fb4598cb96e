//! What happens to a worker's stream table, and what it wants done.

use std::collections::BTreeSet;

use crate::failure::FetchError;
use crate::ids::{AttemptId, CoordinatorEpoch, QueryId, StreamEpoch, StreamId};
use crate::message::{ChunkHead, FetchRequest, MapOutputPartitionMeta};

/// One open fetch, numbered by the worker's shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Something that happened at a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A coordinator's session began. A higher epoch makes lower ones stale.
    QueryOpened {
        /// The query.
        query: QueryId,
        /// The coordinator's epoch.
        coordinator_epoch: CoordinatorEpoch,
        /// Whether the outputs of an earlier coordinator's attempts are good for this one.
        keeps_outputs: bool,
    },
    /// An attempt began to publish `partitions` streams, or was registered again under a higher stream epoch.
    AttemptOpened {
        /// The query.
        query: QueryId,
        /// The attempt.
        attempt: AttemptId,
        /// The epoch of its streams.
        stream_epoch: StreamEpoch,
        /// The number of partitions.
        partitions: u32,
    },
    /// A whole frame was stored at the end of a stream: it may be read from now on.
    FrameCommitted {
        /// The query.
        query: QueryId,
        /// The stream.
        stream: StreamId,
        /// Its length, header included.
        bytes: u64,
        /// Its rows.
        rows: u64,
    },
    /// The attempt writes no more frames to any partition.
    AttemptFinalized {
        /// The query.
        query: QueryId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt failed, was cancelled or is no longer wanted.
    AttemptRetired {
        /// The query.
        query: QueryId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// The query has ended, or had no session for longer than its lease.
    QueryRetired {
        /// The query.
        query: QueryId,
    },
    /// Bytes of the stream below this offset left memory for disk.
    StreamSpilled {
        /// The query.
        query: QueryId,
        /// The stream.
        stream: StreamId,
        /// Bytes below this offset are on disk.
        upto_offset: u64,
    },
    /// The stream's bytes could not be moved to disk: they stay in memory, and may be chosen again.
    SpillFailed {
        /// The query.
        query: QueryId,
        /// The stream.
        stream: StreamId,
    },
    /// Shuffle bytes in memory must come down to `target_bytes`.
    MemoryPressed {
        /// The bytes that may stay.
        target_bytes: u64,
        /// Queries whose bytes cannot leave memory now.
        kept: BTreeSet<QueryId>,
    },
    /// A reader asks for a range.
    FetchArrived {
        /// The call.
        fetch: FetchId,
        /// What it asks for.
        request: FetchRequest,
    },
    /// The worker could not read or keep the bytes of a stream. Fetches of it are refused from now on.
    StorageFailed {
        /// The query.
        query: QueryId,
        /// The stream.
        stream: StreamId,
    },
}

/// Something to do at a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer a fetch with these bytes of the stream; an empty range is an empty chunk.
    ServeChunk {
        /// The call.
        fetch: FetchId,
        /// The query.
        query: QueryId,
        /// The stream.
        stream: StreamId,
        /// Range, watermark, finalized and epoch.
        head: ChunkHead,
    },
    /// Answer a fetch with a typed error.
    RefuseFetch {
        /// The call.
        fetch: FetchId,
        /// Why.
        error: FetchError,
    },
    /// Report what the attempt has written; answers `AttemptFinalized`, unless the attempt is stale
    /// (`DropAttempt` is the answer then) or one of its streams is lost (no answer).
    ReportOutputs {
        /// The query.
        query: QueryId,
        /// The attempt.
        attempt: AttemptId,
        /// One entry a partition that holds bytes.
        outputs: Vec<MapOutputPartitionMeta>,
    },
    /// Move the stream's bytes below `upto_offset` from memory to disk.
    SpillStream {
        /// The query.
        query: QueryId,
        /// The stream.
        stream: StreamId,
        /// Up to here.
        upto_offset: u64,
    },
    /// Delete the bytes of an attempt, in memory and on disk; also answers events about an attempt that was
    /// retired, or whose query is not open.
    DropAttempt {
        /// The query.
        query: QueryId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Delete everything of a query.
    DropQuery {
        /// The query.
        query: QueryId,
    },
}
