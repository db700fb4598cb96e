//! Rewrites of expressions under which a plan's columns keep their names: those of the result are the user's, and plans
//! above refer to the others by name.

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Rewrites each expression of a node.
pub(super) fn map_expressions(
    node: LogicalPlan,
    mut rewrite: impl FnMut(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| match expr {
        // Its members are the columns, and it cannot have another name.
        Expr::GroupingSet(_) => rewrite(expr),
        expr => {
            let name = names.save(&expr);
            let rewritten = rewrite(expr)?;
            let changed = rewritten.transformed;
            Ok(rewritten.update_data(|expr| if changed { name.restore(expr) } else { expr }))
        }
    })
}
