//! `sum` and `avg` of floats over a moving window. Subtracting the values that leave it would keep NaN, and would keep the
//! rounding errors of large values. Here values are only added.

use std::mem::{size_of, size_of_val};

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Accumulator;
use datafusion::logical_expr::function::AccumulatorArgs;

use super::floats::canonical_scalar;

/// A queue of two stacks. The older stack holds, for each value, its sum with all later values of the stack; its top leaves
/// the window next. The younger stack holds new values, and their sum.
#[derive(Debug, Default)]
pub(super) struct FloatWindow {
    average: bool,
    older: Vec<f64>,
    younger: Vec<f64>,
    sum_of_younger: f64,
}

impl FloatWindow {
    pub(super) fn of(function: &str, args: &AccumulatorArgs<'_>) -> Option<Self> {
        let average = match function {
            "sum" => false,
            "avg" => true,
            _ => return None,
        };
        let is_float = |data_type: &DataType| *data_type == DataType::Float64;
        let floats = args.expr_fields.iter().all(|field| is_float(field.data_type()));
        (floats && is_float(args.return_field.data_type()) && !args.is_distinct).then(|| Self {
            average,
            ..Self::default()
        })
    }

    fn leave(&mut self) {
        if self.older.is_empty() {
            let mut sum = 0.0;
            while let Some(value) = self.younger.pop() {
                sum += value;
                self.older.push(sum);
            }
            self.sum_of_younger = 0.0;
        }
        self.older.pop();
    }
}

fn floats(values: &[ArrayRef]) -> Result<impl Iterator<Item = f64>> {
    let array = values
        .first()
        .and_then(|array| array.as_primitive_opt::<Float64Type>());
    let array =
        array.ok_or_else(|| DataFusionError::Internal("a window of floats was given others".into()))?;
    Ok(array.iter().flatten())
}

impl Accumulator for FloatWindow {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in floats(values)? {
            self.younger.push(value);
            self.sum_of_younger += value;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        floats(values)?.for_each(|_| self.leave());
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let count = self.older.len() + self.younger.len();
        if count == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let sum = self.older.last().copied().unwrap_or(0.0) + self.sum_of_younger;
        #[allow(clippy::cast_precision_loss, reason = "so is every average")]
        let value = if self.average { sum / count as f64 } else { sum };
        canonical_scalar(ScalarValue::Float64(Some(value)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + (self.older.capacity() + self.younger.capacity()) * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Err(DataFusionError::Internal("a window is never merged".into()))
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Err(DataFusionError::Internal("a window is never merged".into()))
    }
}
