//! Keys as the numbers or bytes by which filters know them, and back.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;

/// Whether statistics of files order such keys as their numbers or bytes do. They leave out NaN, so floats are none.
pub(super) fn has_order(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(_, _)
                | DataType::Decimal128(_, _)
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
        )
}

/// The number of a key; `None` if it is NULL or has none.
pub(super) fn number(key: &ScalarValue) -> Option<i128> {
    Some(match key {
        ScalarValue::Int8(Some(key)) => (*key).into(),
        ScalarValue::Int16(Some(key)) => (*key).into(),
        ScalarValue::Int32(Some(key)) | ScalarValue::Date32(Some(key)) => (*key).into(),
        ScalarValue::UInt8(Some(key)) => (*key).into(),
        ScalarValue::UInt16(Some(key)) => (*key).into(),
        ScalarValue::UInt32(Some(key)) => (*key).into(),
        ScalarValue::UInt64(Some(key)) => (*key).into(),
        ScalarValue::Int64(Some(key))
        | ScalarValue::Date64(Some(key))
        | ScalarValue::TimestampSecond(Some(key), _)
        | ScalarValue::TimestampMillisecond(Some(key), _)
        | ScalarValue::TimestampMicrosecond(Some(key), _)
        | ScalarValue::TimestampNanosecond(Some(key), _) => (*key).into(),
        ScalarValue::Decimal128(Some(key), _, _) => *key,
        _ => return None,
    })
}

/// The bytes of a key; `None` if it is NULL or has none.
pub(super) fn bytes(key: &ScalarValue) -> Option<Vec<u8>> {
    match key {
        ScalarValue::Utf8(Some(key))
        | ScalarValue::LargeUtf8(Some(key))
        | ScalarValue::Utf8View(Some(key)) => Some(key.clone().into_bytes()),
        _ => None,
    }
}

/// The key of this number in a column of this type; `None` if it has none.
pub(super) fn key_of_number(number: i128, data_type: &DataType) -> Option<ScalarValue> {
    let whole = || i64::try_from(number).ok();
    Some(match data_type {
        DataType::Int8 => ScalarValue::Int8(Some(number.try_into().ok()?)),
        DataType::Int16 => ScalarValue::Int16(Some(number.try_into().ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(number.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(whole()?)),
        DataType::UInt8 => ScalarValue::UInt8(Some(number.try_into().ok()?)),
        DataType::UInt16 => ScalarValue::UInt16(Some(number.try_into().ok()?)),
        DataType::UInt32 => ScalarValue::UInt32(Some(number.try_into().ok()?)),
        DataType::UInt64 => ScalarValue::UInt64(Some(number.try_into().ok()?)),
        DataType::Date32 => ScalarValue::Date32(Some(number.try_into().ok()?)),
        DataType::Date64 => ScalarValue::Date64(Some(whole()?)),
        DataType::Timestamp(unit, zone) => {
            let (key, zone) = (Some(whole()?), zone.clone());
            match unit {
                TimeUnit::Second => ScalarValue::TimestampSecond(key, zone),
                TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(key, zone),
                TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(key, zone),
                TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(key, zone),
            }
        }
        DataType::Decimal128(precision, scale) => ScalarValue::Decimal128(Some(number), *precision, *scale),
        _ => return None,
    })
}

/// The key of these bytes in a column of this type; `None` if it has none.
pub(super) fn key_of_bytes(bytes: &[u8], data_type: &DataType) -> Option<ScalarValue> {
    let text = Some(std::str::from_utf8(bytes).ok()?.to_owned());
    match data_type {
        DataType::Utf8 => Some(ScalarValue::Utf8(text)),
        DataType::LargeUtf8 => Some(ScalarValue::LargeUtf8(text)),
        DataType::Utf8View => Some(ScalarValue::Utf8View(text)),
        _ => None,
    }
}
