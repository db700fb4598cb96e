//! The counters of a stage: sums that follow every change of a task, so that a snapshot need not walk over all tasks.

use super::StageRun;
#[cfg(test)]
use crate::coordinator::attempts::TaskRun;
use crate::ids::{AttemptId, WorkerId};
use crate::metrics::{AttemptMetrics, COUNTERS};
use crate::time::Instant;

/// Replaces in sums what a task has added to them.
pub(super) fn recount(sums: &mut [u128; COUNTERS], before: [u64; COUNTERS], after: [u64; COUNTERS]) {
    for ((sum, before), after) in sums.iter_mut().zip(before).zip(after) {
        *sum = *sum - u128::from(before) + u128::from(after);
    }
}

impl StageRun {
    /// The counters of the running and the winning attempts; of two that run the same task, those of the first.
    pub(in crate::coordinator) fn metrics(&self) -> AttemptMetrics {
        #[cfg(test)]
        self.check_sums();
        let sums = self.counters.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX));
        let mut metrics = AttemptMetrics::of_counters(sums);
        let running = self.running.iter().map(|task| &self.all_tasks[*task as usize]);
        let first = running.filter_map(|task| task.running_attempts().next());
        first.for_each(|attempt| metrics += attempt.metrics);
        metrics
    }

    /// Checks the sums against the tasks.
    #[cfg(test)]
    fn check_sums(&self) {
        let mut counters = [0; COUNTERS];
        for run in &self.all_tasks {
            recount(&mut counters, [0; COUNTERS], run.counters());
        }
        assert_eq!(self.counters, counters, "{}", self.id);
        let winners = self.all_tasks.iter().filter_map(TaskRun::winner);
        let rows: u128 = winners.map(|winner| u128::from(winner.rows)).sum();
        assert_eq!(self.won_rows, rows, "{}", self.id);
    }

    /// Takes over the counters that a worker reports of an attempt.
    pub(in crate::coordinator) fn record_progress(
        &mut self,
        worker: &WorkerId,
        id: AttemptId,
        metrics: AttemptMetrics,
        now: Instant,
    ) {
        let Some(run) = self.all_tasks.get_mut(id.task as usize) else {
            return;
        };
        let counted = run.counters();
        run.record_progress(worker, id, metrics, now);
        recount(&mut self.counters, counted, run.counters());
    }
}
