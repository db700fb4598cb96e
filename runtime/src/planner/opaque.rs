//! DataFusion 55 keeps some properties of rows above operators that break them. It then drops sorts that are needed, and
//! emits groups before they are complete:
//!
//! - The nullable side of an outer join keeps its constants, although its columns are NULL in unmatched rows.
//! - Keys of grouping sets keep constants, equalities and orderings, although they are NULL in some sets.
//! - A join claims the ordering of the side whose order it keeps, followed by that of the other side. This holds only if no
//!   two rows of the first side are equal in their ordering.
//! - The branch of a union whose columns are equal is sorted by one of them. The union does not know that the others are
//!   sorted too, and the plan fails the sanity check.
//! - An operator that merges sorted partitions claims every ordering that each of them has, and not only the one by which it
//!   merges.
//! - A sort that is pushed below an outer join leaves out the constants of that side. The join does not know them any more, and
//!   the plan fails the sanity check.
//! - The one row of an aggregate without keys counts as sorted by anything. A window that takes such rows as sorted by the
//!   keys of its partitions looks for their ordering when it runs, and fails: it knows orderings alone.
//! - An OFFSET without LIMIT keeps the order of its input, so the rule sorts below it by what is ordered above: then it skips
//!   the first rows of another order.
//!
//! An [`OpaqueExec`] below such an operator hides the properties of its input; above an OFFSET it keeps the sort above.

use std::fmt;
use std::sync::Arc;

use super::fixed_node::one_input;
use super::window::{functions_of, misses_partitions};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_plan::aggregates::{AggregateExec, PhysicalGroupBy};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};

/// Passes its input through, and keeps only its partitioning as a known property.
#[derive(Debug)]
pub(crate) struct OpaqueExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl OpaqueExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for OpaqueExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpaqueExec")
    }
}

impl ExecutionPlan for OpaqueExec {
    fn name(&self) -> &str {
        "OpaqueExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    one_input!(input, |_, input| Ok(Self::new(input)));

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let input = inputs.first().cloned();
        Ok(input.unwrap_or_else(|| Arc::new(Statistics::new_unknown(&self.schema()))))
    }
}

/// Whether an operator of an enforced plan is wrong.
type IsWrong = fn(&Arc<dyn ExecutionPlan>) -> Result<bool>;
/// Hides what made it wrong, in the plan before enforcement.
type Hide = fn(Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>>;

/// What is looked for in an enforced plan, and what is hidden once before it is enforced anew.
const REMEDIES: [(IsWrong, Hide); 4] = [
    (claims_other_orderings, hide_branches),
    (orders_by_both_sides, hide_second_order),
    (partitions_are_missed, hide_constraints),
    (misses_its_ordering, hide_ordered_joins),
];

/// DataFusion's rule that puts in sorts and repartitions, over plans that know only what holds.
#[derive(Debug, Default)]
pub(crate) struct EnsureKnownRequirements;

impl PhysicalOptimizerRule for EnsureKnownRequirements {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plan = hide_offsets(plan.transform_up(hide_what_breaks).data()?, true)?;
        let mut remedies = REMEDIES.to_vec();
        loop {
            // Enforcement adds sorts and merges, which give branches of unions and sides of joins an ordering. It starts anew
            // from the plan without them: from one with them it takes away merges that limits need.
            let ensured = EnsureRequirements::new().optimize(Arc::clone(&plan), config)?;
            let mut needed = None;
            for (place, (is_wrong, _)) in remedies.iter().enumerate() {
                if needed.is_none() && ensured.exists(is_wrong)? {
                    needed = Some(place);
                }
            }
            let Some(place) = needed else {
                return Ok(ensured);
            };
            let (_, hide) = remedies.remove(place);
            plan = plan.transform_up(hide).data()?;
        }
    }

    fn name(&self) -> &str {
        "EnsureRequirements"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether an operator that merges sorted partitions would claim other orderings too.
fn claims_other_orderings(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let (input, ordering) = if let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() {
        (merge.input(), Some(merge.expr()))
    } else if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
        let input = repartition.input();
        let merged = input.output_ordering();
        (input, merged.filter(|_| repartition.preserve_order()))
    } else {
        return Ok(false);
    };
    let Some(ordering) = ordering else {
        return Ok(false);
    };
    let mut known = input.equivalence_properties().oeq_class().iter();
    Ok(input.output_partitioning().partition_count() > 1
        && known.any(|other| !ordering.as_ref().starts_with(other)))
}

/// Hides what the branches of a union have in common: that each has an ordering says nothing of all their rows together.
fn hide_branches(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if node.downcast_ref::<UnionExec>().is_none() {
        return Ok(Transformed::no(node));
    }
    Ok(Transformed::yes(Arc::new(OpaqueExec::new(node))))
}

/// Hides every OFFSET without LIMIT but that of the query itself, above which nothing has another order.
fn hide_offsets(plan: Arc<dyn ExecutionPlan>, is_query: bool) -> Result<Arc<dyn ExecutionPlan>> {
    let is_query = is_query && IN_ORDER_OF_QUERY.contains(&plan.name());
    let mut changed = false;
    let inputs = plan.children().into_iter().map(|input| {
        let hidden = hide_offsets(Arc::clone(input), is_query)?;
        let is_offset = hidden
            .downcast_ref::<GlobalLimitExec>()
            .is_some_and(|limit| limit.skip() > 0 && limit.fetch().is_none());
        let hidden: Arc<dyn ExecutionPlan> = match is_offset && !is_query {
            true => Arc::new(OpaqueExec::new(hidden)),
            false => hidden,
        };
        changed |= !Arc::ptr_eq(&hidden, input);
        Ok(hidden)
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    if !changed {
        return Ok(plan);
    }
    plan.replace_children(
        inputs,
        ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
    )
}

/// Operators between a query's result and its OFFSET.
const IN_ORDER_OF_QUERY: &[&str] = &[
    "OutputRequirementExec",
    "ProjectionExec",
    "GlobalLimitExec",
    "CoalescePartitionsExec",
    "SortPreservingMergeExec",
];

fn replace_inputs(
    node: Arc<dyn ExecutionPlan>,
    hidden: &dyn Fn(usize, &Arc<dyn ExecutionPlan>) -> bool,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let mut changed = false;
    let inputs = node.children().into_iter().enumerate().map(|(place, input)| {
        if input.downcast_ref::<OpaqueExec>().is_none() && hidden(place, input) {
            changed = true;
            return Arc::new(OpaqueExec::new(Arc::clone(input))) as Arc<dyn ExecutionPlan>;
        }
        Arc::clone(input)
    });
    let inputs: Vec<_> = inputs.collect();
    if !changed {
        return Ok(Transformed::no(node));
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Ok(Transformed::yes(node.replace_children(inputs, options)?))
}

fn hide_what_breaks(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if node.downcast_ref::<UnionExec>().is_some() {
        return replace_inputs(node, &|_, input| has_equal_columns(input));
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        if !aggregate.group_expr().has_grouping_set() {
            return Ok(Transformed::no(node));
        }
        let hidden = replace_inputs(Arc::clone(&node), &|_, input| is_anything_known(input))?;
        return hidden.transform_data(keys_as_columns);
    }
    let Some(join_type) = join_type(&node) else {
        return Ok(Transformed::no(node));
    };
    let (left_missing, right_missing) = match join_type {
        JoinType::Left => (false, true),
        JoinType::Right => (true, false),
        JoinType::Full => (true, true),
        JoinType::Inner
        | JoinType::LeftSemi
        | JoinType::RightSemi
        | JoinType::LeftAnti
        | JoinType::RightAnti
        | JoinType::LeftMark
        | JoinType::RightMark => (false, false),
    };
    let hidden = replace_inputs(node, &|place, input| {
        let missing = if place == 0 { left_missing } else { right_missing };
        missing && !holds_for_nulls(input)
    })?;
    if keys_go_missing(&hidden.data) {
        return Ok(Transformed::yes(Arc::new(OpaqueExec::new(hidden.data))));
    }
    Ok(hidden)
}

/// Whether the filter of a sort-merge join may leave only some rows of one sort key without a match: their columns of the
/// other side are NULL between those of matched rows.
fn keys_go_missing(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.downcast_ref::<SortMergeJoinExec>().is_some_and(|join| {
        matches!(join.join_type(), JoinType::Left | JoinType::Right) && join.filter().is_some()
    })
}

/// The same aggregate over a projection that computes its keys and hides their properties. Needed if a key is constant, or
/// if a function needs sorted rows: DataFusion would sort by the keys as they are before some of them become NULL.
fn keys_as_columns(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(aggregate) = node.downcast_ref::<AggregateExec>() else {
        return Ok(Transformed::no(node));
    };
    let groups = aggregate.group_expr();
    let is_constant = |key: &Arc<dyn PhysicalExpr>| collect_columns(key).is_empty();
    let mut functions = aggregate.aggr_expr().iter();
    let is_sorted = functions.any(|function| !function.order_bys().is_empty());
    if !is_sorted && !groups.expr().iter().any(|(key, _)| is_constant(key)) {
        return Ok(Transformed::no(node));
    }
    let input = aggregate.input();
    let schema = input.schema();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| {
        ProjectionExpr::new(Arc::new(Column::new(field.name(), index)), field.name().clone())
    });
    let mut columns: Vec<ProjectionExpr> = columns.collect();
    let keys = groups.expr().iter().map(|(key, name)| {
        let column = format!("__group_key_{}", columns.len());
        let moved = Arc::new(Column::new(&column, columns.len()));
        columns.push(ProjectionExpr::new(Arc::clone(key), column));
        (moved as Arc<dyn PhysicalExpr>, name.clone())
    });
    let keys: Vec<_> = keys.collect();
    let groups = PhysicalGroupBy::new(
        keys,
        groups.null_expr().to_vec(),
        groups.groups().to_vec(),
        groups.has_grouping_set(),
    );
    let input: Arc<dyn ExecutionPlan> = Arc::new(ProjectionExec::try_new(columns, Arc::clone(input))?);
    let input: Arc<dyn ExecutionPlan> = Arc::new(OpaqueExec::new(input));
    let schema = input.schema();
    let aggregate = AggregateExec::try_new(
        *aggregate.mode(),
        groups,
        aggregate.aggr_expr().to_vec(),
        aggregate.filter_expr().to_vec(),
        input,
        schema,
    )?
    .with_limit_options(aggregate.limit_options());
    Ok(Transformed::yes(Arc::new(aggregate)))
}

fn join_type(node: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return Some(*join.join_type());
    }
    if let Some(join) = node.downcast_ref::<SortMergeJoinExec>() {
        return Some(join.join_type());
    }
    let join = node.downcast_ref::<NestedLoopJoinExec>()?;
    Some(*join.join_type())
}

/// Whether columns of each row are known to be equal.
fn has_equal_columns(input: &Arc<dyn ExecutionPlan>) -> bool {
    let classes = input.equivalence_properties().eq_group().iter();
    classes
        .map(|class| class.iter().filter(|part| part.is::<Column>()).count())
        .any(|columns| columns > 1)
}

fn is_anything_known(input: &Arc<dyn ExecutionPlan>) -> bool {
    let known = input.equivalence_properties();
    known.eq_group().iter().next().is_some() || !known.oeq_class().is_empty()
}

/// Whether a property still holds after a row of NULLs is added: only equality of columns does.
fn holds_for_nulls(input: &Arc<dyn ExecutionPlan>) -> bool {
    let known = input.equivalence_properties();
    known.constants().is_empty()
        && known
            .eq_group()
            .iter()
            .all(|class| class.iter().all(|part| part.is::<Column>()))
}

/// Whether a join claims an ordering by both of its sides.
fn orders_by_both_sides(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let Some(second) = second_side(node) else {
        return Ok(false);
    };
    let inputs = node.children();
    let (Some(first), Some(second)) = (inputs.get(1 - second), inputs.get(second)) else {
        return Ok(false);
    };
    // The keys of a merge are equal on both sides.
    let merged = node.downcast_ref::<SortMergeJoinExec>();
    let keys = merged.map_or(0, |join| join.on().len());
    let mut orders = second.equivalence_properties().oeq_class().iter();
    Ok(first.output_ordering().is_some() && orders.any(|order| order.len() > keys))
}

fn hide_second_order(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    match second_side(&node) {
        Some(second) => replace_inputs(node, &|place, _| place == second),
        None => Ok(Transformed::no(node)),
    }
}

/// [`misses_partitions`], which never fails.
fn partitions_are_missed(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    Ok(misses_partitions(node))
}

/// Whether an input is not sorted as the operator needs it.
fn misses_its_ordering(node: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    for (input, required) in node.children().into_iter().zip(node.required_input_ordering()) {
        if let Some(required) = required
            && !input
                .equivalence_properties()
                .ordering_satisfy_requirement(required.into_single())?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hides that outer joins keep the order of a side.
fn hide_ordered_joins(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    match join_type(&node) {
        Some(JoinType::Left | JoinType::Right | JoinType::Full) => {
            Ok(Transformed::yes(Arc::new(OpaqueExec::new(node))))
        }
        _ => Ok(Transformed::no(node)),
    }
}

/// Hides that rows below a window are unique.
fn hide_constraints(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if functions_of(&node).is_none() {
        return Ok(Transformed::no(node));
    }
    replace_inputs(node, &|_, input| {
        !input.equivalence_properties().constraints().is_empty()
    })
}

/// The side of a join whose ordering it appends to that of the other side.
fn second_side(node: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let join_type = join_type(node)?;
    if node.downcast_ref::<HashJoinExec>().is_some() {
        return matches!(join_type, JoinType::Inner | JoinType::Right).then_some(0);
    }
    match (node.downcast_ref::<SortMergeJoinExec>(), join_type) {
        (Some(_), JoinType::Inner | JoinType::Left) => Some(1),
        (Some(_), JoinType::Right) => Some(0),
        _ => None,
    }
}
