//! Conditions of a subquery that speak of the outer query alone. DataFusion makes a join of a correlated subquery from the
//! conditions that compare both sides; it does not plan one that has others.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Subquery, not};

use super::named;

/// `x IN (SELECT y FROM t WHERE p AND q)`, of which `p` speaks of the outer query alone, is `p IS TRUE AND x IN (SELECT y
/// FROM t WHERE q)`; the same for EXISTS.
pub(super) fn lift_outer_conditions(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| {
        let outer = merge_schema(&node.inputs());
        named::map_expressions(node, |expr| expr.transform_down(|expr| lift(expr, &outer)))
    })
    .data()
}

fn lift(expr: Expr, outer: &DFSchema) -> Result<Transformed<Expr>> {
    let (subquery, negated) = match &expr {
        Expr::InSubquery(within) => (&within.subquery, within.negated),
        Expr::Exists(exists) => (&exists.subquery, exists.negated),
        _ => return Ok(Transformed::no(expr)),
    };
    let mut lifted = Vec::new();
    let rest = without_outer(&subquery.subquery, outer, &mut lifted)?;
    let Some(condition) = conjunction(lifted) else {
        return Ok(Transformed::no(expr));
    };
    let subquery = Subquery {
        outer_ref_columns: rest.all_out_ref_exprs(),
        subquery: Arc::new(rest),
        spans: subquery.spans.clone(),
    };
    let found = match expr {
        Expr::InSubquery(within) => Expr::InSubquery(InSubquery::new(within.expr, subquery, false)),
        _ => Expr::Exists(Exists::new(subquery, false)),
    };
    let value = condition.is_true().and(found);
    let value = if negated { not(value) } else { value };
    Ok(Transformed::new(value, true, TreeNodeRecursion::Jump))
}

/// The plan without its conditions of that kind, which become conditions of the outer query.
fn without_outer(plan: &LogicalPlan, outer: &DFSchema, lifted: &mut Vec<Expr>) -> Result<LogicalPlan> {
    match plan {
        // They have a row for each row below.
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Distinct(_) => {
            let inputs = plan.inputs().into_iter();
            let inputs = inputs.map(|input| without_outer(input, outer, lifted));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            if lifted.is_empty() {
                return Ok(plan.clone());
            }
            plan.with_new_exprs(plan.expressions(), inputs)
        }
        LogicalPlan::Filter(filter) => {
            let mut kept = Vec::new();
            for condition in split_conjunction_owned(filter.predicate.clone()) {
                match of_outer(&condition, outer)? {
                    Some(condition) => lifted.push(condition),
                    None => kept.push(condition),
                }
            }
            let input = without_outer(&filter.input, outer, lifted)?;
            match conjunction(kept) {
                Some(kept) => Ok(LogicalPlan::Filter(Filter::try_new(kept, Arc::new(input))?)),
                None => Ok(input),
            }
        }
        other => Ok(other.clone()),
    }
}

/// The condition as the outer query writes it, if all of its columns are columns there.
fn of_outer(condition: &Expr, outer: &DFSchema) -> Result<Option<Expr>> {
    let (mut outside, mut inside) = (false, condition.is_volatile());
    condition.apply(|part| {
        match part {
            Expr::OuterReferenceColumn(_, column) if outer.has_column(column) => outside = true,
            Expr::OuterReferenceColumn(_, _)
            | Expr::Column(_)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::ScalarSubquery(_)
            | Expr::SetComparison(_) => inside = true,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if inside || !outside {
        return Ok(None);
    }
    let written = condition.clone().transform(|part| match part {
        Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
        other => Ok(Transformed::no(other)),
    });
    written.data().map(Some)
}
