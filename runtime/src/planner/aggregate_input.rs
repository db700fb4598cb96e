//! Aggregates that DataFusion 55 refuses although nothing is wrong with them.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Aggregate, LogicalPlan};
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;

/// Makes the physical plan of a query from its optimised logical plan.
///
/// DataFusion compares the input of each aggregate with its logical schema. It takes IS DISTINCT FROM, and IS TRUE and the
/// like, as nullable in physical plans alone; what may be NULL by the physical schema is safe.
pub(super) async fn physical_plan(
    state: &SessionState,
    optimized: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    match create(state, optimized).await {
        Err(error) if differs_in_nullability(&error) => {
            let mut state = state.clone();
            let options = state.config_mut().options_mut();
            options.execution.skip_physical_aggregate_schema_check = true;
            create(&state, optimized).await
        }
        planned => planned,
    }
}

async fn create(state: &SessionState, optimized: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let planner = Arc::clone(state.query_planner());
    planner.create_physical_plan(optimized, state).await
}

fn differs_in_nullability(error: &DataFusionError) -> bool {
    let DataFusionError::Internal(message) = error.find_root() else {
        return false;
    };
    let Some((_, differences)) = message.split_once("converted from logical input schema. Differences:")
    else {
        return false;
    };
    let mut differences = differences.lines().filter(|line| line.starts_with("\t-"));
    differences.all(|line| line.starts_with("\t- field nullability"))
}

/// [`EliminateGroupByConstant`] puts keys that follow from others into a projection, whose columns have unique names: it
/// fails for `CAST(k AS DOUBLE)` beside `k`, which has the name of `k`.
#[derive(Debug, Default)]
pub(super) struct EliminateGroupKeys(EliminateGroupByConstant);

impl OptimizerRule for EliminateGroupKeys {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Aggregate(aggregate) if has_equal_names(aggregate) => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

fn has_equal_names(aggregate: &Aggregate) -> bool {
    let mut names = HashSet::new();
    let mut columns = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
    columns.any(|column| !names.insert(column.schema_name().to_string()))
}
