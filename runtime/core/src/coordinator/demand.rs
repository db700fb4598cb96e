//! Which tasks need not run, and which outputs are not needed any more. A limit may have enough rows without a task, a stage may
//! have nothing to join with, or all stages that could read an output have ended.

use super::Coordinator;
use super::outcome::QueryState;
use crate::ids::{ExchangeId, StageId, TaskId, WorkerId};
use sluice_crds::shuffle_query::ShuffleRetention;

impl Coordinator {
    /// Marks tasks whose output nobody can read any more as unneeded, drops the outputs that were read, and queues tasks that
    /// are needed again.
    pub(super) fn follow_demand(&mut self) {
        let stages = u32::try_from(self.graph.stages.len()).unwrap_or(u32::MAX);
        // Readers come after what they read.
        let demanded = self.stages.demanded(&self.topology);
        for id in (0..stages).rev().map(StageId) {
            let consumers = &self.topology.consumers[id.0 as usize];
            let is_demanded = demanded[id.0 as usize];
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

    /// Ends the readers of a stage that are known to write no rows, because it has written none. Nothing of them has to run but
    /// the tasks of a root, which hand out the empty result: then what else it reads need not be written.
    pub(super) fn end_readers_of_nothing(&mut self, stage: StageId) {
        let wanted = self.policy.joins.is_some() && self.state == QueryState::Running;
        let mut ended = vec![stage];
        while let Some(writer) = ended.pop().filter(|_| wanted) {
            let exchange = self.graph.stages[writer.0 as usize].output;
            if !self.is_empty(exchange) {
                continue;
            }
            for reader in self.topology.consumers[writer.0 as usize].clone() {
                let inputs = &self.graph.stages[reader.0 as usize].inputs;
                let in_vain = inputs
                    .iter()
                    .any(|input| input.exchange == exchange && input.empty_ends);
                if !in_vain || self.stages.get(reader).has_begun() {
                    continue;
                }
                self.stages.get_mut(reader).begin_empty();
                if self.topology.roots.contains(&reader) {
                    self.skip_inputs_of(reader);
                } else {
                    self.skip_open_tasks(reader);
                    self.filters.complete_empty(reader);
                    ended.push(reader);
                }
            }
        }
    }

    /// Whether all tasks that write the exchange have won without a row, or did not have to run.
    fn is_empty(&self, exchange: ExchangeId) -> bool {
        let writers = &self.graph.exchanges[exchange.0 as usize].writers;
        let mut writers = writers.iter().map(|writer| self.stages.get(*writer));
        writers.all(|writer| writer.is_done() && writer.won_rows() == 0)
    }

    /// Skips what is left of the stages that nobody reads but this one.
    fn skip_inputs_of(&mut self, reader: StageId) {
        for input in self.topology.inputs[reader.0 as usize].clone() {
            if self.topology.consumers[input.0 as usize].len() == 1 {
                self.skip_open_tasks(input);
            }
        }
    }

    /// Lets the tasks run again that were skipped because their reader wrote no rows.
    pub(super) fn requeue_inputs_of(&mut self, reader: StageId) {
        for input in self.topology.inputs[reader.0 as usize].clone() {
            if self.topology.consumers[input.0 as usize].len() == 1 {
                self.stages.get_mut(input).requeue_skipped();
                self.apply_row_limit(input);
            }
        }
    }

    fn skip_open_tasks(&mut self, stage: StageId) {
        for task in self.stop_open_tasks(stage) {
            self.stages.get_mut(stage).skip(task.task, self.now);
        }
        self.finalize_layouts_after(stage);
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
