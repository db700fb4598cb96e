//! Tasks that do not have to run: a limit has enough rows without them, they would write none, or nobody can read what they
//! would write.

use super::counters::recount;
use super::{StageRun, StageTable};
use crate::coordinator::attempts::{TaskRun, TaskState, Winner};
use crate::coordinator::topology::Topology;
use crate::ids::TaskId;
use crate::time::Instant;

impl StageTable {
    /// Per stage, whether its output is still needed: by the client, the sink, or a needed stage with a task that has no
    /// winner.
    pub(in crate::coordinator) fn demanded(&self, topology: &Topology) -> Vec<bool> {
        let mut demanded = vec![false; self.stages.len()];
        for stage in (0..self.stages.len()).rev() {
            let mut consumers = topology.consumers[stage].iter();
            demanded[stage] =
                consumers.len() == 0 || consumers.any(|c| demanded[c.0 as usize] && !self.get(*c).is_done());
        }
        demanded
    }
}

impl StageRun {
    /// Whether readers were found to need fewer tasks than there are.
    pub(in crate::coordinator) fn has_skipped(&self) -> bool {
        self.skipped > 0
    }

    /// How many tasks have won and need not run again, whether or not their output still exists.
    pub(in crate::coordinator) fn done(&self) -> u32 {
        if self.unneeded == 0 {
            return self.won;
        }
        let unneeded = self.tasks().iter().filter(|task| task.is_unneeded());
        let won_before = unneeded.filter(|task| task.has_won_before()).count();
        self.won
            .saturating_add(u32::try_from(won_before).unwrap_or(u32::MAX))
    }

    /// How many tasks count as done without an attempt that has won.
    pub(in crate::coordinator) fn without_winner(&self) -> u32 {
        self.won + self.skipped + self.unneeded - self.done()
    }

    /// Whether no task has to run now.
    pub(in crate::coordinator) fn is_settled(&self) -> bool {
        (self.won + self.skipped + self.unneeded) as usize == self.count
    }

    /// The tasks that have won, if readers need no others.
    pub(in crate::coordinator) fn only_tasks(&self) -> Option<Vec<u32>> {
        let won = (0..)
            .zip(self.tasks())
            .filter(|(_, task)| task.winner().is_some());
        self.has_skipped().then(|| won.map(|(task, _)| task).collect())
    }

    /// Records the end of the stage, if it has ended.
    pub(super) fn record_end(&mut self, now: Instant) {
        if self.is_settled() {
            self.ended.get_or_insert(now);
        }
    }

    /// The tasks without a winner, waiting and running ones.
    pub(in crate::coordinator) fn open_tasks(&self) -> Vec<TaskId> {
        let waiting = self.waiting.iter().map(|(_, task)| task);
        let open = waiting.chain(self.running.iter().copied());
        open.map(|task| TaskId { stage: self.id, task }).collect()
    }

    /// Takes a task from the waiting ones; false if it does not wait.
    fn set_aside(&mut self, task: u32, state: TaskState, now: Instant) -> bool {
        let run = &mut self.all_tasks[task as usize];
        let TaskState::Waiting { not_before } = run.state else {
            return false;
        };
        self.waiting.remove((not_before, task));
        let counted = run.counters();
        run.state = state;
        recount(&mut self.counters, counted, run.counters());
        self.record_end(now);
        true
    }

    /// Skips a waiting task, since readers need no rows of it. An output of it that comes back does not count.
    pub(in crate::coordinator) fn skip(&mut self, task: u32, now: Instant) {
        self.skipped += 1;
        if self.set_aside(task, TaskState::Skipped, now) {
            if let Some(history) = self.all_tasks[task as usize].known_history() {
                history.lost_winner = None;
            }
        } else {
            self.skipped -= 1;
        }
    }

    /// Marks a waiting task as one whose output nobody can read.
    pub(in crate::coordinator) fn mark_unneeded(&mut self, task: u32, now: Instant) {
        self.unneeded += 1;
        if !self.set_aside(task, TaskState::Unneeded { released: None }, now) {
            self.unneeded -= 1;
        }
    }

    /// Lets tasks that the layout leaves out wait for an epoch in which the stage has them.
    pub(super) fn forget_surplus(&mut self) {
        for run in self.all_tasks.iter_mut().skip(self.count) {
            if run.is_set_aside() {
                run.state = TaskState::Waiting {
                    not_before: Instant::default(),
                };
            }
        }
    }

    /// Counts the tasks that do not have to run, of those that the stage has.
    pub(super) fn count_set_aside(&mut self) {
        let count = |is_so: &dyn Fn(&TaskRun) -> bool| {
            let tasks = self.tasks().iter().filter(|task| is_so(task)).count();
            u32::try_from(tasks).unwrap_or(u32::MAX)
        };
        let unneeded = count(&TaskRun::is_unneeded);
        self.skipped = count(&TaskRun::is_set_aside) - unneeded;
        self.unneeded = unneeded;
    }

    /// Releases the output of a task, since nobody can read it any more. Returns the winner that it had.
    pub(in crate::coordinator) fn release(&mut self, task: u32) -> Option<&Winner> {
        let run = &mut self.all_tasks[task as usize];
        let winner = run.take_winner()?;
        self.won -= 1;
        self.won_rows -= u128::from(winner.rows);
        self.unneeded += 1;
        run.state = TaskState::Unneeded {
            released: Some(winner),
        };
        run.unneeded_winner()
    }

    /// Lets the skipped tasks wait again, unless the stage is known to write no rows.
    pub(in crate::coordinator) fn requeue_skipped(&mut self) {
        if self.skipped > 0 && !self.empty {
            self.skipped = 0;
            self.requeue(|state| *state == TaskState::Skipped);
        }
    }

    /// Lets tasks wait again whose output is needed again.
    pub(in crate::coordinator) fn requeue_unneeded(&mut self) {
        if self.unneeded > 0 {
            self.unneeded = 0;
            self.requeue(|state| matches!(state, TaskState::Unneeded { .. }));
        }
    }

    fn requeue(&mut self, matches: impl Fn(&TaskState) -> bool) {
        for (task, run) in (0..).zip(self.all_tasks.iter_mut().take(self.count)) {
            if !matches(&run.state) {
                continue;
            }
            let counted = run.counters();
            let waiting = TaskState::Waiting {
                not_before: Instant::default(),
            };
            let before = std::mem::replace(&mut run.state, waiting);
            if let TaskState::Unneeded {
                released: Some(winner),
            } = before
            {
                let history = run.history_mut();
                history.last_loss = Some("its output had been read and was released".to_owned());
                history.past_winners.push(*winner);
                self.counts.lost += 1;
            }
            recount(&mut self.counters, counted, run.counters());
            self.waiting.insert((Instant::default(), task));
            self.ended = None;
        }
    }
}
