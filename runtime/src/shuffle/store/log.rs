//! The bytes of one stream by logical offset: first those on disk, then those in memory.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes of a stream in memory or on disk.
#[derive(Debug, Clone)]
pub enum Piece {
    Memory(Bytes),
    Disk {
        path: Arc<Path>,
        /// The file offset of the first byte.
        position: u64,
        /// In bytes.
        length: usize,
    },
}

#[derive(Debug, Default)]
pub struct StreamLog {
    extents: Vec<Extent>,
    /// Bytes below this offset are on disk.
    disk_end: u64,
    /// Frames from `disk_end` on.
    memory: VecDeque<Bytes>,
    end: u64,
}

#[derive(Debug)]
struct Extent {
    start: u64,
    end: u64,
    position: u64,
}

impl StreamLog {
    pub fn append(&mut self, frame: Bytes) {
        self.end += frame.len() as u64;
        self.memory.push_back(frame);
    }

    pub fn bytes_in_memory(&self) -> u64 {
        self.end - self.disk_end
    }

    /// Whether any of it is on disk.
    pub fn is_on_disk(&self) -> bool {
        self.disk_end > 0
    }

    /// The frames in memory that end at or below `upto`.
    pub fn frames_upto(&self, upto: u64) -> Vec<Bytes> {
        let mut end = self.disk_end;
        let below = self.memory.iter().take_while(|frame| {
            end += frame.len() as u64;
            end <= upto
        });
        below.cloned().collect()
    }

    /// Records that the first `frames` frames in memory are now at `position` of the attempt's segment. Returns their
    /// bytes and the offset below which everything is on disk.
    pub fn mark_spilled(&mut self, frames: usize, position: u64) -> (u64, u64) {
        let moved: u64 = self.memory.drain(..frames).map(|frame| frame.len() as u64).sum();
        let start = self.disk_end;
        self.disk_end += moved;
        let end = self.disk_end;
        self.extents.push(Extent { start, end, position });
        (moved, end)
    }

    /// The pieces of a range; `None` if it is not complete.
    pub fn range(&self, start: u64, end: u64, path: Option<&Arc<Path>>) -> Option<Vec<Piece>> {
        if start > end || end > self.end {
            return None;
        }
        let mut pieces = Vec::new();
        let first = self.extents.partition_point(|extent| extent.end <= start);
        for extent in self.extents.iter().skip(first).take_while(|e| e.start < end) {
            let from = start.max(extent.start);
            pieces.push(Piece::Disk {
                path: Arc::clone(path?),
                position: extent.position + (from - extent.start),
                length: usize::try_from(end.min(extent.end) - from).ok()?,
            });
        }
        let mut frame_start = self.disk_end;
        for frame in &self.memory {
            let frame_end = frame_start + frame.len() as u64;
            let (from, to) = (start.max(frame_start), end.min(frame_end));
            if from < to {
                let from = usize::try_from(from - frame_start).ok()?;
                let to = usize::try_from(to - frame_start).ok()?;
                pieces.push(Piece::Memory(frame.slice(from..to)));
            }
            frame_start = frame_end;
        }
        Some(pieces)
    }
}
