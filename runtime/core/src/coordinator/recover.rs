//! What is lost with a worker or an output, what comes back with it, and what must start over.

use std::time::Duration;

use super::Coordinator;
use super::attempts::{TaskRun, TaskState, Winner};
use super::event::Action;
use super::outcome::QueryState;
use super::reports::query_failure;
use crate::failure::FetchError;
use crate::ids::{AttemptId, StageId, TaskId, WorkerId};
use crate::message::{InputState, InputUpdate};
use crate::time::Instant;
use sluice_crds::ErrorReason;

impl Coordinator {
    /// Tasks whose state matches.
    fn tasks_where(&self, matches: impl Fn(&TaskRun) -> bool) -> Vec<TaskId> {
        let stages = (0..).map(StageId).zip(&self.stages);
        let tasks = stages.flat_map(|(stage, run)| {
            let tasks = (0..).zip(&run.tasks);
            tasks.map(move |(task, run)| (TaskId { stage, task }, run))
        });
        tasks.filter(|(_, run)| matches(run)).map(|(id, _)| id).collect()
    }

    /// Loses what ran on the worker and what it held. What must run again is decided by demand, at scheduling.
    pub(super) fn lose_work(&mut self, worker: &WorkerId, message: &str) {
        let ran_there = |task: &TaskRun| task.running().is_some_and(|attempt| attempt.worker == *worker);
        for task in self.tasks_where(ran_there) {
            self.stage_mut(task.stage).lost_attempts += 1;
            let why = format!("worker {} was lost: {message}", worker.name);
            self.requeue_uncounted(task, why, Duration::ZERO);
        }
        let held_there = |task: &TaskRun| task.winner().is_some_and(|winner| winner.worker == *worker);
        for task in self.tasks_where(held_there) {
            // Its file is complete in the sink's folder, which all workers share: it does not go with the worker.
            if self.policy.sink && self.topology.roots.contains(&task.stage) {
                continue;
            }
            if let Some(winner) = self.lose_winner(task) {
                self.stage_mut(task.stage).tasks[task.task as usize].lost_winner = Some(winner);
            }
        }
    }

    /// Takes the win from a task whose output cannot be read any more, and tells its readers.
    fn lose_winner(&mut self, task: TaskId) -> Option<Winner> {
        let now = self.now;
        self.task(task)?.winner()?;
        let stage = self.stage_mut(task.stage);
        let TaskState::Won(winner) = stage.requeue(task.task, Instant::default(), now) else {
            return None;
        };
        stage.lost_attempts += 1;
        stage.tasks[task.task as usize].last_loss =
            Some(format!("its output was lost on {}", winner.worker.name));
        self.notify_readers(&winner, InputState::Lost);
        Some(winner)
    }

    /// A reader says that an attempt's output cannot be read. If the attempt still counts, its task runs again, and
    /// the failure counts against the worker, so that one that never serves its outputs is excluded.
    pub(super) fn on_output_unreadable(&mut self, attempt: AttemptId, error: FetchError) {
        let winner = self.task(attempt.task_id()).and_then(|task| task.winner());
        let Some(worker) = winner
            .filter(|winner| winner.id == attempt)
            .map(|winner| winner.worker.clone())
        else {
            return;
        };
        self.lose_winner(attempt.task_id());
        let message = format!("its output could not be fetched: {error}");
        let cause = query_failure(ErrorReason::FetchFailed, attempt, &worker, &message);
        self.record_worker_failure(&worker, &cause);
        self.retire(&worker, attempt);
    }

    /// Compares what a worker holds with what counts: lost winners count again, everything else goes.
    pub(super) fn resynchronise(&mut self, worker: &WorkerId, held: &[AttemptId]) {
        for attempt in held {
            if !self.reinstate(worker, *attempt) {
                self.retire(worker, *attempt);
            }
        }
        // What did not come back never will.
        for task in self.stages.iter_mut().flat_map(|stage| &mut stage.tasks) {
            task.lost_winner
                .take_if(|winner| winner.worker.name == worker.name);
        }
    }

    /// Makes a lost winner count again, unless another attempt has won or the stage has started over.
    fn reinstate(&mut self, worker: &WorkerId, attempt: AttemptId) -> bool {
        match self.state {
            QueryState::Running => {}
            QueryState::Committing { .. } | QueryState::Ended { .. } => return true,
        }
        let Some(task) = self.task_mut(attempt.task_id()) else {
            return false;
        };
        let lost = task
            .lost_winner
            .take_if(|winner| winner.id == attempt && winner.worker == *worker);
        let Some(winner) = lost else {
            return task
                .winner()
                .is_some_and(|winner| winner.id == attempt && winner.worker == *worker);
        };
        self.cancel_and_requeue(attempt.task_id());
        let stage = self.stage_mut(attempt.stage);
        stage.lost_attempts = stage.lost_attempts.saturating_sub(1);
        self.win(winner);
        true
    }

    /// Starts every stage over that read the stage, and what read those: rows of two runs must not mix.
    pub(super) fn restart_consumers(&mut self, stage: StageId) {
        let mut todo: Vec<StageId> = self.topology.consumers[stage.0 as usize]
            .iter()
            .copied()
            .collect();
        while let Some(consumer) = todo.pop() {
            if self.stage(consumer).begun {
                self.restart(consumer);
                todo.extend(&self.topology.consumers[consumer.0 as usize]);
            }
        }
    }

    fn restart(&mut self, id: StageId) {
        let now = self.now;
        let stage = self.stage_mut(id);
        stage.epoch.0 += 1;
        stage.begun = false;
        stage.partition_bytes.clear();
        stage.ranges.clear();
        stage.range_bytes.clear();
        let tasks: Vec<u32> = (0..).zip(&stage.tasks).map(|(task, _)| task).collect();
        for number in tasks {
            let task = TaskId {
                stage: id,
                task: number,
            };
            self.cancel_and_requeue(task);
            let stage = self.stage_mut(id);
            let run = &mut stage.tasks[number as usize];
            run.lost_winner = None;
            let past = std::mem::take(&mut run.past_winners);
            if let TaskState::Won(_) = stage.requeue(number, Instant::default(), now) {
                stage.lost_attempts += 1;
            }
            past.iter().for_each(|winner| self.supersede(winner));
        }
    }

    /// Tells the client that rows of an old run do not count, and drops them. Running readers need no word: they
    /// start over too.
    fn supersede(&mut self, winner: &Winner) {
        if self.topology.roots.contains(&winner.id.stage) && !self.policy.sink {
            let updates: Vec<InputUpdate> = vec![winner.update(InputState::Superseded)];
            self.out.push(Action::UpdateResult { updates });
        }
        self.retire(&winner.worker, winner.id);
    }
}
