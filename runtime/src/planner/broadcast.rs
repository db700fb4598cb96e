//! Which hash joins give their whole build side to every task, instead of moving both sides by the hash of the key.
//!
//! DataFusion decides this by the size of the build side alone, for threads that share one hash table. Between
//! processes the other side counts as much: a build side that is small against the probe side is cheaper to send
//! to every task than the probe side is to send anywhere.

pub(super) mod most_rows;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::JoinSide;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::utils::{ColumnIndex, build_join_schema};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};

use self::most_rows::most_rows;
use super::rules::build_side_may_be_broadcast;

/// The largest build side, in estimated bytes, that is sent to every task, where the memory of a task is not known.
const MAX_BUILD_BYTES: u64 = 32 << 20;

/// The part of a slot's memory that a build side may have by estimate: its hash table is as large again, estimates
/// are often too low, and other joins may run in the same task.
const SHARE_OF_SLOT: u64 = 16;

/// How many times as large as the bound a build side may turn out: a quarter of a slot's memory. The rows that a filter keeps and the
/// matches that a join finds are guesses. A side that may turn out larger is shuffled, and read whole by each task once it has turned out small.
const MAX_EXCESS: u64 = 4;

/// What one value of a type without a fixed width counts for, bytes: a view and a short text.
const WIDTH_OF_TEXT: u64 = 24;

/// The bound of build sides that are sent to every task. An extension of the session's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastLimit {
    /// Estimated bytes.
    pub bytes: u64,
}

impl BroadcastLimit {
    /// The bound for workers with so much memory for each of their slots, if that is known.
    pub fn of_slots(memory_bytes: Option<u64>) -> Self {
        let share = memory_bytes.map_or(MAX_BUILD_BYTES, |bytes| bytes / SHARE_OF_SLOT);
        Self {
            bytes: share.min(MAX_BUILD_BYTES),
        }
    }
}

/// The estimated bytes of a join's sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JoinSizes {
    /// Of the build side.
    pub build: u64,
    /// Of the build side at most: its filters keep every row, and its joins find as many matches as their keys may have.
    pub largest_build: u64,
    /// Of the probe side.
    pub probe: u64,
}

impl JoinSizes {
    /// The sizes, if the rows of both sides can be estimated.
    pub(crate) fn of(join: &HashJoinExec) -> Option<Self> {
        Some(Self {
            build: estimated_bytes(join.left())?,
            largest_build: most_rows(join.left()).map_or(u64::MAX, |rows| {
                rows.saturating_mul(row_width(&join.left().schema()))
            }),
            probe: estimated_bytes(join.right())?,
        })
    }

    /// For people: `1.5 MiB against 80.0 MiB`.
    pub(crate) fn text(self) -> String {
        format!("{} against {}", mebibytes(self.build), mebibytes(self.probe))
    }

    /// Whether to send the build side to each of `tasks` tasks that read the probe side where it is. The other way
    /// moves both sides once. A hash table is then built by each task and not by all together, so sending must cost
    /// half as much.
    fn should_broadcast(self, tasks: usize, limit: BroadcastLimit) -> bool {
        let sent = u128::from(self.build).saturating_mul(tasks.max(1) as u128);
        let moved = u128::from(self.build) + u128::from(self.probe);
        self.build <= limit.bytes
            && self.largest_build <= limit.bytes.saturating_mul(MAX_EXCESS)
            && sent.saturating_mul(2) <= moved
    }
}

fn mebibytes(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    format!("{}.{} MiB", bytes / MEBIBYTE, bytes % MEBIBYTE * 10 / MEBIBYTE)
}

/// Rows times the width of their columns. Byte sizes of DataFusion are unknown above most joins.
pub(super) fn estimated_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let statistics = StatisticsContext::new()
        .compute(plan.as_ref(), &StatisticsArgs::new())
        .ok()?;
    let rows = u64::try_from(*statistics.num_rows.get_value()?).ok()?;
    Some(rows.saturating_mul(row_width(&plan.schema())))
}

fn row_width(schema: &Schema) -> u64 {
    let width = |bytes: Option<usize>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let columns = schema.fields().iter();
    columns
        .map(|field| width(field.data_type().primitive_width()).unwrap_or(WIDTH_OF_TEXT))
        .sum()
}

/// Partitioned hash joins whose build side is small against the probe side collect it. Runs after
/// [`super::rules::PartitionUnsafeJoins`] and before anything is repartitioned.
#[derive(Debug)]
pub(crate) struct BroadcastSmallBuilds {
    limit: BroadcastLimit,
}

impl BroadcastSmallBuilds {
    pub(crate) fn new(limit: BroadcastLimit) -> Self {
        Self { limit }
    }

    /// Decides from the root down, so that a join knows whether the operator above needs its rows by the same key.
    fn visit(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        wanted: Option<&Keys>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = match plan.downcast_ref::<HashJoinExec>() {
            Some(join) if self.broadcasts(join, wanted, partitions) => join
                .builder()
                .with_partition_mode(PartitionMode::CollectLeft)
                .build_exec()?,
            _ => Arc::clone(plan),
        };
        let wants = keys_wanted_of_children(&plan, wanted);
        let before = plan.children();
        let after = before.iter().enumerate();
        let children = after
            .map(|(place, child)| self.visit(child, wants.get(place).and_then(Option::as_ref), partitions))
            .collect::<Result<Vec<_>>>()?;
        if before
            .iter()
            .zip(&children)
            .all(|(old, new)| Arc::ptr_eq(old, new))
        {
            return Ok(plan);
        }
        Arc::clone(&plan).replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn broadcasts(&self, join: &HashJoinExec, wanted: Option<&Keys>, partitions: usize) -> bool {
        if *join.partition_mode() != PartitionMode::Partitioned
            || join.null_aware
            || !build_side_may_be_broadcast(*join.join_type())
        {
            return false;
        }
        // The rows of the probe side are where they are joined already, or the rows of the join are where the
        // operator above wants them: a chain on one key moves each of its inputs once.
        let in_place =
            keys_of(join, JoinSide::Right).is_some_and(|keys| is_partitioned_on(join.right(), &keys));
        if in_place || wanted.is_some_and(|wanted| co_locates(join, wanted)) {
            return false;
        }
        let tasks = partitions.max(join.right().output_partitioning().partition_count());
        JoinSizes::of(join).is_some_and(|sizes| sizes.should_broadcast(tasks, self.limit))
    }
}

impl PhysicalOptimizerRule for BroadcastSmallBuilds {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // A zero threshold disables broadcast here as well.
        if config.optimizer.hash_join_single_partition_threshold == 0 {
            return Ok(plan);
        }
        self.visit(&plan, None, config.execution.target_partitions)
    }

    fn name(&self) -> &str {
        "broadcast_small_builds"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Columns of an operator's output, as a set: rows that are equal in them meet in one partition.
type Keys = BTreeSet<usize>;

fn columns_of<'a>(expressions: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>) -> Option<Keys> {
    expressions
        .map(|expression| expression.downcast_ref::<Column>().map(Column::index))
        .collect()
}

/// The columns of one side that a join compares, if all are plain columns.
fn keys_of(join: &HashJoinExec, side: JoinSide) -> Option<Keys> {
    columns_of(join.on().iter().map(|(left, right)| match side {
        JoinSide::Left => left,
        JoinSide::Right | JoinSide::None => right,
    }))
}

/// Where the columns of a join's output come from.
fn sources_of(join: &HashJoinExec) -> Vec<ColumnIndex> {
    let (_, all) = build_join_schema(&join.left().schema(), &join.right().schema(), join.join_type());
    match &join.projection {
        None => all,
        Some(projection) => projection
            .iter()
            .filter_map(|column| all.get(*column).cloned())
            .collect(),
    }
}

/// Whether a partitioned join puts rows that are equal in `keys` of its output into one partition: they are the
/// columns that it compares, of either side.
fn co_locates(join: &HashJoinExec, keys: &Keys) -> bool {
    let sources = sources_of(join);
    let (Some(left), Some(right)) = (keys_of(join, JoinSide::Left), keys_of(join, JoinSide::Right)) else {
        return false;
    };
    let mut compared = 0;
    for key in keys {
        let compares = sources.get(*key).is_some_and(|source| match source.side {
            JoinSide::Left => left.contains(&source.index),
            JoinSide::Right => right.contains(&source.index),
            JoinSide::None => false,
        });
        if !compares {
            return false;
        }
        compared += 1;
    }
    compared == join.on().len()
}

/// For each child of `plan` by which columns its rows should lie together, given what is wanted of `plan`.
fn keys_wanted_of_children(plan: &Arc<dyn ExecutionPlan>, wanted: Option<&Keys>) -> Vec<Option<Keys>> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && *join.partition_mode() == PartitionMode::Partitioned
    {
        return vec![keys_of(join, JoinSide::Left), keys_of(join, JoinSide::Right)];
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && *aggregate.mode() == AggregateMode::FinalPartitioned
    {
        return vec![grouped(aggregate)];
    }
    match wanted.and_then(|wanted| through(plan, wanted)) {
        Some((0, keys)) => vec![Some(keys)],
        Some((_, keys)) => vec![None, Some(keys)],
        None => Vec::new(),
    }
}

/// The columns of its input that an aggregate groups by.
fn grouped(aggregate: &AggregateExec) -> Option<Keys> {
    let by = aggregate.group_expr();
    if !by.is_single() || by.expr().is_empty() {
        return None;
    }
    columns_of(by.expr().iter().map(|(expression, _)| expression))
}

/// Whether `plan` will have rows that are equal in `keys` in one partition.
fn is_partitioned_on(plan: &Arc<dyn ExecutionPlan>, keys: &Keys) -> bool {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && *join.partition_mode() == PartitionMode::Partitioned
    {
        return co_locates(join, keys);
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && *aggregate.mode() == AggregateMode::FinalPartitioned
    {
        let groups = aggregate.group_expr();
        return groups.is_single() && *keys == (0..groups.expr().len()).collect();
    }
    match (through(plan, keys), plan.children().as_slice()) {
        (Some((place, keys)), children) => children
            .get(place)
            .is_some_and(|child| is_partitioned_on(child, &keys)),
        (None, _) => false,
    }
}

/// The child whose partitions an operator keeps, and the columns of it that `keys` of the operator's output are.
fn through(plan: &Arc<dyn ExecutionPlan>, keys: &Keys) -> Option<(usize, Keys)> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expressions = keys.iter().map(|key| projection.expr().get(*key));
        let expressions = expressions.collect::<Option<Vec<_>>>()?;
        return Some((0, columns_of(expressions.into_iter().map(|of| &of.expr))?));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        return match filter.projection() {
            None => Some((0, keys.clone())),
            Some(projection) => {
                let kept = keys.iter().map(|key| projection.get(*key).copied());
                Some((0, kept.collect::<Option<Keys>>()?))
            }
        };
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>()
        && *aggregate.mode() == AggregateMode::Partial
    {
        let groups = aggregate.group_expr().expr();
        let groups = keys.iter().map(|key| groups.get(*key));
        let groups = groups.collect::<Option<Vec<_>>>()?;
        return Some((
            0,
            columns_of(groups.into_iter().map(|(expression, _)| expression))?,
        ));
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let sources = sources_of(join);
        let of_probe = keys.iter().map(|key| {
            let source = sources.get(*key).filter(|source| source.side == JoinSide::Right);
            source.map(|source| source.index)
        });
        return Some((1, of_probe.collect::<Option<Keys>>()?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn sending_must_cost_half_of_moving() {
        let limit = BroadcastLimit::of_slots(None);
        for (build, probe, tasks, expected) in [
            (0, 0, 2, true),
            (0, 1, 2, true),
            (1, 2, 2, false),
            (1, 3, 2, true),
            (1, 14, 8, false),
            (1, 15, 8, true),
            (32, 1000, 2, true),
            // More than a task should hold, however large the other side is.
            (33, 100_000, 2, false),
            (20, 500, 20, false),
            (1, 1, 0, true),
        ] {
            let sizes = sizes(build, build, probe);
            assert_eq!(
                sizes.should_broadcast(tasks, limit),
                expected,
                "{sizes:?}, {tasks} tasks"
            );
        }
        let huge = JoinSizes {
            build: u64::MAX,
            largest_build: u64::MAX,
            probe: u64::MAX,
        };
        let limit = BroadcastLimit { bytes: u64::MAX };
        assert!(!huge.should_broadcast(usize::MAX, limit));
    }

    /// In mebibytes.
    fn sizes(build: u64, largest_build: u64, probe: u64) -> JoinSizes {
        JoinSizes {
            build: build * MIB,
            largest_build: largest_build * MIB,
            probe: probe * MIB,
        }
    }

    #[test]
    fn a_side_that_is_small_by_a_guess_must_fit_if_the_guess_is_wrong() {
        let limit = BroadcastLimit::of_slots(None);
        assert!(sizes(1, 128, 1_000).should_broadcast(2, limit));
        assert!(!sizes(1, 129, 1_000).should_broadcast(2, limit));
    }

    #[test]
    fn small_workers_get_smaller_build_sides() {
        assert_eq!(BroadcastLimit::of_slots(None).bytes, 32 * MIB);
        assert_eq!(BroadcastLimit::of_slots(Some(64 << 30)).bytes, 32 * MIB);
        assert_eq!(BroadcastLimit::of_slots(Some(64 * MIB)).bytes, 4 * MIB);
        assert_eq!(BroadcastLimit::of_slots(Some(0)).bytes, 0);
    }

    #[test]
    fn sizes_are_written_for_people() {
        let sizes = JoinSizes {
            build: MIB * 3 / 2,
            ..sizes(0, 0, 80)
        };
        assert_eq!(sizes.text(), "1.5 MiB against 80.0 MiB");
    }
}
