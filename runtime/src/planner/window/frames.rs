//! Frames of windows that DataFusion does not run as they are written: bounds that no partition reaches, and peers by keys of
//! which it knows no distance.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, WindowFrame, WindowFrameBound, WindowFrameUnits,
};

use super::super::named;

/// More rows than a partition can have. DataFusion adds bounds of frames and limits without a check.
const MAX_ROWS: u64 = 1 << 48;

/// The same query where a frame of rows or groups that reaches further than [`MAX_ROWS`] has no bound there, and where a RANGE
/// without offsets over structs, bytes or intervals is one of GROUPS: both count the rows that are equal in the keys.
pub(in crate::planner) fn runnable_frames(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(ref window) => {
            let schema = Arc::clone(window.input.schema());
            named::map_expressions(node, |expr| {
                let bounded = expr.transform_down(bound)?;
                bounded.transform_data(|expr| expr.transform_down(|expr| peers(expr, &schema)))
            })
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn peers(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut function) = expr else {
        return Ok(Transformed::no(expr));
    };
    let frame = &function.params.window_frame;
    let has_offset = has_offset(&frame.start_bound) || has_offset(&frame.end_bound);
    let key = function.params.order_by.first();
    let key = key.and_then(|key| key.expr.get_type(schema).ok());
    let is_known = key.is_none_or(|key| !(key.is_binary() || is_without_distance(&key)));
    if frame.units != WindowFrameUnits::Range || has_offset || is_known {
        return Ok(Transformed::no(Expr::WindowFunction(function)));
    }
    let of_groups = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(_) => WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::CurrentRow => WindowFrameBound::CurrentRow,
        WindowFrameBound::Following(_) => WindowFrameBound::Following(ScalarValue::UInt64(None)),
    };
    let (start, end) = (of_groups(&frame.start_bound), of_groups(&frame.end_bound));
    function.params.window_frame = WindowFrame::new_bounds(WindowFrameUnits::Groups, start, end);
    Ok(Transformed::yes(Expr::WindowFunction(function)))
}

fn is_without_distance(key: &DataType) -> bool {
    matches!(
        key,
        DataType::Struct(_) | DataType::Map(_, _) | DataType::Interval(_) | DataType::FixedSizeBinary(_)
    )
}

/// Whether a bound lies some distance from the row.
pub(super) fn has_offset(bound: &WindowFrameBound) -> bool {
    match bound {
        WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) => !offset.is_null(),
        WindowFrameBound::CurrentRow => false,
    }
}

fn bound(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut function) = expr else {
        return Ok(Transformed::no(expr));
    };
    let frame = &mut function.params.window_frame;
    let mut changed = false;
    if matches!(frame.units, WindowFrameUnits::Rows | WindowFrameUnits::Groups) {
        let far = |bound: &WindowFrameBound| match bound {
            WindowFrameBound::Preceding(rows) | WindowFrameBound::Following(rows) => {
                matches!(rows, ScalarValue::UInt64(Some(rows)) if *rows > MAX_ROWS)
            }
            WindowFrameBound::CurrentRow => false,
        };
        if far(&frame.start_bound) {
            changed = true;
            frame.start_bound = match &frame.start_bound {
                WindowFrameBound::Preceding(_) => WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                _ => WindowFrameBound::Following(ScalarValue::UInt64(Some(MAX_ROWS))),
            };
        }
        if far(&frame.end_bound) {
            changed = true;
            frame.end_bound = match &frame.end_bound {
                WindowFrameBound::Following(_) => WindowFrameBound::Following(ScalarValue::UInt64(None)),
                _ => WindowFrameBound::Preceding(ScalarValue::UInt64(Some(MAX_ROWS))),
            };
        }
    }
    let expr = Expr::WindowFunction(function);
    Ok(if changed {
        Transformed::yes(expr)
    } else {
        Transformed::no(expr)
    })
}
