//! One task: its running attempts, its winner, and what is kept of attempts that ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::QueryFailure;
use crate::ids::{AttemptId, StageEpoch, StreamEpoch, TaskId, WorkerId};
use crate::layout::MapTaskBytes;
use crate::message::{InputState, InputUpdate};
use crate::metrics::{AttemptMetrics, COUNTERS, StoredCounters};
use crate::partition_set::PartitionSet;
use crate::ranges::SortedRun;
use crate::time::Instant;

/// The state of a task.
///
/// ```text
/// Waiting --> Running --> Won    a task that runs may get a second attempt: a duplicate of the first
///    ^ ^_________|         |    the last attempt failed, was refused, cancelled or lost
///    |_____________________|    its output was lost, or its stage starts over
/// Waiting, Running ------> Won  the lost winner's worker came back with its output
/// Waiting, Running <-----> Skipped, Unneeded
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::box_collection,
    reason = "few of many tasks run, and a map would double the size of the others"
)]
pub(super) enum TaskState {
    /// No attempt runs and none has won.
    Waiting {
        /// Backoff: no attempt starts before.
        not_before: Instant,
    },
    /// Attempts run, at least one: by attempt number.
    Running(Box<BTreeMap<u32, RunningAttempt>>),
    /// An attempt has won, and a live worker holds its output, or the sink its file.
    Won(Box<Winner>),
    /// Other tasks have written as many rows as the limit that reads the exchange takes, it would write none, or its reader
    /// would. It counts as done, with no rows.
    Skipped,
    /// It has no output, and all stages that could read one have ended. It waits again if one of them has to run again.
    Unneeded {
        /// The winner whose output was dropped when those stages had ended; `None` if there was no output.
        released: Option<Box<Winner>>,
    },
}

/// An attempt at work.
///
/// ```text
/// assigned --> RunningAttempt --> Winner --> lost (kept in `lost_winner`, may come back)
///                    |              `------> retired
///                    `--> failed | cancelled | lost   (forgotten, only counted)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningAttempt {
    pub(super) id: AttemptId,
    pub(super) worker: Arc<WorkerId>,
    pub(super) stream_epoch: StreamEpoch,
    /// Start sequence number within the query.
    pub(super) start: u64,
    /// Whether it was told to sort both sides of its joins.
    pub(super) sorts_joins: bool,
    /// Whether it was started as the duplicate of a slow attempt.
    pub(super) speculative: bool,
    pub(super) assigned: Instant,
    /// Since when it runs with all of its inputs.
    pub(super) clock: Instant,
    pub(super) metrics: AttemptMetrics,
    /// When its counters last changed, or it had reason to make no progress.
    pub(super) active: Instant,
}

impl RunningAttempt {
    pub(super) fn new(
        id: AttemptId,
        worker: Arc<WorkerId>,
        stream_epoch: StreamEpoch,
        start: u64,
        now: Instant,
    ) -> Self {
        Self {
            id,
            worker,
            stream_epoch,
            start,
            sorts_joins: false,
            speculative: false,
            assigned: now,
            clock: now,
            metrics: AttemptMetrics::default(),
            active: now,
        }
    }
}

/// How an attempt ended without a win.
pub(super) enum AttemptEnd {
    /// It failed.
    Failed,
    /// It was lost with its worker or an input, or ended for the sake of others: no failure of its own.
    Lost {
        /// What it was lost to.
        cause: String,
    },
    /// The coordinator stopped it.
    Cancelled,
}

/// The attempt whose output counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Winner {
    pub(super) id: AttemptId,
    pub(super) worker: Arc<WorkerId>,
    pub(super) counters: StoredCounters,
    /// Rows that it wrote to its exchange.
    pub(super) rows: u64,
    /// What is known of the parts of its output, if anything is: most tasks of a large query have little to tell.
    pub(super) parts: Option<Arc<OutputParts>>,
}

/// What is known of the parts of an attempt's output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OutputParts {
    /// Where its keys are, if it wrote a sorted run.
    pub(super) run: Option<SortedRun>,
    /// The partitions that hold bytes; `None` if all of them do.
    pub(super) filled: Option<PartitionSet>,
    /// The sizes of its partitions, if a reader may split them.
    pub(super) bytes: Option<MapTaskBytes>,
}

impl Winner {
    /// Where its keys are, if it wrote a sorted run.
    pub(super) fn run(&self) -> Option<&SortedRun> {
        self.parts.as_ref()?.run.as_ref()
    }

    /// The partitions that hold bytes; `None` if all of them do.
    fn filled(&self) -> Option<&PartitionSet> {
        self.parts.as_ref()?.filled.as_ref()
    }

    /// The sizes of its partitions, if a reader may split them.
    pub(super) fn bytes(&self) -> Option<&MapTaskBytes> {
        self.parts.as_ref()?.bytes.as_ref()
    }

    /// The update for its readers.
    pub(super) fn update(&self, state: InputState) -> InputUpdate {
        InputUpdate {
            map_attempt: self.id,
            stream_epoch: stream_epoch(self.id),
            worker: Arc::clone(&self.worker),
            state,
            filled_partitions: self.filled().cloned(),
        }
    }
}

/// The epoch of the streams of an attempt, which grows over the attempts of its task.
fn stream_epoch(attempt: AttemptId) -> StreamEpoch {
    StreamEpoch(u64::from(attempt.attempt) + 1)
}

/// One task over all its attempts. For most tasks only the winner is kept.
#[derive(Debug)]
pub(super) struct TaskRun {
    pub(super) state: TaskState,
    /// How many attempts this coordinator has started.
    pub(super) attempts: u32,
    /// What went wrong before.
    history: Option<Box<History>>,
}

/// What is kept of attempts that failed or were lost.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Failures that count towards the limit.
    pub(super) failures: u32,
    /// Duplicates of its attempts so far.
    pub(super) duplicates: u32,
    /// Attempts that ended because others held the memory or disk that they needed.
    pub(super) contended: u32,
    /// The first failure that counted.
    pub(super) first_failure: Option<QueryFailure>,
    /// Where the last failure happened. The next attempt prefers another worker.
    pub(super) failed_on: Option<WorkerId>,
    /// Why the last lost attempt was lost.
    pub(super) last_loss: Option<String>,
    /// A winner whose worker was lost with its output. It counts again if the worker returns with the output before another
    /// attempt wins.
    pub(super) lost_winner: Option<Box<Winner>>,
    /// The winners in the stage's epoch whose output does not count any more. Readers may have rows of each.
    pub(super) past_winners: Vec<Winner>,
}

impl TaskRun {
    pub(super) fn new() -> Self {
        Self {
            state: TaskState::Waiting {
                not_before: Instant::default(),
            },
            attempts: 0,
            history: None,
        }
    }

    /// What is kept of attempts before.
    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    pub(super) fn history_mut(&mut self) -> &mut History {
        self.history.get_or_insert_default()
    }

    /// What is kept of attempts before, if there is anything.
    pub(super) fn known_history(&mut self) -> Option<&mut History> {
        self.history.as_deref_mut()
    }

    /// The worker where its last attempt failed.
    pub(super) fn failed_on(&self) -> Option<&WorkerId> {
        self.history()?.failed_on.as_ref()
    }

    /// The attempt that won last, of a task whose output nobody needs any more.
    pub(super) fn unneeded_winner(&self) -> Option<&Winner> {
        match &self.state {
            TaskState::Unneeded {
                released: Some(winner),
            } => Some(winner),
            TaskState::Unneeded { released: None } => self.history()?.past_winners.last(),
            TaskState::Waiting { .. } | TaskState::Running(_) | TaskState::Won(_) | TaskState::Skipped => {
                None
            }
        }
    }

    /// Its part of the counters of its stage, without running attempts: the counters of its winner, even if nobody needs the
    /// output any more.
    pub(super) fn counters(&self) -> [u64; COUNTERS] {
        let winner = self.winner().or(self.unneeded_winner());
        winner.map_or([0; COUNTERS], |winner| winner.counters.get())
    }

    /// Allocates the next attempt. Numbers and stream epochs grow over the task's life, from `first` on, and are never used twice.
    pub(super) fn next_attempt(
        &mut self,
        task: TaskId,
        stage_epoch: StageEpoch,
        first: u32,
    ) -> (AttemptId, StreamEpoch) {
        let attempt = AttemptId {
            stage: task.stage,
            stage_epoch,
            task: task.task,
            attempt: first.saturating_add(self.attempts),
        };
        self.attempts += 1;
        (attempt, stream_epoch(attempt))
    }

    /// Whether an attempt has won in the stage's epoch, whatever became of its output: readers may have rows of it.
    pub(super) fn has_won_before(&self) -> bool {
        let past = self.history.as_ref();
        self.winner().is_some()
            || self.unneeded_winner().is_some()
            || past.is_some_and(|history| !history.past_winners.is_empty())
    }

    /// The running attempts, by number.
    pub(super) fn running_attempts(&self) -> impl Iterator<Item = &RunningAttempt> {
        let attempts = match &self.state {
            TaskState::Running(attempts) => Some(attempts),
            TaskState::Waiting { .. }
            | TaskState::Won(_)
            | TaskState::Skipped
            | TaskState::Unneeded { .. } => None,
        };
        attempts.into_iter().flat_map(|attempts| attempts.values())
    }

    /// The attempt, if it runs.
    pub(super) fn running_attempt(&self, id: AttemptId) -> Option<&RunningAttempt> {
        match &self.state {
            TaskState::Running(attempts) => attempts.get(&id.attempt).filter(|attempt| attempt.id == id),
            TaskState::Waiting { .. }
            | TaskState::Won(_)
            | TaskState::Skipped
            | TaskState::Unneeded { .. } => None,
        }
    }

    /// Adds a running attempt. A task that has won or is not needed gets none.
    pub(super) fn add_running(&mut self, attempt: RunningAttempt) {
        match &mut self.state {
            TaskState::Waiting { .. } => {
                let attempts = BTreeMap::from([(attempt.id.attempt, attempt)]);
                self.state = TaskState::Running(Box::new(attempts));
            }
            TaskState::Running(attempts) => {
                attempts.insert(attempt.id.attempt, attempt);
            }
            TaskState::Won(_) | TaskState::Skipped | TaskState::Unneeded { .. } => {}
        }
    }

    /// Removes a running attempt. After the last one the task waits.
    pub(super) fn remove_running(&mut self, id: AttemptId, not_before: Instant) -> Option<RunningAttempt> {
        self.running_attempt(id)?;
        let TaskState::Running(attempts) = &mut self.state else {
            return None;
        };
        let removed = attempts.remove(&id.attempt);
        if attempts.is_empty() {
            self.state = TaskState::Waiting { not_before };
        }
        removed
    }

    /// Whether no attempt runs and none has won.
    pub(super) fn is_waiting(&self) -> bool {
        match &self.state {
            TaskState::Waiting { .. } => true,
            TaskState::Running(_) | TaskState::Won(_) | TaskState::Skipped | TaskState::Unneeded { .. } => {
                false
            }
        }
    }

    /// Whether it has no output, and nobody could read one.
    pub(super) fn is_unneeded(&self) -> bool {
        match &self.state {
            TaskState::Unneeded { .. } => true,
            TaskState::Waiting { .. } | TaskState::Running(_) | TaskState::Won(_) | TaskState::Skipped => {
                false
            }
        }
    }

    /// Whether it does not have to run, for whatever reason.
    pub(super) fn is_set_aside(&self) -> bool {
        match &self.state {
            TaskState::Skipped | TaskState::Unneeded { .. } => true,
            TaskState::Waiting { .. } | TaskState::Running(_) | TaskState::Won(_) => false,
        }
    }

    /// Takes over the counters that a worker reports of an attempt.
    pub(super) fn record_progress(
        &mut self,
        worker: &WorkerId,
        id: AttemptId,
        metrics: AttemptMetrics,
        now: Instant,
    ) {
        match &mut self.state {
            TaskState::Waiting { .. } | TaskState::Skipped | TaskState::Unneeded { .. } => {}
            TaskState::Running(attempts) => {
                let attempt = attempts.get_mut(&id.attempt);
                if let Some(attempt) = attempt.filter(|known| known.id == id && *known.worker == *worker) {
                    if attempt.metrics != metrics {
                        attempt.active = now;
                    }
                    attempt.metrics = metrics;
                }
            }
            // Of an attempt that has ended, only the bytes on disk can change.
            TaskState::Won(winner) => {
                if winner.id == id && *winner.worker == *worker {
                    let mut stored = AttemptMetrics::of_counters(winner.counters.get());
                    stored.stored(metrics.shuffle_bytes_spilled);
                    winner.counters = stored.counters().into();
                }
            }
        }
    }

    fn running_attempts_mut(&mut self) -> impl Iterator<Item = &mut RunningAttempt> {
        let attempts = match &mut self.state {
            TaskState::Running(attempts) => Some(attempts),
            TaskState::Waiting { .. }
            | TaskState::Won(_)
            | TaskState::Skipped
            | TaskState::Unneeded { .. } => None,
        };
        attempts.into_iter().flat_map(|attempts| attempts.values_mut())
    }

    /// Restarts the stall timeout of the running attempts, which have reason to make no progress.
    pub(super) fn reset_activity(&mut self, now: Instant) {
        self.running_attempts_mut()
            .for_each(|attempt| attempt.active = now);
    }

    /// Lets the runtimes of the running attempts count from now.
    pub(super) fn restart_clocks(&mut self, now: Instant) {
        self.running_attempts_mut()
            .for_each(|attempt| attempt.clock = now);
    }

    /// The winner whose output can be read, if there is one.
    pub(super) fn winner(&self) -> Option<&Winner> {
        match &self.state {
            TaskState::Won(winner) => Some(winner.as_ref()),
            TaskState::Waiting { .. }
            | TaskState::Running(_)
            | TaskState::Skipped
            | TaskState::Unneeded { .. } => None,
        }
    }

    /// Removes the winner of the task, which waits again.
    pub(super) fn take_winner(&mut self) -> Option<Box<Winner>> {
        let waiting = TaskState::Waiting {
            not_before: Instant::default(),
        };
        match std::mem::replace(&mut self.state, waiting) {
            TaskState::Won(winner) => Some(winner),
            other @ (TaskState::Waiting { .. }
            | TaskState::Running(_)
            | TaskState::Skipped
            | TaskState::Unneeded { .. }) => {
                self.state = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, StageId};

    fn start(run: &mut TaskRun, worker: &str) -> AttemptId {
        let task = TaskId {
            stage: StageId(0),
            task: 0,
        };
        let worker = Arc::new(WorkerId {
            name: worker.to_owned(),
            incarnation: Incarnation(1),
        });
        let (id, stream_epoch) = run.next_attempt(task, StageEpoch(0), 0);
        run.add_running(RunningAttempt::new(id, worker, stream_epoch, 0, Instant(5)));
        id
    }

    #[test]
    fn what_is_kept_of_a_task_is_small() {
        // A million tasks: with what an allocator adds, and the place in the list of those that wait, below 200 bytes each.
        assert!(size_of::<TaskRun>() + size_of::<Winner>() <= 128);
    }

    #[test]
    fn a_task_waits_again_when_its_last_attempt_has_ended() {
        let mut run = TaskRun::new();
        let (first, second) = (start(&mut run, "a"), start(&mut run, "b"));
        let running: Vec<AttemptId> = run.running_attempts().map(|attempt| attempt.id).collect();
        assert_eq!(running, [first, second]);
        assert!(run.remove_running(first, Instant(9)).is_some());
        assert_eq!(run.remove_running(first, Instant(9)), None, "it has ended");
        assert!(!run.is_waiting());
        assert!(run.running_attempt(second).is_some());
        assert!(run.remove_running(second, Instant(9)).is_some());
        assert_eq!(
            run.state,
            TaskState::Waiting {
                not_before: Instant(9)
            }
        );
    }
}
