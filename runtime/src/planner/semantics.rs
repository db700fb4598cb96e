//! Where DataFusion's plans give other rows than SQL asks for, a plan that does not: logical plans are rewritten before
//! they are analysed.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Projection, Subquery, lit, not, when,
};

use super::grouping::has_row_for_nothing;

/// Rewrites every subquery of a query that stands in a predicate, those in subqueries too.
pub(super) fn rewrite_predicates(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) => rewrite_filter(filter),
        other => {
            let schemas = other.inputs().into_iter().map(LogicalPlan::schema).cloned();
            let schemas: Vec<_> = schemas.collect();
            other.map_expressions(|expr| {
                expr.transform_down(|expr| {
                    let schema = match schemas.as_slice() {
                        [schema] => schema,
                        _ => return Ok(Transformed::no(expr)),
                    };
                    rewrite_value(expr, schema, Context::Value)
                })
            })
        }
    })
    .data()
}

/// Where a predicate stands.
#[derive(Clone, Copy, PartialEq)]
enum Context {
    /// A filter: subqueries become joins.
    Filter,
    /// A column: only scalar subqueries are planned.
    Value,
}

fn rewrite_filter(filter: Filter) -> Result<Transformed<LogicalPlan>> {
    let schema = Arc::clone(filter.input.schema());
    let mut changed = false;
    let predicates = split_conjunction_owned(filter.predicate)
        .into_iter()
        .map(|predicate| {
            // As a conjunct of its own it becomes a semi join, or an anti join that knows NULL.
            if let Expr::InSubquery(within) = &predicate
                && (within.subquery.outer_ref_columns.is_empty() || !within.negated)
                && !one_row(&within.subquery.subquery)
            {
                return Ok(predicate);
            }
            let rewritten = predicate.transform_down(|expr| rewrite_value(expr, &schema, Context::Filter))?;
            changed |= rewritten.transformed;
            Ok(rewritten.data)
        })
        .collect::<Result<Vec<_>>>()?;
    let predicate = conjunction(predicates).unwrap_or_else(|| lit(true));
    let plan = LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?);
    Ok(Transformed::new_transformed(plan, changed))
}

fn rewrite_value(expr: Expr, schema: &DFSchema, context: Context) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Exists(Exists { subquery, negated }) => {
            let Some(exists) = exists_of(&subquery, context)? else {
                return Ok(Transformed::no(Expr::Exists(Exists { subquery, negated })));
            };
            Ok(Transformed::yes(if negated { not(exists) } else { exists }))
        }
        Expr::InSubquery(within) => {
            let value = in_three_values(&within, schema, context)?;
            // What it is made of must not be rewritten again.
            Ok(Transformed::new(value, true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// `EXISTS` over an aggregate without groups: it has its one row also where its input has none, which a join cannot
/// know. `None` where a join gives the right answer.
fn exists_of(subquery: &Subquery, context: Context) -> Result<Option<Expr>> {
    let mut plan = subquery.subquery.as_ref();
    loop {
        match plan {
            LogicalPlan::Projection(Projection { input, .. }) => plan = input,
            LogicalPlan::SubqueryAlias(alias) => plan = &alias.input,
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => plan = &sort.input,
            LogicalPlan::Aggregate(aggregate) if has_row_for_nothing(aggregate) => {
                return Ok(Some(lit(true)));
            }
            // Copies of rows, see `grouping`.
            LogicalPlan::Join(join)
                if join.on.is_empty() && join.filter.is_none() && has_rows(&join.right) =>
            {
                plan = &join.left;
            }
            LogicalPlan::Filter(Filter { predicate, input, .. }) if one_row(input) => {
                // HAVING: the row is there where its condition is true.
                let kept = LogicalPlanBuilder::from(input.as_ref().clone())
                    .project(vec![predicate.clone().alias("__kept")])?
                    .build()?;
                return Ok(Some(scalar(kept, subquery).is_true()));
            }
            _ => break,
        }
    }
    match context {
        Context::Filter => Ok(None),
        Context::Value => Ok(Some(any_row(subquery.subquery.as_ref().clone(), subquery)?)),
    }
}

/// Whether a plan has rows of its own.
fn has_rows(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_rows(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_rows(&alias.input),
        LogicalPlan::Values(values) => !values.values.is_empty(),
        _ => false,
    }
}

/// Whether a plan has one row whatever its input holds.
fn one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => one_row(&alias.input),
        other => counts_nothing(other),
    }
}

/// An expression of the outer query as its subquery names it, and the columns in it.
fn as_seen_from_within(expr: &Expr, schema: &DFSchema) -> Result<(Expr, Vec<Expr>)> {
    let mut columns = Vec::new();
    let seen = expr.clone().transform(|part| {
        let Expr::Column(column) = part else {
            return Ok(Transformed::no(part));
        };
        let (_, field) = schema.qualified_field_from_column(&column)?;
        let outside = Expr::OuterReferenceColumn(Arc::clone(field), column);
        columns.push(outside.clone());
        Ok(Transformed::yes(outside))
    });
    Ok((seen.data()?, columns))
}

fn counts_nothing(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty())
}

/// Whether a plan has rows, as the value of a count.
fn any_row(plan: LogicalPlan, like: &Subquery) -> Result<Expr> {
    let counted = LogicalPlanBuilder::from(plan)
        .aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64)).alias("__rows")])?
        .build()?;
    Ok(scalar(counted, like).gt(lit(0_i64)))
}

fn scalar(plan: LogicalPlan, like: &Subquery) -> Expr {
    Expr::ScalarSubquery(Subquery {
        subquery: Arc::new(plan),
        outer_ref_columns: like.outer_ref_columns.clone(),
        spans: like.spans.clone(),
    })
}

/// `value IN (subquery)` with the three values of SQL: true where it is found; unknown where it is NULL and there are
/// rows, or one of them is NULL; else false. The mark of a join has two.
fn in_three_values(within: &InSubquery, schema: &DFSchema, context: Context) -> Result<Expr> {
    let InSubquery {
        expr,
        subquery,
        negated,
    } = within;
    let plan = subquery.subquery.as_ref();
    let Some((qualifier, field)) = plan.schema().iter().next() else {
        return Ok(Expr::InSubquery(within.clone()));
    };
    if plan.schema().fields().len() != 1 {
        return Ok(Expr::InSubquery(within.clone()));
    }
    // One row whatever its input holds: the comparison with it.
    if one_row(plan) {
        let equal = expr.as_ref().clone().eq(Expr::ScalarSubquery(subquery.clone()));
        return Ok(if *negated { not(equal) } else { equal });
    }
    let column = Expr::Column(Column::from((qualifier, field)));
    let some = |condition: Option<Expr>| -> Result<Expr> {
        let mut rows = LogicalPlanBuilder::from(plan.clone());
        if let Some(condition) = condition {
            rows = rows.filter(condition)?;
        }
        any_row(rows.build()?, subquery)
    };
    let found = match context {
        Context::Filter => Expr::InSubquery(InSubquery::new(expr.clone(), subquery.clone(), false)),
        Context::Value => {
            let (value, columns) = as_seen_from_within(expr, schema)?;
            let mut like = subquery.clone();
            like.outer_ref_columns.extend(columns);
            let rows = LogicalPlanBuilder::from(plan.clone()).filter(column.clone().eq(value))?;
            any_row(rows.build()?, &like)?
        }
    };
    let unknown = || Expr::Literal(ScalarValue::Boolean(None), None);
    let mut case = when(found, lit(true));
    if field.is_nullable() {
        case.when(some(Some(column.is_null()))?, unknown());
    }
    if expr.nullable(schema).unwrap_or(true) {
        case.when(expr.as_ref().clone().is_null().and(some(None)?), unknown());
    }
    let value = case.otherwise(lit(false))?;
    Ok(if *negated { not(value) } else { value })
}
