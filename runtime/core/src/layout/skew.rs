//! Which partitions are hot, and into which shards they are split. README.md beside this file has the rule and its reasons.

use std::ops::Range;

use super::Shard;
use super::adaptive::{AdaptivePolicy, MapTaskOutput, Observed, Unit, count, in_tasks, narrow, total};
use crate::message::MapOutputPartitionMeta;

/// A partition is hot if it has so many quarters of what each slot would get if the work were divided evenly.
const HOT_QUARTERS_OF_FAIR: u128 = 5;
/// A partition is hot if it has so many times the target, and so many times the median.
const HOT_TIMES: u128 = 4;
/// A hot partition is worth at least so many tasks: splitting costs each shard the inputs that are not split.
const LEAST_TASKS_OF_HOT: u128 = 8;
/// Most shards of a partition for each slot.
const SHARDS_PER_SLOT: usize = 2;
/// The other inputs have at most so many times the bytes of a shard.
const MOST_REPEATED: u128 = 4;
/// The largest shard has at most so many quarters of the partition.
const MOST_QUARTERS_OF_HOT: u128 = 3;
/// Of a map task, so many partitions are remembered by their own size.
const LARGE_PARTITIONS: usize = 4;

/// The bytes that one map task wrote, by partition: exact for a few that are larger than the others, the mean for those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapTaskBytes {
    large: Box<[(u32, u64)]>,
    mean: u64,
    total: u64,
}

impl MapTaskBytes {
    /// Of what a map task has reported of an exchange of so many partitions.
    pub fn new(outputs: &[MapOutputPartitionMeta], partitions: u32) -> Self {
        let sum: u128 = outputs.iter().map(|output| u128::from(output.bytes)).sum();
        let partitions = u128::from(partitions.max(1));
        let is_large = |output: &&MapOutputPartitionMeta| u128::from(output.bytes) * partitions >= 2 * sum;
        let mut large: Vec<_> = outputs.iter().filter(is_large).collect();
        large.sort_by_key(|output| (std::cmp::Reverse(output.bytes), output.partition));
        large.truncate(LARGE_PARTITIONS);
        let large: Box<[_]> = large
            .into_iter()
            .filter(|output| output.bytes > 0)
            .map(|output| (output.partition, output.bytes))
            .collect();
        let named: u128 = large.iter().map(|(_, bytes)| u128::from(*bytes)).sum();
        let others = partitions.saturating_sub(large.len() as u128).max(1);
        let mean = u64::try_from(sum.saturating_sub(named) / others).unwrap_or(u64::MAX);
        Self {
            large,
            mean,
            total: u64::try_from(sum).unwrap_or(u64::MAX),
        }
    }

    /// The bytes of all partitions.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The bytes of a partition.
    pub fn of(&self, partition: u32) -> u64 {
        let mut large = self.large.iter();
        let named = large.find(|(number, _)| *number == partition);
        named.map_or(self.mean, |(_, bytes)| *bytes)
    }
}

/// A hot partition and the shards that it is split into.
pub(super) struct HotPartition {
    pub(super) partition: usize,
    /// Each with the bytes that its task reads.
    pub(super) shards: Vec<(Shard, u64)>,
}

/// The partitions that are worth splitting, ascending, by the sizes of all.
pub(super) fn hot_partitions(
    observed: &Observed<'_>,
    sizes: &[u64],
    policy: &AdaptivePolicy,
) -> Vec<HotPartition> {
    let fair = total(sizes) / u128::from(observed.slots.max(1));
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let target = u128::from(policy.target_bytes.max(1));
    let task = u128::from(policy.min_task_bytes.max(1));
    let outlier = HOT_TIMES * target.max(u128::from(median));
    let hot = (fair * HOT_QUARTERS_OF_FAIR / 4)
        .min(outlier)
        .max(LEAST_TASKS_OF_HOT * task);
    // Two shards a slot: what is left over when the others are done is half as large.
    let shard_bytes = (fair / 2).min(target).max(task * LEAST_TASKS_OF_HOT / 2);
    let is_hot = |(_, bytes): &(usize, &u64)| u128::from(**bytes) > hot;
    let hot = sizes.iter().enumerate().filter(is_hot);
    hot.filter_map(|(partition, bytes)| split(observed, partition, *bytes, shard_bytes))
        .collect()
}

/// The shards of a partition with so many bytes; `None` if it cannot be split, or not in a way that is worth it.
fn split(observed: &Observed<'_>, partition: usize, bytes: u64, shard_bytes: u128) -> Option<HotPartition> {
    let inputs = observed.inputs.iter().filter(|input| input.may_split);
    let largest = inputs.max_by_key(|input| input.partition_bytes.get(partition))?;
    let divided = largest.partition_bytes.get(partition).copied()?;
    let repeated = bytes.saturating_sub(divided);
    let by_repeated = MOST_REPEATED * u128::from(divided) / u128::from(repeated.max(1));
    let wanted = u128::from(bytes).div_ceil(shard_bytes).min(by_repeated);
    let most = count(observed.slots).saturating_mul(SHARDS_PER_SLOT);
    let wanted = count(wanted).min(most);
    if repeated > divided || wanted < 2 {
        return None;
    }
    let number = narrow(partition);
    let of_map_task = |map_task: &MapTaskOutput<'_>| map_task.bytes.map_or(0, |sizes| sizes.of(number));
    let map_tasks: Vec<Unit> = largest
        .map_tasks
        .iter()
        .map(of_map_task)
        .map(Unit::whole)
        .collect();
    let known = total(map_tasks.iter().map(|unit| &unit.bytes)).max(1);
    let shards = in_tasks(&map_tasks, wanted);
    let shard = |map_tasks_of_shard: &Range<usize>| {
        let part = map_tasks.get(map_tasks_of_shard.clone()).unwrap_or_default();
        let part = total(part.iter().map(|unit| &unit.bytes));
        // Sizes of single map tasks may be means; the sum is exact.
        let part = u128::from(divided) * part / known + u128::from(repeated);
        let shard = Shard {
            input: largest.input,
            map_tasks: (narrow(map_tasks_of_shard.start)..narrow(map_tasks_of_shard.end)).collect(),
        };
        (shard, u64::try_from(part).unwrap_or(u64::MAX))
    };
    let shards: Vec<_> = shards.iter().map(shard).collect();
    let largest = shards.iter().map(|(_, bytes)| u128::from(*bytes)).max()?;
    // One map task may have nearly all of it.
    let is_worth_it = largest * 4 <= u128::from(bytes) * MOST_QUARTERS_OF_HOT;
    is_worth_it.then_some(HotPartition { partition, shards })
}

#[cfg(test)]
mod tests {
    use super::super::adaptive::tests::policy;
    use super::super::adaptive::{MapTaskOutput, ObservedInput};
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The bytes that the shards of the only hot partition read, for a probe side of map tasks that wrote so many MiB by partition.
    fn shards(map_tasks: &[&[u64]], build: &[u64], slots: u32) -> Vec<u64> {
        let reported = |mib: &&[u64]| {
            let output = |(partition, mib): (u32, &u64)| MapOutputPartitionMeta {
                partition,
                bytes: mib * MIB,
                rows: 1,
            };
            let outputs: Vec<_> = (0..).zip(*mib).map(output).collect();
            MapTaskBytes::new(&outputs, u32::try_from(mib.len()).expect("few"))
        };
        let sizes: Vec<MapTaskBytes> = map_tasks.iter().map(reported).collect();
        let sum = |partition| map_tasks.iter().map(|mib: &&[u64]| mib[partition] * MIB).sum();
        let input = |input, partition_bytes, map_tasks| ObservedInput {
            input,
            partition_bytes,
            map_tasks,
            may_split: true,
        };
        let of_bytes = |bytes| MapTaskOutput {
            bytes: Some(bytes),
            worker: None,
        };
        let inputs = [
            input(
                0,
                build.iter().map(|mib| mib * MIB).collect(),
                vec![MapTaskOutput::default(); 3],
            ),
            input(
                1,
                (0..build.len()).map(sum).collect(),
                sizes.iter().map(of_bytes).collect(),
            ),
        ];
        let observed = Observed {
            partitions: build.len(),
            inputs: &inputs,
            slots,
        };
        let hot = hot_partitions(&observed, &observed.partition_bytes(), &policy());
        let shards = hot.into_iter().flat_map(|hot| hot.shards);
        shards
            .map(|(shard, bytes)| {
                assert_eq!(shard.input, 1, "the larger input is split");
                bytes / MIB
            })
            .collect()
    }

    #[test]
    fn a_partition_with_more_than_a_slots_share_is_split_so_that_slots_are_even() {
        let even: [&[u64]; 4] = [&[10, 60, 10, 10]; 4];
        assert_eq!(shards(&even, &[0; 4], 2), [120, 120]);
        assert_eq!(
            shards(&even, &[0; 4], 8),
            [60; 4],
            "one for each map task at most"
        );
        let level: [&[u64]; 4] = [&[10, 12, 10, 10]; 4];
        assert_eq!(shards(&level, &[0; 4], 2), [0; 0]);
    }

    #[test]
    fn little_data_is_not_worth_a_split() {
        let few: [&[u64]; 4] = [&[0, 2, 0, 0]; 4];
        assert_eq!(shards(&few, &[0; 4], 8), [0; 0]);
        let more: [&[u64]; 4] = [&[0, 3, 0, 0]; 4];
        assert_eq!(shards(&more, &[0; 4], 8), [6, 6], "12 MiB, 4 a shard at least");
    }

    #[test]
    fn what_is_repeated_bounds_the_shards() {
        let hot: [&[u64]; 8] = [&[1, 40, 1, 1]; 8];
        assert_eq!(shards(&hot, &[1, 0, 1, 1], 16), [40; 8]);
        // Four times 320 by 300: of more shards, each would read the other side again.
        assert_eq!(shards(&hot, &[1, 300, 1, 1], 16), [380; 4]);
    }

    #[test]
    fn map_tasks_with_more_of_the_partition_share_a_shard_with_fewer() {
        let clustered: [&[u64]; 4] = [&[0, 100, 1, 1], &[0, 0, 0, 1], &[1, 40, 1, 1], &[1, 60, 1, 1]];
        assert_eq!(shards(&clustered, &[0; 4], 2), [100, 100]);
        let one: [&[u64]; 4] = [&[1, 200, 1, 1], &[1, 0, 1, 1], &[1, 0, 1, 1], &[1, 0, 1, 1]];
        assert_eq!(
            shards(&one, &[0; 4], 4),
            [0; 0],
            "a map task's part is read as a whole"
        );
    }

    #[test]
    fn the_larger_partitions_of_a_map_task_keep_their_sizes() {
        let output = |(partition, bytes): (u32, u64)| MapOutputPartitionMeta {
            partition,
            bytes,
            rows: 1,
        };
        let outputs: Vec<_> = [(0, 10), (3, 900), (7, 90)].map(output).to_vec();
        let sizes = MapTaskBytes::new(&outputs, 101);
        assert_eq!(
            (sizes.of(3), sizes.of(7), sizes.of(0), sizes.of(1)),
            (900, 90, 0, 0)
        );
        let outputs: Vec<_> = (0..100).map(|partition| output((partition, 10))).collect();
        let sizes = MapTaskBytes::new(&outputs, 100);
        assert_eq!((sizes.large.len(), sizes.of(50)), (0, 10));
        assert_eq!(MapTaskBytes::new(&[], 0).of(0), 0);
    }
}
