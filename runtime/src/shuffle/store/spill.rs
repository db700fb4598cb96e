//! Moving bytes from memory to disk, and deleting them there: one job at a time, so that what is deleted is never
//! what was written after it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sluice_core::ids::{AttemptId, QueryId, StreamId};

use crate::shuffle::segment;

/// A stream to be moved up to an offset.
#[derive(Debug)]
pub struct SpillRequest {
    pub query: QueryId,
    pub stream: StreamId,
    pub upto_offset: u64,
}

/// One stream's share of a batch.
#[derive(Debug)]
pub struct SpilledFrames {
    pub partition: u32,
    pub frames: usize,
    pub position: u64,
}

/// What goes to one file.
#[derive(Debug)]
pub struct FileWrite {
    pub path: Arc<Path>,
    pub pieces: Vec<(u64, Bytes)>,
    pub moved: Vec<SpilledFrames>,
}

/// Writes by attempt.
pub type SpillBatch = BTreeMap<(QueryId, AttemptId), FileWrite>;

/// What became of a batch.
#[derive(Debug)]
pub struct WriteResult {
    pub query: QueryId,
    pub attempt: AttemptId,
    pub path: Arc<Path>,
    pub moved: Vec<SpilledFrames>,
    pub result: io::Result<()>,
}

/// What is to be done on disk: first the deletions, then the writes.
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

/// Does the job; blocks.
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

/// One request a stream: a later one, which reaches further, covers an earlier one that no write has taken up.
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
