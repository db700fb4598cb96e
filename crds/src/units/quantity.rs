//! Resource quantities of Kubernetes (`resource.Quantity`), as far as a spec may write them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{ByteSize, split_number};

/// Billionths in one.
pub(crate) const NANOS_IN_ONE: u128 = 1_000_000_000;

/// A quantity in billionths, exactly; `None` if it is none that a spec may hold, or too large to count.
pub(crate) fn nanos(quantity: &Quantity) -> Option<u128> {
    let (whole, rest) = split_number(&quantity.0);
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(rest) => split_number(rest),
        None => ("0", rest),
    };
    if !(1..=15).contains(&whole.len()) || !(1..=9).contains(&fraction.len()) {
        return None;
    }
    let billionths =
        whole.parse::<u128>().ok()? * NANOS_IN_ONE + format!("{fraction:0<9}").parse::<u128>().ok()?;
    let factor: u128 = match unit {
        "m" => return Some(billionths / 1000),
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    billionths.checked_mul(factor)
}

/// A quantity of bytes, rounded up; `None` if it is none that a spec may hold, or above `u64::MAX`.
pub fn quantity_bytes(quantity: &Quantity) -> Option<ByteSize> {
    let bytes = nanos(quantity)?.div_ceil(NANOS_IN_ONE);
    u64::try_from(bytes).ok().map(ByteSize::from_bytes)
}

/// As Kubernetes spells it: in the largest binary unit that divides it, else in plain bytes.
impl From<ByteSize> for Quantity {
    fn from(size: ByteSize) -> Self {
        Self(size.to_string().replace("iB", "i"))
    }
}
