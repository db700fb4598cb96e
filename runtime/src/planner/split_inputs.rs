//! Which inputs of a stage may be split: their partition's rows are shared among tasks that read the other inputs whole, and
//! together those tasks write what one task would.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::joins::HashJoinExec;

use super::cut::operator;
use super::empty_inputs::join_type;
use super::shuffle_read_exec::ShuffleReadExec;

/// Operators that treat each row, or keep all rows, whatever the others are.
const ROW_WISE: &[&str] = &[
    "FilterExec",
    "ProjectionExec",
    "SortExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "RuntimeFilterExec",
    "SchemaExec",
    "UnnestExec",
];

/// Where an input is in a part of a plan.
enum Place {
    /// Not there.
    Absent,
    /// The part's rows are those of the parts of the input together.
    Divisible,
    /// The part needs the whole input.
    Whole,
}

/// Whether the input of this number may be split, in the plan of a task whose rows do not depend on the order in which its
/// inputs come. The input is numbered as in the plan.
pub(crate) fn may_split(plan: &Arc<dyn ExecutionPlan>, input: u32) -> bool {
    matches!(place(plan, input), Place::Divisible)
}

fn place(plan: &Arc<dyn ExecutionPlan>, input: u32) -> Place {
    if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
        return if read.input_index() == input {
            Place::Divisible
        } else {
            Place::Absent
        };
    }
    let mut found = None;
    for (child, plan) in plan.children().into_iter().enumerate() {
        match (place(plan, input), found) {
            (Place::Absent, _) => {}
            (Place::Divisible, None) => found = Some(child),
            // A join of an input with itself, for one.
            (Place::Divisible, Some(_)) | (Place::Whole, _) => return Place::Whole,
        }
    }
    match found {
        None => Place::Absent,
        Some(child) if passes(plan, child) => Place::Divisible,
        Some(_) => Place::Whole,
    }
}

/// Whether the rows of an operator are those that it makes of the parts of this child, together.
fn passes(plan: &Arc<dyn ExecutionPlan>, child: usize) -> bool {
    if plan.fetch().is_some() {
        return false;
    }
    if let Some(join_type) = join_type(plan) {
        let hash = plan.downcast_ref::<HashJoinExec>();
        // Whether a NULL is among the rows of the other side, or any row at all, decides about all rows.
        return hash.is_none_or(|join| !join.null_aware) && divides(join_type, child);
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        // What several tasks have begun is merged like what one has.
        return *aggregate.mode() == AggregateMode::Partial && aggregate.limit_options().is_none();
    }
    operator(plan) == "CrossJoinExec" || ROW_WISE.contains(&operator(plan))
}

/// Whether each row of a side finds its matches without the other rows of that side.
fn divides(join_type: JoinType, side: usize) -> bool {
    match join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => side == 0,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => side == 1,
        JoinType::Full => false,
    }
}
