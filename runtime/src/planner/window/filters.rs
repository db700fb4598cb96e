//! The FILTER of a window function as a column, which a fragment carries.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Window, cast, ident};

/// The same query where the FILTER of each window function is a column that is computed below the window.
pub(in crate::planner) fn filters_as_columns(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(window)
            if window
                .window_expr
                .iter()
                .any(|function| filter_in(function).is_some()) =>
        {
            Ok(Transformed::yes(filters_below(window)?))
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn filter_in(function: &Expr) -> Option<&Expr> {
    match function {
        Expr::WindowFunction(function) => function.params.filter.as_deref(),
        Expr::Alias(alias) => filter_in(&alias.expr),
        _ => None,
    }
}

fn filters_below(window: Window) -> Result<LogicalPlan> {
    let input = Arc::unwrap_or_clone(window.input);
    let kept = input.schema().columns().into_iter().map(Expr::Column);
    let mut below: Vec<Expr> = kept.clone().collect();
    let mut above: Vec<Expr> = kept.collect();
    let mut functions = Vec::new();
    for function in window.window_expr {
        let (qualifier, name) = function.qualified_name();
        let replaced = function.transform_down(|expr| match expr {
            Expr::WindowFunction(mut function) => {
                if let Some(filter) = function.params.filter.take() {
                    let column = format!("__window_filter_{}", below.len());
                    // A bare NULL has no type yet, and a cast above the column would hide it.
                    let filter = match filter.get_type(input.schema())? {
                        DataType::Null => cast(*filter, DataType::Boolean),
                        _ => *filter,
                    };
                    below.push(filter.alias(&column));
                    function.params.filter = Some(Box::new(ident(column)));
                    return Ok(Transformed::yes(Expr::WindowFunction(function)));
                }
                Ok(Transformed::no(Expr::WindowFunction(function)))
            }
            other => Ok(Transformed::no(other)),
        });
        let function = replaced.data()?;
        let (_, column) = function.qualified_name();
        above.push(ident(column).alias_qualified(qualifier, name));
        functions.push(function);
    }
    LogicalPlanBuilder::from(input)
        .project(below)?
        .window(functions)?
        .project(above)?
        .build()
}
