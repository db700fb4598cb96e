//! Units as types: a size is a [`ByteSize`], a time span is [`Millis`]. Neither is ever a bare number.

mod quantity;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::text::shortened;

pub use quantity::quantity_bytes;
pub(crate) use quantity::{NANOS_IN_ONE, nanos};

/// Most characters of a text that a message quotes.
const MAX_QUOTED: usize = 41;

/// Largest size that can be written, in bytes (10^18). It keeps every canonical form readable again.
pub const MAX_BYTE_SIZE: u64 = 1_000_000_000_000_000_000;

/// What a [`ByteSize`] looks like as a string. The number of digits is bounded per unit so that no product
/// overflows: the API server refuses what the parser would refuse.
pub const BYTE_SIZE_PATTERN: &str = "^([0-9]{1,18}B?|[0-9]{1,15}(kB?|KB?|KiB?)|[0-9]{1,12}(MB?|MiB?)|[0-9]{1,9}(GB?|GiB?)|[0-9]{1,6}(TB?|TiB?))$";

/// What a [`Millis`] looks like.
pub const MILLIS_PATTERN: &str = "^[0-9]{1,12}(ms|s|m|h)$";

/// A number of bytes. Written as an integer of bytes or as a string with a unit: `B`, decimal `kB MB GB TB` (or
/// `k M G T`) and binary `KiB MiB GiB TiB` (or `Ki Mi Gi Ti`). Serialises as a string in the largest binary unit
/// that divides it, else in plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Unit, its factor in bytes, and how many digits may stand before it.
const BYTE_UNITS: [(&str, u64, usize); 20] = [
    ("", 1, 18),
    ("B", 1, 18),
    ("k", 1_000, 15),
    ("K", 1_000, 15),
    ("kB", 1_000, 15),
    ("KB", 1_000, 15),
    ("Ki", 1 << 10, 15),
    ("KiB", 1 << 10, 15),
    ("M", 1_000_000, 12),
    ("MB", 1_000_000, 12),
    ("Mi", 1 << 20, 12),
    ("MiB", 1 << 20, 12),
    ("G", 1_000_000_000, 9),
    ("GB", 1_000_000_000, 9),
    ("Gi", 1 << 30, 9),
    ("GiB", 1 << 30, 9),
    ("T", 1_000_000_000_000, 6),
    ("TB", 1_000_000_000_000, 6),
    ("Ti", 1 << 40, 6),
    ("TiB", 1 << 40, 6),
];

/// Why a text is not a unit value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error(
        "`{0}` is not a size: write bytes as an integer, or a whole number with a unit such as 512MiB, 1GB or 2Gi"
    )]
    NotASize(String),
    /// Not a time span.
    #[error("`{0}` is not a time span: write a whole number with a unit, such as 250ms, 15s, 1m or 2h")]
    NotASpan(String),
}

impl ByteSize {
    /// A size of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `mib` times 2^20 bytes, at most `u64::MAX`.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Leading digits and the rest.
fn split_number(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError::NotASize(shortened(text, MAX_QUOTED));
        let (digits, unit) = split_number(text);
        let (_, factor, max_digits) = BYTE_UNITS
            .iter()
            .find(|(name, ..)| *name == unit)
            .ok_or_else(refuse)?;
        if digits.is_empty() || digits.len() > *max_digits {
            return Err(refuse());
        }
        let number: u64 = digits.parse().map_err(|_| refuse())?;
        number.checked_mul(*factor).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: an integer of bytes, or a string such as 512MiB, 1GB or 2Gi")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                if bytes > MAX_BYTE_SIZE {
                    return Err(E::custom(UnitError::NotASize(bytes.to_string())));
                }
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                match u64::try_from(bytes) {
                    Ok(bytes) => self.visit_u64(bytes),
                    Err(_) => Err(E::custom(UnitError::NotASize(bytes.to_string()))),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maximum": MAX_BYTE_SIZE,
            "pattern": BYTE_SIZE_PATTERN,
        })
    }
}

/// A time span in whole milliseconds, written with a unit: `250ms`, `15s`, `1m`, `2h`. Serialises in the largest
/// unit that divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(u64);

impl Millis {
    /// A span of `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The span in milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl From<Millis> for Duration {
    fn from(span: Millis) -> Self {
        Self::from_millis(span.0)
    }
}

impl FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError::NotASpan(shortened(text, MAX_QUOTED));
        let (digits, unit) = split_number(text);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(refuse()),
        };
        if digits.is_empty() || digits.len() > 12 {
            return Err(refuse());
        }
        let number: u64 = digits.parse().map_err(|_| refuse())?;
        number.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if self.0 != 0 && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}ms", self.0)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;

        impl Visitor<'_> for SpanVisitor {
            type Value = Millis;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time span with a unit, such as 250ms, 15s, 1m or 2h")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Millis, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(SpanVisitor)
    }
}

impl JsonSchema for Millis {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Millis".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 14, "pattern": MILLIS_PATTERN })
    }
}

#[cfg(test)]
mod tests;
