//! Whether a column is stored, or computed by an expression that may fold to a constant. DataFusion plans NOT IN as a
//! null-aware anti join only if its condition stays a comparison of two columns. A condition that folds to NULL or false
//! counts as no match, and the join keeps all rows.

use datafusion::common::Column;
use datafusion::logical_expr::expr::{Alias, Cast, TryCast};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Whether an expression over the rows of a plan is a column that is read, cast at most.
pub(super) fn is_stored(expr: &Expr, plan: &LogicalPlan) -> bool {
    match expr {
        Expr::Column(column) => is_column_stored(column, plan),
        Expr::Alias(Alias { expr, .. })
        | Expr::Cast(Cast { expr, .. })
        | Expr::TryCast(TryCast { expr, .. }) => is_stored(expr, plan),
        _ => false,
    }
}

fn is_column_stored(column: &Column, plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) | LogicalPlan::Values(_) => true,
        LogicalPlan::Projection(projection) => plan
            .schema()
            .maybe_index_of_column(column)
            .and_then(|index| projection.expr.get(index))
            .is_some_and(|expr| is_stored(expr, &projection.input)),
        LogicalPlan::SubqueryAlias(alias) => plan
            .schema()
            .maybe_index_of_column(column)
            .map(|index| Column::from(alias.input.schema().qualified_field(index)))
            .is_some_and(|within| is_column_stored(&within, &alias.input)),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Join(_) => {
            let mut inputs = plan.inputs().into_iter();
            inputs
                .find(|input| input.schema().has_column(column))
                .is_some_and(|input| is_column_stored(column, input))
        }
        LogicalPlan::Union(union) => plan.schema().maybe_index_of_column(column).is_some_and(|index| {
            let mut inputs = union.inputs.iter();
            inputs.all(|input| is_column_stored(&Column::from(input.schema().qualified_field(index)), input))
        }),
        // No rule computes a function of groups; a key that is a constant is taken out of them.
        LogicalPlan::Aggregate(aggregate) => {
            plan.schema().maybe_index_of_column(column).is_some_and(|index| {
                let key = aggregate.group_expr.get(index);
                key.is_none_or(|key| matches!(key, Expr::GroupingSet(_)) || is_stored(key, &aggregate.input))
            })
        }
        _ => false,
    }
}
