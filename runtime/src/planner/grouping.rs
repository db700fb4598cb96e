//! `GROUP BY GROUPING SETS (())`: DataFusion 55 gives no row where each of the sets is empty, SQL one for each.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::expr::GroupingSet;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ident, lit};

/// The relation whose rows make the copies.
const COPY: &str = "__grouping_copy";

/// Rewrites every aggregate that has only empty grouping sets, in subqueries too: it computes the one group of all rows and
/// copies it for each further set.
pub(super) fn plan_empty_sets(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => match only_empty_sets(&aggregate.group_expr) {
            Some(sets) => Ok(Transformed::yes(one_row_for_each(aggregate, sets)?)),
            None => Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
        },
        other => Ok(Transformed::no(other)),
    })
    .data()
}

/// Whether an aggregate gives a row for an empty input: one of its groups holds all rows.
pub(super) fn has_row_for_nothing(aggregate: &Aggregate) -> bool {
    match aggregate.group_expr.as_slice() {
        [] | [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => true,
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().any(Vec::is_empty),
        _ => false,
    }
}

/// How many sets there are, if all of them are empty.
fn only_empty_sets(group: &[Expr]) -> Option<usize> {
    match group {
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => {
            sets.iter().all(Vec::is_empty).then_some(sets.len())
        }
        [Expr::GroupingSet(GroupingSet::Rollup(keys) | GroupingSet::Cube(keys))] => {
            keys.is_empty().then_some(1)
        }
        _ => None,
    }
}

fn one_row_for_each(aggregate: Aggregate, sets: usize) -> Result<LogicalPlan> {
    let id = aggregate
        .schema
        .field_with_unqualified_name(Aggregate::INTERNAL_GROUPING_ID)?;
    let id = lit(0_u8)
        .cast_to(id.data_type(), &aggregate.schema)?
        .alias(Aggregate::INTERNAL_GROUPING_ID);
    let mut rows = if aggregate.aggr_expr.is_empty() {
        LogicalPlanBuilder::empty(true)
    } else {
        let input = LogicalPlanBuilder::from(aggregate.input);
        input.aggregate(Vec::<Expr>::new(), aggregate.aggr_expr)?
    };
    let values = rows.schema().columns().into_iter().map(Expr::Column);
    let columns: Vec<Expr> = std::iter::once(id).chain(values).collect();
    if sets > 1 {
        let numbers = (0..).take(sets).map(|copy: i64| vec![lit(copy)]);
        let copies = LogicalPlanBuilder::values(numbers.collect())?
            .project(vec![ident("column1").alias(COPY)])?
            .build()?;
        rows = rows.cross_join(copies)?;
    }
    rows.project(columns)?.build()
}
