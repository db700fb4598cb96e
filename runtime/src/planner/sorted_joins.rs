//! The hash joins of a task done by sorting both sides: for a task that ran out of memory. A hash join keeps one side in
//! memory, sorts spill.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::cut::requirements_hold;
use super::error::PlanError;
use super::sort_merge::{can_merge, merged};

/// Whether the plan of a task has a join that [`sort_joins`] does in another way.
///
/// # Errors
/// The plan cannot be walked.
pub(crate) fn has_sortable_join(plan: &Arc<dyn ExecutionPlan>) -> Result<bool, PlanError> {
    let found = plan.exists(|node| Ok(sortable(node).is_some()));
    found.map_err(|error| PlanError::internal("joins of a stage", error))
}

/// The plan of a task with its joins done by sorting, as far as they can be. It gives the same rows, and those in the order
/// that the plan declares.
///
/// # Errors
/// An operator does not take the sorted rows.
pub fn sort_joins(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let sorted = plan.transform_up(|node| {
        let Some(join) = sortable(&node) else {
            return Ok(Transformed::no(node));
        };
        let merged = merged(join)?;
        // What is above the join may rely on the order of its probe side.
        Ok(Transformed::yes(match node.output_ordering() {
            Some(ordering) => Arc::new(SortExec::new(ordering.clone(), merged)),
            None => merged,
        }))
    });
    let sorted = sorted
        .data()
        .map_err(|error| PlanError::internal("sorted joins", error))?;
    requirements_hold(sorted)
}

/// The node as a join that can merge sorted sides. A sort-merge join has no null-aware form and no limit.
fn sortable(node: &Arc<dyn ExecutionPlan>) -> Option<&HashJoinExec> {
    let join = node.downcast_ref::<HashJoinExec>()?;
    (!join.null_aware && node.fetch().is_none() && can_merge(join)).then_some(join)
}
