//! The states of exact sums.

use std::collections::HashMap;
use std::mem::{size_of, size_of_val, take};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, UInt64Array};
use datafusion::arrow::datatypes::{ArrowPrimitiveType, DataType};
use datafusion::common::ScalarValue;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::error::invalid;
use super::summand::{Summand, Wide};
use super::text::sql_type;

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
    #[cold]
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

    // For each row. The crate is compiled for size, which would make calls of it.
    #[inline(always)]
    fn add<W: Wide>(&self, sum: &mut W, value: W) -> Result<()> {
        match sum.plus(value) {
            Some(more) => *sum = more,
            None => return Err(self.overflow()),
        }
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

    #[inline(always)]
    fn add(&mut self, group: usize, value: T::Sum, count: u64) -> Result<()> {
        self.outcome.add(&mut self.sums[group], value)?;
        self.counts[group] += count;
        Ok(())
    }

    /// Adds values of few groups: those of each are added up in fewer bits before they meet its sum. Says false if a part
    /// has no room in them; then nothing was added.
    fn add_parts(&mut self, values: &[T::Native], groups: &[usize]) -> Result<bool> {
        let mut parts = vec![(0_i128, 0_u64); self.sums.len()];
        for (value, group) in values.iter().zip(groups) {
            let Some(value) = T::part(*value) else {
                return Ok(false);
            };
            let (part, count) = &mut parts[*group];
            let Some(more) = part.checked_add(value) else {
                return Ok(false);
            };
            *part = more;
            *count += 1;
        }
        for (group, (part, count)) in parts.into_iter().enumerate().filter(|(_, (_, count))| *count > 0) {
            self.add(group, T::Sum::of(part), count)?;
        }
        Ok(true)
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
            if count <= values.len() && self.add_parts(values.values(), groups)? {
                return Ok(());
            }
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Decimal128Array;
    use datafusion::arrow::datatypes::{Decimal128Type, i256};

    use super::*;

    const LARGEST: i128 = 10_i128.pow(38) - 1;

    fn sums(values: &[i128], groups: &[usize], count: usize) -> GroupedSums<Decimal128Type> {
        let data_type = DataType::Decimal128(38, 0);
        let mut sums = GroupedSums::new(Outcome {
            name: "sum(x)".to_owned(),
            argument: data_type.clone(),
            result: data_type.clone(),
            average: false,
        });
        let values = Decimal128Array::from(values.to_vec()).with_data_type(data_type);
        sums.update_batch(&[Arc::new(values)], groups, None, count)
            .expect("256 bits hold it");
        sums
    }

    #[test]
    fn values_whose_parts_overflow_are_summed_all_the_same() {
        // In any order, and with more groups than rows too, where no parts are made.
        for count in [2, 20] {
            let values = [LARGEST, LARGEST, 7, LARGEST, -LARGEST, -LARGEST];
            let mut sums = sums(&values, &[0, 0, 1, 0, 0, 0], count);
            assert_eq!(sums.sums[..2], [LARGEST, 7].map(i256::from_i128));
            assert_eq!(sums.counts[..2], [5, 1]);
            let more = Decimal128Array::from(vec![1]).with_data_type(DataType::Decimal128(38, 0));
            sums.update_batch(&[Arc::new(more)], &[0], None, count)
                .expect("256 bits hold it");
            let error = sums.evaluate(EmitTo::All).expect_err("it has 39 digits");
            assert!(error.to_string().contains("the sum does not fit"), "{error}");
        }
    }
}
