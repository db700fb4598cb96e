//! One task: its attempts, its winner, and what is remembered of those that ended.

use std::sync::Arc;

use super::event::QueryFailure;
use crate::ids::{AttemptId, StageEpoch, StreamEpoch, TaskId, WorkerId};
use crate::message::{InputState, InputUpdate};
use crate::metrics::AttemptMetrics;
use crate::ranges::SortedRun;
use crate::time::Instant;

/// Where a task stands.
///
/// ```text
/// Waiting --> Running --> Won
///    ^ ^_________|         |    failed, refused, cancelled, lost
///    |_____________________|    its output was lost, or its stage starts over
/// Waiting, Running ------> Won  the lost winner's worker came back with its output
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TaskState {
    /// No attempt is at work and none has won.
    Waiting {
        /// Backoff: no attempt starts before.
        not_before: Instant,
    },
    /// An attempt is at work.
    Running(RunningAttempt),
    /// An attempt has won, and a live worker holds its output, or the sink its file.
    Won(Winner),
}

/// Where an attempt stands, as far as the coordinator follows it.
///
/// ```text
/// assigned --> RunningAttempt --> Winner --> lost (kept in `lost_winner`, may come back)
///                    |              `------> retired
///                    `--> failed | cancelled | lost   (forgotten, only counted)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningAttempt {
    pub(super) id: AttemptId,
    pub(super) worker: WorkerId,
    pub(super) stream_epoch: StreamEpoch,
    /// The how-manieth start of the query this was.
    pub(super) start: u64,
    pub(super) assigned: Instant,
    pub(super) metrics: AttemptMetrics,
    /// When its counters last changed.
    pub(super) active: Instant,
}

/// The attempt whose output counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Winner {
    pub(super) id: AttemptId,
    pub(super) worker: WorkerId,
    pub(super) stream_epoch: StreamEpoch,
    pub(super) metrics: AttemptMetrics,
    /// Where its keys are, if it wrote a sorted run.
    pub(super) run: Option<Arc<SortedRun>>,
    /// The partitions that hold bytes, ascending; none where they are too many to be worth keeping.
    pub(super) filled: Option<Arc<[u32]>>,
}

impl Winner {
    /// What readers of all of it are told.
    pub(super) fn update(&self, state: InputState) -> InputUpdate {
        InputUpdate {
            map_attempt: self.id,
            stream_epoch: self.stream_epoch,
            worker: self.worker.clone(),
            state,
            range: None,
        }
    }
}

impl From<RunningAttempt> for Winner {
    fn from(attempt: RunningAttempt) -> Self {
        Self {
            id: attempt.id,
            worker: attempt.worker,
            stream_epoch: attempt.stream_epoch,
            metrics: attempt.metrics,
            run: None,
            filled: None,
        }
    }
}

/// One task over all its attempts.
#[derive(Debug)]
pub(super) struct TaskRun {
    pub(super) state: TaskState,
    /// The number of the next attempt; also how many there were.
    pub(super) attempts: u32,
    /// Failures that count towards the limit.
    pub(super) failures: u32,
    /// Attempts that ended for want of what other queries held.
    pub(super) contended: u32,
    /// The first of them.
    pub(super) first_failure: Option<QueryFailure>,
    /// Where the last failure happened: the next try prefers another worker.
    pub(super) failed_on: Option<WorkerId>,
    /// Why the last lost attempt was lost.
    pub(super) last_loss: Option<String>,
    /// A winner whose worker went away with its output. It counts again if the worker comes back with the output
    /// before another attempt has won.
    pub(super) lost_winner: Option<Winner>,
    /// All that have won in the stage's epoch, lost or not: readers may have rows of each.
    pub(super) past_winners: Vec<Winner>,
}

impl TaskRun {
    pub(super) fn new() -> Self {
        Self {
            state: TaskState::Waiting {
                not_before: Instant::default(),
            },
            attempts: 0,
            failures: 0,
            contended: 0,
            first_failure: None,
            failed_on: None,
            last_loss: None,
            lost_winner: None,
            past_winners: Vec::new(),
        }
    }

    /// Allocates the next attempt. Numbers and stream epochs grow over the task's life and are never used twice.
    pub(super) fn next_attempt(&mut self, task: TaskId, stage_epoch: StageEpoch) -> (AttemptId, StreamEpoch) {
        let attempt = AttemptId {
            stage: task.stage,
            stage_epoch,
            task: task.task,
            attempt: self.attempts,
        };
        self.attempts += 1;
        (attempt, StreamEpoch(u64::from(self.attempts)))
    }

    /// The attempt at work, if one is.
    pub(super) fn running(&self) -> Option<&RunningAttempt> {
        match &self.state {
            TaskState::Running(attempt) => Some(attempt),
            TaskState::Waiting { .. } | TaskState::Won(_) => None,
        }
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut RunningAttempt> {
        match &mut self.state {
            TaskState::Running(attempt) => Some(attempt),
            TaskState::Waiting { .. } | TaskState::Won(_) => None,
        }
    }

    /// The winner whose output can be read, if there is one.
    pub(super) fn winner(&self) -> Option<&Winner> {
        match &self.state {
            TaskState::Won(winner) => Some(winner),
            TaskState::Waiting { .. } | TaskState::Running(_) => None,
        }
    }
}
