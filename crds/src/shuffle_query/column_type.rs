//! Types of declared columns, as text and as an enum.

use std::fmt;
use std::str::FromStr;

/// Most characters of a column type.
pub const MAX_COLUMN_TYPE: usize = 1024;
/// Most lists and structs around a type.
pub const MAX_COLUMN_TYPE_DEPTH: usize = 16;

/// What a [`ColumnType`] looks like. That the scale is at most the precision, and what stands within a list or a struct, is
/// left to the parser.
pub const COLUMN_TYPE_PATTERN: &str = "^(Boolean|U?Int(8|16|32|64)|Float(32|64)|Utf8|Binary|Date32|Decimal128\\( *([1-9]|[12][0-9]|3[0-8]) *, *([0-9]|[12][0-9]|3[0-8]) *\\)|Timestamp\\( *(Second|Millisecond|Microsecond|Nanosecond) *(, *[A-Za-z0-9_+:/-]{1,40} *)?\\)|(List|Struct)\\([^()].*\\))$";

/// Type of a declared column. Names are those of Arrow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ColumnType {
    /// True or false.
    Boolean,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 8 bits.
    UInt8,
    /// Unsigned, 16 bits.
    UInt16,
    /// Unsigned, 32 bits.
    UInt32,
    /// Unsigned, 64 bits.
    UInt64,
    /// IEEE 754, 32 bits.
    Float32,
    /// IEEE 754, 64 bits.
    Float64,
    /// Text.
    Utf8,
    /// Bytes.
    Binary,
    /// Days since 1970-01-01.
    Date32,
    /// Fixed point.
    Decimal128 {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: u8,
    },
    /// A point in time.
    Timestamp {
        /// Resolution.
        unit: TimeUnit,
        /// Zone name or offset such as `+01:00`; `None` is a local time without zone.
        zone: Option<String>,
    },
    /// Values of one type.
    List(Box<ColumnType>),
    /// Named values.
    Struct(Vec<(String, ColumnType)>),
}

/// Resolution of a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeUnit {
    /// 1 s.
    Second,
    /// 10^-3 s.
    Millisecond,
    /// 10^-6 s.
    Microsecond,
    /// 10^-9 s.
    Nanosecond,
}

/// Why a text is not a column type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnTypeError {
    /// No such type.
    #[error("unknown column type")]
    Unknown,
    /// Precision or scale out of bounds.
    #[error("Decimal128 takes a precision of 1 to 38 and a scale of 0 to the precision")]
    Decimal,
    /// Unknown unit.
    #[error("Timestamp takes the unit Second, Millisecond, Microsecond or Nanosecond")]
    Unit,
    /// Malformed zone.
    #[error("the zone of a Timestamp is a name such as UTC or Europe/Berlin, or an offset such as +01:00")]
    Zone,
    /// Malformed list.
    #[error("List takes one type, as in List(Int64)")]
    List,
    /// Malformed struct.
    #[error(
        "Struct takes fields of different names, as in Struct(a: Int64, b: Utf8); names hold letters, digits, `_`, `-`, `.` and `$`"
    )]
    Struct,
    /// Too deep.
    #[error("at most {MAX_COLUMN_TYPE_DEPTH} lists and structs may stand in each other")]
    Depth,
}

impl FromStr for ColumnType {
    type Err = ColumnTypeError;

    fn from_str(text: &str) -> Result<Self, ColumnTypeError> {
        parse(text, MAX_COLUMN_TYPE_DEPTH)
    }
}

fn parse(text: &str, depth: usize) -> Result<ColumnType, ColumnTypeError> {
    if let Some(item) = arguments_of(text, "List") {
        let depth = depth.checked_sub(1).ok_or(ColumnTypeError::Depth)?;
        return match item.trim_matches(' ') {
            "" => Err(ColumnTypeError::List),
            item => Ok(ColumnType::List(Box::new(parse(item, depth)?))),
        };
    }
    if let Some(fields) = arguments_of(text, "Struct") {
        let depth = depth.checked_sub(1).ok_or(ColumnTypeError::Depth)?;
        return parse_struct(fields, depth);
    }
    if let Some(arguments) = arguments_of(text, "Decimal128") {
        return parse_decimal(arguments);
    }
    if let Some(arguments) = arguments_of(text, "Timestamp") {
        return parse_timestamp(arguments);
    }
    Ok(match text {
        "Boolean" => ColumnType::Boolean,
        "Int8" => ColumnType::Int8,
        "Int16" => ColumnType::Int16,
        "Int32" => ColumnType::Int32,
        "Int64" => ColumnType::Int64,
        "UInt8" => ColumnType::UInt8,
        "UInt16" => ColumnType::UInt16,
        "UInt32" => ColumnType::UInt32,
        "UInt64" => ColumnType::UInt64,
        "Float32" => ColumnType::Float32,
        "Float64" => ColumnType::Float64,
        "Utf8" => ColumnType::Utf8,
        "Binary" => ColumnType::Binary,
        "Date32" => ColumnType::Date32,
        _ => return Err(ColumnTypeError::Unknown),
    })
}

/// Fields between commas that stand in no parentheses.
fn parse_struct(fields: &str, depth: usize) -> Result<ColumnType, ColumnTypeError> {
    let mut open = 0_usize;
    let outer = |character: char| {
        match character {
            '(' => open += 1,
            ')' => open = open.saturating_sub(1),
            _ => {}
        }
        character == ',' && open == 0
    };
    let mut parsed: Vec<(String, ColumnType)> = Vec::new();
    for field in fields.split(outer) {
        let (name, column_type) = field.split_once(':').ok_or(ColumnTypeError::Struct)?;
        let name = name.trim_matches(' ');
        let plain = |character: char| character.is_alphanumeric() || "_-.$".contains(character);
        if name.is_empty() || !name.chars().all(plain) || parsed.iter().any(|(other, _)| other == name) {
            return Err(ColumnTypeError::Struct);
        }
        parsed.push((name.to_owned(), parse(column_type.trim_matches(' '), depth)?));
    }
    Ok(ColumnType::Struct(parsed))
}

/// `Name(arguments)` without the name and the parentheses.
fn arguments_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

fn parse_decimal(arguments: &str) -> Result<ColumnType, ColumnTypeError> {
    let number = |text: &str| -> Result<u8, ColumnTypeError> {
        let text = text.trim_matches(' ');
        if text.is_empty()
            || text.len() > 2
            || (text.len() == 2 && text.starts_with('0'))
            || !text.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(ColumnTypeError::Decimal);
        }
        text.parse().map_err(|_| ColumnTypeError::Decimal)
    };
    let (precision, scale) = arguments.split_once(',').ok_or(ColumnTypeError::Decimal)?;
    let (precision, scale) = (number(precision)?, number(scale)?);
    if !(1..=38).contains(&precision) || scale > precision {
        return Err(ColumnTypeError::Decimal);
    }
    Ok(ColumnType::Decimal128 { precision, scale })
}

fn parse_timestamp(arguments: &str) -> Result<ColumnType, ColumnTypeError> {
    let (unit, zone) = match arguments.split_once(',') {
        Some((unit, zone)) => (unit, Some(zone.trim_matches(' '))),
        None => (arguments, None),
    };
    let unit = match unit.trim_matches(' ') {
        "Second" => TimeUnit::Second,
        "Millisecond" => TimeUnit::Millisecond,
        "Microsecond" => TimeUnit::Microsecond,
        "Nanosecond" => TimeUnit::Nanosecond,
        _ => return Err(ColumnTypeError::Unit),
    };
    let letters = |zone: &str| {
        zone.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+:/-".contains(&b))
    };
    match zone {
        Some(zone) if zone.is_empty() || zone.len() > 40 || !letters(zone) => Err(ColumnTypeError::Zone),
        zone => Ok(ColumnType::Timestamp {
            unit,
            zone: zone.map(str::to_owned),
        }),
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal128 { precision, scale } => write!(f, "Decimal128({precision}, {scale})"),
            Self::Timestamp { unit, zone: None } => write!(f, "Timestamp({unit:?})"),
            Self::Timestamp {
                unit,
                zone: Some(zone),
            } => write!(f, "Timestamp({unit:?}, {zone})"),
            Self::List(item) => write!(f, "List({item})"),
            Self::Struct(fields) => {
                let fields = fields.iter().map(|(name, of)| format!("{name}: {of}"));
                write!(f, "Struct({})", fields.collect::<Vec<_>>().join(", "))
            }
            Self::Boolean
            | Self::Int8
            | Self::Int16
            | Self::Int32
            | Self::Int64
            | Self::UInt8
            | Self::UInt16
            | Self::UInt32
            | Self::UInt64
            | Self::Float32
            | Self::Float64
            | Self::Utf8
            | Self::Binary
            | Self::Date32 => write!(f, "{self:?}"),
        }
    }
}

#[cfg(test)]
mod tests;
