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
    /// By stage in its epoch, the joins whose sides change places.
    swapped: BTreeMap<StageId, Vec<u32>>,
    /// By stage and task in the stage's epoch, what it reads of each input.
    assigned: BTreeMap<(StageId, u32), Vec<Part>>,
    /// The same of each attempt, whichever coordinator started it.
    by_attempt: BTreeMap<AttemptId, Vec<Part>>,
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

    /// Another coordinator begins.
    pub fn succeeded(self, graph: &StageGraph) -> Self {
        Self {
            by_attempt: self.by_attempt,
            ..Self::of(graph)
        }
    }

    /// The output of an earlier coordinator's attempt counts.
    pub fn on_recovered(&mut self, attempt: AttemptId) {
        if let Some(parts) = self.by_attempt.get(&attempt) {
            self.assigned.insert((attempt.stage, attempt.task), parts.clone());
        }
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
            self.swapped.remove(&attempt.stage);
        }
        self.check_swapped(assignment)?;
        let parts: Vec<Part> = assignment.inputs.iter().map(Part::of).collect();
        self.by_attempt.insert(attempt, parts.clone());
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

    /// Checks that all attempts of a stage that hash do the same joins with their sides swapped: the order of their rows depends on
    /// it.
    fn check_swapped(&mut self, assignment: &Assignment) -> Result<(), Violation> {
        let joins = &assignment.swapped_joins;
        let known = self.swapped.entry(assignment.attempt.stage);
        if assignment.sort_joins || *known.or_insert_with(|| joins.clone()) == *joins {
            return Ok(());
        }
        Err(format!("{} swaps other joins than its stage", assignment.attempt))
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

    /// Checks that so many tasks read every partition once, be it in shards. Of several inputs, what one map task wrote of each meets
    /// in one task.
    fn check(&self, stage: StageId, tasks: u32) -> Result<(), Violation> {
        let inputs = self.inputs.get(&stage).map_or(&[][..], Vec::as_slice);
        let Some((first, partitions)) = inputs.first() else {
            return Ok(());
        };
        let mut parts = Vec::new();
        for task in 0..tasks {
            let assigned = self.assigned.get(&(stage, task));
            let all = assigned.ok_or_else(|| format!("task {stage}.{task} was never assigned"))?;
            let own = inputs.iter().map(|(input, _)| &all[*input]);
            parts.push(own.collect::<Vec<&Part>>());
        }
        let written = |input: usize| -> BTreeSet<TaskId> {
            let read = parts.iter().flat_map(|part| &part[input].map_tasks);
            read.copied().collect()
        };
        let all: Vec<BTreeSet<TaskId>> = (0..inputs.len()).map(written).collect();
        for partition in 0..*partitions {
            let reads = |part: &&Vec<&Part>| part.iter().all(|input| input.partitions.contains(&partition));
            let readers: Vec<&Vec<&Part>> = parts.iter().filter(reads).collect();
            let mut times = vec![readers.len()];
            if let [_, _, ..] = readers.as_slice() {
                times = combinations(&all)
                    .iter()
                    .map(|met| meetings(&readers, met))
                    .collect();
            }
            if let Some(times) = times.into_iter().find(|times| *times != 1) {
                return Err(format!(
                    "the {tasks} tasks of stage {stage} read partition {partition} of input {first} {times} times"
                ));
            }
        }
        Ok(())
    }
}

/// In how many tasks what these map tasks wrote meets, one of each input.
fn meetings(readers: &[&Vec<&Part>], map_tasks: &[TaskId]) -> usize {
    let met = |reader: &&&Vec<&Part>| {
        let mut inputs = reader.iter().zip(map_tasks);
        inputs.all(|(input, map_task)| input.map_tasks.contains(map_task))
    };
    readers.iter().filter(met).count()
}

/// Every choice of one map task of each input.
fn combinations(inputs: &[BTreeSet<TaskId>]) -> Vec<Vec<TaskId>> {
    let none = vec![Vec::new()];
    inputs.iter().fold(none, |begun, map_tasks| {
        let longer = begun.iter().flat_map(|chosen| {
            map_tasks.iter().map(|map_task| {
                let mut chosen = chosen.clone();
                chosen.push(*map_task);
                chosen
            })
        });
        longer.collect()
    })
}
