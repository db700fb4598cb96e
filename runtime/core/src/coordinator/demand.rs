//! Which tasks need not run, and which outputs are not needed any more. A limit may have enough rows without a task, or all
//! stages that could read its output have ended.

use super::Coordinator;
use super::outcome::QueryState;
use crate::ids::{StageId, TaskId, WorkerId};
use sluice_crds::shuffle_query::ShuffleRetention;

impl Coordinator {
    /// Marks tasks whose output nobody can read any more as unneeded, drops the outputs that were read, and queues tasks that
    /// are needed again.
    pub(super) fn follow_demand(&mut self) {
        let stages = u32::try_from(self.graph.stages.len()).unwrap_or(u32::MAX);
        // Readers come after what they read.
        let mut demanded = vec![false; self.graph.stages.len()];
        for id in (0..stages).rev().map(StageId) {
            let consumers = &self.topology.consumers[id.0 as usize];
            let is_root = consumers.is_empty();
            let needs =
                |consumer: &StageId| demanded[consumer.0 as usize] && !self.stages.get(*consumer).is_done();
            let is_demanded = is_root || consumers.iter().any(needs);
            demanded[id.0 as usize] = is_demanded;
            let is_over = consumers
                .iter()
                .all(|consumer| self.stages.get(*consumer).is_settled());
            if is_demanded {
                self.stages.get_mut(id).requeue_unneeded();
            } else if is_over {
                for task in self.stop_open_tasks(id) {
                    self.stages.get_mut(id).mark_unneeded(task.task, self.now);
                }
                self.release_outputs(id);
            }
        }
    }

    /// Drops what a stage wrote, if that is not to be kept until the query ends.
    fn release_outputs(&mut self, id: StageId) {
        match self.policy.retention {
            ShuffleRetention::UntilRead => {}
            ShuffleRetention::UntilEnd => return,
        }
        if self.stages.get(id).won() == 0 {
            return;
        }
        let tasks = u32::try_from(self.stages.get(id).tasks().len()).unwrap_or(u32::MAX);
        for task in 0..tasks {
            let released = self.stages.get_mut(id).release(task);
            let output = released.map(|winner| (WorkerId::clone(&winner.worker), winner.id));
            if let Some((worker, attempt)) = output {
                self.retire(&worker, attempt);
            }
        }
    }

    /// Skips tasks once the winners of an exchange have written as many rows as its readers take. Which tasks are read
    /// is settled when the first reader begins. What is lost after that runs again.
    pub(super) fn apply_row_limit(&mut self, stage: StageId) {
        let exchange = &self.graph.exchanges[self.graph.stages[stage.0 as usize].output.0 as usize];
        let Some(enough) = exchange.fetch else {
            return;
        };
        let mut consumers = self.topology.consumers[stage.0 as usize].iter();
        if self.state != QueryState::Running
            || consumers.any(|consumer| self.stages.get(*consumer).has_begun())
        {
            return;
        }
        let writers = exchange.writers.clone();
        let rows: u128 = writers
            .iter()
            .map(|writer| self.stages.get(*writer).won_rows())
            .sum();
        for writer in writers {
            if rows < u128::from(enough) {
                self.stages.get_mut(writer).requeue_skipped();
                continue;
            }
            for task in self.stop_open_tasks(writer) {
                self.stages.get_mut(writer).skip(task.task, self.now);
            }
        }
    }

    /// Cancels the running attempts of a stage. Returns its tasks that have not won.
    fn stop_open_tasks(&mut self, stage: StageId) -> Vec<TaskId> {
        let open = self.stages.get(stage).open_tasks();
        for task in &open {
            self.cancel_task(*task);
        }
        open
    }
}
