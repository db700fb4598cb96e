//! Where the values of a column come from, and where rows may be left out by one.

use std::sync::Arc;

use datafusion::common::{JoinSide, JoinType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, JoinOnRef, NestedLoopJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::projection::ProjectionExec;

use crate::planner::cut::operator;

/// A column of one of an operator's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// Which input.
    pub(super) child: usize,
    /// Which of its columns.
    pub(super) column: usize,
}

/// Operators whose first columns are those of their one input, in the same order.
const COLUMN_PRESERVING: &[&str] = &[
    "SortExec",
    "PartialSortExec",
    "SortPreservingMergeExec",
    "CoalescePartitionsExec",
    "CoalesceBatchesExec",
    "CooperativeExec",
    "BufferExec",
    "LocalLimitExec",
    "GlobalLimitExec",
    "BoundedWindowAggExec",
    "WindowAggExec",
    "SchemaExec",
    "OpaqueExec",
    "RuntimeFilterExec",
];

/// Of those, the operators whose output for a row depends on other rows.
const ACROSS_ROWS: &[&str] = &[
    "LocalLimitExec",
    "GlobalLimitExec",
    "BoundedWindowAggExec",
    "WindowAggExec",
];

/// An equi-join: its sides are children 0 and 1.
pub(super) struct EquiJoin<'a> {
    pub(super) join_type: JoinType,
    pub(super) on: JoinOnRef<'a>,
    /// Whether NULL keys match nothing, and the join is not null-aware.
    pub(super) ignores_null_keys: bool,
}

impl<'a> EquiJoin<'a> {
    pub(super) fn of(plan: &'a Arc<dyn ExecutionPlan>) -> Option<Self> {
        use datafusion::common::NullEquality::NullEqualsNothing;
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            return Some(Self {
                join_type: *join.join_type(),
                on: join.on(),
                ignores_null_keys: join.null_equality() == NullEqualsNothing && !join.null_aware,
            });
        }
        let join = plan.downcast_ref::<SortMergeJoinExec>()?;
        Some(Self {
            join_type: join.join_type(),
            on: join.on(),
            ignores_null_keys: join.null_equality() == NullEqualsNothing,
        })
    }

    /// The columns of both sides that are compared.
    pub(super) fn keys(&self) -> impl Iterator<Item = (usize, usize)> {
        let index = |key: &Arc<dyn PhysicalExpr>| key.downcast_ref::<Column>().map(Column::index);
        self.on
            .iter()
            .filter_map(move |(left, right)| index(left).zip(index(right)))
    }

    /// Whether the join drops rows of this side that have no match.
    pub(super) fn drops_unmatched(&self, child: usize) -> bool {
        self.ignores_null_keys
            && match self.join_type {
                JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => true,
                JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => child == 1,
                JoinType::Right | JoinType::RightAnti | JoinType::RightMark => child == 0,
                JoinType::Full => false,
            }
    }
}

/// The input column from which the values of a column come. A value may also be NULL.
pub(super) fn origin(plan: &Arc<dyn ExecutionPlan>, column: usize) -> Option<Origin> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let of = projection.expr().get(column)?.expr.downcast_ref::<Column>()?;
        return Some(Origin {
            child: 0,
            column: of.index(),
        });
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        return Some(Origin {
            child: 0,
            column: projected(filter.projection().as_deref(), column)?,
        });
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let (key, _) = aggregate.group_expr().expr().get(column)?;
        return Some(Origin {
            child: 0,
            column: key.downcast_ref::<Column>()?.index(),
        });
    }
    if let Some((join_type, projection)) = join_output(plan) {
        let column = projected(projection, column)?;
        let left = plan.children().first()?.schema().fields().len();
        return side_of(join_type, left, column);
    }
    let width = plan.children().first()?.schema().fields().len();
    (COLUMN_PRESERVING.contains(&operator(plan)) && column < width).then_some(Origin { child: 0, column })
}

fn projected(projection: Option<&[usize]>, column: usize) -> Option<usize> {
    projection.map_or(Some(column), |columns| columns.get(column).copied())
}

/// The type of a join, and which of its columns it puts out.
fn join_output(plan: &Arc<dyn ExecutionPlan>) -> Option<(JoinType, Option<&[usize]>)> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return Some((*join.join_type(), join.projection.as_deref()));
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return Some((*join.join_type(), join.projection().as_deref()));
    }
    if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        return Some((join.join_type(), None));
    }
    let is_cross = plan.downcast_ref::<CrossJoinExec>().is_some();
    is_cross.then_some((JoinType::Inner, None))
}

fn side_of(join_type: JoinType, left: usize, column: usize) -> Option<Origin> {
    let side = match join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full if column < left => {
            JoinSide::Left
        }
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => JoinSide::Right,
        JoinType::LeftSemi | JoinType::LeftAnti => JoinSide::Left,
        JoinType::RightSemi | JoinType::RightAnti => JoinSide::Right,
        // Columns of mark joins are not followed.
        JoinType::LeftMark | JoinType::RightMark => return None,
    };
    match side {
        JoinSide::Left => Some(Origin { child: 0, column }),
        JoinSide::Right => {
            let before = match join_type {
                JoinType::RightSemi | JoinType::RightAnti => 0,
                _ => left,
            };
            Some(Origin {
                child: 1,
                column: column - before,
            })
        }
        JoinSide::None => None,
    }
}

/// The input columns by which an operator's input may be filtered instead of its output by `column`, with the same result.
/// Empty if there are none.
pub(super) fn prunable_columns(plan: &Arc<dyn ExecutionPlan>, column: usize) -> Vec<Origin> {
    if plan.fetch().is_some() {
        return Vec::new();
    }
    if operator(plan) == "UnionExec" {
        let inputs = 0..plan.children().len();
        return inputs.map(|child| Origin { child, column }).collect();
    }
    let Some(origin) = origin(plan, column) else {
        return Vec::new();
    };
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        // Whole groups go.
        let whole = aggregate.group_expr().is_single() && aggregate.limit_options().is_none();
        return if whole { vec![origin] } else { Vec::new() };
    }
    if let Some((join_type, _)) = join_output(plan) {
        let kept = match join_type {
            JoinType::Inner => true,
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => origin.child == 0,
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => origin.child == 1,
            JoinType::Full | JoinType::LeftMark | JoinType::RightMark => false,
        };
        if !kept {
            return Vec::new();
        }
        let mut columns = vec![origin];
        // Rows of the other side with such a key match only rows that are left out.
        columns.extend(
            EquiJoin::of(plan)
                .into_iter()
                .filter(|join| join.ignores_null_keys)
                .flat_map(|join| {
                    let twins = join.keys().filter_map(|(left, right)| match origin.child {
                        0 if left == origin.column => Some(Origin {
                            child: 1,
                            column: right,
                        }),
                        1 if right == origin.column => Some(Origin {
                            child: 0,
                            column: left,
                        }),
                        _ => None,
                    });
                    twins.collect::<Vec<_>>()
                }),
        );
        return columns;
    }
    if ACROSS_ROWS.contains(&operator(plan)) {
        Vec::new()
    } else {
        vec![origin]
    }
}
