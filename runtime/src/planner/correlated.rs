//! Conditions that compare an expression over rows of a subquery with the outer query, as `t.k + 1 = outer.k`. DataFusion
//! joins a correlated aggregate by columns and plain casts of columns alone, and casts that are checked are neither.

use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr,
};
use datafusion::optimizer::AnalyzerRule;

/// The prefix of the names of such columns.
pub(super) const CORRELATED_KEY: &str = "__correlated_key_";

/// Makes such expressions columns of the subquery's rows. Runs once types are known: comparisons may add casts.
#[derive(Debug)]
pub(super) struct KeysAsColumns;

impl AnalyzerRule for KeysAsColumns {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        // No two of them have one name: their rows may be joined.
        let mut made = 0_usize;
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Filter(filter) => keys_as_columns(filter, &mut made),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "correlated_keys_as_columns"
    }
}

fn keys_as_columns(filter: Filter, made: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let columns: Vec<Expr> = filter
        .input
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    let mut below = columns.clone();
    let conditions = split_conjunction_owned(filter.predicate.clone());
    let conditions = conditions.into_iter().map(|condition| {
        let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) = &condition
        else {
            return condition;
        };
        let (key, outer) = if is_key(left) && is_outer(right) {
            (left, right)
        } else if is_key(right) && is_outer(left) {
            (right, left)
        } else {
            return condition;
        };
        let name = format!("{CORRELATED_KEY}{made}");
        *made += 1;
        below.push(key.as_ref().clone().alias(&name));
        let column = Expr::Column(Column::new_unqualified(name));
        binary_expr(column, Operator::Eq, outer.as_ref().clone())
    });
    let conditions: Vec<Expr> = conditions.collect();
    if below.len() == columns.len() {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let mut plan = LogicalPlanBuilder::from(filter.input.as_ref().clone()).project(below)?;
    if let Some(condition) = conjunction(conditions) {
        plan = plan.filter(condition)?;
    }
    Ok(Transformed::yes(plan.project(columns)?.build()?))
}

/// Whether an expression refers to the subquery's rows only, and is not one that DataFusion supports.
fn is_key(expr: &Expr) -> bool {
    let is_taken = match expr {
        Expr::Column(_) => true,
        Expr::Cast(Cast { expr, .. }) => matches!(expr.as_ref(), Expr::Column(_)),
        _ => false,
    };
    !is_taken && expr.any_column_refs() && !expr.contains_outer() && !has_subquery(expr)
}

/// Whether an expression refers to the outer query only.
fn is_outer(expr: &Expr) -> bool {
    expr.contains_outer() && !expr.any_column_refs() && !has_subquery(expr)
}

fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|part| {
        Ok(matches!(
            part,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
        ))
    })
    .unwrap_or(true)
}
