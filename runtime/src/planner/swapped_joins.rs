//! Hash joins of a task whose sides change places: the probe side turned out smaller, and the table is made of the build side.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use sluice_core::plan::SwappableJoin;

use super::cut::{operator, requirements_hold};
use super::error::PlanError;
use super::shuffle_read_exec::ShuffleReadExec;

/// Operators that may stand between an input and a join: the join's side is about as large as the input.
const KEEPS_SIZE: &[&str] = &[
    "FilterExec",
    "ProjectionExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "RuntimeFilterExec",
    "SchemaExec",
];

/// The joins of the plan of a task that [`swap_joins`] may change. Inputs are numbered as in the plan.
pub(crate) fn swappable_joins(plan: &Arc<dyn ExecutionPlan>) -> Vec<SwappableJoin> {
    let mut found = Vec::new();
    collect(plan, &mut 0, &mut found);
    found
}

/// Visits joins in the order in which they are counted.
fn collect(plan: &Arc<dyn ExecutionPlan>, next: &mut u32, found: &mut Vec<SwappableJoin>) {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let number = *next;
        *next += 1;
        // What is above a join may rely on the order of its probe side.
        let is_free = !join.null_aware && plan.fetch().is_none() && plan.output_ordering().is_none();
        if let (true, Some(build), Some(probe)) = (is_free, only_input(join.left()), only_input(join.right()))
        {
            found.push(SwappableJoin {
                join: number,
                build,
                probe,
            });
        }
    }
    for child in plan.children() {
        collect(child, next, found);
    }
}

/// The input that a side of a join reads, if that is all that it does.
fn only_input(side: &Arc<dyn ExecutionPlan>) -> Option<u32> {
    if let Some(read) = side.downcast_ref::<ShuffleReadExec>() {
        return Some(read.input_index());
    }
    match side.children().as_slice() {
        [child] if KEEPS_SIZE.contains(&operator(side)) && side.fetch().is_none() => only_input(child),
        _ => None,
    }
}

/// The plan of a task, of which the hash joins with these numbers have the other side as their build side. It gives the same
/// rows in another order.
///
/// # Errors
/// A join does not take its sides the other way round.
pub(super) fn swap_joins(
    plan: Arc<dyn ExecutionPlan>,
    swapped: &[u32],
) -> std::result::Result<Arc<dyn ExecutionPlan>, PlanError> {
    if swapped.is_empty() {
        return Ok(plan);
    }
    let plan =
        rewrite(&plan, &mut 0, swapped).map_err(|error| PlanError::internal("swapped joins", error))?;
    requirements_hold(plan)
}

fn rewrite(plan: &Arc<dyn ExecutionPlan>, next: &mut u32, swapped: &[u32]) -> Result<Arc<dyn ExecutionPlan>> {
    let mut swaps = false;
    if plan.downcast_ref::<HashJoinExec>().is_some() {
        swaps = swapped.contains(next);
        *next += 1;
    }
    let before = plan.children();
    let children = before.iter().map(|child| rewrite(child, next, swapped));
    let children = children.collect::<Result<Vec<_>>>()?;
    let is_same = before
        .iter()
        .zip(&children)
        .all(|(old, new)| Arc::ptr_eq(old, new));
    let plan = if is_same {
        Arc::clone(plan)
    } else {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Arc::clone(plan).replace_children(children, options)?
    };
    match plan.downcast_ref::<HashJoinExec>() {
        Some(join) if swaps => join.swap_inputs(*join.partition_mode()),
        Some(_) | None => Ok(plan),
    }
}
