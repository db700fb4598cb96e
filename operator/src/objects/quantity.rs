//! Amounts of bytes as Kubernetes writes them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sluice_crds::{ByteSize, quantity_bytes};

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

/// The bytes that a list of requests or limits gives for `resource`.
pub fn bytes_of(amounts: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<u64> {
    quantity_bytes(amounts?.get(resource)?).map(ByteSize::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(
                quantity_bytes(&quantity(number)).map(ByteSize::bytes),
                Some(number)
            );
        }
    }
}
