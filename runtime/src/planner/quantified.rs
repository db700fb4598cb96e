//! Comparisons with ANY and ALL rows of a subquery. DataFusion plans them as EXISTS, which compares each pair of rows and
//! cannot be a column. The minimum, the maximum and the numbers of rows and NULLs decide them as well.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::expr::{InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, binary_expr, cast, lit, when,
};

use super::semantics::scalar;

/// The column of a subquery under a name that nothing else has.
const VALUE: &str = "__value";

/// `= ANY (subquery)` is IN, `<> ALL (subquery)` is NOT IN.
pub(super) fn as_in(comparison: &SetComparison) -> Option<InSubquery> {
    let negated = match (comparison.op, &comparison.quantifier) {
        (Operator::Eq, SetQuantifier::Any) => false,
        (Operator::NotEq, SetQuantifier::All) => true,
        _ => return None,
    };
    let within = InSubquery::new(comparison.expr.clone(), comparison.subquery.clone(), negated);
    Some(within)
}

/// A subquery of one column as one whose column is called [`VALUE`].
pub(super) fn with_named_value(subquery: &Subquery) -> Result<Subquery> {
    Ok(Subquery {
        subquery: Arc::new(named_value(&subquery.subquery, None)?),
        ..subquery.clone()
    })
}

/// The rows of one column, as a type, under the name [`VALUE`].
fn named_value(plan: &LogicalPlan, data_type: Option<&DataType>) -> Result<LogicalPlan> {
    let columns = plan.schema().iter().take(1);
    let values = columns.map(|(qualifier, field)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        match data_type {
            Some(data_type) if data_type != field.data_type() => cast(column, data_type.clone()),
            _ => column,
        }
        .alias(VALUE)
    });
    LogicalPlanBuilder::from(plan.clone())
        .project(values.collect::<Vec<_>>())?
        .build()
}

/// A comparison by the bounds of the rows, in three values; `None` where their type has no order.
///
/// `x > ANY (rows)`: true where x is above the least row; false without rows; unknown where x or a row is NULL; else
/// false. `x > ALL (rows)`: false where x is not above the greatest; true without rows; unknown for NULL; else true.
pub(super) fn by_bounds(comparison: &SetComparison, schema: &DFSchema) -> Result<Option<Expr>> {
    let SetComparison {
        expr,
        subquery,
        op,
        quantifier,
    } = comparison;
    let [column] = subquery.subquery.schema().fields().as_ref() else {
        return Ok(None);
    };
    let compared = comparison_coercion(&expr.get_type(schema)?, column.data_type());
    let Some(compared) = compared.filter(has_order) else {
        return Ok(None);
    };
    let values = named_value(&subquery.subquery, Some(&compared))?;
    let of_rows = |aggregate: Expr| -> Result<Expr> {
        let one = LogicalPlanBuilder::from(values.clone())
            .aggregate(Vec::<Expr>::new(), vec![aggregate.alias("__of_rows")])?
            .build()?;
        Ok(scalar(one, subquery))
    };
    let value = || Expr::Column(Column::from_name(VALUE));
    let with = |bound: Expr| binary_expr(expr.as_ref().clone(), *op, bound);
    let (least, greatest) = (|| of_rows(min(value())), || of_rows(max(value())));
    let is_any = matches!(quantifier, SetQuantifier::Any);
    let decided = match (op, is_any) {
        (Operator::Gt | Operator::GtEq, true) | (Operator::Lt | Operator::LtEq, false) => with(least()?),
        (Operator::Lt | Operator::LtEq, true) | (Operator::Gt | Operator::GtEq, false) => with(greatest()?),
        (Operator::NotEq, true) => with(least()?).or(with(greatest()?)),
        (Operator::Eq, false) => with(least()?).and(with(greatest()?)),
        _ => return Ok(None),
    };
    let decided = if is_any { decided } else { decided.is_false() };
    let rows = of_rows(count(lit(1_i64)))?;
    let known = of_rows(count(value()))?;
    let unknown = expr.as_ref().clone().is_null().or(known.lt(rows.clone()));
    let value = when(decided, lit(is_any))
        .when(rows.eq(lit(0_i64)), lit(!is_any))
        .when(unknown, Expr::Literal(ScalarValue::Boolean(None), None))
        .otherwise(lit(!is_any))?;
    Ok(Some(value))
}

/// Whether min and max of a type follow its comparisons.
fn has_order(data_type: &DataType) -> bool {
    data_type.is_numeric()
        || data_type.is_string()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
                | DataType::Duration(_)
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
        )
}

/// Whether a subquery is to be compared by its bounds also where EXISTS could be planned: it needs no join then.
pub(super) fn is_independent(subquery: &Subquery) -> bool {
    subquery.outer_ref_columns.is_empty()
}
