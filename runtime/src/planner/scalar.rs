//! Scalar subqueries that do not refer to the outer query.
//!
//! With the physical form switched off (it hands its value over in process memory), DataFusion joins them to the outer
//! query. Two things go missing: that more than one row is an error, and that the value's name differs from the outer
//! query's columns. Both are put back before DataFusion optimizes.

use std::any::type_name;
use std::mem::size_of_val;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, LogicalPlanBuilder, Signature, Subquery,
    Volatility, ident,
};
use sluice_core::failure::{AttemptFailure, BadInputKind};

use super::named;

/// The name of a subquery's value.
const VALUE: &str = "__scalar_value";

/// The aggregate that gives the only value of its input, NULL without any, and fails on the second row. Fragments name
/// it; SQL cannot.
pub(crate) static SINGLE_VALUE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| {
    Arc::new(AggregateUDF::from(SingleValue {
        signature: Signature::any(1, Volatility::Immutable),
    }))
});

/// Rewrites every uncorrelated scalar subquery of a query, those in subqueries too.
pub(crate) fn guard_scalar_subqueries(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| {
        values_below(node)?
            .transform_data(|node| named::map_expressions(node, |expr| expr.transform_down(guard)))
    })
    .data()
}

/// Puts the values of scalar subqueries in aggregates, windows and sorts into columns below them: DataFusion joins those
/// of projections and filters alone.
fn values_below(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let input = match &node {
        LogicalPlan::Aggregate(aggregate) => &aggregate.input,
        LogicalPlan::Window(window) => &window.input,
        LogicalPlan::Sort(sort) => &sort.input,
        _ => return Ok(Transformed::no(node)),
    };
    let mut below: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let kept = below.len();
    let mut moved = Vec::new();
    let names = NamePreserver::new(&node);
    for expr in node.expressions() {
        let name = names.save(&expr);
        let is_set = matches!(expr, Expr::GroupingSet(_));
        let without = expr.transform_down(|expr| match expr {
            Expr::ScalarSubquery(_) => {
                let column = format!("{VALUE}_{}", below.len());
                below.push(expr.alias(&column));
                Ok(Transformed::yes(ident(column)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        moved.push(match without.transformed && !is_set {
            true => name.restore(without.data),
            false => without.data,
        });
    }
    if below.len() == kept {
        return Ok(Transformed::no(node));
    }
    let input = LogicalPlanBuilder::from(input.as_ref().clone()).project(below)?;
    let columns = node.schema().columns();
    let above = node.with_new_exprs(moved, vec![input.build()?])?;
    if matches!(above, LogicalPlan::Aggregate(_)) {
        return Ok(Transformed::yes(above));
    }
    let columns = columns.into_iter().map(Expr::Column);
    let above = LogicalPlanBuilder::from(above).project(columns)?.build()?;
    Ok(Transformed::yes(above))
}

fn guard(expr: Expr) -> Result<Transformed<Expr>> {
    match expr {
        Expr::ScalarSubquery(subquery)
            if subquery.outer_ref_columns.is_empty() && subquery.subquery.schema().fields().len() == 1 =>
        {
            let plan = single_row(Arc::unwrap_or_clone(subquery.subquery))?;
            Ok(Transformed::yes(Expr::ScalarSubquery(Subquery {
                subquery: Arc::new(plan),
                ..subquery
            })))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn single_row(plan: LogicalPlan) -> Result<LogicalPlan> {
    let value = |plan: &LogicalPlan| Expr::Column(Column::from(plan.schema().qualified_field(0)));
    let plan = if plan.max_rows().is_some_and(|rows| rows <= 1) {
        plan
    } else {
        let only = SINGLE_VALUE.call(vec![value(&plan)]);
        LogicalPlanBuilder::from(plan)
            .aggregate(Vec::<Expr>::new(), vec![only])?
            .build()?
    };
    let named = value(&plan).alias(VALUE);
    LogicalPlanBuilder::from(plan).project(vec![named])?.build()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleValue {
    signature: Signature,
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &str {
        "__single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let first = arguments.first().cloned();
        first.ok_or_else(|| DataFusionError::Internal(format!("{} has no argument", self.name())))
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let value = ScalarValue::try_from(arguments.return_field.data_type())?;
        Ok(Box::new(OnlyValue { value, rows: 0 }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let value = Field::new(
            format_state_name(arguments.name, "value"),
            arguments.return_type().clone(),
            true,
        );
        let rows = Field::new(format_state_name(arguments.name, "rows"), DataType::UInt64, false);
        Ok(vec![Arc::new(value), Arc::new(rows)])
    }
}

/// The state of [`SINGLE_VALUE`]: how many rows came (0 or 1), and the value of the one.
#[derive(Debug)]
struct OnlyValue {
    value: ScalarValue,
    rows: u64,
}

impl OnlyValue {
    fn take(&mut self, values: &dyn Array, row: usize) -> Result<()> {
        self.rows += 1;
        if self.rows > 1 {
            let message = "a subquery that stands for one value returned more than one row: \
                           aggregate it, or add LIMIT 1";
            return Err(DataFusionError::External(Box::new(AttemptFailure::BadInput {
                kind: BadInputKind::InvalidValue,
                message: message.to_owned(),
            })));
        }
        self.value = ScalarValue::try_from_array(values, row)?;
        Ok(())
    }
}

fn malformed() -> DataFusionError {
    DataFusionError::Internal(format!(
        "{} was given other columns than its own",
        type_name::<OnlyValue>()
    ))
}

impl Accumulator for OnlyValue {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values.first().ok_or_else(malformed)?;
        (0..values.len()).try_for_each(|row| self.take(values.as_ref(), row))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size() - size_of_val(&self.value)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::UInt64(Some(self.rows))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, rows] = states else {
            return Err(malformed());
        };
        let rows = rows.as_primitive_opt::<UInt64Type>().ok_or_else(malformed)?;
        rows.iter().enumerate().try_for_each(|(state, rows)| match rows {
            Some(1) => self.take(values.as_ref(), state),
            Some(_) | None => Ok(()),
        })
    }
}
