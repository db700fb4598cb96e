//! `INTERSECT ALL` and `EXCEPT ALL`: a row that is m times on the left and n times on the right is in the result
//! min(m, n) or max(m - n, 0) times. DataFusion 55 plans a semi or anti join, which keeps all m of them or none.
//!
//! Here the equal rows of each side are numbered from 1, and a row of the left meets the one of the right that has its
//! number.

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, JoinType, NullEquality, Result};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder,
};

/// Rewrites every `INTERSECT ALL` and `EXCEPT ALL` of a query, those in subqueries too.
pub(super) fn count_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_set_operation(&join) => match numbered(&join)? {
            Some(counted) => Ok(Transformed::yes(counted)),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    })
    .data()
}

/// Only set operations are planned to joins for which NULL is equal to NULL; only those without ALL take each row of the
/// left once.
fn is_set_operation(join: &Join) -> bool {
    let keeps_left = matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti);
    let once = matches!(join.left.as_ref(), LogicalPlan::Distinct(Distinct::All(_)));
    keeps_left && join.null_equality == NullEquality::NullEqualsNull && join.filter.is_none() && !once
}

/// `None`: the columns of the sides cannot be compared, which DataFusion says best.
fn numbered(join: &Join) -> Result<Option<LogicalPlan>> {
    let (left, right) = (join.left.schema(), join.right.schema());
    let (mut left_values, mut right_values) = (Vec::new(), Vec::new());
    for ((left_column, right_column), (left_field, right_field)) in left
        .columns()
        .into_iter()
        .zip(right.columns())
        .zip(left.fields().iter().zip(right.fields()))
    {
        let Some(common) = comparison_coercion(left_field.data_type(), right_field.data_type()) else {
            return Ok(None);
        };
        left_values.push(Expr::Column(left_column).cast_to(&common, left)?);
        right_values.push(Expr::Column(right_column).cast_to(&common, right)?);
    }
    let kept: Vec<Expr> = left.columns().into_iter().map(Expr::Column).collect();
    let (left_plan, left_keys) = number_equal_rows(&join.left, kept.clone(), left_values, "left")?;
    let (right_plan, right_keys) = number_equal_rows(&join.right, Vec::new(), right_values, "right")?;
    let counted = LogicalPlanBuilder::from(left_plan)
        .join_detailed(
            right_plan,
            join.join_type,
            (left_keys, right_keys),
            None,
            NullEquality::NullEqualsNull,
        )?
        .project(kept)?
        .build()?;
    Ok(Some(counted))
}

/// `side` with a number for each of its rows that are equal in `values`, and the columns that have those values and the
/// number.
fn number_equal_rows(
    plan: &LogicalPlan,
    mut columns: Vec<Expr>,
    values: Vec<Expr>,
    side: &str,
) -> Result<(LogicalPlan, Vec<Column>)> {
    let mut keys = Vec::new();
    for value in values {
        match value {
            Expr::Column(column) if columns.contains(&Expr::Column(column.clone())) => keys.push(column),
            value => {
                let name = format!("__set_{side}_{}", columns.len());
                columns.push(value.alias(&name));
                keys.push(Column::new_unqualified(name));
            }
        }
    }
    let number = format!("__set_{side}_row");
    let equal = keys.iter().cloned().map(Expr::Column).collect();
    let function = row_number().partition_by(equal).build()?.alias(&number);
    let plan = LogicalPlanBuilder::from(plan.clone())
        .project(columns)?
        .window(vec![function])?
        .build()?;
    keys.push(Column::new_unqualified(number));
    Ok((plan, keys))
}
