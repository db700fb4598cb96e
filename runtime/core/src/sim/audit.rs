//! The rules that must hold after every step. They are checked on the events and actions of the coordinator, and on what
//! readers took. The audit shares no code with the machines that it checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::division::Division;
use super::live::LiveAttempts;
use super::model::Row;
use super::told::ToldOutputs;
use crate::coordinator::{
    Action, Event, MAX_ATTEMPTS_PER_TASK, MAX_WORKERS_LOST_WITH_TASK, Outcome, Policy, QueryFailure,
};
use crate::failure::AttemptFailure;
use crate::ids::{AttemptId, StageEpoch, StageId, StreamId, TaskId, WorkerId};
use crate::message::{InputState, InputUpdate};
use crate::plan::StageGraph;
use crate::time::Instant;
use sluice_crds::ErrorReason;

/// A broken rule.
pub type Violation = String;

#[derive(Debug, Default)]
pub struct Audit {
    /// Whether a task may have a second attempt at work.
    pub(super) speculates: bool,
    /// Slots that the coordinator may still use, by worker name.
    granted: BTreeMap<String, u32>,
    connected: BTreeSet<String>,
    /// Workers that take no new attempts in this session.
    draining: BTreeSet<String>,
    /// Where each attempt was assigned.
    pub(super) assigned: BTreeMap<AttemptId, String>,
    /// Who has a session under each name, and the attempts there whose end was not heard.
    at_work: BTreeMap<String, (WorkerId, BTreeSet<AttemptId>)>,
    /// Workers that were lost unannounced while they ran the task, and did not come back.
    lost_with: BTreeMap<TaskId, BTreeSet<WorkerId>>,
    /// Assigned, and neither ended, cancelled nor lost.
    live: LiveAttempts,
    pub(super) next_attempt: BTreeMap<TaskId, u32>,
    /// How many attempts this coordinator has started of each task.
    started: BTreeMap<TaskId, u32>,
    epochs: BTreeMap<StageId, StageEpoch>,
    pub(super) succeeded: BTreeSet<AttemptId>,
    /// The attempt that counts, according to the updates sent.
    winners: BTreeMap<TaskId, AttemptId>,
    /// Attempts whose rows count no more.
    superseded: BTreeSet<AttemptId>,
    /// Finished outputs that a worker was not told to drop, and where they are.
    pub(super) kept: BTreeMap<AttemptId, String>,
    /// Tasks of which the output that counted was dropped, and in which epoch of their stage.
    released: BTreeMap<TaskId, StageEpoch>,
    /// How often such a task ran again in that epoch.
    pub ran_again: u32,
    ended: bool,
    pub(super) division: Division,
    pub(super) told: ToldOutputs,
    /// What each stream of a finished attempt holds.
    pub published: BTreeMap<StreamId, Vec<Row>>,
}

impl Audit {
    pub fn of(graph: &StageGraph, speculates: bool) -> Self {
        Self {
            division: Division::of(graph),
            speculates,
            live: LiveAttempts::of(speculates),
            ..Self::default()
        }
    }

    /// Records an event before the coordinator handles it.
    pub fn on_event(&mut self, event: &Event) {
        match event {
            Event::WorkerJoined { worker, held, .. } => {
                self.lose(&worker.name);
                let held = held.iter().map(|attempt| (*attempt, worker.name.clone()));
                self.kept.extend(held);
                self.connected.insert(worker.name.clone());
                let at_work = (worker.clone(), BTreeSet::new());
                self.at_work.insert(worker.name.clone(), at_work);
                self.lost_with.values_mut().for_each(|lost| {
                    lost.remove(worker);
                });
            }
            Event::WorkerLost { worker, .. } => self.lose(&worker.name),
            Event::SlotsGranted { worker, slots } => {
                *self.granted.entry(worker.name.clone()).or_insert(0) += slots;
            }
            Event::AttemptSucceeded { worker, attempt, .. } => {
                self.end_work(*attempt);
                let session = self.at_work.get(&worker.name);
                if session.is_some_and(|(start, _)| start == worker) {
                    self.kept.insert(*attempt, worker.name.clone());
                }
                // What was cancelled or lost does not count, even if it finished.
                if self.live.succeed(*attempt) {
                    self.succeeded.insert(*attempt);
                    self.told.on_succeeded(*attempt);
                }
            }
            Event::AttemptFailed { attempt, failure, .. } => {
                self.end_work(*attempt);
                self.live.end(*attempt);
                if let AttemptFailure::FetchFailed { map_attempt, .. } = failure {
                    self.withdraw_win(*map_attempt);
                }
            }
            Event::ResultFetchFailed { map_attempt, .. } => self.withdraw_win(*map_attempt),
            Event::WorkerDrained { worker } => {
                self.draining.insert(worker.name.clone());
            }
            Event::WorkerHeard { .. }
            | Event::WorkersKnown
            | Event::AttemptProgressed { .. }
            | Event::FirstRowDelivered
            | Event::ResultDelivered
            | Event::SinkCommitted
            | Event::SinkFailed { .. }
            | Event::TaskPanicked { .. }
            | Event::CancelRequested
            | Event::Ticked => {}
        }
    }

    /// Whether a worker could take attempts.
    pub fn has_usable_worker(&self) -> bool {
        self.connected
            .iter()
            .any(|worker| !self.draining.contains(worker))
    }

    fn end_work(&mut self, attempt: AttemptId) {
        for (_, attempts) in self.at_work.values_mut() {
            attempts.remove(&attempt);
        }
    }

    fn lose(&mut self, worker: &str) {
        let at_work = self.at_work.remove(worker);
        let silent = at_work.filter(|_| !self.draining.contains(worker));
        if let Some((start, attempts)) = silent {
            for attempt in attempts {
                let lost = self.lost_with.entry(attempt.task_id()).or_default();
                lost.insert(start.clone());
            }
        }
        self.connected.remove(worker);
        self.told.on_session_ended(worker);
        self.draining.remove(worker);
        self.granted.remove(worker);
        self.kept.retain(|_, name| name != worker);
        let assigned = &self.assigned;
        let there = |attempt: &AttemptId| assigned.get(attempt).is_some_and(|name| name == worker);
        self.live.lose(worker);
        self.winners.retain(|_, attempt| !there(attempt));
    }

    fn withdraw_win(&mut self, attempt: AttemptId) {
        if self.winners.get(&attempt.task_id()) == Some(&attempt) {
            self.winners.remove(&attempt.task_id());
        }
    }

    /// Checks what must hold once all actions that answer an event are known.
    pub fn on_handled(&mut self) -> Result<(), Violation> {
        match self.ended {
            true => Ok(()),
            false => self.live.on_handled(),
        }
    }

    /// Checks one action.
    pub fn on_action(&mut self, action: &Action) -> Result<(), Violation> {
        if self.ended {
            return Err(format!("after the query's end: {action:?}"));
        }
        match action {
            Action::AssignAttempt { worker, assignment } => {
                self.on_assigned(&worker.name, assignment.attempt)?;
                self.told.on_assigned(&worker.name, assignment)?;
                self.division.on_assigned(assignment)
            }
            Action::SetResultTasks { writer } => {
                self.division.tasks.insert(writer.stage, writer.tasks);
                Ok(())
            }
            Action::UpdateInputs { worker, updates, .. } => updates.iter().try_for_each(|update| {
                self.told.on_update(&worker.name, update)?;
                self.on_update(update)
            }),
            Action::UpdateResult { updates } => updates.iter().try_for_each(|update| self.on_update(update)),
            Action::CommitSink { winners } => {
                self.division.on_committed(winners)?;
                winners.iter().try_for_each(|winner| self.on_won(*winner))
            }
            Action::ReleaseSlots { worker, slots } => {
                let granted = self.granted.entry(worker.name.clone()).or_insert(0);
                *granted = granted
                    .checked_sub(*slots)
                    .ok_or("slots released that were not granted")?;
                Ok(())
            }
            Action::CancelAttempt { attempt, .. } => {
                self.live.end(*attempt);
                Ok(())
            }
            Action::DropWorker { worker } => {
                self.lose(&worker.name);
                Ok(())
            }
            Action::RetireAttempt { attempt, .. } => {
                self.kept.remove(attempt);
                if self.winners.get(&attempt.task_id()) == Some(attempt) {
                    self.released.insert(attempt.task_id(), attempt.stage_epoch);
                }
                self.withdraw_win(*attempt);
                Ok(())
            }
            Action::EndQuery { outcome } => {
                self.ended = true;
                match outcome {
                    Outcome::Succeeded => self.division.check_result(),
                    Outcome::Failed(_) | Outcome::Cancelled => Ok(()),
                }
            }
            Action::RequestSlots { .. } | Action::DefineLayout { .. } | Action::AbortSink => Ok(()),
        }
    }

    fn on_assigned(&mut self, worker: &str, attempt: AttemptId) -> Result<(), Violation> {
        let task = attempt.task_id();
        if !self.connected.contains(worker) {
            return Err(format!(
                "{attempt} was assigned to {worker}, which has no session"
            ));
        }
        let granted = self.granted.get_mut(worker).filter(|granted| **granted > 0);
        *granted.ok_or_else(|| format!("{attempt} was assigned to {worker} without a slot"))? -= 1;
        self.live.assign(attempt, worker)?;
        let again = self.released.remove(&task) == Some(attempt.stage_epoch);
        self.ran_again += u32::from(again);
        let next = self.next_attempt.entry(task).or_insert(0);
        if attempt.attempt < *next {
            return Err(format!("the number of {attempt} was used before"));
        }
        *next = attempt.attempt + 1;
        let started = self.started.entry(task).or_insert(0);
        *started += 1;
        if *started > MAX_ATTEMPTS_PER_TASK {
            return Err(format!(
                "task {task} has more than {MAX_ATTEMPTS_PER_TASK} attempts"
            ));
        }
        let epoch = self.epochs.entry(task.stage).or_default();
        if attempt.stage_epoch < *epoch {
            return Err(format!("{attempt} belongs to a run of the stage that is over"));
        }
        if attempt.stage_epoch > *epoch {
            *epoch = attempt.stage_epoch;
            self.winners.retain(|of, _| of.stage != task.stage);
        }
        if let Some((_, attempts)) = self.at_work.get_mut(worker) {
            attempts.insert(attempt);
        }
        self.assigned.insert(attempt, worker.to_owned());
        Ok(())
    }

    fn on_update(&mut self, update: &InputUpdate) -> Result<(), Violation> {
        match update.state {
            InputState::Won => self.on_won(update.map_attempt),
            InputState::Superseded => {
                self.superseded.insert(update.map_attempt);
                self.withdraw_win(update.map_attempt);
                Ok(())
            }
            InputState::Lost => {
                self.withdraw_win(update.map_attempt);
                Ok(())
            }
        }
    }

    fn on_won(&mut self, attempt: AttemptId) -> Result<(), Violation> {
        if !self.succeeded.contains(&attempt) {
            return Err(format!("{attempt} has won without success"));
        }
        if self
            .epochs
            .get(&attempt.stage)
            .is_some_and(|epoch| attempt.stage_epoch < *epoch)
        {
            return Err(format!("{attempt} is stale and has won"));
        }
        self.lost_with.remove(&attempt.task_id());
        match self.winners.insert(attempt.task_id(), attempt) {
            Some(other) if other != attempt => Err(format!("{attempt} and {other} have both won")),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks what a reader took of one input: of each map task one attempt, whole, or a piece of it if ranges are read.
    pub fn on_input_read(
        &self,
        tasks: &BTreeSet<TaskId>,
        streams: &BTreeMap<StreamId, Vec<Row>>,
        ranges: bool,
    ) -> Result<(), Violation> {
        let mut attempts: BTreeMap<TaskId, AttemptId> = BTreeMap::new();
        for (stream, rows) in streams {
            let attempt = stream.attempt;
            if *attempts.entry(attempt.task_id()).or_insert(attempt) != attempt {
                return Err(format!("a reader mixed two attempts of {}", attempt.task_id()));
            }
            if !self.succeeded.contains(&attempt) {
                return Err(format!("a reader took rows of {attempt}, which has not won"));
            }
            let published = self.published.get(stream).map(Vec::as_slice).unwrap_or_default();
            let piece = ranges && (rows.is_empty() || published.windows(rows.len()).any(|some| some == rows));
            if published != rows && !piece {
                return Err(format!(
                    "a reader took other rows of {stream} than were published"
                ));
            }
        }
        match tasks.iter().find(|task| !attempts.contains_key(task)) {
            Some(task) => Err(format!("a reader ended without the rows of {task}")),
            None => Ok(()),
        }
    }

    /// Checks a failure for a partially delivered result: rows of that very attempt were delivered, and not all of them, unless
    /// it was superseded. `left` are rows by attempt, `ended` the attempts that were read to their ends.
    pub fn on_outcome(
        &self,
        outcome: &Outcome,
        left: &BTreeMap<AttemptId, Vec<Row>>,
        ended: &BTreeSet<AttemptId>,
    ) -> Result<(), Violation> {
        let Outcome::Failed(QueryFailure {
            reason: ErrorReason::ResultPartiallyRead,
            attempt,
            ..
        }) = outcome
        else {
            return Ok(());
        };
        let attempt = attempt.ok_or("rows had left, but of no attempt")?;
        if left.get(&attempt).is_none_or(Vec::is_empty) {
            return Err(format!("no row of {attempt} had left"));
        }
        if ended.contains(&attempt) && !self.superseded.contains(&attempt) {
            return Err(format!("all rows of {attempt} had left, and they count"));
        }
        Ok(())
    }

    /// Checks at the end of a query that workers keep nothing of these stages, whose readers have all ended.
    pub fn on_kept(&self, is_read: impl Fn(StageId) -> bool) -> Result<(), Violation> {
        match self.kept.keys().find(|attempt| is_read(attempt.stage)) {
            Some(attempt) => Err(format!("{attempt} was read and is kept")),
            None => Ok(()),
        }
    }

    /// Checks a failure for a poison task: two workers were lost while they ran it, and neither came back.
    pub fn on_poison(&self, outcome: &Outcome) -> Result<(), Violation> {
        let Outcome::Failed(QueryFailure {
            reason: ErrorReason::PoisonTask,
            attempt,
            ..
        }) = outcome
        else {
            return Ok(());
        };
        let task = attempt.ok_or("a task is poison, and none is named")?.task_id();
        let lost = self.lost_with.get(&task).map_or(0, BTreeSet::len);
        if lost < MAX_WORKERS_LOST_WITH_TASK {
            return Err(format!("{task} counts as poison after {lost} lost workers"));
        }
        Ok(())
    }

    /// Checks the rows delivered by a query that did not succeed: some of its rows, each once.
    pub fn on_part(&self, rows: &[Row], reference: &[Row]) -> Result<(), Violation> {
        let mut missing: BTreeSet<&Row> = reference.iter().collect();
        match rows.iter().find(|row| !missing.remove(row)) {
            Some(row) => Err(format!("row {row} left twice, or is none of the result")),
            None => Ok(()),
        }
    }

    /// Checks the rows delivered by the query.
    pub fn on_result(&self, mut rows: Vec<Row>, reference: &[Row]) -> Result<(), Violation> {
        rows.sort_unstable();
        if rows == reference {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let twice = rows.iter().filter(|row| !seen.insert(**row)).count();
        let missing = reference.iter().filter(|row| !seen.contains(row)).count();
        Err(format!(
            "the result has {} rows instead of {}: {twice} twice, {missing} missing",
            rows.len(),
            reference.len()
        ))
    }
}

/// Checks that a coordinator wants nothing once the query has ended.
pub fn check_nothing_follows(wake: Option<Instant>, later: &[Action]) -> Result<(), Violation> {
    if let Some(at) = wake {
        return Err(format!(
            "the query has ended and still wants to be woken at {} ms",
            at.0
        ));
    }
    match later {
        [] => Ok(()),
        some => Err(format!("after the query's end: {some:?}")),
    }
}

/// Checks a failure for missing time or workers: the query had all of what the policy gives it. `usable_worker_at` is when a
/// worker last could take attempts.
pub fn check_failure_time(
    outcome: &Outcome,
    now: u64,
    usable_worker_at: u64,
    policy: &Policy,
) -> Result<(), Violation> {
    let Outcome::Failed(failure) = outcome else {
        return Ok(());
    };
    let had_time = |deadline: Duration| u128::from(now) >= deadline.as_millis();
    if failure.reason == ErrorReason::DeadlineExceeded && !policy.deadline.is_some_and(had_time) {
        return Err(format!("the deadline counted as exceeded after {now} ms"));
    }
    let waited = now - usable_worker_at;
    if failure.reason == ErrorReason::WorkersLost && u128::from(waited) < policy.no_workers_grace.as_millis()
    {
        return Err(format!(
            "the query gave up {waited} ms after a worker could take work"
        ));
    }
    Ok(())
}
