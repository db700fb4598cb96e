//! `var`, `stddev`, `corr`, `covar` and `regr` over a moving window. DataFusion subtracts the values that leave it, which
//! keeps NaN and the rounding errors of large values. Here states are only merged.

use std::mem::{size_of_val, take};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::PhysicalExpr;

use super::floats::canonical_scalar;
use super::moments::{is_of_moments, without_infinities};

/// A queue of two stacks. The older stack holds, for each row, the state of it and all later rows of the stack; its top
/// leaves the window next. The younger stack holds new rows, and their state.
#[derive(Debug)]
pub(super) struct MergedWindow {
    function: OwnedFunction,
    older: Vec<Vec<ScalarValue>>,
    younger: Vec<Vec<ArrayRef>>,
    of_younger: Box<dyn Accumulator>,
}

/// An aggregate function with what it takes to make accumulators of it.
#[derive(Debug)]
struct OwnedFunction {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl OwnedFunction {
    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &[],
            is_reversed: false,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

impl MergedWindow {
    /// A window of a function, if it is one of these.
    pub(super) fn of(function: &Arc<AggregateUDF>, args: &AccumulatorArgs<'_>) -> Result<Option<Self>> {
        if !is_of_moments(function.name()) || args.is_distinct || !args.order_bys.is_empty() {
            return Ok(None);
        }
        let function = OwnedFunction {
            function: Arc::clone(function),
            return_field: Arc::clone(&args.return_field),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            name: args.name.to_owned(),
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        };
        Ok(Some(Self {
            of_younger: function.accumulator()?,
            function,
            older: Vec::new(),
            younger: Vec::new(),
        }))
    }

    fn leave(&mut self) -> Result<()> {
        if self.older.is_empty() {
            let mut behind = self.function.accumulator()?;
            for row in take(&mut self.younger).iter().rev() {
                behind.update_batch(row)?;
                self.older.push(behind.state()?);
            }
            self.of_younger = self.function.accumulator()?;
        }
        self.older.pop();
        Ok(())
    }
}

fn merge(into: &mut dyn Accumulator, state: &[ScalarValue]) -> Result<()> {
    let arrays = state.iter().map(ScalarValue::to_array);
    into.merge_batch(&arrays.collect::<Result<Vec<_>>>()?)
}

fn rows_of(values: &[ArrayRef]) -> usize {
    values.first().map_or(0, |array| array.len())
}

impl Accumulator for MergedWindow {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = without_infinities(values);
        self.of_younger.update_batch(&values)?;
        let rows = (0..rows_of(&values)).map(|row| values.iter().map(|array| array.slice(row, 1)).collect());
        self.younger.extend(rows);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        (0..rows_of(values)).try_for_each(|_| self.leave())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut whole = self.function.accumulator()?;
        if let Some(older) = self.older.last() {
            merge(whole.as_mut(), older)?;
        }
        merge(whole.as_mut(), &self.of_younger.state()?)?;
        canonical_scalar(whole.evaluate()?)
    }

    fn size(&self) -> usize {
        // All states have the same size, and so do all rows.
        let states = self.older.first().map_or(0, |state| {
            let of_values: usize = state.iter().map(ScalarValue::size).sum();
            of_values + size_of_val(state)
        });
        let rows = self.younger.first().map_or(0, |row| {
            let of_values: usize = row
                .iter()
                .map(|array| array.to_data().get_slice_memory_size().unwrap_or(0))
                .sum();
            of_values + row.len() * BYTES_OF_SLICE + size_of_val(row)
        });
        size_of_val(self) + self.older.len() * states + self.younger.len() * rows + self.of_younger.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Err(DataFusionError::Internal("a window is never merged".into()))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Err(DataFusionError::Internal("a window is never merged".into()))
    }
}

/// What an array of one value takes beside it, bytes.
const BYTES_OF_SLICE: usize = 128;
