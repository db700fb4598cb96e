//! Puts the rules of values into queries: floats in their one form wherever a table or an expression gives them, and
//! arithmetic, casts and functions that are checked. Runs when types are known and before DataFusion optimizes; what its
//! rules make of a checked function is checked again.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, JoinConstraint};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, TableScan};
use datafusion::optimizer::AnalyzerRule;

use crate::functions::{canonical, check, contains_float};

/// The rule of the analyzer.
#[derive(Debug)]
pub(crate) struct CheckValues;

impl AnalyzerRule for CheckValues {
    fn name(&self) -> &str {
        "check_values"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(check_plan).data()
    }
}

fn check_plan(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        let table = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?;
        schema.merge(&table);
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| match expr {
        // Its members are columns of the aggregate, each by its name.
        Expr::GroupingSet(_) => expr.map_children(|member| check_named(member, &schema, &names)),
        other => check_named(other, &schema, &names),
    })?
    .map_data(LogicalPlan::recompute_schema)?
    .transform_data(|plan| match plan {
        LogicalPlan::TableScan(scan) => above_scan(scan),
        // Names are resolved: no rule needs to know that its keys are columns, and a checked cast is none.
        LogicalPlan::Join(mut join) if join.join_constraint == JoinConstraint::Using => {
            join.join_constraint = JoinConstraint::On;
            Ok(Transformed::yes(LogicalPlan::Join(join)))
        }
        other => Ok(Transformed::no(other)),
    })
}

fn check_named(expr: Expr, schema: &DFSchema, names: &NamePreserver) -> Result<Transformed<Expr>> {
    let name = names.save(&expr);
    let checked = expr.transform_up(|expr| check(expr, schema))?;
    Ok(checked.update_data(|expr| name.restore(expr)))
}

/// Floats of a table come in their one form. DataFusion knows nothing of them below: the statistics of files, which leave
/// NaN out, decide nothing about them.
fn above_scan(scan: TableScan) -> Result<Transformed<LogicalPlan>> {
    let schema = Arc::clone(&scan.projected_schema);
    if !schema
        .fields()
        .iter()
        .any(|field| contains_float(field.data_type()))
    {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    }
    let columns = schema.iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        if contains_float(field.data_type()) {
            canonical(column).alias_qualified(qualifier.cloned(), field.name())
        } else {
            column
        }
    });
    let columns = columns.collect();
    let projection = Projection::try_new(columns, Arc::new(LogicalPlan::TableScan(scan)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}
