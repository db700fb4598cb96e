//! Joins that are done in another way than planned, by what their inputs turned out to hold. docs/decisions/0009-joins.md has the
//! rules and their reasons.

use serde::{Deserialize, Serialize};

use crate::plan::SwappableJoin;

/// By how much another way of doing a join must be better than the planned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinPolicy {
    /// The most encoded bytes, all of which each task reads in place of its partitions: those of all inputs but the largest.
    pub max_broadcast_bytes: u64,
    /// The most that the slowest slot reads then, in percent of what it reads of partitions.
    pub max_broadcast_percent: u32,
    /// The largest probe side that becomes the build side, in percent of the bytes of the build side.
    pub max_swap_percent: u32,
}

impl JoinPolicy {
    /// The policy for workers on which each task may have build sides of so many bytes beside its other work. What a task reads
    /// where it lies costs less than what comes over the network; encoded sizes are no exact measure of hash tables.
    pub fn new(max_broadcast_bytes: u64) -> Self {
        Self {
            max_broadcast_bytes,
            max_broadcast_percent: 125,
            max_swap_percent: 50,
        }
    }
}

/// Those of the joins whose sides change places, since the probe side is so much smaller. `bytes_of` says how many bytes a task
/// reads of an input of this number.
pub fn swapped(joins: &[SwappableJoin], bytes_of: impl Fn(u32) -> u64, policy: &JoinPolicy) -> Vec<u32> {
    let is_swapped = |join: &&SwappableJoin| {
        let (build, probe) = (bytes_of(join.build), bytes_of(join.probe));
        build > 0 && u128::from(probe) * 100 <= u128::from(build) * u128::from(policy.max_swap_percent)
    };
    joins.iter().filter(is_swapped).map(|join| join.join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_change_places_where_the_probe_side_has_half_the_bytes() {
        let join = |join, build, probe| SwappableJoin { join, build, probe };
        let joins = [join(0, 0, 1), join(1, 1, 2), join(4, 2, 0)];
        let of = |bytes: [u64; 3]| {
            let bytes_of = |input: u32| bytes[input as usize];
            swapped(&joins, bytes_of, &JoinPolicy::new(0))
        };
        assert_eq!(of([100, 50, 30]), [0]);
        assert_eq!(of([100, 51, 25]), [1]);
        assert_eq!(of([50, 90, 100]), [4]);
        assert_eq!(of([0, 0, 0]), [0; 0], "nothing to gain");
        assert_eq!(of([u64::MAX, u64::MAX, 1]), [1]);
        assert_eq!(of([1, 0, 2]), [0, 4], "a probe side without rows");
    }
}
