//! Commands of the store's task. Each has one reply, unless the sender is gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId, StreamEpoch, StreamId};
use sluice_core::message::{ChunkHead, FetchRequest, MapOutputPartitionMeta};
use tokio::sync::oneshot;

use super::log::Piece;
use super::{AttemptCounts, StoreError, StoreStats};

/// What a handle sends to the task.
#[derive(Debug)]
pub enum Command {
    OpenQuery {
        query: QueryId,
        coordinator_epoch: CoordinatorEpoch,
        keeps_outputs: bool,
        reply: oneshot::Sender<()>,
    },
    OpenAttempt {
        query: QueryId,
        attempt: AttemptId,
        stream_epoch: StreamEpoch,
        partitions: u32,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Append {
        query: QueryId,
        stream: StreamId,
        frame: Bytes,
        rows: u64,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Finalize {
        query: QueryId,
        attempt: AttemptId,
        reply: oneshot::Sender<Result<Vec<MapOutputPartitionMeta>, StoreError>>,
    },
    Retire {
        query: QueryId,
        attempt: AttemptId,
        reply: oneshot::Sender<()>,
    },
    RetireQuery {
        query: QueryId,
        reply: oneshot::Sender<()>,
    },
    Fetch {
        request: FetchRequest,
        reply: oneshot::Sender<Result<(ChunkHead, Vec<Piece>), FetchError>>,
    },
    ReadFailed {
        query: QueryId,
        stream: StreamId,
        reply: oneshot::Sender<()>,
    },
    Counts {
        query: QueryId,
        reply: oneshot::Sender<BTreeMap<AttemptId, AttemptCounts>>,
    },
    Held {
        query: QueryId,
        reply: oneshot::Sender<Vec<AttemptId>>,
    },
    Stats {
        reply: oneshot::Sender<StoreStats>,
    },
    /// Ends the task; the reply comes once its files are deleted.
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Replies, unless the receiver is gone.
pub fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
