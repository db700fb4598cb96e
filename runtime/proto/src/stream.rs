//! Fetches: requests, chunks and typed refusals.

use std::collections::VecDeque;

use prost::Message;
use sluice_core::failure::FetchError;
use sluice_core::ids::{
    AttemptId, CoordinatorEpoch, Incarnation, StageEpoch, StageId, StreamEpoch, StreamId,
};
use sluice_core::limits::MAX_STREAMS_PER_FETCH;
use sluice_core::message::{ChunkHead, FetchRequest, NextStream};
use tonic::{Code, Status};

use crate::ids::query_id;
use crate::{WireError, need, wire};

impl From<FetchRequest> for wire::FetchRequest {
    fn from(request: FetchRequest) -> Self {
        let StreamId { attempt, partition } = request.stream;
        Self {
            query: request.query.as_str().to_owned(),
            stage: attempt.stage.0,
            stage_epoch: attempt.stage_epoch.0,
            map_task: attempt.task,
            attempt: attempt.attempt,
            reduce_partition: partition,
            start_offset: request.start_offset,
            max_bytes: request.max_bytes,
            min_stream_epoch: request.min_stream_epoch.0,
            coordinator_epoch: request.coordinator_epoch.0,
            worker_incarnation: request.worker_incarnation.0,
            next_streams: next_streams(request.next_streams),
        }
    }
}

impl TryFrom<wire::FetchRequest> for FetchRequest {
    type Error = WireError;

    fn try_from(wire: wire::FetchRequest) -> Result<Self, WireError> {
        let attempt = AttemptId {
            stage: StageId(wire.stage),
            stage_epoch: StageEpoch(wire.stage_epoch),
            task: wire.map_task,
            attempt: wire.attempt,
        };
        let next = wire.next_streams.iter();
        let count: usize = next.map(|next| next.reduce_partitions.len()).sum();
        if count >= MAX_STREAMS_PER_FETCH {
            return Err(WireError::impossible("next_streams", count));
        }
        let mut next_streams = VecDeque::with_capacity(count);
        for next in wire.next_streams {
            let attempt = need(next.map_attempt, "next_streams.map_attempt")?.into();
            let min_stream_epoch = StreamEpoch(next.min_stream_epoch);
            let streams = next.reduce_partitions.into_iter().map(|partition| NextStream {
                stream: StreamId { attempt, partition },
                min_stream_epoch,
            });
            next_streams.extend(streams);
        }
        Ok(Self {
            next_streams,
            query: query_id(wire.query)?,
            stream: StreamId {
                attempt,
                partition: wire.reduce_partition,
            },
            start_offset: wire.start_offset,
            max_bytes: wire.max_bytes,
            min_stream_epoch: StreamEpoch(wire.min_stream_epoch),
            coordinator_epoch: CoordinatorEpoch(wire.coordinator_epoch),
            worker_incarnation: Incarnation(wire.worker_incarnation),
        })
    }
}

/// The streams, those of one attempt that follow each other together.
fn next_streams(streams: VecDeque<NextStream>) -> Vec<wire::NextStreams> {
    let mut all: Vec<wire::NextStreams> = Vec::new();
    for next in streams {
        let (attempt, epoch) = (next.stream.attempt.into(), next.min_stream_epoch.0);
        match all.last_mut() {
            Some(last) if last.map_attempt == Some(attempt) && last.min_stream_epoch == epoch => {
                last.reduce_partitions.push(next.stream.partition);
            }
            Some(_) | None => all.push(wire::NextStreams {
                map_attempt: Some(attempt),
                min_stream_epoch: epoch,
                reduce_partitions: vec![next.stream.partition],
            }),
        }
    }
    all
}

impl wire::FetchChunk {
    /// The message for a chunk and its bytes.
    pub fn new(head: ChunkHead, data: prost::bytes::Bytes) -> Self {
        Self {
            start_offset: head.start_offset,
            end_offset: head.end_offset,
            watermark_offset: head.watermark_offset,
            finalized: head.finalized,
            stream_epoch: head.stream_epoch.0,
            reduce_partition: head.stream.partition,
            map_attempt: Some(head.stream.attempt.into()),
            data,
        }
    }
}

impl TryFrom<wire::FetchChunk> for (ChunkHead, prost::bytes::Bytes) {
    type Error = WireError;

    fn try_from(wire: wire::FetchChunk) -> Result<Self, WireError> {
        let length = wire.end_offset.checked_sub(wire.start_offset);
        if length != u64::try_from(wire.data.len()).ok() {
            return Err(WireError::impossible("end_offset", wire.end_offset));
        }
        if wire.end_offset > wire.watermark_offset && !wire.data.is_empty() {
            return Err(WireError::impossible("watermark_offset", wire.watermark_offset));
        }
        let head = ChunkHead {
            stream: StreamId {
                attempt: need(wire.map_attempt, "map_attempt")?.into(),
                partition: wire.reduce_partition,
            },
            start_offset: wire.start_offset,
            end_offset: wire.end_offset,
            watermark_offset: wire.watermark_offset,
            finalized: wire.finalized,
            stream_epoch: StreamEpoch(wire.stream_epoch),
        };
        Ok((head, wire.data))
    }
}

pub(crate) fn fetch_error_code(error: FetchError) -> wire::FetchErrorCode {
    match error {
        FetchError::UnknownStream => wire::FetchErrorCode::UnknownStream,
        FetchError::StaleAttempt => wire::FetchErrorCode::StaleAttempt,
        FetchError::StaleStreamEpoch => wire::FetchErrorCode::StaleStreamEpoch,
        FetchError::StaleCoordinator => wire::FetchErrorCode::StaleCoordinator,
        FetchError::WrongIncarnation => wire::FetchErrorCode::WrongIncarnation,
        FetchError::Corrupt => wire::FetchErrorCode::Corrupt,
        FetchError::StorageFailed => wire::FetchErrorCode::StorageFailed,
        FetchError::Unreachable => wire::FetchErrorCode::Unreachable,
    }
}

pub(crate) fn fetch_error_from(code: i32) -> Result<FetchError, WireError> {
    match wire::FetchErrorCode::try_from(code) {
        Ok(wire::FetchErrorCode::UnknownStream) => Ok(FetchError::UnknownStream),
        Ok(wire::FetchErrorCode::StaleAttempt) => Ok(FetchError::StaleAttempt),
        Ok(wire::FetchErrorCode::StaleStreamEpoch) => Ok(FetchError::StaleStreamEpoch),
        Ok(wire::FetchErrorCode::StaleCoordinator) => Ok(FetchError::StaleCoordinator),
        Ok(wire::FetchErrorCode::WrongIncarnation) => Ok(FetchError::WrongIncarnation),
        Ok(wire::FetchErrorCode::Corrupt) => Ok(FetchError::Corrupt),
        Ok(wire::FetchErrorCode::StorageFailed) => Ok(FetchError::StorageFailed),
        Ok(wire::FetchErrorCode::Unreachable) => Ok(FetchError::Unreachable),
        Ok(wire::FetchErrorCode::Unspecified) | Err(_) => Err(WireError::impossible("error", code)),
    }
}

/// The status that refuses a fetch; the error travels typed in its details.
pub fn refuse_fetch(error: FetchError) -> Status {
    let details = wire::FetchRefused {
        error: fetch_error_code(error).into(),
    }
    .encode_to_vec();
    Status::with_details(Code::FailedPrecondition, error.to_string(), details.into())
}

/// The typed error of a fetch that ended with a status: what the peer said, or `Unreachable` when the transport
/// broke before it could say anything.
pub fn fetch_error_of(status: &Status) -> FetchError {
    if status.code() != Code::FailedPrecondition {
        return FetchError::Unreachable;
    }
    wire::FetchRefused::decode(status.details())
        .ok()
        .and_then(|refused| fetch_error_from(refused.error).ok())
        .unwrap_or(FetchError::Unreachable)
}
