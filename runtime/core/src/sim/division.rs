//! The rule that the tasks of a stage divide the partitions of their inputs: what each map task wrote to each of them is read
//! once, whatever the layout is.

use std::collections::{BTreeMap, BTreeSet};

use super::audit::Violation;
use crate::ids::{AttemptId, StageEpoch, StageId, TaskId};
use crate::message::{AssignedInput, Assignment, Writer};
use crate::plan::{ReadKind, StageGraph};

/// What was assigned of the inputs that are divided by partition.
#[derive(Debug, Default)]
pub struct Division {
    /// By stage, the inputs that its tasks divide, with their partitions.
    inputs: BTreeMap<StageId, Vec<(usize, u32)>>,
    /// The stages that write the result.
    roots: Vec<StageId>,
    /// How many tasks each stage has: as planned, or as was said last.
    pub tasks: BTreeMap<StageId, u32>,
    epochs: BTreeMap<StageId, StageEpoch>,
    /// By stage and task in the stage's epoch, what it reads of each input.
    assigned: BTreeMap<(StageId, u32), Vec<Part>>,
}

/// What one task reads of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    partitions: Vec<u32>,
    map_tasks: BTreeSet<TaskId>,
}

impl Part {
    fn of(input: &AssignedInput) -> Self {
        Self {
            partitions: input.assigned_reduce_partitions.clone(),
            map_tasks: input.writers.iter().flat_map(Writer::map_tasks).collect(),
        }
    }
}

impl Division {
    pub fn of(graph: &StageGraph) -> Self {
        let mut division = Self {
            roots: graph.exchanges[graph.result.0 as usize].writers.clone(),
            ..Self::default()
        };
        for stage in &graph.stages {
            let inputs = (0..).zip(&stage.inputs);
            let own = inputs.filter(|(_, input)| input.read == ReadKind::OwnPartition);
            let partitions =
                own.map(|(number, input)| (number, graph.exchanges[input.exchange.0 as usize].partitions));
            division.inputs.insert(stage.id, partitions.collect());
            division.tasks.insert(stage.id, stage.tasks);
        }
        division
    }

    /// Checks that the stages that the attempt reads were divided, and that attempts of one task read the same.
    pub fn on_assigned(&mut self, assignment: &Assignment) -> Result<(), Violation> {
        let attempt = assignment.attempt;
        let writers = assignment.inputs.iter().flat_map(|input| &input.writers);
        for Writer { stage, tasks, only } in writers {
            // Of a stage that is read in part, no rows are needed of the partitions that no task has read.
            let all_ran = |only: &Vec<u32>| {
                (0..*tasks).all(|task| self.assigned.contains_key(&(*stage, task))) && !only.is_empty()
            };
            if only.as_ref().is_none_or(all_ran) {
                self.check(*stage, *tasks)?;
            }
        }
        let epoch = self.epochs.entry(attempt.stage).or_default();
        if *epoch < attempt.stage_epoch {
            *epoch = attempt.stage_epoch;
            self.assigned.retain(|(stage, _), _| *stage != attempt.stage);
        }
        let parts: Vec<Part> = assignment.inputs.iter().map(Part::of).collect();
        let task = (attempt.stage, attempt.task);
        let before = self.assigned.entry(task).or_insert_with(|| parts.clone());
        let partitions = |parts: &[Part]| {
            parts
                .iter()
                .map(|part| part.partitions.clone())
                .collect::<Vec<_>>()
        };
        if partitions(before) == partitions(&parts) {
            // Tasks may have been skipped since.
            *before = parts;
            return Ok(());
        }
        Err(format!(
            "{attempt} reads other partitions than an attempt before it"
        ))
    }

    /// Checks the root stages of a query whose files become visible.
    pub fn on_committed(&mut self, winners: &[AttemptId]) -> Result<(), Violation> {
        for root in &self.roots {
            let won = winners.iter().filter(|winner| winner.stage == *root).count();
            self.tasks.insert(*root, u32::try_from(won).unwrap_or(u32::MAX));
        }
        self.check_result()
    }

    /// Checks the root stages of a query that has succeeded.
    pub fn check_result(&self) -> Result<(), Violation> {
        let tasks = |root: &StageId| self.tasks.get(root).copied().unwrap_or_default();
        self.roots
            .iter()
            .try_for_each(|root| self.check(*root, tasks(root)))
    }

    /// Checks that so many tasks read every partition once, be it in shards.
    fn check(&self, stage: StageId, tasks: u32) -> Result<(), Violation> {
        for (input, partitions) in self.inputs.get(&stage).into_iter().flatten() {
            let mut readers: Vec<Vec<&BTreeSet<TaskId>>> = vec![Vec::new(); *partitions as usize];
            for task in 0..tasks {
                let assigned = self
                    .assigned
                    .get(&(stage, task))
                    .and_then(|inputs| inputs.get(*input));
                let part = assigned.ok_or_else(|| format!("task {stage}.{task} was never assigned"))?;
                for partition in &part.partitions {
                    readers[*partition as usize].push(&part.map_tasks);
                }
            }
            let all: BTreeSet<TaskId> = readers.iter().flatten().copied().flatten().copied().collect();
            for (partition, readers) in readers.iter().enumerate() {
                let mut times = vec![readers.len()];
                if let [_, _, ..] = readers.as_slice() {
                    let of = |task| readers.iter().filter(|read| read.contains(task)).count();
                    times = all.iter().map(of).collect();
                }
                if let Some(times) = times.into_iter().find(|times| *times != 1) {
                    return Err(format!(
                        "the {tasks} tasks of stage {stage} read partition {partition} of input {input} {times} times"
                    ));
                }
            }
        }
        Ok(())
    }
}
