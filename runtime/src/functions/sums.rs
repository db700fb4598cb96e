//! The states of exact sums.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::mem::{size_of, size_of_val, take};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, UInt64Array};
use datafusion::arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Int64Type, IntervalYearMonthType, UInt64Type, i256,
};
use datafusion::common::ScalarValue;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::error::invalid;
use super::text::sql_type;

/// A number in which no sum of rows overflows.
pub(super) trait Wide: ArrowNativeType + Copy + Default + Send + Sync + Debug + 'static {
    fn plus(self, other: Self) -> Option<Self>;
    fn minus(self, other: Self) -> Option<Self>;
    /// Times ten to some power, divided by a count, towards zero.
    fn average(self, zeros: u32, count: u64) -> Option<Self>;
}

impl Wide for i128 {
    fn plus(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }

    fn minus(self, other: Self) -> Option<Self> {
        self.checked_sub(other)
    }

    fn average(self, zeros: u32, count: u64) -> Option<Self> {
        self.checked_mul(10_i128.checked_pow(zeros)?)?
            .checked_div(i128::from(count))
    }
}

impl Wide for i256 {
    fn plus(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }

    fn minus(self, other: Self) -> Option<Self> {
        self.checked_sub(other)
    }

    fn average(self, zeros: u32, count: u64) -> Option<Self> {
        self.checked_mul(i256::from_i128(10).checked_pow(zeros)?)?
            .checked_div(i256::from_i128(i128::from(count)))
    }
}

/// A type whose values are summed.
pub(super) trait Summand: ArrowPrimitiveType<Native: Hash + Eq> + Debug {
    type Sum: Wide;
    /// How a sum travels.
    type State: DecimalType<Native = Self::Sum>;

    /// The sum of at most so many values is exact.
    const MAX_ROWS: u64 = u64::MAX;

    fn widen(value: Self::Native) -> Self::Sum;
    /// The sum as a value of the result's type, if it is one.
    fn narrow(sum: Self::Sum, result: &DataType) -> Option<Self::Native>;
}

macro_rules! whole {
    ($type:ty) => {
        impl Summand for $type {
            type Sum = i128;
            type State = Decimal128Type;

            fn widen(value: Self::Native) -> i128 {
                i128::from(value)
            }

            fn narrow(sum: i128, _: &DataType) -> Option<Self::Native> {
                Self::Native::try_from(sum).ok()
            }
        }
    };
}
whole!(Int64Type);
whole!(UInt64Type);
whole!(DurationSecondType);
whole!(DurationMillisecondType);
whole!(DurationMicrosecondType);
whole!(DurationNanosecondType);
whole!(IntervalYearMonthType);

/// A value, if it has no more digits than its type.
fn fitting<T: DecimalType>(value: T::Native, result: &DataType) -> Option<T::Native> {
    match result {
        DataType::Decimal32(precision, _)
        | DataType::Decimal64(precision, _)
        | DataType::Decimal128(precision, _)
        | DataType::Decimal256(precision, _) => {
            T::is_valid_decimal_precision(value, *precision).then_some(value)
        }
        _ => None,
    }
}

macro_rules! decimal {
    ($type:ty, $sum:ty, $state:ty, $widen:expr, $narrow:expr) => {
        impl Summand for $type {
            type Sum = $sum;
            type State = $state;

            fn widen(value: Self::Native) -> $sum {
                $widen(value)
            }

            fn narrow(sum: $sum, result: &DataType) -> Option<Self::Native> {
                fitting::<$type>($narrow(sum)?, result)
            }
        }
    };
}
decimal!(Decimal32Type, i128, Decimal128Type, i128::from, |sum| {
    i32::try_from(sum).ok()
});
decimal!(Decimal64Type, i128, Decimal128Type, i128::from, |sum| {
    i64::try_from(sum).ok()
});
decimal!(
    Decimal128Type,
    i256,
    Decimal256Type,
    i256::from_i128,
    |sum: i256| sum.to_i128()
);
decimal!(Decimal256Type, i256, Decimal256Type, |value| value, Some);

/// What becomes of a sum.
#[derive(Debug)]
pub(super) struct Outcome {
    /// As the query has the aggregate.
    pub(super) name: String,
    pub(super) argument: DataType,
    pub(super) result: DataType,
    /// The sum is divided by the count.
    pub(super) average: bool,
}

impl Outcome {
    fn overflow(&self) -> DataFusionError {
        let what = if self.average { "result" } else { "sum" };
        let result = sql_type(&self.result);
        let fix = match &self.result {
            DataType::Decimal128(_, _) | DataType::Decimal256(_, _) => {
                "sum fewer rows, or numbers of a smaller scale"
            }
            DataType::Interval(_) | DataType::Duration(_) => "sum fewer rows",
            _ => "cast the argument to DECIMAL(38, 0)",
        };
        invalid(
            &self.name,
            &format!("overflow: the {what} does not fit {result}; {fix}"),
        )
    }

    /// How many digits behind the point an average has more than its argument.
    fn zeros(&self) -> Result<u32> {
        let scale = |data_type: &DataType| match data_type {
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => *scale,
            _ => 0,
        };
        let more = i16::from(scale(&self.result)) - i16::from(scale(&self.argument));
        u32::try_from(more).map_err(|_| self.overflow())
    }

    fn value<T: Summand>(&self, sum: T::Sum, count: u64) -> Result<Option<T::Native>> {
        if count == 0 {
            return Ok(None);
        }
        if count > T::MAX_ROWS {
            return Err(self.overflow());
        }
        let value = if self.average {
            sum.average(self.zeros()?, count)
        } else {
            Some(sum)
        };
        let value = value.and_then(|value| T::narrow(value, &self.result));
        value.map(Some).ok_or_else(|| self.overflow())
    }

    fn scalar<T: Summand>(&self, sum: T::Sum, count: u64) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>(self.value::<T>(sum, count)?, &self.result)
    }

    fn add<W: Wide>(&self, sum: &mut W, value: W) -> Result<()> {
        *sum = sum.plus(value).ok_or_else(|| self.overflow())?;
        Ok(())
    }
}

fn malformed() -> DataFusionError {
    DataFusionError::Internal("a sum was given other columns than its own".into())
}

fn typed<T: ArrowPrimitiveType>(array: Option<&ArrayRef>) -> Result<&PrimitiveArray<T>> {
    array
        .and_then(|array| array.as_primitive_opt::<T>())
        .ok_or_else(malformed)
}

type States<'a, S> = (&'a UInt64Array, &'a PrimitiveArray<S>);

fn states<S: ArrowPrimitiveType>(states: &[ArrayRef]) -> Result<States<'_, S>> {
    Ok((typed(states.first())?, typed(states.get(1))?))
}

/// The sum of all rows, or of those of a window.
#[derive(Debug)]
pub(super) struct Sum<T: Summand> {
    outcome: Outcome,
    sum: T::Sum,
    count: u64,
}

impl<T: Summand> Sum<T> {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            sum: T::Sum::default(),
            count: 0,
        }
    }
}

impl<T: Summand> Accumulator for Sum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = typed::<T>(values.first())?;
        for value in values.iter().flatten() {
            self.outcome.add(&mut self.sum, T::widen(value))?;
        }
        self.count += (values.len() - values.null_count()) as u64;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = typed::<T>(values.first())?;
        for value in values.iter().flatten() {
            let less = self.sum.minus(T::widen(value));
            self.sum = less.ok_or_else(|| self.outcome.overflow())?;
        }
        self.count -= (values.len() - values.null_count()) as u64;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.outcome.scalar::<T>(self.sum, self.count)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.outcome.name.capacity()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = ScalarValue::new_primitive::<T::State>(Some(self.sum), &T::State::DATA_TYPE)?;
        Ok(vec![ScalarValue::UInt64(Some(self.count)), sum])
    }

    fn merge_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let (counts, sums) = states::<T::State>(arrays)?;
        for (count, sum) in counts.iter().zip(sums.iter()) {
            self.outcome.add(&mut self.sum, sum.unwrap_or_default())?;
            self.count += count.unwrap_or_default();
        }
        Ok(())
    }
}

/// The sum of distinct values; each is kept with its number of occurrences.
#[derive(Debug)]
pub(super) struct DistinctSum<T: Summand> {
    outcome: Outcome,
    values: HashMap<T::Native, u64>,
}

impl<T: Summand> DistinctSum<T> {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            values: HashMap::new(),
        }
    }
}

impl<T: Summand> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in typed::<T>(values.first())?.iter().flatten() {
            *self.values.entry(value).or_default() += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in typed::<T>(values.first())?.iter().flatten() {
            match self.values.get_mut(&value) {
                Some(1) | None => {
                    self.values.remove(&value);
                }
                Some(count) => *count -= 1,
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = T::Sum::default();
        for value in self.values.keys() {
            self.outcome.add(&mut sum, T::widen(*value))?;
        }
        self.outcome.scalar::<T>(sum, self.values.len() as u64)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * (size_of::<(T::Native, u64)>() + 1)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = PrimitiveArray::<T>::from_iter_values(self.values.keys().copied());
        let values = values.with_data_type(self.outcome.argument.clone());
        let list = SingleRowListArrayBuilder::new(Arc::new(values)).with_nullable(true);
        Ok(vec![list.build_list_scalar()])
    }

    fn merge_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let lists = arrays.first().and_then(|array| array.as_list_opt::<i32>());
        for values in lists.ok_or_else(malformed)?.iter().flatten() {
            self.update_batch(&[values])?;
        }
        Ok(())
    }
}

/// The sum of each group.
pub(super) struct GroupedSums<T: Summand> {
    outcome: Outcome,
    sums: Vec<T::Sum>,
    counts: Vec<u64>,
}

impl<T: Summand> GroupedSums<T> {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            sums: Vec::new(),
            counts: Vec::new(),
        }
    }

    fn grow(&mut self, groups: usize) {
        self.sums.resize(groups, T::Sum::default());
        self.counts.resize(groups, 0);
    }

    fn add(&mut self, group: usize, value: T::Sum, count: u64) -> Result<()> {
        self.outcome.add(&mut self.sums[group], value)?;
        self.counts[group] += count;
        Ok(())
    }
}

/// Whether a filter keeps a row.
fn kept(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl<T: Summand> GroupsAccumulator for GroupedSums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        let values = typed::<T>(values.first())?;
        self.grow(count);
        if filter.is_none() && values.null_count() == 0 {
            for (value, group) in values.values().iter().zip(groups) {
                self.add(*group, T::widen(*value), 1)?;
            }
            return Ok(());
        }
        for (row, (value, group)) in values.iter().zip(groups).enumerate() {
            if let Some(value) = value.filter(|_| kept(filter, row)) {
                self.add(*group, T::widen(value), 1)?;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, arrays: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        let (counts, sums) = states::<T::State>(arrays)?;
        self.grow(count);
        for ((rows, sum), group) in counts.iter().zip(sums.iter()).zip(groups) {
            self.add(*group, sum.unwrap_or_default(), rows.unwrap_or_default())?;
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (sums, counts) = (
            emit.take_needed(&mut self.sums),
            emit.take_needed(&mut self.counts),
        );
        let values = sums.into_iter().zip(counts);
        let values = values.map(|(sum, count)| self.outcome.value::<T>(sum, count));
        let values = values.collect::<Result<PrimitiveArray<T>>>()?;
        Ok(Arc::new(values.with_data_type(self.outcome.result.clone())))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, counts) = (
            emit.take_needed(&mut self.sums),
            emit.take_needed(&mut self.counts),
        );
        let sums = PrimitiveArray::<T::State>::new(sums.into(), None);
        Ok(vec![Arc::new(UInt64Array::from(counts)), Arc::new(sums)])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = typed::<T>(values.first())?;
        let (mut counts, mut sums) = (Vec::new(), Vec::new());
        for (row, value) in values.iter().enumerate() {
            let value = value.filter(|_| kept(filter, row));
            counts.push(u64::from(value.is_some()));
            sums.push(value.map(T::widen).unwrap_or_default());
        }
        let sums = PrimitiveArray::<T::State>::new(take(&mut sums).into(), None);
        Ok(vec![Arc::new(UInt64Array::from(counts)), Arc::new(sums)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<T::Sum>() + self.counts.capacity() * size_of::<u64>()
    }
}
