//! Functions whose result can be much larger than their arguments. Its size is estimated before the function runs, in tasks
//! and in constant folding alike.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{cast, concat};
use datafusion::arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, TimeUnit, UInt64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF};

use super::error::invalid;

/// The most that one call may make for one batch of rows, bytes.
pub(super) const MAX_BATCH_BYTES: u128 = 128 << 20;

/// The largest constant that a call may make, bytes, as large as the text of a query: it is copied for each row of a
/// batch.
pub(super) const MAX_CONSTANT_BYTES: u128 = 64 << 10;

/// How the size of a result follows from the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The first argument as often as the second says.
    Repeat,
    /// So many characters as the second argument says.
    Pad,
    /// A list of so many elements as the second argument says.
    Resize,
    /// From, to and step.
    Series,
    /// Every place of the second argument in the first becomes the third.
    Replace,
    /// As `Replace`; it is not known beforehand where.
    ReplaceSomewhere,
    /// What parts of the first argument the second one finds, each for itself.
    Groups,
    /// The elements of the first argument with the second between them.
    Join,
    /// The first argument as the second, a format, says.
    Format,
    /// All arguments one behind the other.
    Concat,
}

const GROWING: &[(&str, Rule)] = &[
    ("array_append", Rule::Concat),
    ("array_concat", Rule::Concat),
    ("array_prepend", Rule::Concat),
    ("array_repeat", Rule::Repeat),
    ("array_replace", Rule::ReplaceSomewhere),
    ("array_replace_all", Rule::ReplaceSomewhere),
    ("array_replace_n", Rule::ReplaceSomewhere),
    ("array_resize", Rule::Resize),
    ("array_to_string", Rule::Join),
    ("array_union", Rule::Concat),
    ("arrays_zip", Rule::Concat),
    ("concat", Rule::Concat),
    ("concat_ws", Rule::Concat),
    ("generate_series", Rule::Series),
    ("lpad", Rule::Pad),
    ("make_array", Rule::Concat),
    ("map", Rule::Concat),
    ("named_struct", Rule::Concat),
    ("overlay", Rule::Concat),
    ("range", Rule::Series),
    ("regexp_match", Rule::Groups),
    ("regexp_replace", Rule::ReplaceSomewhere),
    ("repeat", Rule::Repeat),
    ("replace", Rule::Replace),
    ("rpad", Rule::Pad),
    ("struct", Rule::Concat),
    ("to_char", Rule::Format),
];

fn rule_of(name: &str) -> Option<Rule> {
    let found = GROWING.iter().find(|(growing, _)| *growing == name);
    found.map(|(_, rule)| *rule)
}

/// Whether the results of a function are checked.
#[cfg(test)]
pub(super) fn is_listed(name: &str) -> bool {
    rule_of(name).is_some()
}

/// Calls a function, if it does not ask for too much.
pub(super) fn invoke(function: &ScalarUDF, text: &str, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
    let Some(rule) = rule_of(function.name()) else {
        return function.invoke_with_args(call);
    };
    let asked = rule.asked(&call)?;
    if asked <= most(&call) {
        return function.invoke_with_args(call);
    }
    let is_estimate = match rule {
        Rule::ReplaceSomewhere | Rule::Groups | Rule::Join | Rule::Format => true,
        Rule::Repeat | Rule::Pad | Rule::Resize | Rule::Series | Rule::Replace | Rule::Concat => false,
    };
    if !is_estimate || call.number_rows < 2 || is_constant(&call) {
        return Err(too_much(text, asked, most(&call)));
    }
    // The estimate may be too high: run halves of the batch and add up what they allocate.
    let half = call.number_rows / 2;
    let rest = call.number_rows - half;
    let (first, second) = (slice(&call, 0, half), slice(&call, half, rest));
    let first = invoke(function, text, first)?.into_array(half)?;
    let second = invoke(function, text, second)?.into_array(rest)?;
    let made = total(&row_bytes(&first)) + total(&row_bytes(&second));
    if made > MAX_BATCH_BYTES {
        return Err(too_much(text, made, MAX_BATCH_BYTES));
    }
    Ok(ColumnarValue::Array(concat(&[first.as_ref(), second.as_ref()])?))
}

/// Checks what `||` is about to make.
pub(super) fn check_concat(text: &str, call: &ScalarFunctionArgs) -> Result<()> {
    let asked = Rule::Concat.asked(call)?;
    if asked > most(call) {
        return Err(too_much(text, asked, most(call)));
    }
    Ok(())
}

fn too_much(text: &str, asked: u128, most: u128) -> DataFusionError {
    let of = if most == MAX_CONSTANT_BYTES {
        "a constant"
    } else {
        "one batch of rows"
    };
    invalid(
        text,
        &format!("it asks for {asked} bytes for {of}, at most {most} are possible"),
    )
}

fn is_constant(call: &ScalarFunctionArgs) -> bool {
    let is_scalar = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
    call.args.iter().all(is_scalar)
}

fn most(call: &ScalarFunctionArgs) -> u128 {
    if is_constant(call) {
        MAX_CONSTANT_BYTES
    } else {
        MAX_BATCH_BYTES
    }
}

fn slice(call: &ScalarFunctionArgs, offset: usize, rows: usize) -> ScalarFunctionArgs {
    let args = call.args.iter().map(|value| match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(offset, rows)),
        ColumnarValue::Scalar(scalar) => ColumnarValue::Scalar(scalar.clone()),
    });
    ScalarFunctionArgs {
        args: args.collect(),
        number_rows: rows,
        ..call.clone()
    }
}

fn total(rows: &[u64]) -> u128 {
    rows.iter().map(|bytes| u128::from(*bytes)).sum()
}

/// The arguments of a call, row by row. Of a constant call there is one.
struct Rows<'a> {
    call: &'a ScalarFunctionArgs,
    count: usize,
}

impl Rows<'_> {
    fn array(&self, place: usize) -> Result<Option<ArrayRef>> {
        match self.call.args.get(place) {
            None => Ok(None),
            Some(ColumnarValue::Array(array)) => Ok(Some(Arc::clone(array))),
            Some(ColumnarValue::Scalar(scalar)) => Ok(Some(scalar.to_array_of_size(1)?)),
        }
    }

    /// A value of each row; a scalar's is the same in all.
    fn each<T: Clone + Default>(
        &self,
        place: usize,
        of: impl FnOnce(&ArrayRef) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let Some(array) = self.array(place)? else {
            return Ok(vec![T::default(); self.count]);
        };
        let values = of(&array)?;
        if values.len() == 1 && self.count != 1 {
            let only = values.into_iter().next().unwrap_or_default();
            return Ok(vec![only; self.count]);
        }
        Ok(values)
    }

    fn bytes(&self, place: usize) -> Result<Vec<u64>> {
        self.each(place, |array| Ok(row_bytes(array)))
    }

    fn numbers(&self, place: usize) -> Result<Vec<i64>> {
        self.each(place, numbers)
    }
}

impl Rule {
    fn asked(self, call: &ScalarFunctionArgs) -> Result<u128> {
        let count = if is_constant(call) { 1 } else { call.number_rows };
        let rows = Rows { call, count };
        let times = |(bytes, number): (u64, i64)| u128::from(bytes) * u128::try_from(number).unwrap_or(0);
        match self {
            Self::Repeat => {
                let (bytes, numbers) = (rows.bytes(0)?, rows.numbers(1)?);
                // Count at least one byte for each element.
                Ok(bytes
                    .into_iter()
                    .map(|bytes| bytes.max(1))
                    .zip(numbers)
                    .map(times)
                    .sum())
            }
            Self::Pad => {
                let fill = rows.bytes(2)?;
                let numbers = rows.numbers(1)?;
                let widest = |fill: u64| if fill <= 1 { 1 } else { 4 };
                let padded = fill.into_iter().map(widest).zip(numbers).map(times);
                Ok(padded.sum::<u128>() + total(&rows.bytes(0)?))
            }
            Self::Resize => {
                let element = rows.bytes(2)?.into_iter().map(|bytes| bytes.max(8));
                let added = element.zip(rows.numbers(1)?).map(times);
                Ok(added.sum::<u128>() + total(&rows.bytes(0)?))
            }
            Self::Series => series(&rows),
            Self::Replace => {
                let (texts, from, to) = (rows.array(0)?, rows.array(1)?, rows.array(2)?);
                let (Some(texts), Some(from), Some(to)) = (texts, from, to) else {
                    return Ok(0);
                };
                replaced(count, &texts, &from, &to)
            }
            Self::ReplaceSomewhere => {
                let (of, by) = (rows.bytes(0)?, rows.bytes(call.args.len().min(3) - 1)?);
                let sizes = of.into_iter().zip(by);
                Ok(sizes
                    .map(|(of, by)| u128::from(of) + (u128::from(of) + 1) * u128::from(by))
                    .sum())
            }
            Self::Groups => {
                let (of, pattern) = (rows.bytes(0)?, rows.bytes(1)?);
                let sizes = of.into_iter().zip(pattern);
                Ok(sizes
                    .map(|(of, pattern)| (u128::from(of) + 16) * (u128::from(pattern) / 2 + 1))
                    .sum())
            }
            Self::Join => {
                let elements = rows.each(0, |array| Ok(elements(array)))?;
                let between = rows.bytes(1)?.into_iter().zip(rows.bytes(2)?);
                let joined = elements
                    .into_iter()
                    .zip(between)
                    // The longest number as text is a float's.
                    .map(|(elements, (between, null))| {
                        u128::from(elements) * u128::from(between + null + 24)
                    });
                Ok(joined.sum::<u128>() + total(&rows.bytes(0)?))
            }
            // The longest field of a format of two bytes is a date and time in words.
            Self::Format => Ok(total(&rows.bytes(1)?) * 20),
            Self::Concat => {
                let bytes = (0..call.args.len()).map(|place| Ok(total(&rows.bytes(place)?)));
                bytes.sum()
            }
        }
    }
}

/// What `replace` makes, exactly.
fn replaced(count: usize, texts: &ArrayRef, from: &ArrayRef, to: &ArrayRef) -> Result<u128> {
    let as_text = |array: &ArrayRef| cast(array, &DataType::LargeUtf8);
    let (texts, from, to) = (as_text(texts)?, as_text(from)?, as_text(to)?);
    let arrays = [texts, from, to];
    let cell = |place: usize, row: usize| {
        let array = arrays[place].as_string::<i64>();
        let row = if array.len() == 1 { 0 } else { row };
        array.is_valid(row).then(|| array.value(row))
    };
    let mut bytes = 0;
    for row in 0..count {
        let (Some(text), Some(from), Some(to)) = (cell(0, row), cell(1, row), cell(2, row)) else {
            continue;
        };
        let found = if to.len() <= from.len() {
            0
        } else {
            text.matches(from).count()
        };
        bytes += text.len() as u128 + found as u128 * to.len() as u128;
    }
    Ok(bytes)
}

const NANOS_OF_A_DAY: i128 = 86_400_000_000_000;

/// What `range` and `generate_series` make.
fn series(rows: &Rows<'_>) -> Result<u128> {
    let (first, last, step) = match rows.call.args.len() {
        1 => (None, 0, None),
        2 => (Some(0), 1, None),
        _ => (Some(0), 1, Some(2)),
    };
    // The two ends may have units of their own.
    let unit = |place: usize| match rows.call.args.get(place).map(ColumnarValue::data_type) {
        Some(DataType::Date32) => NANOS_OF_A_DAY,
        Some(DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _)) => 1_000_000,
        Some(DataType::Timestamp(TimeUnit::Second, _)) => 1_000_000_000,
        Some(DataType::Timestamp(TimeUnit::Microsecond, _)) => 1_000,
        Some(_) | None => 1,
    };
    let units = (unit(first.unwrap_or(last)), unit(last));
    let numbers = |place: Option<usize>| match place {
        Some(place) => rows.numbers(place),
        None => Ok(vec![0; rows.count]),
    };
    let (first, last) = (numbers(first)?, numbers(Some(last))?);
    let steps = match step {
        None => vec![1; rows.count],
        Some(place) => rows.each(place, steps)?,
    };
    let mut elements = 0_u128;
    for ((first, last), step) in first.into_iter().zip(last).zip(steps) {
        let distance = i128::from(last) * units.1 - i128::from(first) * units.0;
        // A step of nothing is refused by the function.
        if step != 0 && (distance == 0 || (distance > 0) == (step > 0)) {
            elements += distance.unsigned_abs() / step.unsigned_abs() + 1;
        }
    }
    Ok(elements * 8)
}

/// Steps of a series: numbers, or nanoseconds at least, where a month has 28 days.
fn steps(array: &ArrayRef) -> Result<Vec<i128>> {
    let Some(intervals) = array.as_primitive_opt::<IntervalMonthDayNanoType>() else {
        return Ok(numbers(array)?.into_iter().map(i128::from).collect());
    };
    intervals
        .iter()
        .map(|step| {
            let Some(step) = step else { return Ok(0) };
            let parts = [
                i128::from(step.months) * 28 * NANOS_OF_A_DAY,
                i128::from(step.days) * NANOS_OF_A_DAY,
                i128::from(step.nanoseconds),
            ];
            if parts.iter().any(|part| *part > 0) && parts.iter().any(|part| *part < 0) {
                return Err(DataFusionError::Execution(
                    "its step has months, days and times of both signs: it might never end".into(),
                ));
            }
            Ok(parts.iter().sum())
        })
        .collect()
}

/// Whole numbers; one too large for a BIGINT counts as the largest.
fn numbers(array: &ArrayRef) -> Result<Vec<i64>> {
    if let Some(large) = array.as_primitive_opt::<UInt64Type>() {
        let numbers = large.iter().map(Option::unwrap_or_default);
        return Ok(numbers
            .map(|number| i64::try_from(number).unwrap_or(i64::MAX))
            .collect());
    }
    let array = match array.data_type() {
        DataType::Date32 => cast(array, &DataType::Int32)?,
        _ => Arc::clone(array),
    };
    let numbers = cast(&array, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    Ok(numbers.iter().map(Option::unwrap_or_default).collect())
}

/// How many elements the list of each row has.
fn elements(array: &ArrayRef) -> Vec<u64> {
    let of = |length: usize| length as u64;
    match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().offsets().lengths().map(of).collect(),
        DataType::LargeList(_) => array.as_list::<i64>().offsets().lengths().map(of).collect(),
        DataType::FixedSizeList(_, size) => vec![u64::try_from(*size).unwrap_or(0); array.len()],
        _ => vec![0; array.len()],
    }
}

/// How many bytes the value of each row takes.
fn row_bytes(array: &ArrayRef) -> Vec<u64> {
    macro_rules! lengths {
        ($array:expr) => {{
            let array = $array;
            (0..array.len())
                .map(|row| {
                    if array.is_valid(row) {
                        array.value(row).len() as u64
                    } else {
                        0
                    }
                })
                .collect()
        }};
    }
    match array.data_type() {
        DataType::Null => vec![0; array.len()],
        DataType::Utf8 => lengths!(array.as_string::<i32>()),
        DataType::LargeUtf8 => lengths!(array.as_string::<i64>()),
        DataType::Utf8View => lengths!(array.as_string_view()),
        DataType::Binary => lengths!(array.as_binary::<i32>()),
        DataType::LargeBinary => lengths!(array.as_binary::<i64>()),
        DataType::BinaryView => lengths!(array.as_binary_view()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let ends = list.offsets().windows(2);
            let ends = ends.map(|pair| (pair[0].unsigned_abs().into(), pair[1].unsigned_abs().into()));
            list_bytes(list.values(), ends)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let ends = list.offsets().windows(2);
            list_bytes(
                list.values(),
                ends.map(|pair| (pair[0].unsigned_abs(), pair[1].unsigned_abs())),
            )
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let ends = map.offsets().windows(2);
            let ends = ends.map(|pair| (pair[0].unsigned_abs().into(), pair[1].unsigned_abs().into()));
            list_bytes(&entries, ends)
        }
        DataType::Struct(_) => {
            let mut bytes = vec![0; array.len()];
            for column in array.as_struct().columns() {
                for (sum, part) in bytes.iter_mut().zip(row_bytes(column)) {
                    *sum += part;
                }
            }
            bytes
        }
        DataType::Boolean => vec![1; array.len()],
        other => {
            let width = other.primitive_width().map(|width| width as u64);
            // The size of a value is not known: count the average of the array.
            let width = width.unwrap_or_else(|| {
                let whole = array.to_data().get_slice_memory_size().unwrap_or(0);
                whole.div_ceil(array.len().max(1)) as u64
            });
            vec![width; array.len()]
        }
    }
}

fn list_bytes(values: &ArrayRef, ends: impl Iterator<Item = (u64, u64)>) -> Vec<u64> {
    let mut sums = vec![0_u64];
    for bytes in row_bytes(values) {
        sums.push(sums.last().copied().unwrap_or(0) + bytes);
    }
    let at = |place: u64| {
        let place = usize::try_from(place).ok();
        place.and_then(|place| sums.get(place)).copied().unwrap_or(0)
    };
    ends.map(|(start, end)| at(end).saturating_sub(at(start)) + 4)
        .collect()
}
