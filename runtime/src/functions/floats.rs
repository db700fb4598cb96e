//! One form of each float: -0.0 is 0.0, and every NaN has the same bits, which are the largest in the total order. So
//! hashes, row formats and comparisons of bits agree with each other and with SQL, in each operator and task.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, make_array};
use datafusion::arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

/// Whether values of the type are or hold floats.
pub(crate) fn contains_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => contains_float(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| contains_float(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| contains_float(field.data_type())),
        DataType::Dictionary(_, values) => contains_float(values),
        _ => false,
    }
}

/// How a float of some width becomes the one form of its value.
trait Float: ArrowPrimitiveType {
    fn is_canonical(value: Self::Native) -> bool;
    fn canonical(value: Self::Native) -> Self::Native;
}

macro_rules! float {
    ($type:ty, $zero:expr, $nan:expr) => {
        impl Float for $type {
            fn is_canonical(value: Self::Native) -> bool {
                value.to_bits() != (-$zero).to_bits()
                    && (!value.is_nan() || value.to_bits() == $nan.to_bits())
            }

            fn canonical(value: Self::Native) -> Self::Native {
                if value.is_nan() {
                    $nan
                } else if value == $zero {
                    $zero
                } else {
                    value
                }
            }
        }
    };
}

type Half = <Float16Type as ArrowPrimitiveType>::Native;
float!(Float16Type, Half::ZERO, Half::NAN);
float!(Float32Type, 0.0_f32, f32::from_bits(0x7fc0_0000));
float!(Float64Type, 0.0_f64, f64::from_bits(0x7ff8_0000_0000_0000));

fn canonical_primitive<T: Float>(array: &ArrayRef) -> ArrayRef {
    let floats = array.as_primitive::<T>();
    // Nearly every array is in the one form already.
    if floats.values().iter().all(|value| T::is_canonical(*value)) {
        return Arc::clone(array);
    }
    Arc::new(floats.unary::<_, T>(T::canonical))
}

/// The array with its floats, in lists and structs too, in the one form of their values.
pub(crate) fn canonical_array(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Float64 => canonical_primitive::<Float64Type>(array),
        DataType::Float32 => canonical_primitive::<Float32Type>(array),
        DataType::Float16 => canonical_primitive::<Float16Type>(array),
        nested if contains_float(nested) => {
            let data = array.to_data();
            let children = data.child_data().iter();
            let children = children.map(|child| Ok(canonical_array(&make_array(child.clone()))?.to_data()));
            let children = children.collect::<Result<Vec<_>>>()?;
            make_array(data.into_builder().child_data(children).build()?)
        }
        _ => Arc::clone(array),
    })
}

/// The scalar with its floats in the one form of their values.
pub(crate) fn canonical_scalar(scalar: ScalarValue) -> Result<ScalarValue> {
    match scalar {
        ScalarValue::Float64(value) => Ok(ScalarValue::Float64(value.map(Float64Type::canonical))),
        ScalarValue::Float32(value) => Ok(ScalarValue::Float32(value.map(Float32Type::canonical))),
        ScalarValue::Float16(value) => Ok(ScalarValue::Float16(value.map(Float16Type::canonical))),
        nested if contains_float(&nested.data_type()) => {
            let array = canonical_array(&nested.to_array_of_size(1)?)?;
            ScalarValue::try_from_array(&array, 0)
        }
        other => Ok(other),
    }
}

/// The value with its floats in the one form of their values.
pub(super) fn canonical_value(value: ColumnarValue) -> Result<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(canonical_array(&array)?)),
        ColumnarValue::Scalar(scalar) => Ok(ColumnarValue::Scalar(canonical_scalar(scalar)?)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, ListArray};

    use super::*;

    #[test]
    fn every_nan_is_one_and_so_is_zero_in_lists_too() {
        let odd = [-0.0, f64::from_bits(0xfff8_0000_0000_0001), f64::NAN, 1.5];
        let even = [0.0, f64::NAN, f64::NAN, 1.5].map(f64::to_bits);
        let bits = |array: &ArrayRef| -> Vec<u64> {
            let floats = array.as_primitive::<Float64Type>().values();
            floats.iter().map(|value| value.to_bits()).collect()
        };
        let flat: ArrayRef = Arc::new(Float64Array::from(odd.to_vec()));
        assert_eq!(bits(&canonical_array(&flat).unwrap()), even);
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(odd.map(Some))]);
        let lists: ArrayRef = Arc::new(lists);
        let lists = canonical_array(&lists).unwrap();
        assert_eq!(bits(&lists.as_list::<i32>().value(0)), even);
    }
}
