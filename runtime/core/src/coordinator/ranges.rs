//! The layout of a stage that merges sorted runs: which task reads which part of each.

use super::Coordinator;
use super::attempts::{TaskRun, Winner};
use crate::ids::{AttemptId, ExchangeId, StageId, TaskId};
use crate::message::{InputState, InputUpdate};
use crate::plan::{ReadKind, StageInput};
use crate::ranges::{ByteRange, KeyRange, SortedRun, divide};

impl Coordinator {
    /// The range exchange that the stage reads, if it reads one.
    fn range_input(&self, stage: StageId) -> Option<ExchangeId> {
        let stage = self.graph.stages.get(stage.0 as usize)?;
        let input = stage
            .inputs
            .iter()
            .find(|input| input.read == ReadKind::OwnRange)?;
        Some(input.exchange)
    }

    /// The writing stages of an exchange, in their order.
    fn writers(&self, exchange: ExchangeId) -> impl Iterator<Item = StageId> {
        let exchange = self.graph.exchanges.get(exchange.0 as usize);
        exchange
            .into_iter()
            .flat_map(|exchange| exchange.writers.iter().copied())
    }

    /// Decides the ranges of a stage whose inputs are all there, unless that was done.
    pub(super) fn lay_out_ranges(&mut self, stage: StageId) {
        let Some(exchange) = self
            .range_input(stage)
            .filter(|_| self.stages.get(stage).ranges.is_empty())
        else {
            return;
        };
        let nothing = SortedRun::default();
        let tasks = self
            .writers(exchange)
            .flat_map(|writer| self.stages.get(writer).tasks());
        let winners = tasks.map(TaskRun::winner);
        let runs: Vec<&SortedRun> = winners
            .map(|winner| {
                winner
                    .and_then(|winner| winner.run.as_deref())
                    .unwrap_or(&nothing)
            })
            .collect();
        let readers = self.stages.get(stage).tasks().len();
        let readers = u32::try_from(readers).unwrap_or(u32::MAX);
        let ranges = divide(&runs, readers, self.policy.min_range_bytes);
        let bytes = |range: &KeyRange| {
            let parts = (0..)
                .zip(&runs)
                .map(|(map_task, run)| range.bytes_of(run, map_task));
            let sizes = parts.map(|part| part.end - part.start);
            sizes.fold(0, u64::saturating_add)
        };
        let sizes = ranges.iter().map(bytes).collect();
        let stage = self.stages.get_mut(stage);
        stage.range_bytes = sizes;
        stage.ranges = ranges;
    }

    /// The rows that a task takes of the range exchange that its stage reads.
    pub(super) fn range_of(&self, stage: StageId, task: u32) -> Option<&KeyRange> {
        self.stages.get(stage).ranges.get(task as usize)
    }

    /// What a reading attempt is told of a winner.
    pub(super) fn update_for(&self, reader: AttemptId, winner: &Winner, state: InputState) -> InputUpdate {
        InputUpdate {
            range: self.bytes_for(reader.task_id(), winner),
            ..winner.update(state)
        }
    }

    /// Whether the reader's own partition of the output is empty: it need not ask for it. With many partitions nearly all
    /// of them are, and there are as many as map tasks times reduce tasks.
    fn reads_nothing(&self, reader: TaskId, winner: &Winner) -> bool {
        let Some(filled) = &winner.filled else {
            return false;
        };
        let Some(stage) = self.graph.stages.get(reader.stage.0 as usize) else {
            return false;
        };
        let of_winner = |input: &&StageInput| {
            self.writers(input.exchange)
                .any(|writer| writer == winner.id.stage)
        };
        let mut inputs = stage.inputs.iter().filter(of_winner);
        inputs.all(|input| input.read == ReadKind::OwnPartition)
            && filled.binary_search(&reader.task).is_err()
    }

    /// The bytes of a winner's run that hold the rows of a reading task.
    fn bytes_for(&self, reader: TaskId, winner: &Winner) -> Option<ByteRange> {
        if self.reads_nothing(reader, winner) {
            return Some(ByteRange { start: 0, end: 0 });
        }
        let range = self.range_of(reader.stage, reader.task)?;
        let run = winner.run.as_deref()?;
        let exchange = self.range_input(reader.stage)?;
        let mut before = 0;
        for writer in self.writers(exchange) {
            if writer == winner.id.stage {
                let map_task = u32::try_from(before).ok()?.checked_add(winner.id.task)?;
                return Some(range.bytes_of(run, map_task));
            }
            before += self.stages.get(writer).tasks().len();
        }
        None
    }
}
