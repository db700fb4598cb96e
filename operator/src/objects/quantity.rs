//! Amounts of bytes as Kubernetes writes them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A number of bytes as Kubernetes writes it canonically: in the largest binary unit that divides it.
pub fn quantity(bytes: u64) -> Quantity {
    let units = [("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let fits = |shift: &u32| bytes != 0 && bytes.is_multiple_of(1 << shift);
    let unit = units.into_iter().find(|(_, shift)| fits(shift));
    Quantity(unit.map_or_else(
        || bytes.to_string(),
        |(unit, shift)| format!("{}{unit}", bytes >> shift),
    ))
}

/// The bytes of a quantity, rounded down; `None` if it is not what a pool may write
/// ([`sluice_crds::embedded::QUANTITY_PATTERN`]) or not less than 2^64.
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.as_str();
    let number_ends = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(number_ends)?;
    // Thousandths of a byte, so that `m` is a unit as any other.
    let factor: u128 = match unit {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return None;
    }
    let billionths: u128 = format!("{whole}{fraction:0<9}").parse().ok()?;
    let bytes = billionths.checked_mul(factor)? / 1_000_000_000_000;
    u64::try_from(bytes).ok()
}

/// The bytes that a list of requests or limits gives for `resource`.
pub fn bytes_of(amounts: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<u64> {
    bytes(amounts?.get(resource)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_means_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("128974848", Some(128_974_848)),
            ("129M", Some(129_000_000)),
            ("123Mi", Some(123 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("0.5", Some(0)),
            ("1500m", Some(1)),
            ("999999999999999Pi", None),
            ("1e3", None),
            ("Gi", None),
            ("", None),
            ("1.2.3", None),
            ("-1", None),
            ("1.0000000001", None),
        ] {
            assert_eq!(bytes(&Quantity(text.to_owned())), expected, "{text}");
        }
    }

    #[test]
    fn quantities_are_written_as_the_api_server_returns_them() {
        for (number, expected) in [
            (0, "0"),
            (1_000, "1000"),
            (1024, "1Ki"),
            (3 << 29, "1536Mi"),
            (10 << 30, "10Gi"),
        ] {
            assert_eq!(quantity(number).0, expected);
            assert_eq!(bytes(&quantity(number)), Some(number));
        }
    }
}
