//! Defects in layouts, put in on purpose.

use std::sync::Arc;

use crate::coordinator::Action;
use crate::ids::{AttemptId, StreamEpoch};
use crate::limits::MAX_PARTITIONS;
use crate::message::{AssignedInput, InputState, InputUpdate};
use crate::partition_set::PartitionSet;
use crate::plan::{ReadKind, StageGraph};

/// A defect put in on purpose, to show that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    None,
    /// Workers keep their successes to themselves.
    DropSuccess,
    /// A stage writes one row of each task twice.
    RepeatRow,
    /// A reader loses the rows of one chunk.
    LoseChunk,
    /// The coordinator is not told that a second run of a stage makes other rows.
    HideIndeterminacy,
    /// Every attempt fails, whatever the plan says.
    FailAttempts,
    /// The sink cannot commit, and what it made visible stays.
    KeepFiles,
    /// A worker says that it has granted twice as many slots as it has.
    GrantTwice,
    /// The query is taken for ended though the coordinator has not ended it.
    EndEarly,
    /// The coordinator takes its deadline and the grace time for missing workers a hundredfold.
    LongTimeouts,
    /// The coordinator halves both.
    ShortTimeouts,
    /// The client gives up when any row has left, whatever attempt cannot be read.
    FailForAnyRow,
    /// The client hands out again what a reader reads again.
    DeliverAgain,
    /// A reader keeps rows of its frames that lie in other ranges.
    KeepForeignRows,
    /// Every worker that is lost had said that it goes.
    ReportAllDrained,
    /// A task of several partitions leaves the last one out.
    SkipPartition,
    /// A task reads a partition of another one, too.
    ReadPartitionTwice,
    /// The coordinator leaves the last partition of a task out of its assignment.
    AssignTooFew,
    /// Runtime filters lack keys of rows that were written.
    DropKeys,
    /// The coordinator takes half of a limit's rows for enough.
    HalfLimit,
    /// The coordinator keeps outputs that were read.
    KeepOutputs,
    /// The coordinator says of a partition that holds bytes that it holds none.
    DropFilledPartition,
    /// The coordinator never tells an attempt to sort.
    NeverSort,
    /// Workers report that outputs have no rows.
    ReportNoRows,
    /// The coordinator leaves a map task out of a shard.
    SkipMapTask,
    /// The coordinator leaves out partitions of what a task should read whole.
    ReadPartOfWhole,
    /// The coordinator lets one task of a stage do a join as planned whose sides change places in others.
    SwapInSome,
    /// The coordinator does not tell a worker of one of the outputs.
    DropUpdate,
    /// The coordinator tells a worker of an output twice.
    RepeatUpdate,
    /// A worker keeps the first that it is told of an output.
    KeepFirstUpdate,
    /// The coordinator never cancels an attempt.
    NeverCancel,
    /// The coordinator says of an output that it refuses that it counts.
    TellLoser,
    /// A successor numbers attempts as its predecessor did.
    NumberAgain,
    /// A successor takes outputs for those of the layouts that it has decided.
    RelabelOutputs,
}

/// Changes what the coordinator says.
pub fn apply_to_action(defect: Defect, action: &mut Action) {
    match defect {
        Defect::AssignTooFew => drop_partition(action),
        Defect::DropFilledPartition => drop_filled_partition(action),
        Defect::DropUpdate => drop_update(action),
        Defect::RepeatUpdate => repeat_update(action),
        Defect::NeverSort => never_sort(action),
        Defect::SkipMapTask => skip_map_task(action),
        Defect::ReadPartOfWhole => read_part_of_whole(action),
        Defect::SwapInSome => swap_in_some(action),
        Defect::TellLoser => tell_loser(action),
        _ => {}
    }
}

/// Takes the last of several partitions from what is assigned.
fn drop_partition(action: &mut Action) {
    let Action::AssignAttempt { assignment, .. } = action else {
        return;
    };
    for input in &mut assignment.inputs {
        if input.assigned_reduce_partitions.len() > 1 {
            input.assigned_reduce_partitions.pop();
        }
    }
}

/// Takes a map task from those of which a shard consists.
fn skip_map_task(action: &mut Action) {
    let Action::AssignAttempt { assignment, .. } = action else {
        return;
    };
    let writers = assignment.inputs.iter_mut().flat_map(|input| &mut input.writers);
    writers.for_each(|writer| {
        writer.only.as_mut().and_then(Vec::pop);
    });
}

/// Leaves one partition of the inputs that a task reads whole while others read theirs in parts.
fn read_part_of_whole(action: &mut Action) {
    let Action::AssignAttempt { assignment, .. } = action else {
        return;
    };
    let is_part = |input: &AssignedInput| input.writers.iter().any(|writer| writer.only.is_some());
    if assignment.inputs.iter().any(is_part) {
        let whole = assignment.inputs.iter_mut().filter(|input| !is_part(input));
        whole.for_each(|input| input.assigned_reduce_partitions.truncate(1));
    }
}

/// Lets the first task of a stage do its joins with the sides as planned.
fn swap_in_some(action: &mut Action) {
    if let Action::AssignAttempt { assignment, .. } = action
        && assignment.attempt.task == 0
    {
        assignment.swapped_joins.clear();
    }
}

/// Lets an attempt do its joins as planned.
fn never_sort(action: &mut Action) {
    if let Action::AssignAttempt { assignment, .. } = action {
        assignment.sort_joins = false;
    }
}

/// Says of an output that a worker is to drop that it counts.
fn tell_loser(action: &mut Action) {
    if let Action::RetireAttempt { worker, attempt } = action {
        let update = InputUpdate {
            map_attempt: *attempt,
            stream_epoch: StreamEpoch(u64::from(attempt.attempt) + 1),
            worker: Arc::new(worker.clone()),
            state: InputState::Won,
            filled_partitions: None,
        };
        *action = Action::UpdateInputs {
            worker: worker.clone(),
            updates: Arc::new(vec![update]),
            ranges: Vec::new(),
        };
    }
}

/// Takes the last output from those that a worker is told of.
fn drop_update(action: &mut Action) {
    if let Action::UpdateInputs { updates, .. } = action {
        Arc::make_mut(updates).pop();
    }
}

/// Tells a worker of an output as if each reader had to hear of it.
fn repeat_update(action: &mut Action) {
    if let Action::UpdateInputs { updates, .. } = action {
        let updates = Arc::make_mut(updates);
        updates.extend(updates.first().cloned());
    }
}

/// Takes a partition from those that hold bytes.
fn drop_filled_partition(action: &mut Action) {
    let Action::UpdateInputs { updates, .. } = action else {
        return;
    };
    for filled in Arc::make_mut(updates)
        .iter_mut()
        .filter_map(|update| update.filled_partitions.as_mut())
    {
        let mut members: Vec<u32> = filled.members_in(0..MAX_PARTITIONS).collect();
        members.pop();
        *filled = PartitionSet::new(MAX_PARTITIONS, members.into_iter());
    }
}

/// Changes what an attempt reads of its own partitions.
pub fn apply_to_inputs(defect: Defect, graph: &StageGraph, attempt: AttemptId, inputs: &mut [AssignedInput]) {
    let of_stage = &graph.stages[attempt.stage.0 as usize].inputs;
    let divided = of_stage.iter().zip(inputs);
    for (_, assigned) in divided.filter(|(input, _)| input.read == ReadKind::OwnPartition) {
        let partitions = &mut assigned.assigned_reduce_partitions;
        match defect {
            Defect::SkipPartition if partitions.len() > 1 => {
                partitions.pop();
            }
            Defect::ReadPartitionTwice if !partitions.contains(&0) => partitions.push(0),
            _ => {}
        }
    }
}
