//! What must hold after every step, judged from what goes into and comes out of the coordinator, and from what
//! readers took. It shares no code with the machines that it judges.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Row;
use crate::coordinator::{Action, Event, MAX_ATTEMPTS_PER_TASK};
use crate::failure::AttemptFailure;
use crate::ids::{AttemptId, StageEpoch, StageId, StreamId, TaskId};
use crate::message::{InputState, InputUpdate};

/// A broken rule.
pub type Violation = String;

#[derive(Debug, Default)]
pub struct Audit {
    /// Slots that the coordinator may still use, by worker name.
    granted: BTreeMap<String, u32>,
    connected: BTreeSet<String>,
    /// Where each attempt was assigned.
    assigned: BTreeMap<AttemptId, String>,
    /// Assigned, and neither ended, cancelled nor lost.
    live: BTreeMap<TaskId, AttemptId>,
    next_attempt: BTreeMap<TaskId, u32>,
    epochs: BTreeMap<StageId, StageEpoch>,
    succeeded: BTreeSet<AttemptId>,
    /// The attempt that counts, as far as anybody was told.
    winners: BTreeMap<TaskId, AttemptId>,
    ended: bool,
    /// What each stream of a finished attempt holds.
    pub published: BTreeMap<StreamId, Vec<Row>>,
}

impl Audit {
    /// Notes what the coordinator is about to be told.
    pub fn on_event(&mut self, event: &Event) {
        match event {
            Event::WorkerJoined { worker, .. } => {
                self.lose(&worker.name);
                self.connected.insert(worker.name.clone());
            }
            Event::WorkerLost { worker, .. } => self.lose(&worker.name),
            Event::SlotsGranted { worker, slots } => {
                *self.granted.entry(worker.name.clone()).or_insert(0) += slots;
            }
            Event::AttemptSucceeded { attempt, .. } => {
                // What was cancelled or lost does not count, even if it finished.
                if self.live.get(&attempt.task_id()) == Some(attempt) {
                    self.succeeded.insert(*attempt);
                    self.live.remove(&attempt.task_id());
                }
            }
            Event::AttemptFailed { attempt, failure, .. } => {
                let is_live = self.live.get(&attempt.task_id()) == Some(attempt);
                if is_live {
                    self.live.remove(&attempt.task_id());
                }
                if let AttemptFailure::FetchFailed { map_attempt, .. } = failure {
                    self.unwin(*map_attempt);
                }
            }
            Event::ResultFetchFailed { map_attempt, .. } => self.unwin(*map_attempt),
            Event::WorkerHeard { .. }
            | Event::WorkerDrained { .. }
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

    fn lose(&mut self, worker: &str) {
        self.connected.remove(worker);
        self.granted.remove(worker);
        let assigned = &self.assigned;
        let there = |attempt: &AttemptId| assigned.get(attempt).is_some_and(|name| name == worker);
        self.live.retain(|_, attempt| !there(attempt));
        self.winners.retain(|_, attempt| !there(attempt));
    }

    fn unwin(&mut self, attempt: AttemptId) {
        if self.winners.get(&attempt.task_id()) == Some(&attempt) {
            self.winners.remove(&attempt.task_id());
        }
    }

    /// Judges one action.
    pub fn on_action(&mut self, action: &Action) -> Result<(), Violation> {
        if self.ended {
            return Err(format!("after the query's end: {action:?}"));
        }
        match action {
            Action::AssignAttempt { worker, assignment } => {
                self.on_assigned(&worker.name, assignment.attempt)
            }
            Action::UpdateInputs { updates, .. } | Action::UpdateResult { updates } => {
                updates.iter().try_for_each(|update| self.on_update(update))
            }
            Action::CommitSink { winners } => winners.iter().try_for_each(|winner| self.on_won(*winner)),
            Action::ReleaseSlots { worker, slots } => {
                let granted = self.granted.entry(worker.name.clone()).or_insert(0);
                *granted = granted
                    .checked_sub(*slots)
                    .ok_or("slots released that were not granted")?;
                Ok(())
            }
            Action::CancelAttempt { attempt, .. } => {
                if self.live.get(&attempt.task_id()) == Some(attempt) {
                    self.live.remove(&attempt.task_id());
                }
                Ok(())
            }
            Action::DropWorker { worker } => {
                self.lose(&worker.name);
                Ok(())
            }
            Action::RetireAttempt { attempt, .. } => {
                self.unwin(*attempt);
                Ok(())
            }
            Action::EndQuery { .. } => {
                self.ended = true;
                Ok(())
            }
            Action::WantSlots { .. } | Action::AbortSink => Ok(()),
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
        if let Some(live) = self.live.insert(task, attempt) {
            return Err(format!("{attempt} was assigned while {live} is at work"));
        }
        let next = self.next_attempt.entry(task).or_insert(0);
        if attempt.attempt < *next {
            return Err(format!("the number of {attempt} was used before"));
        }
        *next = attempt.attempt + 1;
        if *next > MAX_ATTEMPTS_PER_TASK {
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
        self.assigned.insert(attempt, worker.to_owned());
        Ok(())
    }

    fn on_update(&mut self, update: &InputUpdate) -> Result<(), Violation> {
        match update.state {
            InputState::Won => self.on_won(update.map_attempt),
            InputState::Lost | InputState::Superseded => {
                self.unwin(update.map_attempt);
                Ok(())
            }
            InputState::Open => Err(format!(
                "{} is open to readers behind a barrier",
                update.map_attempt
            )),
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
        match self.winners.insert(attempt.task_id(), attempt) {
            Some(other) if other != attempt => Err(format!("{attempt} and {other} have both won")),
            Some(_) | None => Ok(()),
        }
    }

    /// Judges what a reader took of one input: of each map task one attempt, whole.
    pub fn on_input_read(
        &self,
        tasks: &BTreeSet<TaskId>,
        streams: &BTreeMap<StreamId, Vec<Row>>,
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
            if self.published.get(stream).map(Vec::as_slice).unwrap_or_default() != rows {
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

    /// Judges the rows that left the query.
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
