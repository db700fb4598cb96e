//! What workers report of attempts: progress, success, failure.

use std::sync::Arc;
use std::time::Duration;

use super::Coordinator;
use super::attempts::{AttemptEnd, OutputParts, TaskRun, Winner};
use super::event::{Action, Outcome, QueryFailure};
use crate::failure::{AttemptFailure, BadInputKind, FetchError};
use crate::ids::{AttemptId, StageId, TaskId, WorkerId};
use crate::layout::{LayoutId, MapTaskBytes};
use crate::message::{FinishedOutput, InputState, MapOutputPartitionMeta};
use crate::metrics::AttemptMetrics;
use crate::partition_set::PartitionSet;
use crate::time::Instant;
use sluice_crds::ErrorReason;

/// Doublings of the backoff: at most 64 times the base.
const MAX_BACKOFF_DOUBLINGS: u32 = 6;
/// Most attempts of one task that may end because others hold memory or disk. With their backoffs they take a quarter of
/// an hour at the default base.
pub(super) const MAX_CONTENDED_ATTEMPTS: u32 = 60;

impl Coordinator {
    pub(super) fn on_progressed(&mut self, worker: &WorkerId, id: AttemptId, metrics: AttemptMetrics) {
        if !self.workers.heard(worker, self.now) {
            return;
        }
        let running = self.stages.running_attempt(worker, id);
        if let Some(assigned) = running.map(|attempt| attempt.assigned) {
            self.record_firsts(id.stage, assigned, &metrics);
        }
        if self.stages.task(id.task_id()).is_some() {
            let stage = self.stages.get_mut(id.stage);
            stage.record_progress(worker, id, metrics, self.now);
        }
    }

    /// Records when a stage that reads exchanges got its first bytes and put out its first row. Workers report the time since
    /// the attempt's begin, so clocks of two machines are never compared.
    fn record_firsts(&mut self, stage: StageId, assigned: Instant, metrics: &AttemptMetrics) {
        if self.graph.stages[stage.0 as usize].inputs.is_empty() {
            return;
        }
        let now = self.now;
        let at = |after: Option<u64>| after.map(|millis| (assigned + Duration::from_millis(millis)).min(now));
        let (chunk, row) = (at(metrics.first_chunk_ms), at(metrics.first_reduce_row_ms));
        self.stages.get_mut(stage).record_firsts(chunk, row);
    }

    /// Frees the attempt's slot; false if the report comes from a session that is over.
    fn ended_at(&mut self, worker: &WorkerId, id: AttemptId) -> bool {
        if !self.workers.heard(worker, self.now) {
            return false;
        }
        self.slots.vacate(&worker.name, id, self.now);
        self.stragglers.recheck(self.now);
        true
    }

    pub(super) fn on_succeeded(&mut self, worker: &WorkerId, success: FinishedOutput) {
        let id = success.attempt;
        if !self.ended_at(worker, id) {
            return;
        }
        let Some(attempt) = self.stages.running_attempt(worker, id) else {
            let winner = self.stages.winner(id.task_id());
            if winner.is_none_or(|winner| winner.id != id) {
                // It was cancelled or given up while it finished.
                self.retire(worker, id);
            }
            return;
        };
        let (assigned, clock) = (attempt.assigned, attempt.clock);
        let at = Arc::clone(&attempt.worker);
        let layout = self.layouts.id(id.stage).unwrap_or_default();
        if success.layout != layout {
            return self.refuse_success(worker, id, success.layout, layout);
        }
        self.record_firsts(id.stage, assigned, &success.metrics);
        self.record_runtime(id.task_id(), clock, &success.metrics);
        self.win_with(at, success);
    }

    /// Makes an attempt the winner of its task by what it reported of its output.
    pub(super) fn win_with(&mut self, worker: Arc<WorkerId>, success: FinishedOutput) {
        let id = success.attempt;
        let partitions = self.output_partitions(id.stage);
        let rows = success.outputs.iter().map(|output| output.rows);
        let rows = rows.fold(0, u64::saturating_add);
        let mut parts = OutputParts {
            run: success.run,
            filled: filled(&success.outputs, partitions),
            bytes: None,
        };
        if self.may_be_split(id.stage) {
            parts.bytes = Some(MapTaskBytes::new(&success.outputs, partitions));
        }
        let winner = Winner {
            id,
            worker,
            counters: success.metrics.counters().into(),
            rows,
            parts: (parts != OutputParts::default()).then(|| Arc::new(parts)),
        };
        let has_won_before = self
            .stages
            .task(id.task_id())
            .is_some_and(TaskRun::has_won_before);
        if !has_won_before {
            self.layouts
                .count_outputs(id.stage, &winner.worker, partitions, &success.outputs);
        }
        let tasks = self.layouts.tasks(id.stage);
        self.filters.add(id.task_id(), success.filters, tasks);
        self.win(winner);
    }

    /// An attempt has read its inputs by another layout than its stage has: its rows may be those of other tasks.
    fn refuse_success(&mut self, worker: &WorkerId, id: AttemptId, reported: LayoutId, layout: LayoutId) {
        self.retire(worker, id);
        let message =
            format!("it read its inputs by layout {reported}, and those of its stage are read by {layout}");
        self.count_failure(worker, id, ErrorReason::TaskFailed, &message);
    }

    /// How many partitions each task of the stage writes.
    pub(super) fn output_partitions(&self, stage: StageId) -> u32 {
        let exchange = self.graph.stages[stage.0 as usize].output;
        self.graph.exchanges[exchange.0 as usize].partitions
    }

    /// Makes an attempt the winner of its task and notifies the readers. Other attempts of the task are not needed any more.
    pub(super) fn win(&mut self, winner: Winner) {
        let announced = winner.clone();
        self.suspects.clear(winner.id.task_id());
        self.failed_tasks.remove(&winner.id.task_id());
        let others = self.stages.get_mut(winner.id.stage).win(winner, self.now);
        self.out
            .extend(others.into_iter().map(|other| Action::CancelAttempt {
                worker: WorkerId::clone(&other.worker),
                attempt: other.id,
            }));
        self.notify_readers(&announced, InputState::Won);
        self.apply_row_limit(announced.id.stage);
        self.end_readers_of_nothing(announced.id.stage);
        self.finalize_layouts_after(announced.id.stage);
    }

    /// Whether a task of the stage has failed and not won since.
    pub(super) fn has_failed_tasks(&self, stage: StageId) -> bool {
        let first = TaskId { stage, task: 0 };
        let last = TaskId {
            stage,
            task: u32::MAX,
        };
        self.failed_tasks.range(first..=last).next().is_some()
    }

    /// Drops the output of an attempt that does not count.
    pub(super) fn retire(&mut self, worker: &WorkerId, attempt: AttemptId) {
        if self.workers.is_connected(worker) {
            self.out.push(Action::RetireAttempt {
                worker: worker.clone(),
                attempt,
            });
        }
    }

    pub(super) fn on_failed(&mut self, worker: &WorkerId, id: AttemptId, failure: &AttemptFailure) {
        if !self.ended_at(worker, id) || self.stages.running_attempt(worker, id).is_none() {
            return;
        }
        match failure {
            AttemptFailure::FetchFailed { map_attempt, error } => {
                self.on_input_lost(id, *map_attempt, *error, failure.to_string());
            }
            // A first attempt, which began earlier, finds the same, or its inputs have changed since.
            AttemptFailure::BadInput { .. } if self.stages.is_duplicate(id) => {
                self.lose_attempt(id, failure.to_string(), Duration::ZERO);
            }
            AttemptFailure::BadInput { kind, message } => {
                let failure = QueryFailure {
                    reason: bad_input_reason(*kind),
                    message: message.clone(),
                    attempt: Some(id),
                };
                let stage = self.stages.get_mut(id.stage);
                stage.end_attempt(id, AttemptEnd::Failed, Instant::default(), self.now);
                self.end(Outcome::Failed(failure));
            }
            AttemptFailure::ResourcesExhausted { resource, message } => {
                if self.switch_joins(worker, id, *resource) {
                    // The attempt that sorts is another one, not the same once more.
                    return self.lose_attempt(id, message.clone(), Duration::ZERO);
                }
                // All workers of a pool have the same memory and disk.
                let cause = query_failure(ErrorReason::ResourcesExhausted, id, worker, message);
                self.count_for_task(worker, id, cause);
            }
            AttemptFailure::ResourcesContended { resource, message } => {
                self.switch_joins(worker, id, *resource);
                self.retry_when_uncontended(worker, id, message);
            }
            AttemptFailure::Failed { message } => {
                self.count_failure(worker, id, ErrorReason::TaskFailed, message);
            }
            AttemptFailure::SinkFailed { message } => {
                // All workers write to the same place, so this one is not at fault.
                let cause = query_failure(ErrorReason::SinkFailed, id, worker, message);
                self.count_for_task(worker, id, cause);
            }
            AttemptFailure::Refused { message: _ } => {
                // The worker is at fault, not the task: another worker may take it.
                let cause = query_failure(ErrorReason::TaskFailed, id, worker, &failure.to_string());
                self.record_worker_failure(worker, &cause);
                self.lose_attempt(id, failure.to_string(), self.policy.retry_backoff_base);
            }
            AttemptFailure::Cancelled => {
                // Not by this coordinator, or the task would no longer wait for the attempt.
                let message = "its worker cancelled it".to_owned();
                self.lose_attempt(id, message, self.policy.retry_backoff_base);
            }
        }
    }

    /// A failure that counts for the task and against the worker.
    pub(super) fn count_failure(
        &mut self,
        worker: &WorkerId,
        id: AttemptId,
        reason: ErrorReason,
        message: &str,
    ) {
        let cause = query_failure(reason, id, worker, message);
        self.record_worker_failure(worker, &cause);
        self.count_for_task(worker, id, cause);
    }

    /// The task waits until others free what it needs, a limited number of times.
    fn retry_when_uncontended(&mut self, worker: &WorkerId, id: AttemptId, message: &str) {
        if self.stages.is_duplicate(id) {
            return self.lose_attempt(id, message.to_owned(), Duration::ZERO);
        }
        let base = self.policy.retry_backoff_base;
        self.failed_tasks.insert(id.task_id());
        let Some(task) = self.stages.task_mut(id.task_id()) else {
            return;
        };
        let history = task.history_mut();
        history.contended += 1;
        history.failed_on = Some(worker.clone());
        let waits = history.contended;
        if waits > MAX_CONTENDED_ATTEMPTS {
            let message = format!("it waited {MAX_CONTENDED_ATTEMPTS} times for room at workers; {message}");
            let cause = query_failure(ErrorReason::ResourcesExhausted, id, worker, &message);
            return self.count_for_task(worker, id, cause);
        }
        let backoff = base * (1 << (waits - 1).min(MAX_BACKOFF_DOUBLINGS));
        self.lose_attempt(id, message.to_owned(), backoff);
    }

    /// Counts a failure for the task alone: it runs again after its backoff, or the query ends. That of a duplicate does not
    /// count: without it, its task would only have the other attempt.
    fn count_for_task(&mut self, worker: &WorkerId, id: AttemptId, cause: QueryFailure) {
        if self.stages.is_duplicate(id) {
            return self.lose_attempt(id, cause.message, Duration::ZERO);
        }
        let limit = self.policy.max_task_attempts.max(1);
        let (now, base) = (self.now, self.policy.retry_backoff_base);
        self.failed_tasks.insert(id.task_id());
        let Some(task) = self.stages.task_mut(id.task_id()) else {
            return;
        };
        let history = task.history_mut();
        let doublings = history.failures.min(MAX_BACKOFF_DOUBLINGS);
        history.failures += 1;
        history.failed_on = Some(worker.clone());
        let first = history.first_failure.get_or_insert(cause).clone();
        let failures = history.failures;
        let stage = self.stages.get_mut(id.stage);
        stage.end_attempt(id, AttemptEnd::Failed, now + base * (1 << doublings), now);
        if failures >= limit {
            let message = match limit {
                1 => first.message,
                _ => format!(
                    "task {} failed {limit} times; first: {}",
                    id.task_id(),
                    first.message
                ),
            };
            self.end(Outcome::Failed(QueryFailure { message, ..first }));
        }
    }

    /// A reader could not read an input. It is not at fault and waits for its inputs again.
    fn on_input_lost(
        &mut self,
        reader: AttemptId,
        map_attempt: AttemptId,
        error: FetchError,
        message: String,
    ) {
        self.lose_attempt(reader, message, Duration::ZERO);
        self.on_output_unreadable(map_attempt, error);
    }

    /// Ends an attempt that is lost without a failure of its own; its task may run again after `backoff`.
    pub(super) fn lose_attempt(&mut self, id: AttemptId, cause: String, backoff: Duration) {
        let not_before = if backoff.is_zero() {
            Instant::default()
        } else {
            self.now + backoff
        };
        let stage = self.stages.get_mut(id.stage);
        stage.end_attempt(id, AttemptEnd::Lost { cause }, not_before, self.now);
    }

    /// Stops the attempts of a task that are at work; the task waits again.
    pub(super) fn cancel_task(&mut self, task: TaskId) {
        let running = self
            .stages
            .task(task)
            .into_iter()
            .flat_map(TaskRun::running_attempts);
        let running: Vec<_> = running
            .map(|attempt| (WorkerId::clone(&attempt.worker), attempt.id))
            .collect();
        for (worker, attempt) in running {
            self.cancel_attempt(worker, attempt);
        }
    }

    /// Stops an attempt at work.
    pub(super) fn cancel_attempt(&mut self, worker: WorkerId, attempt: AttemptId) {
        self.out.push(Action::CancelAttempt { worker, attempt });
        let stage = self.stages.get_mut(attempt.stage);
        stage.end_attempt(attempt, AttemptEnd::Cancelled, Instant::default(), self.now);
    }
}

/// The partitions that hold bytes, unless all of them do.
fn filled(outputs: &[MapOutputPartitionMeta], partitions: u32) -> Option<PartitionSet> {
    if outputs.len() >= partitions as usize {
        return None;
    }
    let members = outputs.iter().map(|output| output.partition);
    Some(PartitionSet::new(partitions, members))
}

/// The failure of an attempt as the cause of a query's end.
pub(super) fn query_failure(
    reason: ErrorReason,
    attempt: AttemptId,
    worker: &WorkerId,
    message: &str,
) -> QueryFailure {
    QueryFailure {
        reason,
        message: format!("attempt {attempt} on worker {}: {message}", worker.name),
        attempt: Some(attempt),
    }
}

/// The reason that status shows for a bad input.
fn bad_input_reason(kind: BadInputKind) -> ErrorReason {
    match kind {
        BadInputKind::InputChanged => ErrorReason::InputChanged,
        BadInputKind::InputCorrupt => ErrorReason::InputCorrupt,
        // The data, not the statement, but the user is the one who can act.
        BadInputKind::InvalidValue => ErrorReason::TaskFailed,
        BadInputKind::ForbiddenPath => ErrorReason::ForbiddenPath,
        BadInputKind::UnsupportedPlan => ErrorReason::UnsupportedPlan,
    }
}
