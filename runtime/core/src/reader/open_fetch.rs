//! A fetch that a reader has open.

use std::collections::VecDeque;

use super::verdict::{Verdict, check_chunk};
use crate::ids::{AttemptId, StreamEpoch, TaskId};
use crate::message::ChunkHead;
use crate::time::Instant;

/// Input, map task and partition.
pub(super) type Key = (usize, TaskId, u32);

#[derive(Debug)]
pub(super) struct OpenFetch {
    pub(super) input: usize,
    /// The map tasks and partitions that it may still bring, in order; never empty.
    pub(super) streams: VecDeque<(TaskId, u32)>,
    /// Bytes that it may still bring.
    pub(super) reserved: u64,
    /// Whether it has brought bytes, or the end of a stream.
    pub(super) progressed: bool,
    pub(super) last_chunk: Instant,
}

impl OpenFetch {
    /// What it may still bring.
    pub(super) fn keys(&self) -> Vec<Key> {
        let streams = self.streams.iter();
        streams
            .map(|(task, partition)| (self.input, *task, *partition))
            .collect()
    }

    /// How a chunk continues what it brings: the first of its streams, of this attempt, which has come as far as `cursor`. `None`
    /// for a stream that has come to its end.
    pub(super) fn check(
        &self,
        head: &ChunkHead,
        attempt: AttemptId,
        epoch: StreamEpoch,
        cursor: u64,
    ) -> Option<Verdict> {
        let stream = (head.stream.attempt.task_id(), head.stream.partition);
        let place = self.streams.iter().position(|awaited| *awaited == stream)?;
        Some(match place {
            0 if head.stream.attempt == attempt => check_chunk(head, epoch, cursor, self.reserved),
            _ => Verdict::Gap,
        })
    }
}
