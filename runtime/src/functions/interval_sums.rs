//! Sums of intervals: months, days and nanoseconds are summed apart from each other. One wide number carries all of them,
//! each in digits of its own.

use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, IntervalDayTime, IntervalDayTimeType, IntervalMonthDayNano,
    IntervalMonthDayNanoType, i256,
};

use super::summand::Summand;

/// The digits of nanoseconds, bits: the sum of 2^38 values of 64 bits, and its sign.
const NANOSECONDS: u8 = 103;

/// The digits of nanoseconds and days, bits: the sum of 2^38 days of 32 bits, and its sign.
const DAYS: u8 = NANOSECONDS + 71;

/// The digits of milliseconds, bits: the sum of 2^30 values of 32 bits, and its sign.
const MILLISECONDS: u32 = 64;

/// Divides a number into its digits above a bit and those below, which may be negative.
fn divided(number: i256, bits: u8) -> Option<(i256, i256)> {
    let half = i256::ONE << (bits - 1);
    let above = number.checked_add(half)? >> bits;
    let below = number.checked_sub(above << bits)?;
    Some((above, below))
}

impl Summand for IntervalMonthDayNanoType {
    type Sum = i256;
    type State = Decimal256Type;

    const MAX_ROWS: u64 = 1 << 38;

    fn widen(value: IntervalMonthDayNano) -> i256 {
        let months = i256::from_i128(value.months.into()) << DAYS;
        let days = i256::from_i128(value.days.into()) << NANOSECONDS;
        // Of three numbers with room between them: no addition overflows.
        months
            .wrapping_add(days)
            .wrapping_add(i256::from_i128(value.nanoseconds.into()))
    }

    fn narrow(sum: i256, _: &DataType) -> Option<IntervalMonthDayNano> {
        let (above, nanoseconds) = divided(sum, NANOSECONDS)?;
        let (months, days) = divided(above, DAYS - NANOSECONDS)?;
        Some(IntervalMonthDayNano {
            months: months.to_i128()?.try_into().ok()?,
            days: days.to_i128()?.try_into().ok()?,
            nanoseconds: nanoseconds.to_i128()?.try_into().ok()?,
        })
    }
}

impl Summand for IntervalDayTimeType {
    type Sum = i128;
    type State = Decimal128Type;

    const MAX_ROWS: u64 = 1 << 30;

    fn widen(value: IntervalDayTime) -> i128 {
        (i128::from(value.days) << MILLISECONDS) + i128::from(value.milliseconds)
    }

    fn narrow(sum: i128, _: &DataType) -> Option<IntervalDayTime> {
        let half = 1 << (MILLISECONDS - 1);
        let days = sum.checked_add(half)? >> MILLISECONDS;
        let milliseconds = sum.checked_sub(days << MILLISECONDS)?;
        Some(IntervalDayTime {
            days: days.try_into().ok()?,
            milliseconds: milliseconds.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_intervals_do_not_mix() {
        let interval = |months, days, nanoseconds| IntervalMonthDayNano {
            months,
            days,
            nanoseconds,
        };
        let widest = [
            interval(i32::MAX, i32::MIN, i64::MAX),
            interval(i32::MIN, i32::MAX, i64::MIN),
            interval(-1, -1, -1),
            interval(0, 1, -1),
            interval(0, 0, 0),
        ];
        for one in widest {
            let wide = IntervalMonthDayNanoType::widen(one);
            let result = DataType::Null;
            assert_eq!(IntervalMonthDayNanoType::narrow(wide, &result), Some(one));
            // As many as may be summed, and then all of them but one again.
            let rows = i256::from_i128(i128::from(IntervalMonthDayNanoType::MAX_ROWS));
            let many = wide.checked_mul(rows).unwrap();
            let fits = one == interval(0, 0, 0);
            assert_eq!(
                IntervalMonthDayNanoType::narrow(many, &result).is_some(),
                fits,
                "{one:?}"
            );
            let less = wide.checked_mul(rows.checked_sub(i256::ONE).unwrap()).unwrap();
            let back = many.checked_sub(less).unwrap();
            assert_eq!(IntervalMonthDayNanoType::narrow(back, &result), Some(one));
        }
        for (days, milliseconds) in [(i32::MAX, i32::MIN), (i32::MIN, i32::MAX), (-1, -1), (0, -1)] {
            let one = IntervalDayTime { days, milliseconds };
            let wide = IntervalDayTimeType::widen(one);
            assert_eq!(IntervalDayTimeType::narrow(wide, &DataType::Null), Some(one));
        }
    }
}
