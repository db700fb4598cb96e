//! Filter pushdown that skips filters whose pushdown would change the rows.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Filter, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::grouping::has_row_for_nothing;

/// [`PushDownFilter`] of DataFusion 55 pushes a condition without columns below every aggregate, even one that it has folded
/// to false. Below an aggregate without keys a false condition no longer removes the one row, and a volatile condition
/// drops rows instead of groups.
#[derive(Debug, Default)]
pub(super) struct PushFilters(PushDownFilter);

impl OptimizerRule for PushFilters {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Filter(filter) if must_stay(filter) => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

/// Whether a filter, or a filter that it would be merged with, must stay above its input.
fn must_stay(filter: &Filter) -> bool {
    let mut conditions = split_conjunction(&filter.predicate);
    let mut input: &Arc<LogicalPlan> = &filter.input;
    while let LogicalPlan::Filter(below) = input.as_ref() {
        conditions.extend(split_conjunction(&below.predicate));
        input = &below.input;
    }
    let is_volatile = conditions.iter().any(|condition| condition.is_volatile());
    match input.as_ref() {
        LogicalPlan::Aggregate(aggregate) => is_volatile || has_row_for_nothing(aggregate),
        LogicalPlan::Window(_) | LogicalPlan::Distinct(_) | LogicalPlan::Unnest(_) => is_volatile,
        _ => false,
    }
}
