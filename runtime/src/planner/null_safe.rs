//! Joins that mix keys compared by IS NOT DISTINCT FROM with conditions compared by `=`. A join of DataFusion 55 has one
//! null equality for all of its keys, but two rules add keys without looking at it, so that rows with NULL keys match.
//! Here both rules skip such joins; the conditions stay filters.

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::{Join, LogicalPlan};
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// [`EliminateCrossJoin`] gives all inner joins that it reorders the null equality of the first one.
#[derive(Debug, Default)]
pub(super) struct OrderInnerJoins(EliminateCrossJoin);

impl OptimizerRule for OrderInnerJoins {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let mut found = false;
        plan.apply_with_subqueries(|node| {
            found |= matches!(node, LogicalPlan::Join(join) if is_null_safe(join) && join.join_type == JoinType::Inner);
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if found {
            return Ok(Transformed::no(plan));
        }
        self.0.rewrite(plan, config)
    }
}

/// [`ExtractEquijoinPredicate`] turns each equality in the filter of a join into a key, whatever the null equality of the
/// keys that the join has already.
#[derive(Debug, Default)]
pub(super) struct ExtractJoinKeys(ExtractEquijoinPredicate);

impl OptimizerRule for ExtractJoinKeys {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Join(join) if is_null_safe(join) => Ok(Transformed::no(plan)),
            _ => self.0.rewrite(plan, config),
        }
    }
}

fn is_null_safe(join: &Join) -> bool {
    join.null_equality == NullEquality::NullEqualsNull
}
