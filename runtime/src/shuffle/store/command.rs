//! What the task that owns the store can be asked. Each command has one answer; an asker who has gone away needs none.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId, StreamEpoch, StreamId};
use sluice_core::message::{ChunkHead, FetchRequest, MapOutputPartitionMeta};
use tokio::sync::oneshot;

use super::log::Piece;
use super::{AttemptCounts, StoreError, StoreStats};

/// What a handle asks.
#[derive(Debug)]
pub enum Command {
    OpenQuery {
        query: QueryId,
        coordinator_epoch: CoordinatorEpoch,
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
    /// Ends the task; answered once its files are deleted.
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// A reader who has gone away needs no answer.
pub fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
