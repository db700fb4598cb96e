//! The part of the store's task that decides when to spill, and drives [`spill`].

use std::path::Path;
use std::sync::Arc;

use sluice_core::ids::{AttemptId, QueryId, StreamId};
use sluice_core::stream::Event;

use super::super::log::StreamLog;
use super::super::spill::{self, DiskJob, FileWrite, SpillBatch, SpillRequest, SpilledFrames, WriteResult};
use super::StoreTask;

impl StoreTask {
    pub(super) fn spill_down_to(&mut self, target_bytes: u64) {
        if self.stats.memory_bytes <= target_bytes {
            return;
        }
        let kept = self.over_quota.keys().cloned().collect();
        self.apply(Event::MemoryPressed { target_bytes, kept });
        self.spilling_bytes = self.stats.memory_bytes.saturating_sub(target_bytes);
        self.start_disk_job();
    }

    /// Starts the requested writes and deletions, unless a job is running.
    pub(super) fn start_disk_job(&mut self) {
        if self.writing {
            return;
        }
        let mut batch = SpillBatch::new();
        for request in spill::merge_requests(std::mem::take(&mut self.spill_requests)) {
            self.plan_write(request, &mut batch);
        }
        if batch.is_empty() {
            self.spilling_bytes = 0;
        }
        let job = DiskJob {
            removals: std::mem::take(&mut self.removals),
            writes: batch,
        };
        if job.is_empty() {
            return;
        }
        self.writing = true;
        let done = self.written_sender.clone();
        tokio::task::spawn_blocking(move || {
            // The receiver lives as long as the store.
            let _ = done.send(spill::run(job));
        });
    }

    fn plan_write(&mut self, request: SpillRequest, batch: &mut SpillBatch) {
        let key = (request.query, request.stream.attempt);
        let Some(log) = self.logs.get_mut(&key) else {
            return;
        };
        let Some(stream) = log.streams.get(&request.stream.partition) else {
            return;
        };
        let frames = stream.frames_upto(request.upto_offset);
        let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        if bytes == 0 {
            return;
        }
        if let Err(why) = self.disk.reserve(&key.0, bytes) {
            self.over_quota.insert(key.0.clone(), why);
            let (query, stream) = (key.0, request.stream);
            self.apply(Event::SpillFailed { query, stream });
            return;
        }
        let position = log.file_bytes;
        log.file_bytes += bytes;
        let dirs = &mut self.disk.dirs;
        let path = log
            .path
            .get_or_insert_with(|| Arc::from(dirs.choose_segment(&key.0, key.1)));
        let path = Arc::clone(path);
        let write = batch.entry(key).or_insert_with(|| FileWrite {
            path,
            pieces: Vec::new(),
            moved: Vec::new(),
        });
        write.moved.push(SpilledFrames {
            partition: request.stream.partition,
            frames: frames.len(),
            position,
        });
        let mut at = position;
        for frame in frames {
            let next = at + frame.len() as u64;
            write.pieces.push((at, frame));
            at = next;
        }
    }

    pub(super) fn on_written(&mut self, written: Vec<WriteResult>) {
        self.writing = false;
        for part in written {
            let key = (part.query.clone(), part.attempt);
            if let Err(error) = &part.result {
                let path = part.path.display();
                tracing::warn!(%path, %error, "shuffle data cannot be spilled");
                self.write_failure = Some(write_failure_text(&path, error));
            }
            // The attempt may be gone, or another one of a later coordinator may have its id.
            let same = |path: &Arc<Path>| Arc::ptr_eq(path, &part.path);
            let log = self.logs.get(&key).and_then(|log| log.path.as_ref());
            if !log.is_some_and(same) {
                continue;
            }
            for moved in part.moved {
                self.on_spilled(&key, &moved, part.result.is_ok());
            }
            if part.result.is_err() {
                self.abandon_volume(&key);
            }
        }
        self.start_disk_job();
        self.answer_blocked();
    }

    /// Lets an attempt with nothing on disk choose another volume: this one could not be written.
    fn abandon_volume(&mut self, key: &(QueryId, AttemptId)) {
        if let Some(log) = self.logs.get_mut(key)
            && !log.streams.values().any(StreamLog::is_on_disk)
        {
            self.removals.extend(log.path.take());
        }
    }

    fn on_spilled(&mut self, key: &(QueryId, AttemptId), moved: &SpilledFrames, done: bool) {
        let query = key.0.clone();
        let stream = StreamId {
            attempt: key.1,
            partition: moved.partition,
        };
        let Some(log) = self.logs.get_mut(key) else {
            return;
        };
        if !done {
            self.apply(Event::SpillFailed { query, stream });
            return;
        }
        let Some(bytes) = log.streams.get_mut(&moved.partition) else {
            return;
        };
        let (bytes, upto_offset) = bytes.mark_spilled(moved.frames, moved.position);
        log.counts.spilled_bytes += bytes;
        self.stats.spilled_bytes += bytes;
        self.write_failure = None;
        self.release(bytes);
        self.spilling_bytes = self.spilling_bytes.saturating_sub(bytes);
        self.apply(Event::StreamSpilled {
            query,
            stream,
            upto_offset,
        });
    }
}

/// The message for a failed write, with advice.
fn write_failure_text(path: &impl std::fmt::Display, error: &std::io::Error) -> String {
    let help = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            ": give the workers a larger spill volume, or lower spill.limit to what the volume has"
        }
        _ => "",
    };
    format!("cannot write {path}: {error}{help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_volume_is_told_from_a_broken_one() {
        let full = write_failure_text(
            &"/spill/q",
            &std::io::Error::from(std::io::ErrorKind::StorageFull),
        );
        assert!(
            full.contains("/spill/q") && full.contains("larger spill volume"),
            "{full}"
        );
        let broken = write_failure_text(&"/spill/q", &std::io::Error::other("input/output error"));
        assert!(!broken.contains("larger"), "{broken}");
    }
}
