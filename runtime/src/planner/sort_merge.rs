//! Which hash joins become sort-merge joins: those whose build side will not fit into memory. A hash join cannot spill,
//! sorts can.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinSide, JoinType};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::{PhysicalExpr, PhysicalExprRef};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr, remove_unnecessary_projections};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::broadcast::estimated_bytes;
use datafusion::physical_expr::expressions::Column;

/// The part of a slot's memory that the build side of one task may have by estimate: its hash table is as large again.
const SHARE_OF_SLOT: u64 = 2;

/// The bound of build sides. An extension of the session's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashJoinLimit {
    /// Estimated bytes that the build side of one task may have.
    pub bytes: u64,
}

impl HashJoinLimit {
    /// The bound for workers with so much memory for each of their slots; there is none where that is not known.
    pub fn of_slots(memory_bytes: Option<u64>) -> Self {
        Self {
            bytes: memory_bytes.map_or(u64::MAX, |bytes| bytes / SHARE_OF_SLOT),
        }
    }
}

/// Partitioned hash joins whose build side is estimated too large sort both sides and merge them. Runs after the rules that
/// choose among hash joins, and before anything is repartitioned and sorted.
#[derive(Debug)]
pub(crate) struct SortMergeLargeBuilds {
    limit: HashJoinLimit,
}

impl SortMergeLargeBuilds {
    pub(crate) fn new(limit: HashJoinLimit) -> Self {
        Self { limit }
    }

    fn is_too_large(&self, join: &HashJoinExec, partitions: usize) -> bool {
        let tasks = u64::try_from(partitions.max(1)).unwrap_or(u64::MAX);
        estimated_bytes(join.left()).is_some_and(|build| build / tasks > self.limit.bytes)
    }

    fn rewrite(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        partitions: usize,
    ) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>()
            && join
                .filter()
                .as_ref()
                .is_some_and(|filter| !is_as_evaluated(filter))
        {
            return Ok(Transformed::yes(Arc::new(SortMergeJoinExec::try_new(
                Arc::clone(join.left()),
                Arc::clone(join.right()),
                join.on().to_vec(),
                join.filter().as_ref().map(as_evaluated).transpose()?,
                join.join_type(),
                join.sort_options().to_vec(),
                join.null_equality(),
            )?)));
        }
        let Some(join) = plan.downcast_ref::<HashJoinExec>() else {
            return Ok(Transformed::no(plan));
        };
        // A sort-merge join has no null-aware form.
        let partitioned = *join.partition_mode() == PartitionMode::Partitioned && !join.null_aware;
        if !partitioned || !can_merge(join) || !self.is_too_large(join, partitions) {
            return Ok(Transformed::no(plan));
        }
        Ok(Transformed::yes(merged(join)?))
    }
}

/// The join as one that merges sorted sides. Its sides are not sorted yet.
pub(super) fn merged(join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let merged = SortMergeJoinExec::try_new(
        Arc::clone(join.left()),
        Arc::clone(join.right()),
        join.on().to_vec(),
        join.filter().map(as_evaluated).transpose()?,
        *join.join_type(),
        vec![SortOptions::default(); join.on().len()],
        join.null_equality(),
    )?;
    let merged: Arc<dyn ExecutionPlan> = Arc::new(merged);
    let Some(columns) = join.projection.as_ref() else {
        return Ok(merged);
    };
    let schema = merged.schema();
    let kept = columns.iter().map(|index| {
        let name = schema.field(*index).name();
        ProjectionExpr::new(Arc::new(Column::new(name, *index)), name.clone())
    });
    let kept: Vec<ProjectionExpr> = kept.collect();
    Ok(Arc::new(ProjectionExec::try_new(kept, merged)?))
}

/// DataFusion's sort-merge join loses rows if its filter has no column, such as `NULL`. With a constant key its plan fails
/// the sanity check: that side needs no sort, so it has no ordering to match.
pub(super) fn can_merge(join: &HashJoinExec) -> bool {
    if !keys_compare(join) {
        return false;
    }
    let has_columns = |filter: &JoinFilter| !filter.column_indices().is_empty();
    let (left, right) = (
        join.left().equivalence_properties(),
        join.right().equivalence_properties(),
    );
    let is_constant = |(left_key, right_key): &(_, _)| {
        left.is_expr_constant(left_key).is_some() || right.is_expr_constant(right_key).is_some()
    };
    join.filter().is_none_or(has_columns) && !join.on().iter().any(is_constant)
}

/// Whether a sort-merge join of this type compares keys of these types. Semi, anti and mark joins compare keys across batches
/// by a list of types: it has no others, and panics for NaN.
fn keys_compare(join: &HashJoinExec) -> bool {
    let by_list = match join.join_type() {
        JoinType::LeftSemi
        | JoinType::RightSemi
        | JoinType::LeftAnti
        | JoinType::RightAnti
        | JoinType::LeftMark
        | JoinType::RightMark => true,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => false,
    };
    let schema = join.left().schema();
    let is_listed = |key: &PhysicalExprRef| {
        let key = key.data_type(&schema);
        key.is_ok_and(|key| {
            key.is_integer()
                || matches!(
                    key,
                    DataType::Boolean
                        | DataType::Binary
                        | DataType::BinaryView
                        | DataType::FixedSizeBinary(_)
                        | DataType::LargeBinary
                        | DataType::Utf8
                        | DataType::Utf8View
                        | DataType::LargeUtf8
                        | DataType::Decimal128(..)
                        | DataType::Timestamp(_, None)
                        | DataType::Date32
                        | DataType::Date64
                )
        })
    };
    !by_list || join.on().iter().all(|(left, _)| is_listed(left))
}

/// A sort-merge join hands its filter the columns of the left side, then those of the right, each in the filter's order;
/// with NULL in those of a side that has no match.
fn is_as_evaluated(filter: &JoinFilter) -> bool {
    filter.schema().fields().iter().all(|field| field.is_nullable())
        && filter
            .column_indices()
            .is_sorted_by_key(|column| column.side == JoinSide::Right)
}

/// The same filter over the columns of the left side, then those of the right. A join whose sides were swapped has them
/// the other way round.
fn as_evaluated(filter: &JoinFilter) -> Result<JoinFilter> {
    let columns = filter.column_indices();
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|place| columns.get(*place).map(|column| column.side == JoinSide::Right));
    let expression = Arc::clone(filter.expression()).transform_up(|expression| {
        let Some(column) = expression.downcast_ref::<Column>() else {
            return Ok(Transformed::no(expression));
        };
        let moved = order
            .iter()
            .position(|place| *place == column.index())
            .ok_or_else(|| {
                DataFusionError::Internal(format!("the filter of a join has no column {column}"))
            })?;
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(column.name(), moved));
        Ok(Transformed::yes(column))
    });
    let schema = filter.schema().project(&order)?;
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    let columns = order.iter().filter_map(|place| columns.get(*place).cloned());
    Ok(JoinFilter::new(
        expression.data()?,
        columns.collect(),
        Arc::new(schema),
    ))
}

impl PhysicalOptimizerRule for SortMergeLargeBuilds {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = config.execution.target_partitions;
        plan.transform_up(|plan| self.rewrite(plan, partitions)).data()
    }

    fn name(&self) -> &str {
        "sort_merge_large_builds"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// DataFusion's rule of the same name, but for projections above a sort-merge join with a filter. DataFusion 55 pushes them
/// below the join and leaves its filter as it was: with the places of columns that are not there any more.
#[derive(Debug)]
pub(crate) struct PushProjections;

impl PhysicalOptimizerRule for PushProjections {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !plan.exists(|node| Ok(is_filtered_merge(node)))? {
            return ProjectionPushdown::new().optimize(plan, config);
        }
        plan.transform_down(|node| {
            // Projections above one another are unified and pushed in one go.
            let mut below = &node;
            while let Some(projection) = below.downcast_ref::<ProjectionExec>() {
                below = projection.input();
            }
            if is_filtered_merge(below) {
                return Ok(Transformed::no(node));
            }
            remove_unnecessary_projections(node)
        })
        .data()
    }

    fn name(&self) -> &str {
        "ProjectionPushdown"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn is_filtered_merge(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<SortMergeJoinExec>()
        .is_some_and(|join| join.filter().is_some())
}
