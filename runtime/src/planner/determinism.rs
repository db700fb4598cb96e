//! What a second run of a task may change.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use sluice_core::plan::Determinism;

use super::shuffle_read_exec::ShuffleReadExec;
use super::window;

/// What the determinism of a stage depends on at one of its inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// Map tasks that write it.
    pub streams: usize,
    /// The least determinate of the writing stages.
    pub writers: Determinism,
}

/// Aggregate functions of which the value depends on the order of the rows.
const ORDER_SENSITIVE: &[&str] = &[
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "string_agg",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "approx_median",
];

/// Operators that give their rows in the order of their input and do not depend on memory at hand.
const KEEP_ORDER: &[&str] = &[
    "FilterExec",
    "ProjectionExec",
    "LocalLimitExec",
    "GlobalLimitExec",
    "UnnestExec",
    "CooperativeExec",
    "CoalesceBatchesExec",
    "SchemaExec",
    "OpaqueExec",
    "HashJoinExec",
    "CrossJoinExec",
    "BoundedWindowAggExec",
    "WindowAggExec",
];

/// What a second run of a fragment may change, given inputs that hold the same rows. Slots of shuffle reads
/// are looked up with `source`.
pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>, source: &dyn Fn(u32) -> Source) -> Determinism {
    if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
        let Source { streams, writers } = source(read.input_index());
        let one_order = streams <= 1 && writers == Determinism::Determinate;
        return if one_order {
            Determinism::Determinate
        } else {
            Determinism::Unordered
        };
    }
    let below = plan
        .children()
        .into_iter()
        .map(|child| of(child, source))
        .max()
        .unwrap_or(Determinism::Determinate);
    if has_volatile(plan) || (below >= Determinism::Unordered && depends_on_order(plan)) {
        return Determinism::Indeterminate;
    }
    let keeps_order = plan.children().is_empty() || KEEP_ORDER.contains(&plan.name());
    if keeps_order {
        below
    } else {
        below.max(Determinism::Unordered)
    }
}

/// Whether another order of the input rows gives other output rows.
fn depends_on_order(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return aggregate.limit_options().is_some()
            || aggregate
                .aggr_expr()
                .iter()
                .any(|call| ORDER_SENSITIVE.contains(&call.fun().name()));
    }
    plan.fetch().is_some()
        || plan.downcast_ref::<LocalLimitExec>().is_some()
        || plan.downcast_ref::<GlobalLimitExec>().is_some()
        || window::functions_of(plan).is_some_and(|(functions, _)| {
            let input = plan.children().first().map(|input| input.schema());
            !input.is_some_and(|input| functions.iter().all(|function| has_equal_rows(function, &input)))
        })
}

/// Whether all rows of a window partition are equal, so that their order cannot be observed.
fn has_equal_rows(function: &Arc<dyn WindowExpr>, input: &Schema) -> bool {
    let keys = function.partition_by().iter();
    let columns: BTreeSet<usize> = keys
        .filter_map(|key| key.downcast_ref::<Column>().map(Column::index))
        .collect();
    (0..input.fields().len()).all(|column| columns.contains(&column))
}

/// Whether an expression of the operator gives another value each time.
pub(crate) fn has_volatile(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut found = false;
    let walked = plan.apply_expressions(&mut |expression| {
        found |= is_volatile(expression);
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    // An expression that cannot be inspected counts as volatile.
    found || walked.is_err()
}

/// Whether a key may come out a little different when rows are added up in another order, so that its row
/// lands in another partition.
pub(crate) fn inexact_keys(keys: &[Arc<dyn PhysicalExpr>], schema: &Schema) -> bool {
    keys.iter().any(|key| {
        matches!(
            key.data_type(schema),
            Ok(DataType::Float16 | DataType::Float32 | DataType::Float64) | Err(_)
        )
    })
}
