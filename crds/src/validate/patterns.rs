//! The patterns of the schema as predicates. A test holds that every pattern of the CRDs is listed here.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::embedded::{
    CONFIG_KEY_PATTERN, DNS_LABEL_PATTERN, LABEL_VALUE_PATTERN, OBJECT_NAME_PATTERN, QUANTITY_PATTERN,
};
use crate::shuffle_query::{
    COLUMN_TYPE_PATTERN, CSV_CHARACTER_PATTERN, ColumnType, LOCATION_PATTERN, TABLE_NAME_PATTERN,
};
use crate::units::{BYTE_SIZE_PATTERN, ByteSize, MILLIS_PATTERN, Millis, nanos};
use crate::worker_pool::{IMAGE_PATTERN, MOUNT_PATH_PATTERN};

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
pub(super) const SHAPES: [Shape; 13] = [
    Shape {
        pattern: TABLE_NAME_PATTERN,
        fix: "write a letter or underscore, then letters, digits and underscores",
        check: |text| valid(is_table_name(text)),
    },
    Shape {
        pattern: DNS_LABEL_PATTERN,
        fix: "write lower-case letters, digits and `-`, with a letter or digit at each end",
        check: |text| valid(is_dns_label(text)),
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
        fix: "write a type such as Int64, Float64, Utf8, Boolean, Date32, Decimal128(15, 2), Timestamp(Microsecond, UTC), List(Int64) or Struct(a: Int64, b: Utf8)",
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
    Shape {
        pattern: QUANTITY_PATTERN,
        fix: "write a number, alone or with a unit of Kubernetes, such as 2, 500m, 1.5 or 4Gi",
        check: |text| valid(nanos(&Quantity(text.to_owned())).is_some()),
    },
    Shape {
        pattern: LABEL_VALUE_PATTERN,
        fix: "write letters, digits, `-`, `_` and `.`, with a letter or digit at each end",
        check: |text| valid(is_label_value(text)),
    },
    Shape {
        pattern: OBJECT_NAME_PATTERN,
        fix: "write lower-case letters, digits, `-` and `.`, with a letter or digit at each end of every part between dots",
        check: |text| valid(text.split('.').all(is_dns_label)),
    },
    Shape {
        pattern: CONFIG_KEY_PATTERN,
        fix: "write letters, digits, `-`, `_` and `.`",
        check: |text| valid(!text.is_empty() && text.bytes().all(is_name_byte)),
    },
    Shape {
        pattern: MOUNT_PATH_PATTERN,
        fix: "write an absolute path such as /data, without `..`, `//`, a slash at the end or parts that start with a dot",
        check: |text| valid(is_mount_path(text)),
    },
    Shape {
        pattern: IMAGE_PATTERN,
        fix: "write a registry, a path and a tag or digest, such as registry.example.com/sluice:1.0",
        check: |text| valid(is_image(text)),
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

fn is_dns_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn is_csv_character(text: &str) -> bool {
    matches!(text.as_bytes(), [b'\t' | b' '..=b'~'])
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_label_value(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.iter().flatten().all(u8::is_ascii_alphanumeric) && text.bytes().all(is_name_byte)
}

fn is_mount_path(text: &str) -> bool {
    let part = |part: &str| {
        let first = part.bytes().next();
        first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && part
                .bytes()
                .all(|byte| is_name_byte(byte) || matches!(byte, b'@' | b'=' | b'+'))
    };
    text.strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(part))
}

fn is_image(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| is_name_byte(byte) || matches!(byte, b':' | b'/' | b'@'))
}

/// The key of a label, an annotation or a resource: a name of at most 63 characters, alone or below a DNS subdomain.
pub(super) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    (1..=63).contains(&name.len())
        && is_label_value(name)
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_dns_label))
}

/// What the Service of a pool, and hence the pool, may be called (RFC 1035).
pub(super) fn is_service_name(text: &str) -> bool {
    is_dns_label(text)
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
}
