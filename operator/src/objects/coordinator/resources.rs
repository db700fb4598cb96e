//! Resources of a coordinator.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sluice_crds::WorkerPoolSpec;

use crate::objects::quantity::quantity;

/// Largest memory factor of a coordinator that ran out of memory.
pub const MAX_MEMORY_FACTOR: u32 = 8;
/// Memory request and limit of a coordinator whose pool has none.
const MEMORY: (u64, u64) = (256 << 20, 1 << 30);
/// CPU request, in thousandths.
const CPU_MILLIS: u32 = 100;
/// Disk request of a coordinator whose pool has none: its log and /tmp.
const DISK: u64 = 128 << 20;

/// Requests and limits of a coordinator with `factor` times the pool's coordinator memory.
pub(super) fn resources(pool: &WorkerPoolSpec, factor: u32) -> ResourceRequirements {
    let theirs = pool.coordinator.as_ref().and_then(|it| it.resources.clone());
    let mut resources = theirs.unwrap_or_else(|| ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(format!("{CPU_MILLIS}m"))),
            ("memory".to_owned(), quantity(MEMORY.0)),
        ])),
        limits: Some(BTreeMap::from([("memory".to_owned(), quantity(MEMORY.1))])),
        claims: None,
    });
    // The kubelet evicts pods without a request first.
    let requests = resources.requests.get_or_insert_default();
    let limited = resources
        .limits
        .as_ref()
        .and_then(|limits| limits.get("ephemeral-storage"));
    let disk = limited.cloned().unwrap_or_else(|| quantity(DISK));
    requests.entry("ephemeral-storage".to_owned()).or_insert(disk);
    for amounts in [&mut resources.requests, &mut resources.limits] {
        if let Some(memory) = amounts.as_mut().and_then(|amounts| amounts.get_mut("memory")) {
            *memory = times(memory, factor);
        }
    }
    resources
}

/// `amount` times `factor`, in the unit of `amount`; unchanged if it is no number.
fn times(amount: &Quantity, factor: u32) -> Quantity {
    let text = &amount.0;
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let Ok(digits) = format!("{whole}{decimals}").parse::<u128>() else {
        return amount.clone();
    };
    let Some(product) = digits.checked_mul(factor.into()) else {
        return amount.clone();
    };
    if decimals.is_empty() {
        return Quantity(format!("{product}{unit}"));
    }
    let padded = format!("{product:0>width$}", width = decimals.len() + 1);
    let (whole, decimals) = padded.split_at(padded.len() - decimals.len());
    let decimals = decimals.trim_end_matches('0');
    let point = if decimals.is_empty() { "" } else { "." };
    Quantity(format!("{whole}{point}{decimals}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_multiplied_in_its_own_unit() {
        for (amount, factor, expected) in [
            ("1Gi", 2, "2Gi"),
            ("1.5Gi", 2, "3Gi"),
            ("1.25G", 2, "2.5G"),
            ("0.05Ti", 8, "0.4Ti"),
            ("1000000", 4, "4000000"),
            ("500m", 2, "1000m"),
            ("Gi", 2, "Gi"),
            ("", 2, ""),
        ] {
            assert_eq!(
                times(&Quantity(amount.to_owned()), factor).0,
                expected,
                "{amount} times {factor}"
            );
        }
    }
}
