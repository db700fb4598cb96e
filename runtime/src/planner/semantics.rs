//! Rewrites of logical plans, before analysis, where DataFusion's plan would give other rows than SQL asks for.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, FetchType, Filter, LogicalPlan, LogicalPlanBuilder, Projection, SkipType, Subquery,
    lit, not, when,
};

use super::grouping::has_row_for_nothing;
use super::named;
use super::quantified;
use super::stored::is_stored;

/// Rewrites every subquery in a predicate, nested ones too.
pub(super) fn rewrite_predicates(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) => rewrite_filter(filter),
        other => {
            let schemas = other.inputs().into_iter().map(LogicalPlan::schema).cloned();
            let schemas: Vec<_> = schemas.collect();
            named::map_expressions(other, |expr| {
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

/// Where a predicate is used.
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
            let compared = predicate.transform_down(quantified_as_in)?;
            changed |= compared.transformed;
            let predicate = compared.data;
            // A conjunct becomes a semi join, or a null-aware anti join.
            if let Expr::InSubquery(within) = &predicate
                && (!within.negated || is_null_aware(within, &filter.input))
                && !one_row(&within.subquery.subquery)
                && having_of(&within.subquery.subquery)?.is_none()
            {
                if within.subquery.subquery.head_output_expr()?.is_some() {
                    return Ok(predicate);
                }
                // DataFusion does not find the column of VALUES.
                changed = true;
                return Ok(Expr::InSubquery(InSubquery {
                    subquery: quantified::with_named_value(&within.subquery)?,
                    ..within.clone()
                }));
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

/// Whether DataFusion plans a NOT IN as an anti join that knows NULL.
fn is_null_aware(within: &InSubquery, outer: &LogicalPlan) -> bool {
    let rows = within.subquery.subquery.as_ref();
    let column = rows.schema().columns().into_iter().next();
    within.subquery.outer_ref_columns.is_empty()
        && is_stored(&within.expr, outer)
        && column.is_some_and(|column| is_stored(&Expr::Column(column), rows))
}

fn rewrite_value(expr: Expr, schema: &DFSchema, context: Context) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Exists(Exists { subquery, negated }) => {
            let Some(exists) = exists_of(&subquery, context)? else {
                return Ok(Transformed::no(Expr::Exists(Exists { subquery, negated })));
            };
            Ok(Transformed::yes(if negated { not(exists) } else { exists }))
        }
        Expr::SetComparison(_) => {
            let compared = quantified_as_in(expr)?;
            match compared.data {
                Expr::InSubquery(_) => rewrite_value(compared.data, schema, context),
                Expr::SetComparison(comparison)
                    if context == Context::Value || quantified::is_independent(&comparison.subquery) =>
                {
                    let value = quantified::by_bounds(&comparison, schema)?;
                    Ok(match value {
                        Some(value) => Transformed::new(value, true, TreeNodeRecursion::Jump),
                        None => Transformed::no(Expr::SetComparison(comparison)),
                    })
                }
                other => Ok(Transformed::no(other)),
            }
        }
        Expr::InSubquery(within) => {
            let value = in_three_values(&within, schema, context)?;
            // Its parts must not be rewritten again.
            Ok(Transformed::new(value, true, TreeNodeRecursion::Jump))
        }
        Expr::ScalarSubquery(subquery) if !subquery.outer_ref_columns.is_empty() => {
            let Some(having) = having_of(&subquery.subquery)? else {
                return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
            };
            // Without a row the value is NULL.
            let kept = scalar(having.condition, &subquery).is_true();
            let value = when(kept, scalar(having.rows, &subquery)).end()?;
            Ok(Transformed::yes(value))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// `= ANY (subquery)` is IN, `<> ALL (subquery)` is NOT IN.
fn quantified_as_in(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::SetComparison(comparison) = &expr else {
        return Ok(Transformed::no(expr));
    };
    Ok(match quantified::as_in(comparison) {
        Some(within) => Transformed::yes(Expr::InSubquery(within)),
        None => Transformed::no(expr),
    })
}

/// An aggregate without groups that has its row under a condition: HAVING.
struct Having {
    /// The row, whether the condition is true or not.
    rows: LogicalPlan,
    /// Whether it is true, as a row.
    condition: LogicalPlan,
}

fn having_of(plan: &LogicalPlan) -> Result<Option<Having>> {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            let Some(input) = plan.inputs().first().copied() else {
                return Ok(None);
            };
            let Some(having) = having_of(input)? else {
                return Ok(None);
            };
            let rows = plan.with_new_exprs(plan.expressions(), vec![having.rows])?;
            Ok(Some(Having { rows, ..having }))
        }
        LogicalPlan::Filter(Filter { predicate, input, .. }) if one_row(input) => {
            let rows = input.as_ref().clone();
            let condition = LogicalPlanBuilder::from(rows.clone())
                .project(vec![predicate.clone().alias("__kept")])?
                .build()?;
            Ok(Some(Having { rows, condition }))
        }
        _ => Ok(None),
    }
}

/// Whether a correlated plan has more than `skip` rows.
fn rows_beyond(mut plan: &LogicalPlan, skip: usize, like: &Subquery) -> Result<Expr> {
    // These operators keep the number of rows.
    loop {
        plan = match plan {
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => &sort.input,
            _ => break,
        };
    }
    if one_row(plan) || having_of(plan)?.is_some() {
        return Ok(lit(false));
    }
    let skip = i64::try_from(skip).unwrap_or(i64::MAX);
    Ok(count_rows(plan.clone(), like)?.gt(lit(skip)))
}

/// `EXISTS` over an aggregate without keys. The aggregate gives one row for an empty input too, but a semi join on its
/// correlation does not. `None` where a join gives the right answer.
fn exists_of(subquery: &Subquery, context: Context) -> Result<Option<Expr>> {
    let mut plan = subquery.subquery.as_ref();
    let is_correlated = !subquery.outer_ref_columns.is_empty();
    let mut limited = false;
    loop {
        match plan {
            // A join would drop the limit, or apply it to the rows of all groups together.
            LogicalPlan::Limit(limit) if is_correlated => {
                match (limit.get_skip_type()?, limit.get_fetch_type()?) {
                    (_, FetchType::Literal(Some(0))) => return Ok(Some(lit(false))),
                    (SkipType::Literal(0), FetchType::Literal(_)) => {
                        limited = true;
                        plan = &limit.input;
                    }
                    (SkipType::Literal(skip), FetchType::Literal(_)) => {
                        return rows_beyond(&limit.input, skip, subquery).map(Some);
                    }
                    (SkipType::UnsupportedExpr, _) | (_, FetchType::UnsupportedExpr) => {
                        return plan_err!("LIMIT and OFFSET of a subquery in EXISTS are not numbers");
                    }
                }
            }
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
            _ => match having_of(plan)? {
                // The row is there where its condition is true.
                Some(having) => return Ok(Some(scalar(having.condition, subquery).is_true())),
                None => break,
            },
        }
    }
    let rows = if limited {
        plan.clone()
    } else {
        subquery.subquery.as_ref().clone()
    };
    match context {
        Context::Filter if limited => Ok(Some(Expr::Exists(Exists {
            subquery: Subquery {
                subquery: Arc::new(rows),
                ..subquery.clone()
            },
            negated: false,
        }))),
        Context::Filter => Ok(None),
        Context::Value => Ok(Some(any_row(rows, subquery)?)),
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
    Ok(count_rows(plan, like)?.gt(lit(0_i64)))
}

fn count_rows(plan: LogicalPlan, like: &Subquery) -> Result<Expr> {
    let counted = LogicalPlanBuilder::from(plan)
        .aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64)).alias("__rows")])?
        .build()?;
    Ok(scalar(counted, like))
}

pub(super) fn scalar(plan: LogicalPlan, like: &Subquery) -> Expr {
    Expr::ScalarSubquery(Subquery {
        subquery: Arc::new(plan),
        outer_ref_columns: like.outer_ref_columns.clone(),
        spans: like.spans.clone(),
    })
}

/// `value IN (subquery)` in three-valued logic: true if it is found; unknown if it is NULL and there are rows, or if one of
/// the rows is NULL; else false. The mark of a mark join has two values.
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
    if let Some(having) = having_of(plan)? {
        let kept = scalar(having.condition, subquery).is_true();
        let equal = expr.as_ref().clone().eq(scalar(having.rows, subquery));
        let value = when(kept, equal).otherwise(lit(false))?;
        return Ok(if *negated { not(value) } else { value });
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
        // A mark join confuses a column of the subquery with an outer column of the same name.
        Context::Filter => {
            let rows = quantified::with_named_value(subquery)?;
            Expr::InSubquery(InSubquery::new(expr.clone(), rows, false))
        }
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
