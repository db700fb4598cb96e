//! Correlated conditions of an aggregate that are no equalities, as `b.j > a.k` in `(SELECT count(*) FROM b WHERE b.j > a.k)`.
//! DataFusion joins a correlated aggregate by equalities alone.
//!
//! The rows of the subquery are joined with the distinct values of the outer columns by those conditions. What is left is an
//! equality with these values: of the rows of a key that the outer query has, the filter keeps those that it kept before.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::error::Result;
use datafusion::functions::expr_fn::coalesce;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, SubqueryAlias,
    lit,
};

use super::named;

/// What the names of such values begin with.
pub(super) const OUTER_KEY: &str = "__outer_key_";

/// Aggregates whose value does not depend on the order of rows.
const OF_ANY_ORDER: &[&str] = &[
    "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "count", "grouping", "max", "min", "sum",
];

/// Rewrites the correlated scalar subqueries and LATERAL subqueries of a query.
pub(super) fn join_with_outer_keys(plan: LogicalPlan) -> Result<LogicalPlan> {
    // No two of them have one name: their rows may be joined.
    let mut made = 0_usize;
    plan.transform_down_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = &node {
            let (outer, lateral) = (Arc::clone(&join.left), join.right.as_ref());
            let Some(right) = lateral_with_keys(lateral, &outer, &mut made)? else {
                return Ok(Transformed::no(node));
            };
            let inputs = vec![outer.as_ref().clone(), right];
            return Ok(Transformed::yes(node.with_new_exprs(node.expressions(), inputs)?));
        }
        let outer = match node.inputs().as_slice() {
            [outer] => (*outer).clone(),
            _ => return Ok(Transformed::no(node)),
        };
        named::map_expressions(node, |expr| {
            expr.transform_down(|expr| match expr {
                Expr::ScalarSubquery(subquery) => Ok(with_keys(&subquery, &outer, &mut made)?.map_or_else(
                    || Transformed::no(Expr::ScalarSubquery(subquery)),
                    |rewritten| Transformed::yes(Expr::ScalarSubquery(rewritten)),
                )),
                other => Ok(Transformed::no(other)),
            })
        })
    })
    .data()
}

fn lateral_with_keys(
    right: &LogicalPlan,
    outer: &LogicalPlan,
    made: &mut usize,
) -> Result<Option<LogicalPlan>> {
    match right {
        LogicalPlan::Subquery(subquery) => Ok(with_keys(subquery, outer, made)?.map(LogicalPlan::Subquery)),
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = lateral_with_keys(&alias.input, outer, made)? else {
                return Ok(None);
            };
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Ok(Some(LogicalPlan::SubqueryAlias(alias)))
        }
        _ => Ok(None),
    }
}

/// The subquery with joins in place of those conditions; `None` where it has none, or where none can take their place.
fn with_keys(subquery: &Subquery, outer: &LogicalPlan, made: &mut usize) -> Result<Option<Subquery>> {
    let plan = subquery.subquery.as_ref();
    if !has_aggregate(plan)? || !gives_the_same_rows_again(outer)? {
        return Ok(None);
    }
    let rewritten = plan.clone().transform_down(|node| match node {
        LogicalPlan::Filter(filter) => joined(filter, outer, made),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.transformed.then(|| Subquery {
        outer_ref_columns: rewritten.data.all_out_ref_exprs(),
        subquery: Arc::new(rewritten.data),
        spans: subquery.spans.clone(),
    }))
}

fn joined(filter: Filter, outer: &LogicalPlan, made: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let conditions = split_conjunction_owned(filter.predicate.clone());
    let (correlated, others): (Vec<Expr>, Vec<Expr>) = conditions.into_iter().partition(Expr::contains_outer);
    if correlated.iter().all(is_equality) {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let mut keys = Keys::default();
    let mut on = Vec::new();
    for condition in correlated {
        match keys.within(condition, outer, made)? {
            Some(condition) => on.push(condition),
            None => return Ok(Transformed::no(LogicalPlan::Filter(filter))),
        }
    }
    let columns = filter.input.schema().columns().into_iter().map(Expr::Column);
    let columns: Vec<Expr> = columns.collect();
    let values = keys
        .columns
        .iter()
        .map(|key| Expr::Column(key.column.clone()).alias(&key.name));
    let values = LogicalPlanBuilder::from(outer.clone())
        .project(values.collect::<Vec<_>>())?
        .distinct()?
        .build()?;
    let mut rows = LogicalPlanBuilder::from(filter.input.as_ref().clone());
    if let Some(condition) = conjunction(others) {
        rows = rows.filter(condition)?;
    }
    let rows = rows.join_on(values, JoinType::Inner, on)?;
    let mut equal = Vec::new();
    for key in &keys.columns {
        key.is_equal(&mut equal)?;
    }
    let rows = match conjunction(equal) {
        Some(equal) => rows.filter(equal)?,
        None => rows,
    };
    Ok(Transformed::new(
        rows.project(columns)?.build()?,
        true,
        TreeNodeRecursion::Jump,
    ))
}

/// A column of the outer query, and the name of its distinct values.
struct Key {
    outer: Expr,
    column: Column,
    data_type: DataType,
    is_nullable: bool,
    name: String,
}

impl Key {
    /// The conditions by which a value is the outer one: equalities, which know no NULL.
    fn is_equal(&self, conditions: &mut Vec<Expr>) -> Result<()> {
        let value = Expr::Column(Column::new_unqualified(&self.name));
        if !self.is_nullable {
            conditions.push(value.eq(self.outer.clone()));
            return Ok(());
        }
        conditions.push(value.clone().is_null().eq(self.outer.clone().is_null()));
        let known = lit(ScalarValue::new_default(&self.data_type)?);
        let value = coalesce(vec![value, known.clone()]);
        conditions.push(value.eq(coalesce(vec![self.outer.clone(), known])));
        Ok(())
    }
}

#[derive(Default)]
struct Keys {
    columns: Vec<Key>,
}

impl Keys {
    /// A condition that names values in place of outer columns; `None` where it names something else.
    fn within(&mut self, condition: Expr, outer: &LogicalPlan, made: &mut usize) -> Result<Option<Expr>> {
        let mut others = condition.is_volatile();
        let written = condition.transform(|part| match part {
            Expr::OuterReferenceColumn(field, column) => {
                if !outer.schema().has_column(&column) || !has_equality(field.data_type()) {
                    others = true;
                    return Ok(Transformed::no(Expr::OuterReferenceColumn(field, column)));
                }
                let known = self.columns.iter().find(|key| key.column == column);
                let name = match known {
                    Some(key) => key.name.clone(),
                    None => {
                        let name = format!("{OUTER_KEY}{made}");
                        *made += 1;
                        self.columns.push(Key {
                            outer: Expr::OuterReferenceColumn(Arc::clone(&field), column.clone()),
                            column,
                            data_type: field.data_type().clone(),
                            is_nullable: field.is_nullable(),
                            name: name.clone(),
                        });
                        name
                    }
                };
                Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name))))
            }
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                others = true;
                Ok(Transformed::no(part))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok((!others).then_some(written.data))
    }
}

/// Whether DataFusion joins by a condition; see [`super::correlated`].
fn is_equality(condition: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return false;
    };
    let sides = |one: &Expr, two: &Expr| {
        one.any_column_refs() && !one.contains_outer() && two.contains_outer() && !two.any_column_refs()
    };
    sides(left, right) || sides(right, left)
}

fn has_aggregate(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_))))
}

/// Whether equal values of a type are one value, of which there is one that is not NULL.
fn has_equality(data_type: &DataType) -> bool {
    data_type.is_numeric()
        || data_type.is_string()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
        )
}

/// Whether a plan that runs twice gives the same rows: the outer query runs once for its rows, once for their values.
fn gives_the_same_rows_again(plan: &LogicalPlan) -> Result<bool> {
    let mut same = true;
    plan.apply_with_subqueries(|node| {
        same &= match node {
            LogicalPlan::TableScan(scan) => scan.fetch.is_none(),
            LogicalPlan::Sort(sort) => sort.fetch.is_none(),
            LogicalPlan::Distinct(distinct) => matches!(distinct, Distinct::All(_)),
            LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.iter().all(is_of_any_order),
            LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Values(_)
            | LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Unnest(_) => true,
            _ => false,
        };
        same &= !node.contains_outer_reference() && !node.expressions().iter().any(Expr::is_volatile);
        Ok(if same {
            TreeNodeRecursion::Continue
        } else {
            TreeNodeRecursion::Stop
        })
    })?;
    Ok(same)
}

fn is_of_any_order(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_of_any_order(&alias.expr),
        Expr::AggregateFunction(call) => OF_ANY_ORDER.contains(&call.func.name()),
        _ => false,
    }
}
