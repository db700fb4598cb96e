//! Spilling and deleting files: one job at a time, so that a deletion never removes what was written after it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::ids::{AttemptId, QueryId, StreamId};

use crate::shuffle::segment;

/// A stream to spill up to an offset.
#[derive(Debug)]
pub struct SpillRequest {
    pub query: QueryId,
    pub stream: StreamId,
    pub upto_offset: u64,
}

/// Frames of one stream in a batch.
#[derive(Debug)]
pub struct SpilledFrames {
    pub partition: u32,
    pub frames: usize,
    pub position: u64,
}

/// Writes to one file.
#[derive(Debug)]
pub struct FileWrite {
    pub path: Arc<Path>,
    pub pieces: Vec<(u64, Bytes)>,
    pub moved: Vec<SpilledFrames>,
}

/// Writes by attempt.
pub type SpillBatch = BTreeMap<(QueryId, AttemptId), FileWrite>;

/// The result of the writes to one file.
#[derive(Debug)]
pub struct WriteResult {
    pub query: QueryId,
    pub attempt: AttemptId,
    pub path: Arc<Path>,
    pub moved: Vec<SpilledFrames>,
    pub result: io::Result<()>,
}

/// Work on disk: first the deletions, then the writes.
#[derive(Debug, Default)]
pub struct DiskJob {
    pub removals: Vec<Arc<Path>>,
    pub writes: SpillBatch,
}

impl DiskJob {
    pub fn is_empty(&self) -> bool {
        self.removals.is_empty() && self.writes.is_empty()
    }
}

/// Runs the job. Blocks.
pub fn run(job: DiskJob) -> Vec<WriteResult> {
    for path in job.removals {
        if let Err(error) = segment::remove(&path) {
            tracing::warn!(path = %path.display(), %error, "a spill file stays behind");
        }
    }
    let batch = job.writes;
    let written = batch.into_iter().map(|((query, attempt), write)| WriteResult {
        query,
        attempt,
        result: segment::write(&write.path, &write.pieces),
        path: write.path,
        moved: write.moved,
    });
    written.collect()
}

/// Keeps one request per stream: the one that reaches furthest covers the earlier ones.
pub fn merge_requests(spill_requests: Vec<SpillRequest>) -> impl Iterator<Item = SpillRequest> {
    let mut furthest: BTreeMap<(QueryId, StreamId), u64> = BTreeMap::new();
    for request in spill_requests {
        let upto = furthest.entry((request.query, request.stream)).or_default();
        *upto = request.upto_offset.max(*upto);
    }
    furthest
        .into_iter()
        .map(|((query, stream), upto_offset)| SpillRequest {
            query,
            stream,
            upto_offset,
        })
}
