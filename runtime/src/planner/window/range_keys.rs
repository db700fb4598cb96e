//! RANGE frames with an offset cast their key to a type that has room for key and offset. If the sum of both overflows,
//! DataFusion ends the frame at the edge of the partition and includes its NULLs. It also cannot compare a decimal with the
//! sum, whose precision is larger.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::WindowFunctionParams;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Window, WindowFrameUnits, cast, ident,
};

use super::super::PlanError;
use super::frames::has_offset;

/// The same query where the keys of such frames are cast.
pub(in crate::planner) fn wide_range_keys(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(window)
            if window
                .window_expr
                .iter()
                .any(|expr| has_key_without_distance(expr, &window)) =>
        {
            Err(DataFusionError::External(Box::new(PlanError::Clause {
                what: "RANGE with an offset, over a key that is neither a number nor a time,".to_owned(),
                place: String::new(),
                fix: "order by another key, or write ROWS or GROUPS".to_owned(),
            })))
        }
        LogicalPlan::Window(window)
            if window
                .window_expr
                .iter()
                .any(|expr| has_narrow_key(expr, &window)) =>
        {
            Ok(Transformed::yes(with_wide_keys(window)?))
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn has_narrow_key(function: &Expr, window: &Window) -> bool {
    match function {
        Expr::WindowFunction(function) => wide_type(&function.params, window.input.schema()).is_some(),
        Expr::Alias(alias) => has_narrow_key(&alias.expr, window),
        _ => false,
    }
}

/// Whether a frame has an offset to a key that none can be added to. DataFusion compares such keys with the offset.
fn has_key_without_distance(function: &Expr, window: &Window) -> bool {
    match function {
        Expr::WindowFunction(function) => range_key(&function.params, window.input.schema())
            .is_some_and(|key| !(key.is_numeric() || key.is_temporal() || matches!(key, DataType::Null))),
        Expr::Alias(alias) => has_key_without_distance(&alias.expr, window),
        _ => false,
    }
}

/// The type of the key of a RANGE frame with an offset.
fn range_key(params: &WindowFunctionParams, schema: &DFSchema) -> Option<DataType> {
    let frame = &params.window_frame;
    let [key] = params.order_by.as_slice() else {
        return None;
    };
    if frame.units != WindowFrameUnits::Range
        || !(has_offset(&frame.start_bound) || has_offset(&frame.end_bound))
    {
        return None;
    }
    key.expr.get_type(schema).ok()
}

/// The type that the key of a frame needs, if it is another one.
fn wide_type(params: &WindowFunctionParams, schema: &DFSchema) -> Option<DataType> {
    match range_key(params, schema)? {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => Some(DataType::Int64),
        DataType::Int64 | DataType::UInt64 => Some(DataType::Decimal128(38, 0)),
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) => {
            Some(DataType::Decimal128(38, scale))
        }
        DataType::Decimal128(precision, scale) if precision < 38 => Some(DataType::Decimal128(38, scale)),
        DataType::Decimal256(precision, scale) if precision < 76 => Some(DataType::Decimal256(76, scale)),
        _ => None,
    }
}

fn with_wide_keys(window: Window) -> Result<LogicalPlan> {
    let schema = window.input.schema();
    let mut above: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    // The functions of one operator have the same keys.
    let (mut as_they_are, mut widened) = (Vec::new(), Vec::new());
    for function in window.window_expr {
        let (qualifier, name) = function.qualified_name();
        let rewritten = function.transform_down(|expr| match expr {
            Expr::WindowFunction(mut function) => {
                let wide = wide_type(&function.params, schema);
                let changed = wide.is_some();
                if let (Some(wide), [key]) = (wide, function.params.order_by.as_mut_slice()) {
                    key.expr = cast(key.expr.clone(), wide);
                }
                let function = Expr::WindowFunction(function);
                Ok(Transformed::new_transformed(function, changed))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let (_, column) = rewritten.data.qualified_name();
        above.push(ident(column).alias_qualified(qualifier, name));
        if rewritten.transformed {
            widened.push(rewritten.data);
        } else {
            as_they_are.push(rewritten.data);
        }
    }
    let mut rows = LogicalPlanBuilder::from(window.input.as_ref().clone());
    for functions in [as_they_are, widened] {
        if !functions.is_empty() {
            rows = rows.window(functions)?;
        }
    }
    rows.project(above)?.build()
}
