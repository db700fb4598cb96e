//! Bounds of window frames that no partition reaches.

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFrameBound, WindowFrameUnits};

use super::super::named;

/// More rows than a partition can have. DataFusion adds bounds of frames and limits without a check.
const MAX_ROWS: u64 = 1 << 48;

/// The same query where a frame of rows or groups that reaches further than [`MAX_ROWS`] has no bound there.
pub(in crate::planner) fn bound_frames(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(_) => named::map_expressions(node, |expr| expr.transform_down(bound)),
        other => Ok(Transformed::no(other)),
    })
    .data()
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
