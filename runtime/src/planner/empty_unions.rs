//! Unions of which one branch is left, as all others are known to have no rows.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Union};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::propagate_empty_relation::PropagateEmptyRelation;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// [`PropagateEmptyRelation`] of DataFusion 55 asks the branch that is left for columns by the union's names, which are those of
/// the first branch. Here they are taken by their places.
#[derive(Debug, Default)]
pub(super) struct PropagateEmpty(PropagateEmptyRelation);

impl OptimizerRule for PropagateEmpty {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Union(union) => match only_branch(union) {
                Some(branch) => Ok(Transformed::yes(named_as(branch, union)?)),
                None => self.0.rewrite(plan, config),
            },
            _ => self.0.rewrite(plan, config),
        }
    }
}

/// The only branch that may have rows, where another is known to have none.
fn only_branch(union: &Union) -> Option<&Arc<LogicalPlan>> {
    let mut may_have_rows = union.inputs.iter().filter(|input| match input.as_ref() {
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        _ => true,
    });
    let only = may_have_rows.next()?;
    (union.inputs.len() > 1 && may_have_rows.next().is_none()).then_some(only)
}

/// A branch with the columns of the union.
fn named_as(branch: &Arc<LogicalPlan>, union: &Union) -> Result<LogicalPlan> {
    let columns = branch.schema().columns().into_iter().zip(union.schema.iter());
    let columns = columns.map(|(column, (qualifier, field))| {
        Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
    });
    let (columns, schema) = (columns.collect(), Arc::clone(&union.schema));
    let projection = Projection::try_new_with_schema(columns, Arc::clone(branch), schema)?;
    Ok(LogicalPlan::Projection(projection))
}
