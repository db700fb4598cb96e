//! Series of which no column is read, as `count(*)` over them has it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

/// Reads the column of each series and drops it above: DataFusion encodes a series with the schema that it shows and
/// forgets that its generator makes a column more.
#[derive(Debug)]
pub(crate) struct ReadSeriesColumns;

fn read_column(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(series) = plan.downcast_ref::<LazyMemoryExec>() else {
        return Ok(Transformed::no(plan));
    };
    let [generator] = series.generators().as_slice() else {
        return Ok(Transformed::no(plan));
    };
    if !plan.schema().fields().is_empty() {
        return Ok(Transformed::no(plan));
    }
    // A generator tells its schema by its rows alone. This one's stay where they are.
    let rows = generator.read().reset_state().write().generate_next_batch()?;
    let Some(rows) = rows else {
        return Ok(Transformed::yes(Arc::new(EmptyExec::new(plan.schema()))));
    };
    let series = LazyMemoryExec::try_new(rows.schema(), vec![Arc::clone(generator)])?;
    let nothing: Vec<ProjectionExpr> = Vec::new();
    Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(
        nothing,
        Arc::new(series),
    )?)))
}

impl PhysicalOptimizerRule for ReadSeriesColumns {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(read_column).data()
    }

    fn name(&self) -> &str {
        "read_series_columns"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
