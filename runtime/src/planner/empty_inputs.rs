//! Which inputs of a stage leave nothing to write if they have no rows.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};

use super::cut::operator;
use super::shuffle_read_exec::ShuffleReadExec;

/// Operators of one input that put out no row of their own.
const PASSING: &[&str] = &[
    "FilterExec",
    "ProjectionExec",
    "SortExec",
    "PartialSortExec",
    "LocalLimitExec",
    "GlobalLimitExec",
    "BoundedWindowAggExec",
    "WindowAggExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "SortPreservingMergeExec",
    "CooperativeExec",
    "RuntimeFilterExec",
    "SchemaExec",
    "UnnestExec",
];

/// Whether the plan of a task has no rows if the input of this number has none. The input is numbered as in the plan.
pub(crate) fn empty_ends(plan: &Arc<dyn ExecutionPlan>, input: u32) -> bool {
    if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
        return read.input_index() == input;
    }
    let children = plan.children();
    let mut ends = children.iter().map(|child| empty_ends(child, input));
    if let Some(join_type) = join_type(plan) {
        let (left, right) = (ends.next() == Some(true), ends.next() == Some(true));
        return match join_type {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => left || right,
            JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => left,
            JoinType::Right | JoinType::RightAnti | JoinType::RightMark => right,
            JoinType::Full => left && right,
        };
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        // Without groups, and for the empty one of several sets, no rows give one.
        let groups = aggregate.group_expr();
        return groups.is_single() && !groups.is_empty() && ends.any(|ends| ends);
    }
    match operator(plan) {
        "UnionExec" | "InterleaveExec" => !children.is_empty() && ends.all(|ends| ends),
        "CrossJoinExec" => ends.any(|ends| ends),
        name => PASSING.contains(&name) && ends.any(|ends| ends),
    }
}

/// The type of a join; `None` for another operator.
pub(super) fn join_type(plan: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    let hash = plan.downcast_ref::<HashJoinExec>();
    let merge = plan.downcast_ref::<SortMergeJoinExec>();
    let nested = plan.downcast_ref::<NestedLoopJoinExec>();
    let hash = hash.map(|join| *join.join_type());
    let merge = merge.map(SortMergeJoinExec::join_type);
    hash.or(merge).or(nested.map(|join| *join.join_type()))
}
