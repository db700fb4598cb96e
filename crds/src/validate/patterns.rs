//! The patterns of the schema as predicates. A test holds that every pattern of the CRDs is listed here.

use crate::shuffle_query::{
    COLUMN_TYPE_PATTERN, CSV_CHARACTER_PATTERN, ColumnType, LOCATION_PATTERN, POOL_NAME_PATTERN,
    TABLE_NAME_PATTERN,
};
use crate::units::{BYTE_SIZE_PATTERN, ByteSize, MILLIS_PATTERN, Millis};

/// What a text must look like to match a pattern, and whether one does.
pub(super) struct Shape {
    /// The pattern, as it stands in the schema.
    pub pattern: &'static str,
    /// What to write instead.
    pub fix: &'static str,
    /// Whether a text matches; if not, what is wrong, reading on after the text.
    pub check: fn(&str) -> Result<(), String>,
}

/// Every pattern that a spec uses.
pub(super) const SHAPES: [Shape; 7] = [
    Shape {
        pattern: TABLE_NAME_PATTERN,
        fix: "write a letter or underscore, then letters, digits and underscores",
        check: |text| valid(is_table_name(text)),
    },
    Shape {
        pattern: POOL_NAME_PATTERN,
        fix: "write lower-case letters, digits and `-`, with a letter or digit at each end",
        check: |text| valid(is_pool_name(text)),
    },
    Shape {
        pattern: CSV_CHARACTER_PATTERN,
        fix: "write one printable ASCII character or a tab",
        check: |text| valid(is_csv_character(text)),
    },
    Shape {
        pattern: LOCATION_PATTERN,
        fix: "remove control characters",
        check: |text| valid(!text.chars().any(char::is_control)),
    },
    Shape {
        pattern: COLUMN_TYPE_PATTERN,
        fix: "write a type such as Int64, Float64, Utf8, Boolean, Date32, Decimal128(15, 2) or Timestamp(Microsecond, UTC)",
        check: |text| {
            text.parse::<ColumnType>()
                .map(drop)
                .map_err(|error| format!("is not a column type: {error}"))
        },
    },
    Shape {
        pattern: BYTE_SIZE_PATTERN,
        fix: "write bytes as an integer, or a whole number with a unit, such as 512MiB, 1GB or 2Gi",
        check: |text| valid(text.parse::<ByteSize>().is_ok()),
    },
    Shape {
        pattern: MILLIS_PATTERN,
        fix: "write a whole number with a unit, such as 250ms, 15s, 1m or 2h",
        check: |text| valid(text.parse::<Millis>().is_ok()),
    },
];

fn valid(matches: bool) -> Result<(), String> {
    if matches {
        Ok(())
    } else {
        Err("is not valid".to_owned())
    }
}

fn is_table_name(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_pool_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn is_csv_character(text: &str) -> bool {
    matches!(text.as_bytes(), [b'\t' | b' '..=b'~'])
}
