//! The layouts of stages in their epochs: when they are decided, and what readers are told of them.

use std::ops::Range;
use std::sync::Arc;

use super::Coordinator;
use super::attempts::{TaskRun, Winner};
use super::event::Action;
use super::worker_registry::Worker;
use crate::ids::{ExchangeId, StageId, TaskId, WorkerId};
use crate::layout::{AdaptivePolicy, Layout, LayoutId, MapTaskOutput, Observed, ObservedInput, Shard};
use crate::locality::Holders;
use crate::message::{MapOutputPartitionMeta, StageLayout, Writer};
use crate::metrics::partition_bytes_histogram;
use crate::plan::{ReadKind, Stage, StageGraph, StageInput};
use crate::ranges::{ByteRange, KeyRange, SortedRun};
use crate::speculation::RelativeSize;

/// The layouts of all stages, and the sizes of what their tasks divide.
#[derive(Debug)]
pub(super) struct Layouts {
    stages: Vec<LayoutHistory>,
}

#[derive(Debug)]
struct LayoutHistory {
    planned_tasks: u32,
    /// How many tasks the client's reader expects, if it reads the stage.
    sent_tasks: u32,
    /// How often a layout was decided, once an epoch.
    finalize_count: u32,
    /// How often a layout was decided or voided.
    events: u32,
    /// Decided before the first assignment of an epoch, and kept when inputs are written again.
    decision: Option<Decision>,
    /// Bytes of each partition that the stage writes and who holds them, as the first winner of each task in this epoch wrote
    /// them. A task that runs again writes the same rows, or its readers start over.
    output: Vec<Holders>,
}

/// How the inputs of a stage are read in its epoch.
#[derive(Debug)]
struct Decision {
    layout: Layout,
    /// The bytes of sorted runs that each task reads; empty if it reads no ranges.
    range_bytes: Vec<u64>,
    /// By task, the bytes of its part of what the tasks divide; empty if they divide nothing.
    task_bytes: Vec<u64>,
    /// The sum of those.
    total_bytes: u64,
    /// The joins whose sides change places.
    swapped_joins: Vec<u32>,
}

impl Layouts {
    pub(super) fn new(graph: &StageGraph) -> Self {
        let stage = |stage: &Stage| LayoutHistory {
            planned_tasks: stage.tasks,
            sent_tasks: stage.tasks,
            finalize_count: 0,
            events: 0,
            decision: None,
            output: Vec::new(),
        };
        Self {
            stages: graph.stages.iter().map(stage).collect(),
        }
    }

    fn of(&self, stage: StageId) -> &LayoutHistory {
        &self.stages[stage.0 as usize]
    }

    fn of_mut(&mut self, stage: StageId) -> &mut LayoutHistory {
        &mut self.stages[stage.0 as usize]
    }

    fn decision(&self, stage: StageId) -> Option<&Decision> {
        self.of(stage).decision.as_ref()
    }

    /// The layout of the stage in its current epoch, once it is decided.
    pub(super) fn get(&self, stage: StageId) -> Option<&Layout> {
        self.decision(stage).map(|decision| &decision.layout)
    }

    /// The name of the stage's layout, once it is decided.
    pub(super) fn id(&self, stage: StageId) -> Option<LayoutId> {
        self.get(stage).map(Layout::id)
    }

    /// How many tasks the stage has: as many as its layout, and until that is decided as many as were planned.
    pub(super) fn tasks(&self, stage: StageId) -> u32 {
        let planned = self.of(stage).planned_tasks;
        let decided = self.get(stage).map(|layout| layout.tasks.len());
        decided.map_or(planned, |tasks| u32::try_from(tasks).unwrap_or(u32::MAX))
    }

    /// How many tasks of the stage read a shard of a hot partition.
    pub(super) fn shards(&self, stage: StageId) -> u32 {
        self.get(stage).map_or(0, Layout::shards)
    }

    /// The shard that a task reads, if its partition is split.
    pub(super) fn shard_of(&self, task: TaskId) -> Option<&Shard> {
        let layout = self.get(task.stage)?;
        layout.tasks.get(task.task as usize)?.shard.as_ref()
    }

    /// The size of a task beside the others of its stage, by the bytes that it reads.
    pub(super) fn relative_size(&self, task: TaskId) -> RelativeSize {
        let sized = self.decision(task.stage).and_then(|decision| {
            let bytes = decision.task_bytes.get(task.task as usize)?;
            let tasks = decision.task_bytes.len() as u64;
            Some(RelativeSize::of(*bytes, decision.total_bytes, tasks))
        });
        sized.unwrap_or(RelativeSize::AVERAGE)
    }

    /// The joins of the stage whose sides change places.
    pub(super) fn swapped_joins(&self, stage: StageId) -> &[u32] {
        let decision = self.decision(stage);
        decision.map_or(&[], |decision| decision.swapped_joins.as_slice())
    }

    /// The rows that a task takes of the range exchange that its stage reads.
    pub(super) fn range_of(&self, task: TaskId) -> Option<&KeyRange> {
        let layout = self.get(task.stage)?;
        layout.tasks.get(task.task as usize)?.range.as_deref()
    }

    /// Forgets the layout of a stage that starts over, and what the stage wrote.
    pub(super) fn reset(&mut self, stage: StageId) {
        let stage = self.of_mut(stage);
        stage.events += u32::from(stage.decision.take().is_some());
        stage.output.clear();
    }

    /// Adds up what the first winner of a task wrote at a worker to the partitions of its exchange.
    pub(super) fn count_outputs(
        &mut self,
        stage: StageId,
        worker: &Arc<WorkerId>,
        partitions: u32,
        outputs: &[MapOutputPartitionMeta],
    ) {
        let holders = &mut self.of_mut(stage).output;
        holders.resize_with(partitions as usize, Holders::default);
        for output in outputs {
            if let Some(holders) = holders.get_mut(output.partition as usize) {
                holders.add(worker, output.bytes);
            }
        }
    }

    /// What the tasks of a stage wrote to some partitions, and who holds it.
    pub(super) fn held_of(&self, writer: StageId, partitions: Range<u32>) -> Holders {
        let range = partitions.start as usize..partitions.end as usize;
        let mut held = Holders::default();
        let parts = self.of(writer).output.get(range);
        parts.into_iter().flatten().for_each(|part| held.merge(part));
        held
    }

    /// Decides the layout of the stage.
    fn finalize(&mut self, stage: StageId, decision: Decision) {
        let stage = self.of_mut(stage);
        stage.decision = Some(decision);
        stage.finalize_count += 1;
        stage.events += 1;
    }

    /// How often a layout of the stage was decided.
    pub(super) fn finalize_count(&self, stage: StageId) -> u32 {
        self.of(stage).finalize_count
    }

    /// How often a layout of the stage was decided or voided.
    pub(super) fn events(&self, stage: StageId) -> u32 {
        self.of(stage).events
    }

    /// The bytes of each partition of an exchange; empty before anything of them is known.
    pub(super) fn bytes_of(&self, exchange: ExchangeId, graph: &StageGraph) -> Vec<u64> {
        let writers = graph.exchanges[exchange.0 as usize].writers.iter();
        sum_by_partition(writers.map(|writer| self.of(*writer).output.iter().map(Holders::total)))
    }

    /// The sizes of the partitions that the stage's tasks divide among them, those of all inputs together; empty before
    /// anything of them is known.
    pub(super) fn partition_bytes_histogram(&self, stage: &Stage, graph: &StageGraph) -> Vec<u32> {
        let ranges = self.decision(stage.id).map(|decision| &decision.range_bytes);
        if let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) {
            return partition_bytes_histogram(ranges.iter().copied());
        }
        let of_inputs: Vec<_> = own_inputs(stage)
            .map(|(_, input)| self.bytes_of(input.exchange, graph))
            .collect();
        partition_bytes_histogram(sum_by_partition(
            of_inputs.iter().map(|sizes| sizes.iter().copied()),
        ))
    }
}

/// The inputs that the tasks of `stage` divide by partition, with their numbers.
fn own_inputs(stage: &Stage) -> impl Iterator<Item = (u32, &StageInput)> {
    let own = |(_, input): &(u32, &StageInput)| input.read == ReadKind::OwnPartition;
    (0..).zip(&stage.inputs).filter(own)
}

/// The sums of sizes by partition; as many as the longest of them has.
fn sum_by_partition(all: impl Iterator<Item = impl ExactSizeIterator<Item = u64>>) -> Vec<u64> {
    let mut sums: Vec<u64> = Vec::new();
    for sizes in all {
        sums.resize(sums.len().max(sizes.len()), 0);
        for (sum, bytes) in sums.iter_mut().zip(sizes) {
            *sum = sum.saturating_add(bytes);
        }
    }
    sums
}

/// The slots of these workers in all.
fn slots<'a>(workers: impl Iterator<Item = &'a Worker>) -> u32 {
    workers.map(Worker::slots).fold(0, u32::saturating_add)
}

impl Coordinator {
    /// The range exchange that the stage reads, if it reads one.
    pub(super) fn range_input(&self, stage: StageId) -> Option<ExchangeId> {
        let stage = self.graph.stages.get(stage.0 as usize)?;
        let mut inputs = stage.inputs.iter();
        let input = inputs.find(|input| input.read == ReadKind::OwnRange)?;
        Some(input.exchange)
    }

    /// The writing stages of an exchange, in their order.
    pub(super) fn writers(&self, exchange: ExchangeId) -> impl Iterator<Item = StageId> {
        let exchange = self.graph.exchanges.get(exchange.0 as usize);
        exchange
            .into_iter()
            .flat_map(|exchange| exchange.writers.iter().copied())
    }

    /// Decides the layouts of the stages that waited for this one last, if it is done.
    pub(super) fn finalize_layouts_after(&mut self, stage: StageId) {
        // A successor may yet hear of the layout that its predecessor has decided.
        if !self.stages.get(stage).is_done() || self.recovery.is_waiting() {
            return;
        }
        let consumers = self.topology.consumers[stage.0 as usize].iter().copied();
        let ready: Vec<StageId> = consumers.filter(|consumer| self.inputs_done(*consumer)).collect();
        ready
            .into_iter()
            .for_each(|consumer| self.finalize_layout(consumer));
    }

    /// Decides the layout of a stage whose inputs can all be read, unless it is decided or no task of the stage will run.
    pub(super) fn finalize_layout(&mut self, id: StageId) {
        let Some(stage) = self.graph.stages.get(id.0 as usize) else {
            return;
        };
        let runs_nothing = self.stages.get(id).is_empty() && !self.topology.roots.contains(&id);
        if self.layouts.get(id).is_some() || runs_nothing {
            return;
        }
        let (layout, range_bytes) = match (self.range_input(id), self.adaptive_policy(id)) {
            (None, None) => (Layout::identity(stage, &self.graph), Vec::new()),
            (None, Some(policy)) => (self.adaptive_layout(stage, &policy), Vec::new()),
            (Some(exchange), _) => {
                let empty = SortedRun::default();
                let winners = self.map_task_winners(exchange);
                let runs = winners.map(|winner| winner.and_then(Winner::run));
                let runs: Vec<&SortedRun> = runs.map(|run| run.unwrap_or(&empty)).collect();
                let layout = Layout::by_ranges(stage, &self.graph, &runs, self.policy.min_range_bytes);
                let sizes = layout.range_bytes(&runs);
                (layout, sizes)
            }
        };
        let swapped_joins = self.swapped_joins(stage, &layout);
        let layout = layout.after(self.layouts_of_inputs(id), &swapped_joins);
        let preferred = self.preferred_workers(stage, &layout);
        let task_bytes = match range_bytes.is_empty() {
            true => self.task_bytes(stage, &layout),
            false => range_bytes.clone(),
        };
        let decision = Decision {
            total_bytes: task_bytes.iter().copied().fold(0, u64::saturating_add),
            task_bytes,
            swapped_joins,
            layout,
            range_bytes,
        };
        self.decide_layout(id, decision);
        self.stages.get_mut(id).prefer(preferred);
    }

    fn decide_layout(&mut self, id: StageId, decision: Decision) {
        self.layouts.finalize(id, decision);
        let tasks = self.layouts.tasks(id);
        self.stages.get_mut(id).set_task_count(tasks);
        self.update_result_tasks(id, tasks);
    }

    /// Takes over the layout that an earlier coordinator decided for a stage, unless one is decided. How many bytes its tasks
    /// read is not known.
    pub(super) fn restore_layout(&mut self, restored: StageLayout) {
        let planned = self.graph.stages.get(restored.stage.0 as usize);
        let fits = planned.is_some_and(|stage| {
            let writers = self.layouts_of_inputs(stage.id);
            let swapped = &restored.swapped_joins;
            restored.layout.is_of(stage, &self.graph, writers, swapped)
        });
        if fits && self.layouts.get(restored.stage).is_none() {
            let decision = Decision {
                layout: restored.layout,
                range_bytes: Vec::new(),
                task_bytes: Vec::new(),
                total_bytes: 0,
                swapped_joins: restored.swapped_joins,
            };
            self.decide_layout(restored.stage, decision);
        }
    }

    /// The layout of a stage and what was decided with it, for workers to keep.
    pub(super) fn stage_layout(&self, stage: StageId) -> Option<StageLayout> {
        let decision = self.layouts.decision(stage)?;
        Some(StageLayout {
            stage,
            layout: decision.layout.clone(),
            swapped_joins: decision.swapped_joins.clone(),
        })
    }

    /// The layouts by which the stages wrote that a stage reads. Those that read nothing themselves have only one.
    fn layouts_of_inputs(&self, id: StageId) -> Vec<LayoutId> {
        let writers = self.topology.inputs[id.0 as usize].iter();
        let reading = writers.filter(|writer| !self.topology.inputs[writer.0 as usize].is_empty());
        reading
            .map(|writer| self.layouts.id(*writer).unwrap_or_default())
            .collect()
    }

    /// By task, the bytes of the partitions that it reads; those of a task that shares them are its even part. Empty if nobody
    /// asks, or the stage divides no partitions.
    fn task_bytes(&self, stage: &Stage, layout: &Layout) -> Vec<u64> {
        let mut inputs = own_inputs(stage).peekable();
        if self.policy.speculation.is_none() || inputs.peek().is_none() {
            return Vec::new();
        }
        let of_inputs: Vec<_> = inputs
            .map(|(_, input)| self.layouts.bytes_of(input.exchange, &self.graph))
            .collect();
        let sizes = sum_by_partition(of_inputs.iter().map(|sizes| sizes.iter().copied()));
        layout.task_bytes(&sizes)
    }

    /// The policy by which the stage's partitions are coalesced and split; `None` if each task reads one.
    pub(super) fn adaptive_policy(&self, id: StageId) -> Option<AdaptivePolicy> {
        let stage = self.graph.stages.get(id.0 as usize)?;
        // A client reads the union of several stages while some of them wait for their inputs. It would have to read
        // again what it has, once the number of their tasks is known.
        let client_reads_part =
            !self.policy.sink && self.topology.roots.contains(&id) && self.topology.roots.len() > 1;
        let divides = own_inputs(stage).next().is_some();
        self.policy
            .adaptive
            .filter(|_| stage.coalesces && divides && stage.tasks > 1 && !client_reads_part)
    }

    fn adaptive_layout(&self, stage: &Stage, policy: &AdaptivePolicy) -> Layout {
        let observe = |(number, input): (u32, &StageInput)| ObservedInput {
            input: number,
            partition_bytes: self.layouts.bytes_of(input.exchange, &self.graph),
            map_tasks: self.map_task_outputs(input.exchange),
            may_split: input.may_split,
        };
        let inputs: Vec<_> = own_inputs(stage).map(observe).collect();
        let observed = Observed {
            partitions: stage.tasks as usize,
            inputs: &inputs,
            slots: match slots(self.workers.usable()) {
                // They all go, and others will come.
                0 => slots(self.workers.connected()),
                usable => usable,
            },
        };
        Layout::adaptive(stage, &self.graph, &observed, policy, self.policy.joins.as_ref())
    }

    /// The output of each map task of an exchange.
    fn map_task_outputs(&self, exchange: ExchangeId) -> Vec<MapTaskOutput<'_>> {
        let winners = self.map_task_winners(exchange);
        let outputs = winners.map(|winner| MapTaskOutput {
            bytes: winner.and_then(Winner::bytes),
            worker: winner.map(|winner| winner.worker.name.as_str()),
        });
        outputs.collect()
    }

    /// The winners of all tasks of all writers of an exchange, in their order.
    pub(super) fn map_task_winners(&self, exchange: ExchangeId) -> impl Iterator<Item = Option<&Winner>> {
        let tasks = self
            .writers(exchange)
            .flat_map(|writer| self.stages.get(writer).tasks());
        tasks.map(TaskRun::winner)
    }

    /// Whether partitions that the stage writes may be split, so that the sizes of single map tasks matter.
    pub(super) fn may_be_split(&self, stage: StageId) -> bool {
        let output = self.graph.stages[stage.0 as usize].output;
        let consumers = self.topology.consumers[stage.0 as usize].iter();
        let mut inputs = consumers.flat_map(|consumer| &self.graph.stages[consumer.0 as usize].inputs);
        self.policy.adaptive.is_some() && inputs.any(|input| input.exchange == output && input.may_split)
    }

    fn update_result_tasks(&mut self, stage: StageId, tasks: u32) {
        if self.policy.sink || !self.topology.roots.contains(&stage) {
            return;
        }
        let told = &mut self.layouts.of_mut(stage).sent_tasks;
        if *told != tasks {
            *told = tasks;
            let writer = Writer {
                stage,
                tasks,
                only: None,
            };
            self.out.push(Action::SetResultTasks { writer });
        }
    }

    /// The writers of an input of a stage, with the map tasks of them that a task reads.
    pub(super) fn writers_for(&self, task: TaskId, number: u32, exchange: ExchangeId) -> Vec<Writer> {
        let shard = self.layouts.shard_of(task).filter(|shard| shard.input == number);
        let mut before = 0_u32;
        let writer = |stage: StageId| {
            let tasks = self.layouts.tasks(stage);
            let mut only = self.stages.get(stage).only_tasks();
            if let Some(shard) = shard {
                let mut read = only.unwrap_or_else(|| (0..tasks).collect());
                read.retain(|task| shard.contains(before.saturating_add(*task)));
                only = Some(read);
            }
            before = before.saturating_add(tasks);
            Writer { stage, tasks, only }
        };
        self.writers(exchange).map(writer).collect()
    }

    /// The number of a map task among all tasks of all writers of an exchange, in their order: ranges and shards know it by that.
    fn map_task_number(&self, exchange: ExchangeId, map_task: TaskId) -> Option<u32> {
        let mut before = 0_u32;
        for writer in self.writers(exchange) {
            if writer == map_task.stage {
                return Some(before.saturating_add(map_task.task));
            }
            before = before.saturating_add(self.layouts.tasks(writer));
        }
        None
    }

    /// The bytes of a winner's run that hold the rows of a reading task.
    pub(super) fn bytes_for(&self, reader: TaskId, winner: &Winner) -> Option<ByteRange> {
        let range = self.layouts.range_of(reader)?;
        let run = winner.run()?;
        let exchange = self.range_input(reader.stage)?;
        let number = self.map_task_number(exchange, winner.id.task_id())?;
        Some(range.bytes_of(run, number))
    }
}
