//! Tasks with two attempts at work, and what tells that a task needs a second one.

use std::time::Duration;

use super::{StageRun, StageTable};
use crate::coordinator::attempts::{RunningAttempt, TaskRun};
use crate::ids::AttemptId;
use crate::speculation::{RelativeSize, Runtimes};
use crate::time::Instant;

/// How an attempt starts.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Start {
    /// Start sequence number within the query.
    pub(in crate::coordinator) number: u64,
    /// Whether it sorts both sides of its joins.
    pub(in crate::coordinator) sorts_joins: bool,
    /// Whether it is the duplicate of a slow attempt.
    pub(in crate::coordinator) speculative: bool,
}

impl TaskRun {
    /// Its attempt at work, if it has one and no duplicate of it.
    pub(in crate::coordinator) fn sole_attempt(&self) -> Option<&RunningAttempt> {
        let mut attempts = self.running_attempts();
        attempts.next().filter(|_| attempts.next().is_none())
    }

    /// How many duplicates of its attempts were started.
    pub(in crate::coordinator) fn duplicates(&self) -> u32 {
        self.history().map_or(0, |history| history.duplicates)
    }
}

impl StageTable {
    /// Whether an older attempt of its task is at work beside the attempt.
    pub(in crate::coordinator) fn is_duplicate(&self, id: AttemptId) -> bool {
        let task = self.task(id.task_id()).into_iter();
        let mut attempts = task.flat_map(TaskRun::running_attempts);
        attempts.any(|attempt| attempt.id.attempt < id.attempt)
    }
}

impl StageRun {
    /// How long the tasks took that have won in this epoch.
    pub(in crate::coordinator) fn runtimes(&self) -> &Runtimes {
        &self.runtimes
    }

    /// Records how long the winner of a task took, and how many rows it read.
    pub(in crate::coordinator) fn record_runtime(
        &mut self,
        runtime: Duration,
        size: RelativeSize,
        rows_read: u64,
    ) {
        self.runtimes.record(runtime, size, rows_read);
    }

    /// Attempts at work that have no duplicate and are none, by task.
    pub(in crate::coordinator) fn sole_attempts(&self) -> impl Iterator<Item = (&TaskRun, &RunningAttempt)> {
        let tasks = self.running.iter().map(|task| &self.all_tasks[*task as usize]);
        tasks.filter_map(|task| Some((task, task.sole_attempt()?)))
    }

    /// Lets the runtimes of the attempts at work count from now, since they wait for an input.
    pub(in crate::coordinator) fn restart_clocks(&mut self, now: Instant) {
        for task in &self.running {
            self.all_tasks[*task as usize].restart_clocks(now);
        }
    }
}
