//! What a stage has done and when, for its status. No decision depends on it, but for how much duplicates may still waste.

use super::StageRun;
use super::attempt_counts::AttemptCounts;
use crate::locality::LocalityCounts;
use crate::snapshot::StageState;
use crate::time::Instant;

impl StageRun {
    /// Where the stage stands, given whether all its inputs can be read.
    pub(in crate::coordinator) fn state(&self, inputs_done: bool) -> StageState {
        if self.is_settled() {
            StageState::Done
        } else if self.is_running() || self.won > 0 {
            StageState::Running
        } else if inputs_done {
            StageState::Schedulable
        } else {
            StageState::Waiting
        }
    }

    pub(in crate::coordinator) fn counts(&self) -> AttemptCounts {
        self.counts
    }

    pub(in crate::coordinator) fn locality(&self) -> LocalityCounts {
        self.locality
    }

    /// When an attempt first read bytes of an exchange.
    pub(in crate::coordinator) fn first_chunk(&self) -> Option<Instant> {
        self.first_chunk
    }

    /// When an attempt that reads exchanges first put out a row.
    pub(in crate::coordinator) fn first_reduce_row(&self) -> Option<Instant> {
        self.first_reduce_row
    }

    /// When the first attempt was assigned.
    pub(in crate::coordinator) fn started(&self) -> Option<Instant> {
        self.started
    }

    /// When the last task was won.
    pub(in crate::coordinator) fn ended(&self) -> Option<Instant> {
        self.ended
    }

    /// Records when the stage got its first bytes and put out its first row.
    pub(in crate::coordinator) fn record_firsts(
        &mut self,
        chunk: Option<Instant>,
        reduce_row: Option<Instant>,
    ) {
        let first = |known: Option<Instant>, at: Option<Instant>| known.into_iter().chain(at).min();
        self.first_chunk = first(self.first_chunk, chunk);
        self.first_reduce_row = first(self.first_reduce_row, reduce_row);
    }
}
