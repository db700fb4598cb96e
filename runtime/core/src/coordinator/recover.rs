//! What is lost with a worker or an output, what comes back with it, and what must start over.

use std::time::Duration;

use super::Coordinator;
use super::attempts::{TaskRun, Winner};
use super::event::Action;
use super::outcome::QueryState;
use super::reports::query_failure;
use crate::failure::FetchError;
use crate::ids::{AttemptId, StageId, TaskId, WorkerId};
use crate::message::{InputState, InputUpdate, Recovered};
use sluice_crds::ErrorReason;

impl Coordinator {
    /// Loses what ran on the worker and what it held. What must run again is decided by demand, at scheduling.
    pub(super) fn lose_work(&mut self, worker: &WorkerId, message: &str) {
        let ran_there = self
            .stages
            .running_attempts()
            .filter(|attempt| *attempt.worker == *worker);
        let lost: Vec<AttemptId> = ran_there.map(|attempt| attempt.id).collect();
        for attempt in lost {
            let cause = format!("worker {} was lost: {message}", worker.name);
            self.lose_attempt(attempt, cause, Duration::ZERO);
        }
        // A file of a root task is complete in the sink's folder, which all workers share: it does not go with the worker.
        let in_sink = |stage: StageId| self.policy.sink && self.topology.roots.contains(&stage);
        let stages = self.stages.iter().filter(|stage| !in_sink(stage.id()));
        let winners = stages.flat_map(|stage| stage.tasks().iter().filter_map(TaskRun::winner));
        let held_there = winners.filter(|winner| *winner.worker == *worker);
        let tasks: Vec<TaskId> = held_there.map(|winner| winner.id.task_id()).collect();
        for task in tasks {
            let winner = self.lose_winner(task);
            let run = self.stages.task_mut(task);
            if let Some(run) = run.filter(|run| run.is_waiting()) {
                run.history_mut().lost_winner = winner;
                self.workers_with_lost_winners.insert(worker.name.clone());
            }
        }
    }

    /// Takes the win from a task whose output cannot be read any more, and notifies its readers.
    fn lose_winner(&mut self, task: TaskId) -> Option<Box<Winner>> {
        let winner = self.stages.get_mut(task.stage).lose_winner(task.task)?;
        self.notify_readers(&winner, InputState::Lost);
        self.apply_row_limit(task.stage);
        Some(winner)
    }

    /// A reader says that an attempt's output cannot be read. If the attempt still counts, its task runs again, and
    /// the failure counts against the worker, so that one that never serves its outputs is excluded.
    pub(super) fn on_output_unreadable(&mut self, attempt: AttemptId, error: FetchError) {
        let winner = self.stages.winner(attempt.task_id());
        let Some(worker) = winner
            .filter(|winner| winner.id == attempt)
            .map(|winner| WorkerId::clone(&winner.worker))
        else {
            return;
        };
        self.lose_winner(attempt.task_id());
        let message = format!("its output could not be fetched: {error}");
        let cause = query_failure(ErrorReason::FetchFailed, attempt, &worker, &message);
        self.record_worker_failure(&worker, &cause);
        self.retire(&worker, attempt);
    }

    /// Compares what a worker holds with what counts. Lost winners count again, and what an earlier coordinator's attempts wrote
    /// may count; everything else is retired.
    pub(super) fn resynchronise(&mut self, worker: &WorkerId, held: &[AttemptId], recovered: Recovered) {
        for attempt in held {
            if !self.reinstate(worker, *attempt) {
                self.retire(worker, *attempt);
            }
        }
        self.adopt(worker, recovered);
        // What did not come back never will.
        if self.workers_with_lost_winners.remove(&worker.name) {
            self.stages.forget_lost_winners(&worker.name);
        }
    }

    /// Makes a lost winner count again, unless another attempt has won or the stage has started over.
    pub(super) fn reinstate(&mut self, worker: &WorkerId, attempt: AttemptId) -> bool {
        match self.state {
            QueryState::Running => {}
            QueryState::Committing { .. } | QueryState::Ended { .. } => return true,
        }
        if self.stages.task(attempt.task_id()).is_none() {
            return false;
        }
        let lost = self
            .stages
            .get_mut(attempt.stage)
            .take_lost_winner(attempt, worker);
        let Some(winner) = lost else {
            let winner = self.stages.winner(attempt.task_id());
            return winner.is_some_and(|winner| winner.id == attempt && *winner.worker == *worker);
        };
        self.cancel_task(attempt.task_id());
        self.win(*winner);
        true
    }

    /// Restarts every stage that read the stage, and what read those: rows of two stage epochs must not mix.
    pub(super) fn restart_consumers(&mut self, stage: StageId) {
        let mut todo: Vec<StageId> = self.topology.consumers[stage.0 as usize]
            .iter()
            .copied()
            .collect();
        while let Some(consumer) = todo.pop() {
            if self.stages.get(consumer).has_begun() {
                self.restart(consumer);
                todo.extend(&self.topology.consumers[consumer.0 as usize]);
            }
        }
    }

    fn restart(&mut self, id: StageId) {
        let stage = self.stages.get_mut(id);
        let was_empty = stage.is_empty();
        stage.begin_epoch();
        self.layouts.reset(id);
        self.subscriptions.end_all(id);
        self.recovery.forget_layout(id);
        self.filters.reset(id);
        let tasks = (0..)
            .zip(stage.tasks())
            .map(|(task, _)| TaskId { stage: id, task });
        for task in tasks.collect::<Vec<_>>() {
            self.cancel_task(task);
            let past = self.stages.get_mut(id).reset_task(task.task);
            past.iter().for_each(|winner| self.supersede(winner));
        }
        let planned = self.graph.stages[id.0 as usize].tasks;
        self.stages.get_mut(id).set_task_count(planned);
        if was_empty {
            self.requeue_inputs_of(id);
        }
    }

    /// Tells the client that rows of an old stage epoch do not count, and retires them. Running readers start over too, so
    /// they are not told.
    fn supersede(&mut self, winner: &Winner) {
        if self.topology.roots.contains(&winner.id.stage) && !self.policy.sink {
            let updates: Vec<InputUpdate> = vec![winner.update(InputState::Superseded)];
            self.out.push(Action::UpdateResult { updates });
        }
        self.retire(&winner.worker, winner.id);
    }
}
