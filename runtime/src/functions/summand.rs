//! What can be summed, and the numbers in which sums are kept.

use std::fmt::Debug;
use std::hash::Hash;

use datafusion::arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Int64Type, IntervalYearMonthType, UInt64Type, i256,
};

/// A number in which no sum of rows overflows.
pub(super) trait Wide: ArrowNativeType + Copy + Default + Send + Sync + Debug + 'static {
    fn of(number: i128) -> Self;
    fn plus(self, other: Self) -> Option<Self>;
    fn minus(self, other: Self) -> Option<Self>;
    /// Times ten to some power, divided by a count, towards zero.
    fn average(self, zeros: u32, count: u64) -> Option<Self>;
}

macro_rules! wide {
    ($type:ty, $of:expr) => {
        impl Wide for $type {
            fn of(number: i128) -> Self {
                $of(number)
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Option<Self> {
                self.checked_add(other)
            }

            fn minus(self, other: Self) -> Option<Self> {
                self.checked_sub(other)
            }

            fn average(self, zeros: u32, count: u64) -> Option<Self> {
                self.checked_mul(Self::of(10).checked_pow(zeros)?)?
                    .checked_div(Self::of(count.into()))
            }
        }
    };
}
wide!(i128, |number| number);
wide!(i256, i256::from_i128);

/// A type whose values are summed.
pub(super) trait Summand: ArrowPrimitiveType<Native: Hash + Eq> + Debug {
    type Sum: Wide;
    /// How a sum travels.
    type State: DecimalType<Native = Self::Sum>;

    /// The sum of at most so many values is exact.
    const MAX_ROWS: u64 = u64::MAX;

    fn widen(value: Self::Native) -> Self::Sum;
    /// The value, if it is added up faster in fewer bits than the sum has.
    fn part(_: Self::Native) -> Option<i128> {
        None
    }
    /// The sum as a value of the result's type, if it is one.
    fn narrow(sum: Self::Sum, result: &DataType) -> Option<Self::Native>;
}

macro_rules! whole {
    ($type:ty) => {
        impl Summand for $type {
            type Sum = i128;
            type State = Decimal128Type;

            #[inline(always)]
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
    ($type:ty, $sum:ty, $state:ty, $widen:expr, $part:expr, $narrow:expr) => {
        impl Summand for $type {
            type Sum = $sum;
            type State = $state;

            #[inline(always)]
            fn widen(value: Self::Native) -> $sum {
                $widen(value)
            }

            #[inline(always)]
            fn part(value: Self::Native) -> Option<i128> {
                $part(value)
            }

            fn narrow(sum: $sum, result: &DataType) -> Option<Self::Native> {
                fitting::<$type>($narrow(sum)?, result)
            }
        }
    };
}
decimal!(Decimal32Type, i128, Decimal128Type, i128::from, |_| None, |sum| {
    i32::try_from(sum).ok()
});
decimal!(Decimal64Type, i128, Decimal128Type, i128::from, |_| None, |sum| {
    i64::try_from(sum).ok()
});
decimal!(
    Decimal128Type,
    i256,
    Decimal256Type,
    i256::from_i128,
    Some,
    |sum: i256| sum.to_i128()
);
decimal!(
    Decimal256Type,
    i256,
    Decimal256Type,
    |value| value,
    |_| None,
    Some
);
