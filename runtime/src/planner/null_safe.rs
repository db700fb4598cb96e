//! Joins whose keys are compared by IS NOT DISTINCT FROM, beside conditions that are compared by `=`. DataFusion 55 has one
//! way of comparing for all keys of a join, and two of its rules give a join keys that another way was asked for: rows
//! whose keys are NULL then meet. Both rules leave such joins as they are here; their conditions stay filters.

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::{Join, LogicalPlan};
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// [`EliminateCrossJoin`], which compares the keys of all inner joins that it orders anew as the first of them does.
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

/// [`ExtractEquijoinPredicate`], which makes a key of each equality in the filter of a join, whatever way the keys that are
/// there are compared.
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
