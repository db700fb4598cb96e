//! `min` and `max` of floats in groups. DataFusion's compare with `<`, for which NaN is neither larger nor smaller.

use std::cmp::Ordering;
use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray,
};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};

use super::canonical::as_its_function;

/// A `min` or `max` of DataFusion for which NaN is the largest value, in groups too.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Extreme {
    function: Arc<AggregateUDF>,
    /// How a value compares to the current extreme if it replaces it.
    by: Ordering,
}

impl Extreme {
    /// The form of a function over arguments of these types that knows NaN, if it needs one.
    pub(super) fn of(function: &Arc<AggregateUDF>, arguments: &[DataType]) -> Option<Self> {
        match arguments {
            [DataType::Float16 | DataType::Float32 | DataType::Float64] => Self::named(function),
            _ => None,
        }
    }

    pub(super) fn named(function: &Arc<AggregateUDF>) -> Option<Self> {
        let by = match function.name() {
            "max" => Ordering::Greater,
            "min" => Ordering::Less,
            _ => return None,
        };
        Some(Self {
            function: Arc::clone(function),
            by,
        })
    }

    pub(super) fn function(&self) -> &Arc<AggregateUDF> {
        &self.function
    }
}

impl AggregateUDFImpl for Extreme {
    as_its_function!();

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.function.create_sliding_accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.function.state_fields(args)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Float16 => Ok(Box::new(Extremes::<Float16Type>::new(self.by))),
            DataType::Float32 => Ok(Box::new(Extremes::<Float32Type>::new(self.by))),
            DataType::Float64 => Ok(Box::new(Extremes::<Float64Type>::new(self.by))),
            other => Err(DataFusionError::NotImplemented(format!("an extreme of {other}"))),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn is_descending(&self) -> Option<bool> {
        self.function.is_descending()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.function.inner().set_monotonicity(data_type)
    }
}

/// The extreme of each group, in the total order, in which the one NaN is the largest.
struct Extremes<T: ArrowPrimitiveType> {
    by: Ordering,
    values: Vec<Option<T::Native>>,
}

impl<T: ArrowPrimitiveType> Extremes<T> {
    fn new(by: Ordering) -> Self {
        Self {
            by,
            values: Vec::new(),
        }
    }
}

fn typed<T: ArrowPrimitiveType>(arrays: &[ArrayRef]) -> Result<&PrimitiveArray<T>> {
    let array = arrays.first().and_then(|array| array.as_primitive_opt::<T>());
    array.ok_or_else(|| DataFusionError::Internal("an extreme was given other columns than its own".into()))
}

/// Whether a filter keeps a row.
fn kept(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl<T: ArrowPrimitiveType> GroupsAccumulator for Extremes<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.values.resize(count, None);
        for (row, (value, group)) in typed::<T>(values)?.iter().zip(groups).enumerate() {
            let Some(value) = value.filter(|_| kept(filter, row)) else {
                continue;
            };
            let extreme = &mut self.values[*group];
            if extreme.is_none_or(|extreme| value.compare(extreme) == self.by) {
                *extreme = Some(value);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.update_batch(states, groups, None, count)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let values = emit.take_needed(&mut self.values);
        Ok(Arc::new(PrimitiveArray::<T>::from_iter(values)))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = typed::<T>(values)?.iter().enumerate();
        let values = values.map(|(row, value)| value.filter(|_| kept(filter, row)));
        Ok(vec![Arc::new(values.collect::<PrimitiveArray<T>>())])
    }

    fn size(&self) -> usize {
        self.values.capacity() * size_of::<Option<T::Native>>()
    }
}
