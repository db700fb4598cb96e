//! Expressions in which everything that computes is checked.

use std::sync::Arc;

use datafusion::arrow::compute::can_cast_types;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, Cast, TryCast, WindowFunction};
use datafusion::logical_expr::{AggregateUDF, BinaryExpr, Expr, ExprSchemable, WindowFunctionDefinition};

use super::floats::{canonical_scalar, contains_float};
use super::operation::may_fail;
use super::text::{binary_text, call_text, cast_text, negative_text, text_of};
use super::{Checked, Operation, checked_aggregate, is_passed_through};

/// The expression, with floats in their one form.
pub(crate) fn canonical(expr: Expr) -> Expr {
    let text = text_of(&expr);
    Checked::call(Operation::Canonical, text, vec![expr])
}

/// An expression of which every part is checked.
pub(crate) fn checked(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    expr.transform_up(|expr| check(expr, schema)).data()
}

/// Checks one expression; its operands are checked already.
pub(crate) fn check(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Literal(value, metadata) if contains_float(&value.data_type()) => Ok(Transformed::yes(
            Expr::Literal(canonical_scalar(value)?, metadata),
        )),
        Expr::BinaryExpr(binary) if Operation::covers(binary.op) => {
            Ok(Transformed::yes(check_binary(binary)))
        }
        Expr::Negative(operand) => {
            let text = negative_text(&operand);
            Ok(Transformed::yes(Checked::call(
                Operation::Negate,
                text,
                vec![*operand],
            )))
        }
        Expr::Cast(cast) => check_cast(cast, schema),
        Expr::TryCast(TryCast { expr, field }) if contains_float(field.data_type()) => {
            let cast = Expr::TryCast(TryCast { expr, field });
            Ok(Transformed::yes(canonical(cast)))
        }
        Expr::ScalarFunction(function) => {
            let is_checked = function.func.inner().downcast_ref::<Checked>().is_some();
            if is_checked || is_passed_through(function.func.name()) {
                return Ok(Transformed::no(Expr::ScalarFunction(function)));
            }
            let text = call_text(function.func.name(), &function.args);
            let operation = Operation::Function(Arc::clone(&function.func));
            Ok(Transformed::yes(Checked::call(operation, text, function.args)))
        }
        Expr::HigherOrderFunction(function) => {
            let expr = Expr::HigherOrderFunction(function);
            let has_floats = expr
                .get_type(schema)
                .is_ok_and(|data_type| contains_float(&data_type));
            Ok(if has_floats {
                Transformed::yes(canonical(expr))
            } else {
                Transformed::no(expr)
            })
        }
        Expr::AggregateFunction(AggregateFunction { func, params }) => {
            let exact = exact_of(&func, &params.args, schema);
            let transformed = exact.is_some();
            let func = exact.unwrap_or(func);
            let function = Expr::AggregateFunction(AggregateFunction { func, params });
            Ok(Transformed::new_transformed(function, transformed))
        }
        Expr::WindowFunction(mut window) => {
            let WindowFunction { fun, params } = window.as_mut();
            let WindowFunctionDefinition::AggregateUDF(func) = fun else {
                return Ok(Transformed::no(Expr::WindowFunction(window)));
            };
            let exact = exact_of(func, &params.args, schema);
            let transformed = exact.is_some();
            if let Some(exact) = exact {
                *func = exact;
            }
            Ok(Transformed::new_transformed(
                Expr::WindowFunction(window),
                transformed,
            ))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Appends an operator to the chain of its left operand, if both are of one kind.
fn check_binary(binary: BinaryExpr) -> Expr {
    let text = binary_text(&binary.left, binary.op, &binary.right);
    let (mut operators, mut operands) = match *binary.left {
        Expr::ScalarFunction(left) => match left
            .func
            .inner()
            .downcast_ref::<Checked>()
            .map(Checked::operation)
        {
            Some(Operation::Binary(operators)) => (operators.clone(), left.args),
            _ => (Vec::new(), vec![Expr::ScalarFunction(left)]),
        },
        other => (Vec::new(), vec![other]),
    };
    operators.push(binary.op);
    operands.push(*binary.right);
    Checked::call(Operation::Binary(operators), text, operands)
}

fn check_cast(cast: Cast, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let from = cast.expr.get_type(schema);
    // The planner refuses what no value can be cast to.
    let is_plain = cast.field.metadata().is_empty();
    let to = cast.field.data_type().clone();
    if !is_plain || !from.is_ok_and(|from| may_fail(&from, &to) && can_cast_types(&from, &to)) {
        return Ok(Transformed::no(Expr::Cast(cast)));
    }
    // The planner folds it, and names its position in the text if that fails.
    if matches!(cast.expr.as_ref(), Expr::Literal(_, _)) {
        let has_floats = contains_float(&to);
        let cast = Expr::Cast(cast);
        return Ok(if has_floats {
            Transformed::yes(canonical(cast))
        } else {
            Transformed::no(cast)
        });
    }
    let text = cast_text(&cast);
    Ok(Transformed::yes(Checked::call(
        Operation::Cast(to),
        text,
        vec![*cast.expr],
    )))
}

fn exact_of(
    function: &Arc<AggregateUDF>,
    arguments: &[Expr],
    schema: &DFSchema,
) -> Option<Arc<AggregateUDF>> {
    let types = arguments.iter().map(|argument| argument.get_type(schema));
    let types = types.collect::<Result<Vec<_>>>().ok()?;
    checked_aggregate(function, &types)
}
