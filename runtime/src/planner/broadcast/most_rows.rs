//! How many rows a plan can have at most, whichever rows its filters keep.
//!
//! DataFusion's statistics estimate: a filter keeps a fifth, a join divides by the number of distinct keys. A side that
//! every task is to hold must not turn out larger than such a guess.

use std::sync::Arc;

use datafusion::common::{ColumnStatistics, JoinSide, JoinType, NullEquality, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::union::UnionExec;

/// The bound of a plan's rows. `None` if nothing bounds them: the rows of a table are not known, an operator is.
pub(in crate::planner) fn most_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    Some(Bound::of(plan)?.rows)
}

/// The rows of a plan at most, and the columns in which no value need appear twice.
struct Bound {
    rows: u64,
    /// By column. A column is taken for unique if its table has no more rows than the column has values by its minimum and
    /// maximum, as a number given to each row has. That is evidence and no proof: a value may be there often while others are
    /// missing.
    unique: Vec<bool>,
}

impl Bound {
    fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let bound = if plan.children().is_empty() {
            Self::of_leaf(plan)
        } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            let input = Self::of(filter.input())?;
            Some(match filter.projection().as_ref() {
                Some(kept) => input.select(kept.iter().map(|column| Some(*column))),
                None => input,
            })
        } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            let input = Self::of(projection.input())?;
            Some(input.select(projection.expr().iter().map(|of| column(&of.expr))))
        } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
            Self::of_aggregate(aggregate)
        } else if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            Self::of_join(join)
        } else if plan.downcast_ref::<UnionExec>().is_some() {
            Self::of_union(plan)
        } else {
            Self::of_other(plan)
        }?;
        let fetched = plan.fetch().and_then(|fetch| u64::try_from(fetch).ok());
        Some(Self {
            rows: fetched.map_or(bound.rows, |fetched| bound.rows.min(fetched)),
            ..bound
        })
    }

    fn of_leaf(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let statistics = StatisticsContext::new()
            .compute(plan.as_ref(), &StatisticsArgs::new())
            .ok()?;
        let rows = u64::try_from(*statistics.num_rows.get_value()?).ok()?;
        let columns = statistics.column_statistics.iter();
        Some(Self {
            rows,
            unique: columns.map(|column| may_be_unique(column, rows)).collect(),
        })
    }

    /// A group for each row at most. The groups of one column are the values of that column.
    fn of_aggregate(aggregate: &AggregateExec) -> Option<Self> {
        let groups = aggregate.group_expr();
        let input = Self::of(aggregate.input())?;
        let whole = !matches!(
            aggregate.mode(),
            AggregateMode::Partial | AggregateMode::PartialReduce
        );
        let mut unique = vec![false; aggregate.schema().fields().len()];
        if let (true, [_], Some(first)) = (whole && groups.is_single(), groups.expr(), unique.first_mut()) {
            *first = true;
        }
        let sets = u64::try_from(groups.groups().len()).unwrap_or(u64::MAX);
        let rows = if groups.expr().is_empty() && whole {
            1
        } else {
            input.rows.saturating_mul(sets.max(1))
        };
        Some(Self { rows, unique })
    }

    /// A row for each row of one side if the other has a key once at most; else for each pair.
    fn of_join(join: &HashJoinExec) -> Option<Self> {
        let (left, right) = (Self::of(join.left())?, Self::of(join.right())?);
        // NULLs that match each other are not in the range of values.
        let counted = join.null_equality() == NullEquality::NullEqualsNothing;
        let left_once = counted && join.on().iter().any(|(key, _)| left.is_unique(key));
        let right_once = counted && join.on().iter().any(|(_, key)| right.is_unique(key));
        let pairs = match (left_once, right_once) {
            (true, true) => left.rows.min(right.rows),
            (true, false) => right.rows,
            (false, true) => left.rows,
            (false, false) => left.rows.saturating_mul(right.rows),
        };
        let (rows, keeps_left, keeps_right) = match join.join_type() {
            JoinType::Inner => (pairs, right_once, left_once),
            JoinType::Left => (pairs.saturating_add(left.rows), right_once, false),
            JoinType::Right => (pairs.saturating_add(right.rows), false, left_once),
            JoinType::Full => (
                pairs.saturating_add(left.rows).saturating_add(right.rows),
                false,
                false,
            ),
            JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => (left.rows, true, false),
            JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (right.rows, false, true),
        };
        let unique = super::sources_of(join);
        let unique = unique.iter().map(|source| match source.side {
            JoinSide::Left => keeps_left && left.has_once(source.index),
            JoinSide::Right => keeps_right && right.has_once(source.index),
            JoinSide::None => false,
        });
        Some(Self {
            rows,
            unique: unique.collect(),
        })
    }

    /// An operator that makes no rows: sorts, limits, repartitioning.
    fn of_other(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let children = plan.children();
        let ([child], CardinalityEffect::Equal | CardinalityEffect::LowerEqual) =
            (children.as_slice(), plan.cardinality_effect())
        else {
            return None;
        };
        let input = Self::of(child)?;
        // Windows put columns behind those of their input.
        let mut unique = input.unique;
        unique.resize(plan.schema().fields().len(), false);
        Some(Self {
            rows: input.rows,
            unique,
        })
    }

    fn of_union(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let inputs = plan.children().into_iter().map(Self::of);
        let inputs = inputs.collect::<Option<Vec<_>>>()?;
        Some(Self {
            rows: inputs.iter().fold(0, |sum, input| sum.saturating_add(input.rows)),
            unique: vec![false; plan.schema().fields().len()],
        })
    }

    fn select(self, columns: impl Iterator<Item = Option<usize>>) -> Self {
        let unique = columns.map(|column| column.is_some_and(|column| self.has_once(column)));
        Self {
            rows: self.rows,
            unique: unique.collect(),
        }
    }

    fn has_once(&self, column: usize) -> bool {
        self.unique.get(column).copied().unwrap_or(false)
    }

    fn is_unique(&self, key: &Arc<dyn PhysicalExpr>) -> bool {
        column(key).is_some_and(|column| self.has_once(column))
    }
}

fn column(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expression.downcast_ref::<Column>().map(Column::index)
}

/// Whether a column may have as many values as there are `rows`.
fn may_be_unique(column: &ColumnStatistics, rows: u64) -> bool {
    let nulls = column.null_count.get_value().copied();
    let counted = column.distinct_count.get_value().copied();
    let whole_numbers = |value: &&ScalarValue| value.data_type().is_integer();
    let range = (
        column.min_value.get_value().filter(whole_numbers),
        column.max_value.get_value().filter(whole_numbers),
    );
    let values = counted.or(match range {
        (Some(min), Some(max)) => min.distance(max).map(|between| between.saturating_add(1)),
        _ => None,
    });
    let values = values.and_then(|values| u64::try_from(values).ok());
    nulls.is_some_and(|nulls| nulls <= 1) && values.is_some_and(|values| values >= rows)
}
