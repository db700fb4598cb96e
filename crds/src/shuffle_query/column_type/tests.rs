//! Texts of column types.

use super::{ColumnType, ColumnTypeError, TimeUnit};

#[test]
fn types_are_read_and_written() {
    for text in [
        "Boolean",
        "Int8",
        "Int16",
        "Int32",
        "Int64",
        "UInt8",
        "UInt16",
        "UInt32",
        "UInt64",
        "Float32",
        "Float64",
        "Utf8",
        "Binary",
        "Date32",
        "Decimal128(38, 0)",
        "Decimal128(15, 2)",
        "Timestamp(Second)",
        "Timestamp(Millisecond)",
        "Timestamp(Microsecond, UTC)",
        "Timestamp(Nanosecond, +01:00)",
        "Timestamp(Nanosecond, America/Port-au-Prince)",
        "List(Int64)",
        "List(List(Decimal128(15, 2)))",
        "Struct(a: Int64)",
        "Struct(größe: List(Struct(x-1: Timestamp(Second, UTC), y.z: Utf8)), $b: Decimal128(3, 1))",
    ] {
        assert_eq!(text.parse::<ColumnType>().unwrap().to_string(), text);
    }
    let expected = ColumnType::Timestamp {
        unit: TimeUnit::Second,
        zone: Some("UTC".to_owned()),
    };
    assert_eq!("Timestamp( Second ,UTC )".parse(), Ok(expected));
    assert_eq!(
        "Decimal128(5,5)".parse(),
        Ok(ColumnType::Decimal128 {
            precision: 5,
            scale: 5
        })
    );
}

#[test]
fn everything_else_says_what_is_wrong() {
    for (text, error) in [
        ("", ColumnTypeError::Unknown),
        ("int64", ColumnTypeError::Unknown),
        ("Int64 ", ColumnTypeError::Unknown),
        ("Decimal128", ColumnTypeError::Unknown),
        ("Decimal128(15, 2", ColumnTypeError::Unknown),
        ("Decimal128()", ColumnTypeError::Decimal),
        ("Decimal128(15)", ColumnTypeError::Decimal),
        ("Decimal128(0, 0)", ColumnTypeError::Decimal),
        ("Decimal128(39, 0)", ColumnTypeError::Decimal),
        ("Decimal128(2, 3)", ColumnTypeError::Decimal),
        ("Decimal128(1, 2, 3)", ColumnTypeError::Decimal),
        ("Decimal128(+5, 2)", ColumnTypeError::Decimal),
        ("Decimal128(05, 2)", ColumnTypeError::Decimal),
        ("Decimal128(999, 2)", ColumnTypeError::Decimal),
        ("Timestamp()", ColumnTypeError::Unit),
        ("Timestamp(UTC)", ColumnTypeError::Unit),
        ("Timestamp(Second, )", ColumnTypeError::Zone),
        ("Timestamp(Second, a b)", ColumnTypeError::Zone),
        ("Timestamp(Second, é)", ColumnTypeError::Zone),
        ("List()", ColumnTypeError::List),
        ("List", ColumnTypeError::Unknown),
        ("List(Int64", ColumnTypeError::Unknown),
        ("List(int)", ColumnTypeError::Unknown),
        ("List(Int64, Int64)", ColumnTypeError::Unknown),
        ("Struct()", ColumnTypeError::Struct),
        ("Struct(Int64)", ColumnTypeError::Struct),
        ("Struct(a: Int64,)", ColumnTypeError::Struct),
        ("Struct(a: Int64, a: Utf8)", ColumnTypeError::Struct),
        ("Struct(a b: Int64)", ColumnTypeError::Struct),
        ("Struct(a: Struct(b))", ColumnTypeError::Struct),
    ] {
        assert_eq!(text.parse::<ColumnType>(), Err(error), "{text}");
    }
    let deep = |depth: usize| format!("{}Int8{}", "List(".repeat(depth), ")".repeat(depth));
    assert_eq!(deep(16).parse::<ColumnType>().unwrap().to_string(), deep(16));
    assert_eq!(deep(17).parse::<ColumnType>(), Err(ColumnTypeError::Depth));
    assert_eq!(deep(100_000).parse::<ColumnType>(), Err(ColumnTypeError::Depth));
}
