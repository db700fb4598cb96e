//! Aggregates that keep the first groups only, for `ORDER BY … LIMIT` above them.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::topk_aggregation::TopKAggregation;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use crate::functions::contains_float;

/// DataFusion's rule of the same name, but for plans in which it would order floats. DataFusion 55 finds a group again by comparing
/// its key, and NaN equals nothing there: the aggregate panics.
#[derive(Debug)]
pub(crate) struct LimitAggregates;

impl PhysicalOptimizerRule for LimitAggregates {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let limited = TopKAggregation::new().optimize(Arc::clone(&plan), config)?;
        let orders_floats = limited.exists(|node| Ok(orders_floats(node)))?;
        Ok(if orders_floats { plan } else { limited })
    }

    fn name(&self) -> &str {
        "LimitAggregation"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn orders_floats(node: &Arc<dyn ExecutionPlan>) -> bool {
    let aggregate = node.downcast_ref::<AggregateExec>();
    let limited = aggregate.filter(|aggregate| aggregate.limit_options().is_some());
    let schema = limited.map(|aggregate| aggregate.schema());
    schema.is_some_and(|schema| {
        schema
            .fields()
            .iter()
            .any(|field| contains_float(field.data_type()))
    })
}
