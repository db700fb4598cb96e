//! A fetch that a reader has open.

use std::collections::VecDeque;

use crate::ids::TaskId;
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
}
