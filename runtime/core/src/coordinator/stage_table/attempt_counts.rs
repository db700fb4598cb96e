//! How many attempts of a stage were started, and how they ended.

use std::collections::BTreeMap;

use crate::coordinator::attempts::RunningAttempt;
use crate::ids::AttemptId;
use crate::snapshot::SpeculationCounts;
use crate::time::Instant;

#[derive(Debug, Clone, Copy, Default)]
pub(in crate::coordinator) struct AttemptCounts {
    pub(in crate::coordinator) started: u32,
    pub(in crate::coordinator) failed: u32,
    pub(in crate::coordinator) lost: u32,
    pub(in crate::coordinator) cancelled: u32,
    /// Those of an earlier coordinator whose output counts.
    pub(in crate::coordinator) recovered: u32,
    pub(in crate::coordinator) speculation: SpeculationCounts,
}

impl AttemptCounts {
    /// An attempt starts.
    pub(super) fn start(&mut self, speculative: bool) {
        self.started += 1;
        self.speculation.launched += u32::from(speculative);
    }

    /// An attempt has ended and has not won.
    pub(super) fn end_without_win(&mut self, attempt: &RunningAttempt, now: Instant) {
        if attempt.speculative {
            let ran = u64::try_from(now.since(attempt.assigned).as_millis()).unwrap_or(u64::MAX);
            self.speculation.wasted += 1;
            self.speculation.wasted_ms = self.speculation.wasted_ms.saturating_add(ran);
        }
    }

    /// One of a task's attempts wins. Answers with the others, which are cancelled.
    pub(super) fn win(
        &mut self,
        attempts: BTreeMap<u32, RunningAttempt>,
        winner: AttemptId,
        now: Instant,
    ) -> Vec<RunningAttempt> {
        let (won, others): (Vec<_>, Vec<_>) =
            attempts.into_values().partition(|attempt| attempt.id == winner);
        self.speculation.won += u32::from(won.iter().any(|attempt| attempt.speculative));
        for other in &others {
            self.cancelled += 1;
            self.end_without_win(other, now);
        }
        others
    }
}
