//! What a checked expression does with a batch.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
};
use datafusion::arrow::compute::kernels::numeric::neg;
use datafusion::arrow::compute::{cast, max, min};
use datafusion::arrow::datatypes::{
    DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION,
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Field, Int64Type,
    Schema, TimeUnit,
};
use datafusion::arrow::downcast_primitive_array;
use datafusion::common::ScalarValue;
use datafusion::common::format::DEFAULT_CAST_OPTIONS;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, Operator, ScalarFunctionArgs, ScalarUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};

use super::floats::contains_float;
use super::growth;

/// What a checked expression does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    /// A function of DataFusion.
    Function(Arc<ScalarUDF>),
    /// Arithmetic, shifts and `||` between operands, from left to right. A long chain is one expression, so that it is nested no deeper than a short one.
    Binary(Vec<Operator>),
    /// The unary minus.
    Negate,
    /// A cast that may fail.
    Cast(DataType),
    /// Nothing but the one form of floats.
    Canonical,
}

impl Operation {
    /// Whether a binary operator is computed here.
    pub(crate) fn covers(operator: Operator) -> bool {
        matches!(
            operator,
            Operator::Plus
                | Operator::Minus
                | Operator::Multiply
                | Operator::Divide
                | Operator::Modulo
                | Operator::BitwiseShiftLeft
                | Operator::BitwiseShiftRight
                | Operator::StringConcat
        )
    }

    pub(super) fn run(&self, text: &str, mut call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self {
            Self::Function(function) => {
                call.args = call.args.into_iter().map(without_garbage).collect();
                growth::invoke(function, text, call)
            }
            Self::Binary(operators) => chain(operators, text, &call),
            Self::Negate => negate(first(&call)?),
            Self::Cast(target) => {
                let value = without_garbage(first(&call)?.clone());
                value.cast_to(target, Some(&DEFAULT_CAST_OPTIONS))
            }
            Self::Canonical => Ok(first(&call)?.clone()),
        }
    }
}

fn first(call: &ScalarFunctionArgs) -> Result<&ColumnarValue> {
    let first = call.args.first();
    first.ok_or_else(|| DataFusionError::Internal("an operator without operand".into()))
}

/// Clears the values below NULLs. They are undefined, and a function that computes them too could fail on them.
fn without_garbage(value: ColumnarValue) -> ColumnarValue {
    fn zeroed<T: ArrowPrimitiveType>(typed: &PrimitiveArray<T>) -> ArrayRef {
        let values = typed.values().iter().enumerate();
        let values = values.map(|(row, value)| {
            if typed.is_valid(row) {
                *value
            } else {
                T::default_value()
            }
        });
        let values: Vec<T::Native> = values.collect();
        let clean = PrimitiveArray::<T>::new(values.into(), typed.nulls().cloned());
        Arc::new(clean.with_data_type(typed.data_type().clone()))
    }
    match value {
        ColumnarValue::Array(array) if array.null_count() > 0 => {
            let untyped = array.as_ref();
            ColumnarValue::Array(downcast_primitive_array!(
                untyped => zeroed(untyped),
                _ => Arc::clone(&array),
            ))
        }
        other => other,
    }
}

fn chain(operators: &[Operator], text: &str, call: &ScalarFunctionArgs) -> Result<ColumnarValue> {
    if operators.contains(&Operator::StringConcat) {
        growth::check_concat(text, call)?;
    }
    let mut value = first(call)?.clone();
    for (operator, operand) in operators.iter().zip(call.args.iter().skip(1)) {
        value = binary(*operator, &value, operand, call.number_rows)?;
    }
    Ok(value)
}

/// Arithmetic as DataFusion does it, but for overflows.
fn binary(
    operator: Operator,
    left: &ColumnarValue,
    right: &ColumnarValue,
    rows: usize,
) -> Result<ColumnarValue> {
    if matches!(operator, Operator::BitwiseShiftLeft | Operator::BitwiseShiftRight) {
        check_shift(&left.data_type(), right)?;
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let mut operand = |value: &ColumnarValue| -> Arc<dyn PhysicalExpr> {
        match value {
            ColumnarValue::Scalar(scalar) => Arc::new(Literal::new(scalar.clone())),
            ColumnarValue::Array(array) => {
                let index = columns.len();
                fields.push(Field::new("operand", array.data_type().clone(), true));
                columns.push(Arc::clone(array));
                Arc::new(Column::new("operand", index))
            }
        }
    };
    let expression = BinaryExpr::new(operand(left), operator, operand(right)).with_fail_on_overflow(true);
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let value = expression.evaluate(&batch)?;
    check_digits(&value)?;
    Ok(value)
}

/// A shift by a negative number of bits, or by all of them or more.
fn check_shift(of: &DataType, by: &ColumnarValue) -> Result<()> {
    let bits = i64::try_from(of.primitive_width().unwrap_or(8) * 8).unwrap_or(64);
    let by = match by {
        ColumnarValue::Array(array) => Arc::clone(array),
        ColumnarValue::Scalar(scalar) => scalar.to_array_of_size(1)?,
    };
    // A count too large for BIGINT is NULL here, and is refused as well.
    let numbers = cast(&by, &DataType::Int64).or_else(|_| Ok::<_, DataFusionError>(Arc::clone(&by)))?;
    let numbers = numbers.as_primitive_opt::<Int64Type>();
    let bad = numbers.and_then(|numbers| {
        (0..numbers.len())
            .filter(|row| by.is_valid(*row))
            .map(|row| numbers.is_valid(row).then(|| numbers.value(row)))
            .find(|number| number.is_none_or(|number| !(0..bits).contains(&number)))
    });
    match bad {
        None => Ok(()),
        Some(number) => {
            let number = number.map_or_else(|| "too many".to_owned(), |number| number.to_string());
            Err(DataFusionError::Execution(format!(
                "a shift by {number} bits: between 0 and {} are possible",
                bits - 1
            )))
        }
    }
}

/// Checks the digits of a decimal result. Its precision is capped at the maximum of the type, so a value may exceed it.
fn check_digits(value: &ColumnarValue) -> Result<()> {
    macro_rules! check {
        ($type:ty, $precision:expr) => {{
            let array = match value {
                ColumnarValue::Array(array) => Arc::clone(array),
                ColumnarValue::Scalar(scalar) => scalar.to_array_of_size(1)?,
            };
            let array = array.as_primitive::<$type>();
            let fits = |extreme: Option<_>| {
                extreme.is_none_or(|extreme| <$type>::is_valid_decimal_precision(extreme, $precision))
            };
            if fits(min(array)) && fits(max(array)) {
                return Ok(());
            }
            Err(DataFusionError::Execution(format!(
                "overflow: a result has more than {} digits",
                $precision
            )))
        }};
    }
    match value.data_type() {
        DataType::Decimal32(DECIMAL32_MAX_PRECISION, _) => check!(Decimal32Type, DECIMAL32_MAX_PRECISION),
        DataType::Decimal64(DECIMAL64_MAX_PRECISION, _) => check!(Decimal64Type, DECIMAL64_MAX_PRECISION),
        DataType::Decimal128(DECIMAL128_MAX_PRECISION, _) => check!(Decimal128Type, DECIMAL128_MAX_PRECISION),
        DataType::Decimal256(DECIMAL256_MAX_PRECISION, _) => check!(Decimal256Type, DECIMAL256_MAX_PRECISION),
        _ => Ok(()),
    }
}

fn negate(value: &ColumnarValue) -> Result<ColumnarValue> {
    Ok(match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(neg(array)?),
        ColumnarValue::Scalar(scalar) if scalar.is_null() => value.clone(),
        ColumnarValue::Scalar(scalar) => {
            let array = neg(&scalar.to_array_of_size(1)?)?;
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        }
    })
}

/// Whether a cast may fail, or make a float that is not in its one form. Those that cannot stay as they are: DataFusion's
/// rules know them.
pub(crate) fn may_fail(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, LargeUtf8, Null, Timestamp,
        UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    let is_text = |data_type: &DataType| matches!(data_type, Utf8 | LargeUtf8 | Utf8View);
    match (from, to) {
        (from, to) if from == to => false,
        // The planner folds those of constant lists, and says where they stand.
        (from, to) if from.is_nested() && to.is_nested() => contains_float(to),
        (Null, _)
        | (Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64, Float32 | Float64)
        | (Float32, Float64)
        | (Int8, Int16 | Int32 | Int64)
        | (Int16, Int32 | Int64)
        | (Int32, Int64)
        | (UInt8, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64)
        | (UInt16, UInt32 | UInt64 | Int32 | Int64)
        | (UInt32, UInt64 | Int64)
        | (Boolean, Int8 | Int16 | Int32 | Int64)
        | (Timestamp(_, _), Date32)
        // Scans of files with times recognise this cast, so it stays unchecked.
        | (Date32, Timestamp(TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond, _)) => false,
        (Timestamp(from, _), Timestamp(to, _)) => to > from,
        (Decimal128(from, from_scale), Decimal128(to, to_scale)) => {
            let whole = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
            to_scale < from_scale || whole(*to, *to_scale) < whole(*from, *from_scale)
        }
        (Decimal128(_, _), Float64) => false,
        (integer, Decimal128(precision, scale)) if integer.is_integer() => {
            let digits = match integer {
                Int8 | UInt8 => 3,
                Int16 | UInt16 => 5,
                Int32 | UInt32 => 10,
                _ => 20,
            };
            i16::from(*precision) - i16::from(*scale) < digits
        }
        (from, to) if is_text(to) => from.is_nested(),
        _ => true,
    }
}
