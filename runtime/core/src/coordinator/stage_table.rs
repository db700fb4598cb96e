//! The stages of a query with their tasks, and which stages may run and must run.

mod activity;
mod attempt_counts;
mod counters;
mod duplicates;
mod set_aside;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Coordinator;
use super::attempts::{AttemptEnd, RunningAttempt, TaskRun, TaskState, Winner};
use super::topology::Topology;
use crate::ids::{AttemptId, StageEpoch, StageId, StreamEpoch, TaskId, WorkerId};
use crate::locality::LocalityCounts;
use crate::metrics::COUNTERS;
use crate::plan::StageGraph;
use crate::speculation::Runtimes;
use crate::time::Instant;
use attempt_counts::AttemptCounts;
use counters::recount;
pub(super) use duplicates::Start;
use waiting::WaitingTasks;

/// All stages of a query, by number.
#[derive(Debug)]
pub(super) struct StageTable {
    stages: Vec<StageRun>,
}

/// The tasks of one stage. Every change of a task's state goes through a method, which keeps the sums.
#[derive(Debug)]
pub(super) struct StageRun {
    id: StageId,
    /// The number of the first attempt of each task that this coordinator starts.
    first_attempt: u32,
    epoch: StageEpoch,
    /// Whether an attempt was assigned in this epoch.
    begun: bool,
    /// Whether it is known to write no rows in this epoch.
    empty: bool,
    /// As many as were planned, or as a layout has ever had, if that is more. What is known of a task stays while the layout
    /// leaves it out: attempts are never numbered twice.
    all_tasks: Vec<TaskRun>,
    /// How many of them the stage has in this epoch, from the first one on.
    count: usize,
    waiting: WaitingTasks,
    /// Tasks with an attempt at work.
    running: BTreeSet<u32>,
    won: u32,
    /// Rows that the winners wrote.
    won_rows: u128,
    /// The counters of the tasks, see [`TaskRun::counters`].
    counters: [u128; COUNTERS],
    /// Tasks that a limit does not need.
    skipped: u32,
    /// Tasks whose output nobody can read any more.
    unneeded: u32,
    counts: AttemptCounts,
    /// How long the tasks took that have won in this epoch.
    runtimes: Runtimes,
    locality: LocalityCounts,
    /// When an attempt first read bytes of an exchange.
    first_chunk: Option<Instant>,
    /// When an attempt that reads exchanges first put out a row.
    first_reduce_row: Option<Instant>,
    started: Option<Instant>,
    ended: Option<Instant>,
}

impl StageTable {
    /// `first_attempt`: the number of the first attempt of each task.
    pub(super) fn new(graph: &StageGraph, first_attempt: u32) -> Self {
        let stages = graph
            .stages
            .iter()
            .map(|stage| StageRun::new(stage.id, stage.tasks, first_attempt));
        Self {
            stages: stages.collect(),
        }
    }

    pub(super) fn get(&self, id: StageId) -> &StageRun {
        &self.stages[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: StageId) -> &mut StageRun {
        &mut self.stages[id.0 as usize]
    }

    /// The stages by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = &StageRun> {
        self.stages.iter()
    }

    /// A task named by a message from outside, if it exists.
    pub(super) fn task(&self, id: TaskId) -> Option<&TaskRun> {
        let stage = self.stages.get(id.stage.0 as usize)?;
        stage.all_tasks.get(id.task as usize)
    }

    /// A task named by a message from outside, if it exists.
    pub(super) fn task_mut(&mut self, id: TaskId) -> Option<&mut TaskRun> {
        let stage = self.stages.get_mut(id.stage.0 as usize)?;
        stage.all_tasks.get_mut(id.task as usize)
    }

    /// The winner whose output can be read, of a task named by a message from outside.
    pub(super) fn winner(&self, task: TaskId) -> Option<&Winner> {
        self.task(task)?.winner()
    }

    /// The attempt, if it is at work on its task at this worker.
    pub(super) fn running_attempt(&self, worker: &WorkerId, id: AttemptId) -> Option<&RunningAttempt> {
        let attempt = self.task(id.task_id())?.running_attempt(id)?;
        (*attempt.worker == *worker).then_some(attempt)
    }

    /// All attempts at work, by stage and task.
    pub(super) fn running_attempts(&self) -> impl Iterator<Item = &RunningAttempt> {
        self.stages.iter().flat_map(StageRun::running_attempts)
    }

    /// The winners of these stages, by task.
    pub(super) fn winners<'a>(
        &'a self,
        stages: impl IntoIterator<Item = &'a StageId>,
    ) -> impl Iterator<Item = &'a Winner> {
        let stages = stages.into_iter().map(|stage| self.get(*stage));
        stages.flat_map(|stage| stage.tasks().iter().filter_map(TaskRun::winner))
    }

    /// Whether all inputs of the stage can be read: `reduce_schedulable`.
    pub(super) fn inputs_done(&self, stage: StageId, topology: &Topology) -> bool {
        let mut inputs = topology.inputs[stage.0 as usize].iter();
        inputs.all(|input| self.get(*input).is_done())
    }

    /// The stages that may and must run now, most urgent first.
    pub(super) fn schedulable(&self, topology: &Topology) -> impl Iterator<Item = StageId> {
        let demanded = self.demanded(topology);
        let stages = topology.urgency.iter().copied();
        stages.filter(move |stage| demanded[stage.0 as usize] && self.inputs_done(*stage, topology))
    }

    /// When the backoff of the next waiting task ends.
    pub(super) fn retry_deadlines(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let stages = self.stages.iter();
        stages.filter_map(move |stage| stage.waiting.next_end(now))
    }

    /// Forgets winners that were lost with a worker which has come back without them.
    pub(super) fn forget_lost_winners(&mut self, worker: &str) {
        for task in self.stages.iter_mut().flat_map(|stage| &mut stage.all_tasks) {
            if let Some(history) = task.known_history() {
                history.lost_winner.take_if(|winner| winner.worker.name == worker);
            }
        }
    }
}

impl StageRun {
    fn new(id: StageId, tasks: u32, first_attempt: u32) -> Self {
        Self {
            id,
            first_attempt,
            epoch: StageEpoch::default(),
            begun: false,
            empty: false,
            all_tasks: (0..tasks).map(|_| TaskRun::new()).collect(),
            count: tasks as usize,
            waiting: (0..tasks).map(|task| (Instant::default(), task)).collect(),
            running: BTreeSet::new(),
            won: 0,
            won_rows: 0,
            counters: [0; COUNTERS],
            skipped: 0,
            unneeded: 0,
            counts: AttemptCounts::default(),
            runtimes: Runtimes::default(),
            locality: LocalityCounts::default(),
            first_chunk: None,
            first_reduce_row: None,
            started: None,
            ended: None,
        }
    }

    pub(super) fn id(&self) -> StageId {
        self.id
    }

    /// Whether an attempt was assigned in the stage's epoch, or none has to be, so that it depends on what its inputs hold.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Begins the epoch of a stage that is known to write no rows.
    pub(super) fn begin_empty(&mut self) {
        self.begun = true;
        self.empty = true;
    }

    /// Whether the stage is known to write no rows in its epoch.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// The tasks that the stage has in its epoch.
    pub(super) fn tasks(&self) -> &[TaskRun] {
        self.all_tasks.get(..self.count).unwrap_or(&self.all_tasks)
    }

    /// Sets how many tasks the stage has in its epoch. Nothing of the epoch may have begun. No task prefers a worker.
    pub(super) fn set_task_count(&mut self, tasks: u32) {
        self.count = tasks as usize;
        if self.count > self.all_tasks.len() {
            self.all_tasks.resize_with(self.count, TaskRun::new);
        }
        self.forget_surplus();
        let waits = |(task, run): (u32, &TaskRun)| match run.state {
            TaskState::Waiting { not_before } => Some((not_before, task)),
            TaskState::Running(_) | TaskState::Won(_) | TaskState::Skipped | TaskState::Unneeded { .. } => {
                None
            }
        };
        self.waiting = (0..).zip(self.tasks()).filter_map(waits).collect();
        self.count_set_aside();
    }

    /// How many tasks have a winner whose output can be read.
    pub(super) fn won(&self) -> u32 {
        self.won
    }

    /// Rows that the winners wrote to the exchange.
    pub(super) fn won_rows(&self) -> u128 {
        self.won_rows
    }

    /// How many tasks have an attempt at work.
    pub(super) fn running(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// The attempts at work, by task.
    pub(super) fn running_attempts(&self) -> impl Iterator<Item = &RunningAttempt> {
        let tasks = self.running.iter().map(|task| &self.all_tasks[*task as usize]);
        tasks.flat_map(TaskRun::running_attempts)
    }

    /// Whether every task that is read has a winner whose output can be read.
    pub(super) fn is_done(&self) -> bool {
        (self.won + self.skipped) as usize == self.count
    }

    /// Starts another attempt of a task.
    pub(super) fn start(
        &mut self,
        task: u32,
        worker: Arc<WorkerId>,
        how: Start,
        locality: LocalityCounts,
        now: Instant,
    ) -> RunningAttempt {
        let id = TaskId { stage: self.id, task };
        let run = &mut self.all_tasks[task as usize];
        let (id, stream_epoch): (AttemptId, StreamEpoch) =
            run.next_attempt(id, self.epoch, self.first_attempt);
        let attempt = RunningAttempt {
            sorts_joins: how.sorts_joins,
            speculative: how.speculative,
            ..RunningAttempt::new(id, worker, stream_epoch, how.number, now)
        };
        self.begun = true;
        self.locality += locality;
        self.counts.start(how.speculative);
        if how.speculative {
            run.history_mut().duplicates += 1;
        }
        self.started.get_or_insert(now);
        if let TaskState::Waiting { not_before } = run.state {
            self.waiting.remove((not_before, task));
        }
        run.add_running(attempt.clone());
        self.running.insert(task);
        attempt
    }

    /// Counts an attempt of an earlier coordinator whose output is about to count.
    pub(super) fn count_recovered(&mut self, now: Instant) {
        self.begun = true;
        self.counts.started += 1;
        self.counts.recovered += 1;
        self.started.get_or_insert(now);
    }

    /// The number of the stage's epoch.
    pub(super) fn epoch(&self) -> StageEpoch {
        self.epoch
    }

    /// Ends an attempt at work that has not won. Its task waits until `not_before` once no other attempt of it is at work.
    pub(super) fn end_attempt(&mut self, id: AttemptId, end: AttemptEnd, not_before: Instant, now: Instant) {
        let Some(run) = self.all_tasks.get_mut(id.task as usize) else {
            return;
        };
        let Some(ended) = run.remove_running(id, not_before) else {
            return;
        };
        self.counts.end_without_win(&ended, now);
        match end {
            AttemptEnd::Failed => self.counts.failed += 1,
            AttemptEnd::Lost { cause } => {
                self.counts.lost += 1;
                run.history_mut().last_loss = Some(cause);
            }
            AttemptEnd::Cancelled => {
                self.counts.cancelled += 1;
                run.history_mut().last_loss = Some("it was cancelled".to_owned());
            }
        }
        if run.is_waiting() {
            self.running.remove(&id.task);
            self.waiting.insert((not_before, id.task));
        }
    }

    /// Makes an attempt the winner of its task. Answers with the other attempts of the task, which are no longer at work.
    pub(super) fn win(&mut self, winner: Winner, now: Instant) -> Vec<RunningAttempt> {
        let task = winner.id.task;
        let run = &mut self.all_tasks[task as usize];
        let id = winner.id;
        let counted = run.counters();
        if let Some(history) = run.known_history() {
            history.past_winners.retain(|past| past.id != id);
            history.lost_winner = None;
            history.failed_on = None;
        }
        self.won_rows += u128::from(winner.rows);
        let before = std::mem::replace(&mut run.state, TaskState::Won(Box::new(winner)));
        self.running.remove(&task);
        let others = match before {
            TaskState::Waiting { not_before } => {
                self.waiting.remove((not_before, task));
                Vec::new()
            }
            TaskState::Running(attempts) => self.counts.win(*attempts, id, now),
            TaskState::Won(before) => {
                self.won -= 1;
                self.won_rows -= u128::from(before.rows);
                run.history_mut().past_winners.push(*before);
                Vec::new()
            }
            TaskState::Skipped => {
                self.skipped -= 1;
                Vec::new()
            }
            TaskState::Unneeded { released } => {
                self.unneeded -= 1;
                if let Some(winner) = released {
                    run.history_mut().past_winners.push(*winner);
                }
                Vec::new()
            }
        };
        recount(&mut self.counters, counted, run.counters());
        self.won += 1;
        self.record_end(now);
        others
    }

    /// Takes the win from a task: it runs again if it is needed.
    pub(super) fn lose_winner(&mut self, task: u32) -> Option<Box<Winner>> {
        let run = self.all_tasks.get_mut(task as usize)?;
        let counted = run.counters();
        let winner = run.take_winner()?;
        let history = run.history_mut();
        history.last_loss = Some(format!("its output was lost on {}", winner.worker.name));
        history.past_winners.push(Winner::clone(&winner));
        self.won -= 1;
        self.won_rows -= u128::from(winner.rows);
        self.ended = None;
        self.counts.lost += 1;
        recount(&mut self.counters, counted, run.counters());
        self.waiting.insert((Instant::default(), task));
        Some(winner)
    }

    /// Takes a winner that was lost with its worker and has come back with it.
    pub(super) fn take_lost_winner(&mut self, id: AttemptId, worker: &WorkerId) -> Option<Box<Winner>> {
        let run = self.all_tasks.get_mut(id.task as usize)?;
        let winner = run
            .known_history()?
            .lost_winner
            .take_if(|winner| winner.id == id && *winner.worker == *worker)?;
        self.counts.lost = self.counts.lost.saturating_sub(1);
        Some(winner)
    }

    /// Starts a new epoch of the stage. Its tasks are reset one by one.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch.0 += 1;
        self.begun = false;
        self.empty = false;
        self.runtimes = Runtimes::default();
    }

    /// Resets a task of which no attempt is at work. Answers with its winners of the last epoch, whose rows do not count
    /// any more.
    pub(super) fn reset_task(&mut self, task: u32) -> Vec<Winner> {
        let run = &mut self.all_tasks[task as usize];
        let counted = run.counters();
        let waiting = TaskState::Waiting {
            not_before: Instant::default(),
        };
        let last = match std::mem::replace(&mut run.state, waiting) {
            TaskState::Waiting { not_before } => {
                self.waiting.remove((not_before, task));
                None
            }
            running @ TaskState::Running(_) => {
                run.state = running;
                return Vec::new();
            }
            TaskState::Won(winner) => {
                self.won -= 1;
                self.won_rows -= u128::from(winner.rows);
                self.counts.lost += 1;
                Some(winner)
            }
            TaskState::Skipped => {
                self.skipped -= 1;
                None
            }
            TaskState::Unneeded { released } => {
                self.unneeded -= 1;
                self.counts.lost += u32::from(released.is_some());
                released
            }
        };
        self.ended = None;
        self.waiting.insert((Instant::default(), task));
        let mut winners = Vec::new();
        if let Some(history) = run.known_history() {
            history.lost_winner = None;
            winners = std::mem::take(&mut history.past_winners);
        }
        winners.extend(last.map(|winner| *winner));
        recount(&mut self.counters, counted, run.counters());
        winners
    }

    /// Records that the running attempts wait for an input, so that they do not count as stalled.
    pub(super) fn reset_activity(&mut self, now: Instant) {
        for task in &self.running {
            self.all_tasks[*task as usize].reset_activity(now);
        }
    }
}

impl Coordinator {
    /// Whether all inputs of the stage can be read.
    pub(super) fn inputs_done(&self, stage: StageId) -> bool {
        self.stages.inputs_done(stage, &self.topology)
    }

    /// The stages that may and must run now, most urgent first. Stages that wait for a runtime filter may not run.
    pub(super) fn schedulable(&self) -> impl Iterator<Item = StageId> {
        let stages = self.stages.schedulable(&self.topology);
        stages.filter(|stage| !self.filters.is_awaited(*stage))
    }
}
