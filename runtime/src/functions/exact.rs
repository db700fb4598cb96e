//! `sum` and `avg` of whole numbers, decimals, durations, intervals: the sum is exact while it is made, in whatever order and number
//! of parts, and an error where the result does not fit its type.

use std::sync::Arc;

use datafusion::arrow::array::ArrowPrimitiveType;
use datafusion::arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field, FieldRef, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, TimeUnit, UInt64Type,
};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, Signature,
};

use super::canonical::as_its_function;
use super::summand::Summand;
use super::sums::{DistinctSum, GroupedSums, Outcome, Sum};

/// A `sum` or `avg` of DataFusion that computes exactly.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Exact {
    function: Arc<AggregateUDF>,
    average: bool,
}

impl Exact {
    /// The exact form of a function over arguments of these types, if it has one.
    pub(crate) fn of(function: &Arc<AggregateUDF>, arguments: &[DataType]) -> Option<Self> {
        let exact = Self::named(function)?;
        let [argument] = arguments else { return None };
        let is_decimal = matches!(
            argument,
            DataType::Decimal32(_, _)
                | DataType::Decimal64(_, _)
                | DataType::Decimal128(_, _)
                | DataType::Decimal256(_, _)
        );
        let is_whole = matches!(
            argument,
            DataType::Int64 | DataType::UInt64 | DataType::Interval(_)
        );
        // The average of whole numbers is a float; intervals have none.
        let is_duration = matches!(argument, DataType::Duration(_));
        (is_decimal || is_duration || (is_whole && !exact.average)).then_some(exact)
    }

    pub(super) fn named(function: &Arc<AggregateUDF>) -> Option<Self> {
        let average = match function.name() {
            "sum" => false,
            "avg" => true,
            _ => return None,
        };
        Some(Self {
            function: Arc::clone(function),
            average,
        })
    }

    pub(crate) fn function(&self) -> &Arc<AggregateUDF> {
        &self.function
    }

    fn outcome(&self, args: &AccumulatorArgs<'_>) -> Result<Outcome> {
        let argument = args.expr_fields.first().map(|field| field.data_type().clone());
        let argument = argument
            .ok_or_else(|| DataFusionError::Internal(format!("{} has no argument", self.function.name())))?;
        Ok(Outcome {
            name: args.name.to_owned(),
            argument,
            result: args.return_field.data_type().clone(),
            average: self.average,
        })
    }
}

/// Calls a generic function for the arrow type of what is summed.
macro_rules! for_type {
    ($data_type:expr, $call:ident) => {
        match $data_type {
            DataType::Int64 => $call!(Int64Type),
            DataType::UInt64 => $call!(UInt64Type),
            DataType::Decimal32(_, _) => $call!(Decimal32Type),
            DataType::Decimal64(_, _) => $call!(Decimal64Type),
            DataType::Decimal128(_, _) => $call!(Decimal128Type),
            DataType::Decimal256(_, _) => $call!(Decimal256Type),
            DataType::Duration(TimeUnit::Second) => $call!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $call!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $call!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $call!(DurationNanosecondType),
            DataType::Interval(IntervalUnit::YearMonth) => $call!(IntervalYearMonthType),
            DataType::Interval(IntervalUnit::DayTime) => $call!(IntervalDayTimeType),
            DataType::Interval(IntervalUnit::MonthDayNano) => $call!(IntervalMonthDayNanoType),
            other => Err(DataFusionError::NotImplemented(format!(
                "an exact sum of {other}"
            ))),
        }
    };
}

fn state_type<T: Summand>() -> DataType {
    <T::State as ArrowPrimitiveType>::DATA_TYPE
}

impl AggregateUDFImpl for Exact {
    as_its_function!();

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let outcome = self.outcome(&args)?;
        macro_rules! make {
            ($type:ty) => {
                Ok(if args.is_distinct {
                    Box::new(DistinctSum::<$type>::new(outcome)) as Box<dyn Accumulator>
                } else {
                    Box::new(Sum::<$type>::new(outcome))
                })
            };
        }
        for_type!(outcome.argument.clone(), make)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields.first().map(|field| field.data_type().clone());
        let argument = argument
            .ok_or_else(|| DataFusionError::Internal(format!("{} has no argument", self.function.name())))?;
        if args.is_distinct {
            let values = Field::new_list_field(argument, true);
            let name = format_state_name(args.name, "values");
            return Ok(vec![Arc::new(Field::new_list(name, values, true))]);
        }
        macro_rules! make {
            ($type:ty) => {
                Ok(state_type::<$type>())
            };
        }
        let sum = for_type!(argument, make)?;
        Ok(vec![
            Arc::new(Field::new(
                format_state_name(args.name, "count"),
                DataType::UInt64,
                true,
            )),
            Arc::new(Field::new(format_state_name(args.name, "sum"), sum, true)),
        ])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let outcome = self.outcome(&args)?;
        macro_rules! make {
            ($type:ty) => {
                Ok(Box::new(GroupedSums::<$type>::new(outcome)) as Box<dyn GroupsAccumulator>)
            };
        }
        for_type!(outcome.argument.clone(), make)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}
