//! Filters that operators of a task fill while it runs, for the scans of the same task: a hash join with the keys of its build
//! side, ORDER BY … LIMIT with the last of the first rows so far. Scans leave out files, row groups and pages by them. They are made
//! by the task, not by the planner: the other side of a cut would never see them filled.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::functions::contains_float;

/// The options of DataFusion by which operators fill filters. Planning has them off; a fragment says whether its tasks have them on.
pub(crate) const TASK_FILTERS: [&str; 2] = [
    "datafusion.optimizer.enable_join_dynamic_filter_pushdown",
    "datafusion.optimizer.enable_topk_dynamic_filter_pushdown",
];

/// The plan of a task with filters of its operators in its scans, as far as the context's options want them.
pub(crate) fn push_down(
    plan: Arc<dyn ExecutionPlan>,
    context: &TaskContext,
) -> Result<Arc<dyn ExecutionPlan>> {
    let options = context.session_config().options();
    let wanted = options.optimizer.enable_join_dynamic_filter_pushdown
        || options.optimizer.enable_topk_dynamic_filter_pushdown;
    if !wanted || !may_filter(&plan)? {
        return Ok(plan);
    }
    FilterPushdown::new_post_optimization().optimize(plan, options)
}

/// Whether the plan has a scan, and no join or sort that would compare floats: the least and largest values that files tell of them
/// leave out NaN, which sorts last.
fn may_filter(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let (mut scans, mut floats) = (false, false);
    plan.apply(|node| {
        scans |= node.downcast_ref::<DataSourceExec>().is_some();
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            let schema = join.right().schema();
            for (_, key) in join.on() {
                floats |= contains_float(&key.data_type(&schema)?);
            }
        }
        if let Some(sort) = node
            .downcast_ref::<SortExec>()
            .filter(|sort| sort.fetch().is_some())
        {
            let schema = sort.input().schema();
            for key in sort.expr() {
                floats |= contains_float(&key.expr.data_type(&schema)?);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans && !floats)
}
