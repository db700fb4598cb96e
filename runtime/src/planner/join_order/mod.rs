//! Orders the inner joins of a query by the estimated rows of its tables, and lets semi joins run below them. `core::join_order` decides; here a logical plan
//! becomes its problem, and its answer a plan.

mod chain;
mod estimate;
mod selectivity;
mod semi_joins;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerConfig};
use sluice_core::join_order::solve;

use chain::{Chain, is_link};
use estimate::Estimator;

/// The order of joins. An extension of the session's configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JoinOrderPolicy {
    /// Whether joins run in another order than that of the text.
    pub enabled: bool,
    /// The most that another order may cost, as a part of what the order of the text costs. Estimates are often wrong by half.
    pub max_cost_ratio: f64,
}

impl Default for JoinOrderPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            max_cost_ratio: 0.7,
        }
    }
}

/// Orders the inner joins of an optimised plan. Also says, for people, each order that differs from the text's.
pub(super) async fn order_joins(
    state: &SessionState,
    plan: LogicalPlan,
    policy: JoinOrderPolicy,
) -> Result<(LogicalPlan, Vec<String>)> {
    if !policy.enabled || !has_inner_joins(&plan)? {
        return Ok((plan, Vec::new()));
    }
    let mut reordering = Reordering {
        estimator: Estimator::of(state, &plan).await?,
        policy,
        said: Vec::new(),
    };
    let ordered = reordering.reorder(plan)?;
    if !ordered.transformed {
        return Ok((ordered.data, Vec::new()));
    }
    // Joins hand on only the columns that are read above them.
    let prune = Optimizer::with_rules(vec![std::sync::Arc::new(OptimizeProjections::new())]);
    let config: &dyn OptimizerConfig = state;
    let pruned = prune.optimize(ordered.data, config, |_, _| {})?;
    Ok((pruned, reordering.said))
}

fn has_inner_joins(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Join(_)) && is_link(node)))
}

struct Reordering {
    estimator: Estimator,
    policy: JoinOrderPolicy,
    said: Vec<String>,
}

impl Reordering {
    fn reorder(&mut self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        if let Some(pushed) = semi_joins::push_down(&plan, &self.estimator)? {
            let mut ordered = self.reorder(pushed)?;
            ordered.transformed = true;
            return Ok(ordered);
        }
        let Some(chain) = Chain::of(&plan) else {
            return plan.map_children(|child| self.reorder(child));
        };
        let problem = chain.problem(&self.estimator, self.policy.max_cost_ratio);
        let Some(order) = problem.as_ref().and_then(solve) else {
            return self.below(plan);
        };
        self.said.push(chain.describe(&order));
        let mut chain = chain;
        chain.map_relations(|relation| self.reorder(relation))?;
        let ordered = chain.build(&order.tree, plan.schema())?;
        Ok(Transformed::new(ordered, true, TreeNodeRecursion::Continue))
    }

    /// What is below a chain that stays as it is.
    fn below(&mut self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        if is_link(&plan) {
            plan.map_children(|child| self.below(child))
        } else {
            self.reorder(plan)
        }
    }
}
