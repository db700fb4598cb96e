//! Attempts that run and make no progress.

use std::time::Duration;

use super::Coordinator;
use super::event::Action;
use super::outcome::QueryState;
use super::stage_table::StageRun;
use crate::ids::{AttemptId, StageId, WorkerId};
use crate::time::Instant;
use sluice_crds::ErrorReason;

/// Checks per stall timeout.
const CHECKS: u32 = 10;

impl Coordinator {
    fn stall_period(&self) -> Duration {
        self.policy.attempt_stall_timeout / CHECKS
    }

    /// When running attempts are checked next, if any runs.
    pub(super) fn next_stall_check(&self) -> Option<Instant> {
        let runs = self.stages.running_attempts().next().is_some();
        runs.then(|| self.stalls_checked + self.stall_period())
    }

    /// Ends attempts that have made no progress for too long: no row, no byte, and no work of their threads. They count as
    /// failed.
    pub(super) fn end_stalled_attempts(&mut self) {
        if self.state != QueryState::Running || self.now < self.stalls_checked + self.stall_period() {
            return;
        }
        self.stalls_checked = self.now;
        let (now, timeout) = (self.now, self.policy.attempt_stall_timeout);
        let mut stalled: Vec<(WorkerId, AttemptId)> = Vec::new();
        let running = self.stages.iter().filter(|stage| stage.is_running());
        let running: Vec<StageId> = running.map(StageRun::id).collect();
        for id in running {
            // A reader whose input is being made again may wait as long as that takes.
            if !self.inputs_done(id) {
                self.stages.get_mut(id).reset_activity(now);
                continue;
            }
            let attempts = self.stages.get(id).running_attempts();
            let stalls = attempts.filter(|attempt| attempt.active + timeout <= now);
            stalled.extend(stalls.map(|attempt| (WorkerId::clone(&attempt.worker), attempt.id)));
        }
        for (worker, attempt) in stalled {
            if self.has_ended() {
                return;
            }
            self.out.push(Action::CancelAttempt {
                worker: worker.clone(),
                attempt,
            });
            let message = format!(
                "nothing has moved for {} s: no row, no byte, and no work of its thread; look whether the file system that \
                 it reads or writes answers",
                timeout.as_secs()
            );
            self.count_failure(&worker, attempt, ErrorReason::TaskFailed, &message);
        }
    }
}
