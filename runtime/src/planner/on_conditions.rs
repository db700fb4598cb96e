//! Subqueries in the condition of a join. DataFusion plans some of them once it has pushed them to a side, without the three
//! values of IN, and none of the others. Here each becomes a filter of a side, a filter above an inner join, or a column of
//! the side whose rows it speaks of.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Subquery};

use super::error::PlanError;

/// Rewrites every join whose condition has subqueries, those in subqueries too.
pub(super) fn move_subqueries(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if join.filter.as_ref().is_some_and(has_subquery) => {
            Ok(Transformed::yes(without_subqueries(join)?))
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|part| Ok(subquery_of(part).is_some()))
        .unwrap_or(true)
}

fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::InSubquery(within) => Some(&within.subquery),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery),
        _ => None,
    }
}

/// What becomes of one side of a join.
#[derive(Default)]
struct Side {
    filters: Vec<Expr>,
    columns: Vec<Expr>,
}

impl Side {
    fn over(self, plan: Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
        let Some(filter) = conjunction(self.filters) else {
            return with_columns(plan, self.columns);
        };
        let filtered = LogicalPlanBuilder::from(plan.as_ref().clone()).filter(filter)?;
        with_columns(Arc::new(filtered.build()?), self.columns)
    }
}

fn with_columns(plan: Arc<LogicalPlan>, more: Vec<Expr>) -> Result<Arc<LogicalPlan>> {
    if more.is_empty() {
        return Ok(plan);
    }
    let columns = plan.schema().columns().into_iter().map(Expr::Column).chain(more);
    let columns: Vec<Expr> = columns.collect();
    let projected = LogicalPlanBuilder::from(plan.as_ref().clone()).project(columns)?;
    Ok(Arc::new(projected.build()?))
}

fn without_subqueries(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let (left_drops, right_drops) = sides_that_drop(&join);
    let (mut left, mut right) = (Side::default(), Side::default());
    let (mut kept, mut above) = (Vec::new(), Vec::new());
    for condition in join.filter.iter().cloned().flat_map(split_conjunction_owned) {
        if !has_subquery(&condition) {
            kept.push(condition);
            continue;
        }
        let is_stable = !condition.is_volatile();
        match sides_of(&condition, &join)? {
            (_, false) if left_drops && is_stable => left.filters.push(condition),
            (false, _) if right_drops && is_stable => right.filters.push(condition),
            _ if join.join_type == JoinType::Inner => above.push(condition),
            _ if is_stable => kept.push(as_columns(condition, &join, &mut left, &mut right)?),
            _ => return Err(refused(&join, "and a function with a new value for each row")),
        }
    }
    let is_wider = !(left.columns.is_empty() && right.columns.is_empty());
    let joined = Join::try_new(
        left.over(join.left)?,
        right.over(join.right)?,
        join.on,
        conjunction(kept),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    let mut plan = LogicalPlanBuilder::from(LogicalPlan::Join(joined));
    if is_wider {
        plan = plan.project(columns)?;
    }
    if let Some(above) = conjunction(above) {
        plan = plan.filter(above)?;
    }
    plan.build()
}

/// The sides, left and right, of which a join drops the rows that have no match.
fn sides_that_drop(join: &Join) -> (bool, bool) {
    let (left, right) = match join.join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => (true, true),
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => (false, true),
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => (true, false),
        JoinType::Full => (false, false),
    };
    (left, right && !is_lateral(&join.right))
}

/// Whether a side refers to the other one. The join must be directly above it.
fn is_lateral(side: &LogicalPlan) -> bool {
    match side {
        LogicalPlan::Subquery(_) => true,
        LogicalPlan::SubqueryAlias(alias) => is_lateral(&alias.input),
        _ => false,
    }
}

/// Whether an expression, with its subqueries, refers to the left and to the right side.
fn sides_of(expr: &Expr, join: &Join) -> Result<(bool, bool)> {
    let mut columns: Vec<Column> = expr.column_refs().into_iter().cloned().collect();
    expr.apply(|part| {
        if let Some(subquery) = subquery_of(part) {
            subquery.subquery.apply_with_subqueries(|node| {
                node.apply_expressions(|within| {
                    within.apply(|part| {
                        if let Expr::OuterReferenceColumn(_, column) = part {
                            columns.push(column.clone());
                        }
                        Ok(TreeNodeRecursion::Continue)
                    })
                })
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let refers_to = |schema: &DFSchema| columns.iter().any(|column| schema.has_column(column));
    Ok((refers_to(join.left.schema()), refers_to(join.right.schema())))
}

/// The condition with columns of the sides in place of its subqueries.
fn as_columns(condition: Expr, join: &Join, left: &mut Side, right: &mut Side) -> Result<Expr> {
    let replaced = condition.transform_down(|expr| {
        if subquery_of(&expr).is_none() {
            return Ok(Transformed::no(expr));
        }
        let name = format!("__on_{}", left.columns.len() + right.columns.len());
        let column = Expr::Column(Column::new_unqualified(&name));
        match sides_of(&expr, join)? {
            (true, true) => return Err(refused(join, "that uses columns of both sides")),
            (false, true) if is_lateral(&join.right) => {
                return Err(refused(join, "that uses columns of LATERAL"));
            }
            (false, true) => right.columns.push(expr.alias(name)),
            (_, false) => left.columns.push(expr.alias(name)),
        }
        Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
    });
    replaced.data()
}

fn refused(join: &Join, which: &str) -> DataFusionError {
    let kind = match join.join_type {
        JoinType::Left => "LEFT JOIN",
        JoinType::Right => "RIGHT JOIN",
        JoinType::Full => "FULL JOIN",
        JoinType::LeftAnti | JoinType::RightAnti => "ANTI JOIN",
        JoinType::Inner
        | JoinType::LeftSemi
        | JoinType::RightSemi
        | JoinType::LeftMark
        | JoinType::RightMark => "JOIN",
    };
    DataFusionError::External(Box::new(PlanError::Clause {
        what: format!("a subquery {which} in ON of a {kind}"),
        place: String::new(),
        fix: "compute it as a column of a subquery in FROM, and compare that column in ON".into(),
    }))
}
