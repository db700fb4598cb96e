//! Semi joins that run below the inner joins of their left side. `IN (SELECT ..)` and `EXISTS` stand above all joins of FROM
//! as they are written, but need one table of them alone: rows that they leave out there are joined for nothing, and tables that
//! are joined to the few that are left are narrowed by a runtime filter.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection};

use super::chain::is_link;
use super::estimate::Estimator;

/// The plan with its topmost semi join further down; `None` if it is none, or stands best where it is.
pub(super) fn push_down(plan: &LogicalPlan, estimator: &Estimator) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Join(semi) = plan else {
        return Ok(None);
    };
    if semi.join_type != JoinType::LeftSemi || semi.null_aware || reads_anew(semi) {
        return Ok(None);
    }
    below(semi, &semi.left, estimator)
}

/// Whether a key or the condition may have another value each time.
fn reads_anew(semi: &Join) -> bool {
    let keys = semi.on.iter().flat_map(|(left, right)| [left, right]);
    keys.chain(&semi.filter).any(Expr::is_volatile)
}

/// `input` with the semi join somewhere below its own joins; `None` if it belongs above them.
fn below(semi: &Join, input: &LogicalPlan, estimator: &Estimator) -> Result<Option<LogicalPlan>> {
    if !is_link(input) {
        return Ok(None);
    }
    match input {
        LogicalPlan::Projection(projection) => {
            let Some(below) = below(semi, &projection.input, estimator)? else {
                return Ok(None);
            };
            let schema = Arc::clone(&projection.schema);
            let projection =
                Projection::try_new_with_schema(projection.expr.clone(), Arc::new(below), schema)?;
            Ok(Some(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Join(join) => {
            let rows = |plan: &LogicalPlan| estimator.relation(plan).map(|relation| relation.rows);
            for (is_left, side) in [(true, &join.left), (false, &join.right)] {
                let is_smaller = rows(side).zip(rows(input)).is_some_and(|(side, all)| side <= all);
                if !is_smaller || !has_all_columns(semi, side) {
                    continue;
                }
                let narrowed = match below(semi, side, estimator)? {
                    Some(narrowed) => narrowed,
                    None => LogicalPlan::Join(Join {
                        left: Arc::clone(side),
                        schema: Arc::clone(side.schema()),
                        ..semi.clone()
                    }),
                };
                let mut join = join.clone();
                *(if is_left { &mut join.left } else { &mut join.right }) = Arc::new(narrowed);
                return Ok(Some(LogicalPlan::Join(join)));
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Whether `side` has what the semi join reads of its left side.
fn has_all_columns(semi: &Join, side: &LogicalPlan) -> bool {
    let keys = semi.on.iter().map(|(left, _)| left);
    let mut columns = keys.chain(&semi.filter).flat_map(Expr::column_refs);
    columns.all(|column| side.schema().has_column(column) || semi.right.schema().has_column(column))
}
