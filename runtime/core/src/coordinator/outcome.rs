//! How a query ends: with its first cause, once.

use std::time::Duration;

use super::attempts::TaskRun;
use super::event::{Action, Outcome, QueryFailure};
use super::stage_table::StageRun;
use super::worker_registry::Worker;
use super::{Coordinator, MAX_ATTEMPTS_PER_TASK};
use crate::failure::FetchError;
use crate::ids::{AttemptId, TaskId, WorkerId};
use crate::message::InputState;
use crate::metrics::AttemptMetrics;
use crate::time::Instant;
use sluice_crds::ErrorReason;
use sluice_crds::text::shortened;

/// Most workers that a message names.
const MAX_WORKERS_NAMED: usize = 8;
/// How long to wait for the sink's answer beyond the query's deadline.
const COMMIT_GRACE: Duration = Duration::from_secs(30);
/// How long to wait for the sink's answer at all. A commit renames and links files, which takes seconds.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the query stands.
///
/// ```text
/// Running --> Committing --> Ended
///    |   (sink only)           ^
///    |_________________________|
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QueryState {
    /// Attempts run, or the client reads.
    Running,
    /// The sink is making the files visible: the query is over, but its outcome is the sink's answer.
    Committing {
        /// When it began to.
        since: Instant,
        /// What the query ends with if the sink could not commit: something ended it before the answer came.
        otherwise: Option<Outcome>,
    },
    /// It has ended.
    Ended {
        /// When.
        at: Instant,
        /// How.
        outcome: Outcome,
    },
}

impl Coordinator {
    /// Whether `EndQuery` was given.
    pub fn has_ended(&self) -> bool {
        match self.state {
            QueryState::Running | QueryState::Committing { .. } => false,
            QueryState::Ended { .. } => true,
        }
    }

    /// Ends the query; the first call counts.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if self.has_ended() {
            return;
        }
        self.cancel_all();
        self.return_leases();
        let keeps_sink = match &outcome {
            Outcome::Succeeded => true,
            Outcome::Failed(_) | Outcome::Cancelled => !self.policy.sink,
        };
        if !keeps_sink {
            self.out.push(Action::AbortSink);
        }
        self.state = QueryState::Ended {
            at: self.now,
            outcome: outcome.clone(),
        };
        self.out.push(Action::EndQuery { outcome });
    }

    /// Ends the query, unless the sink is committing: then its answer decides.
    pub(super) fn end_or_remember(&mut self, outcome: Outcome) {
        match &mut self.state {
            QueryState::Running => self.end(outcome),
            QueryState::Committing { otherwise, .. } => {
                otherwise.get_or_insert(outcome);
            }
            QueryState::Ended { .. } => {}
        }
    }

    fn cancel_all(&mut self) {
        let running = self.stages.running_attempts();
        let running: Vec<_> = running
            .map(|attempt| (WorkerId::clone(&attempt.worker), attempt.id))
            .collect();
        for (worker, attempt) in running {
            self.cancel_attempt(worker, attempt);
        }
    }

    fn fail(&mut self, reason: ErrorReason, message: String) {
        self.end_or_remember(Outcome::Failed(QueryFailure {
            reason,
            message,
            attempt: None,
        }));
    }

    /// Lets the sink commit once every root task has won.
    pub(super) fn check_roots(&mut self) {
        let all_won = self
            .topology
            .roots
            .iter()
            .all(|root| self.stages.get(*root).is_done());
        if self.state != QueryState::Running || !self.policy.sink || !all_won {
            return;
        }
        self.cancel_all();
        self.return_leases();
        let winners = self.stages.winners(&self.topology.roots);
        let winners = winners.map(|winner| winner.id).collect();
        self.out.push(Action::CommitSink { winners });
        self.state = QueryState::Committing {
            since: self.now,
            otherwise: None,
        };
    }

    pub(super) fn on_sink_committed(&mut self) {
        match self.state {
            // The result is visible, whatever was asked for meanwhile.
            QueryState::Committing { .. } => {
                if self.has_rows() {
                    self.first_row.get_or_insert(self.now);
                }
                self.end(Outcome::Succeeded);
            }
            QueryState::Running | QueryState::Ended { .. } => {}
        }
    }

    /// Whether a root attempt that counts has made rows.
    fn has_rows(&self) -> bool {
        let mut winners = self.stages.winners(&self.topology.roots);
        winners.any(|winner| AttemptMetrics::of_counters(winner.counters.get()).rows_out > 0)
    }

    /// Ends the query because the sink or the reader of the result will not answer: with the first cause.
    pub(super) fn give_up(&mut self, reason: ErrorReason, message: String) {
        let failed = Outcome::Failed(QueryFailure {
            reason,
            message,
            attempt: None,
        });
        match &mut self.state {
            QueryState::Running => self.end(failed),
            QueryState::Committing { otherwise, .. } => {
                let outcome = otherwise.take().unwrap_or(failed);
                self.end(outcome);
            }
            QueryState::Ended { .. } => {}
        }
    }

    pub(super) fn on_result_delivered(&mut self) {
        if !self.policy.sink {
            self.end(Outcome::Succeeded);
        }
    }

    pub(super) fn on_result_fetch_failed(
        &mut self,
        attempt: AttemptId,
        error: FetchError,
        partially_delivered: bool,
    ) {
        if self.policy.sink {
            return;
        }
        if partially_delivered {
            let message = format!(
                "rows of {attempt} had already been handed out when the rest of them was lost ({error}); \
                 run the query again, or give it a sink, which shows all rows or none"
            );
            self.end(Outcome::Failed(QueryFailure {
                reason: ErrorReason::ResultPartiallyRead,
                message,
                attempt: Some(attempt),
            }));
            return;
        }
        let winner = self.stages.winner(attempt.task_id());
        match winner.filter(|winner| winner.id != attempt) {
            // Another attempt has won meanwhile; the client may have failed before it was told.
            Some(winner) => {
                let updates = vec![winner.update(InputState::Won)];
                self.out.push(Action::UpdateResult { updates });
            }
            None => self.on_output_unreadable(attempt, error),
        }
    }

    pub(super) fn check_deadline(&mut self) {
        let Some(deadline) = self.policy.deadline else {
            return;
        };
        if self.started + deadline <= self.now {
            let message = format!(
                "the query ran longer than its deadline of {} s; raise deadlineSeconds or give it more workers",
                deadline.as_secs()
            );
            self.fail(ErrorReason::DeadlineExceeded, message);
        }
    }

    /// Until when to wait for the sink's answer: some time beyond the query's deadline, since most commits that have begun
    /// end soon, and only their answer says whether the rows are visible.
    pub(super) fn commit_deadline(&self) -> Option<Instant> {
        let QueryState::Committing { since, .. } = &self.state else {
            return None;
        };
        let grace = self
            .policy
            .deadline
            .map(|span| self.started + span + COMMIT_GRACE);
        let timeout = *since + COMMIT_TIMEOUT;
        // A commit that began close to the deadline has its grace too.
        Some(grace.map_or(timeout, |grace| grace.max(*since + COMMIT_GRACE).min(timeout)))
    }

    /// Ends a query whose sink does not answer: a file system can hang for ever.
    pub(super) fn check_commit(&mut self) {
        if self.commit_deadline().is_some_and(|at| at <= self.now) {
            let message = "the sink did not answer whether it has made the rows visible: see whether its file \
                           system works, and look for the rows before you run the query again";
            self.give_up(ErrorReason::SinkFailed, message.to_owned());
        }
    }

    /// Fails the query when there is work and no usable worker for the grace time, or at once when all workers are excluded.
    /// An attempt that waits for an input does not count as running: nobody may be able to make that input.
    pub(super) fn check_worker_availability(&mut self) {
        let idle = self.stages.running_attempts().next().is_none();
        let works = |stage: &StageRun| stage.is_running() && self.inputs_done(stage.id());
        let at_work = self.stages.iter().any(works);
        let usable = self.slots.has_usable_worker();
        let work = self
            .topology
            .roots
            .iter()
            .any(|root| !self.stages.get(*root).is_done());
        if self.state != QueryState::Running || at_work || usable || !work {
            self.no_usable_worker_since = None;
            return;
        }
        let since = *self.no_usable_worker_since.get_or_insert(self.now);
        let excluded = |worker: &Worker| self.workers.is_excluded(worker);
        let hopeless = idle && self.workers.all().len() > 0 && self.workers.all().all(excluded);
        if !hopeless && self.now < since + self.policy.no_workers_grace {
            return;
        }
        let connected_excluded = self.workers.connected().any(excluded);
        match self
            .first_failure
            .clone()
            .filter(|_| hopeless || connected_excluded)
        {
            Some(first) => {
                let message = format!("every worker failed too often; first: {}", first.message);
                self.end(Outcome::Failed(QueryFailure { message, ..first }));
            }
            None => self.fail(ErrorReason::WorkersLost, self.no_workers_message()),
        }
    }

    fn no_workers_message(&self) -> String {
        let grace = self.policy.no_workers_grace.as_millis();
        let mut message = format!("no worker took work for {grace} ms");
        let describe = |worker: &Worker| match (worker.last_error(), worker.is_connected()) {
            (_, true) => "it takes no more attempts".to_owned(),
            (Some(error), false) => shorten(error),
            (None, false) => "it was lost".to_owned(),
        };
        let workers = self.workers.all();
        let total = workers.len();
        if total == 0 {
            message.push_str("; none was ever reached");
        }
        for worker in workers.take(MAX_WORKERS_NAMED) {
            message.push_str(&format!("; {}: {}", worker.name(), describe(worker)));
        }
        if total > MAX_WORKERS_NAMED {
            message.push_str(&format!("; and {} more", total - MAX_WORKERS_NAMED));
        }
        message
    }

    /// Fails the query for a task that was lost too often. Lost attempts are no failures, but they must have an end.
    pub(super) fn fail_for_lost_attempts(&mut self, task: TaskId) {
        let loss = self.stages.task(task).and_then(TaskRun::history);
        let loss = loss.and_then(|history| history.last_loss.clone());
        let message = format!(
            "task {task} was started {MAX_ATTEMPTS_PER_TASK} times and lost each time; the last time: {}",
            loss.unwrap_or_else(|| "unknown".to_owned())
        );
        self.fail(ErrorReason::WorkersLost, message);
    }
}

/// At most 200 characters of an error that a message quotes.
pub(super) fn shorten(text: &str) -> String {
    shortened(text, 201)
}
