//! How neighbouring partitions are coalesced into tasks. README.md beside this file has the algorithm and its reasons.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::TaskLayout;
use super::skew::{MapTaskBytes, hot_partitions};

/// Most streams that a task of several partitions reads: with more, it waits for fetches longer than it computes, and the
/// reader's bookkeeping counts in memory.
const MAX_STREAMS_OF_COALESCED_TASK: u64 = 1 << 14;

/// How partitions are coalesced and split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptivePolicy {
    /// Encoded bytes that one task should read at most.
    pub target_bytes: u64,
    /// The least number of tasks, as far as there are partitions.
    pub min_tasks: u32,
    /// The most tasks; 0: as many as were planned, and those that hot partitions are split into.
    pub max_tasks: u32,
    /// The most partitions that one task reads; 0: any number. It holds where it contradicts `max_tasks`.
    pub max_partitions_per_task: u32,
    /// Encoded bytes that are worth a task of their own while slots are free, at least 1.
    pub min_task_bytes: u64,
}

/// What is known when a stage's layout is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<'a> {
    /// How many partitions there are.
    pub partitions: usize,
    /// The inputs that are divided together.
    pub inputs: &'a [ObservedInput<'a>],
    /// Slots of the workers that take attempts.
    pub slots: u32,
}

/// What is known of one input that the tasks of a stage divide by partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedInput<'a> {
    /// Which input of the stage it is.
    pub input: u32,
    /// The bytes of each partition.
    pub partition_bytes: Vec<u64>,
    /// Of each map task that writes it, what it wrote, as far as that is known: a task reads so many streams of each of its
    /// partitions.
    pub map_tasks: Vec<Option<&'a MapTaskBytes>>,
    /// See [`crate::plan::StageInput::may_split`].
    pub may_split: bool,
}

impl Observed<'_> {
    /// The bytes of each partition, summed over the inputs.
    pub(super) fn partition_bytes(&self) -> Vec<u64> {
        let mut sums = vec![0_u64; self.partitions];
        for input in self.inputs {
            for (sum, bytes) in sums.iter_mut().zip(&input.partition_bytes) {
                *sum = sum.saturating_add(*bytes);
            }
        }
        sums
    }

    fn map_tasks(&self) -> u64 {
        self.inputs.iter().map(|input| input.map_tasks.len() as u64).sum()
    }
}

/// What goes into a task whole: a partition, a map task's part of one, or a shard, which is a task of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub(super) bytes: u64,
    alone: bool,
}

impl Unit {
    pub(super) fn whole(bytes: u64) -> Self {
        Self { bytes, alone: false }
    }

    fn shard(bytes: u64) -> Self {
        Self { bytes, alone: true }
    }
}

/// What each task reads: every partition once, in order, a hot one in shards. There is at least one task if there is a
/// partition.
pub(super) fn divide(observed: &Observed<'_>, policy: &AdaptivePolicy) -> Vec<TaskLayout> {
    let narrow = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    let task = |partitions: Range<usize>, shard| TaskLayout {
        partitions: narrow(partitions.start)..narrow(partitions.end),
        range: None,
        shard,
    };
    let cap = partitions_per_task(observed.map_tasks(), policy);
    let (mut units, mut sources) = (Vec::new(), Vec::new());
    let sizes = observed.partition_bytes();
    let mut hot = hot_partitions(observed, &sizes, policy).into_iter().peekable();
    for (partition, bytes) in sizes.iter().enumerate() {
        let shards = hot.next_if(|hot| hot.partition == partition);
        match shards {
            Some(hot) => hot.shards.into_iter().for_each(|(shard, bytes)| {
                units.push(Unit::shard(bytes));
                sources.push((partition, Some(shard)));
            }),
            None => {
                units.push(Unit::whole(*bytes));
                sources.push((partition, None));
            }
        }
    }
    if policy.max_tasks != 0 && least_tasks(&units, cap) > count(policy.max_tasks) {
        units = sizes.into_iter().map(Unit::whole).collect();
        sources = (0..observed.partitions)
            .map(|partition| (partition, None))
            .collect();
    }
    let tasks = coalesce(&units, cap, observed.slots, policy).into_iter();
    let layout = tasks.filter_map(|units| {
        let (first, shard) = sources.get(units.start)?;
        let (last, _) = sources.get(units.end.checked_sub(1)?)?;
        Some(task(*first..*last + 1, shard.clone()))
    });
    layout.collect()
}

/// The units of each task.
fn coalesce(units: &[Unit], cap: usize, slots: u32, policy: &AdaptivePolicy) -> Vec<Range<usize>> {
    let wanted = wanted_tasks(units, cap, slots, policy);
    let capacity = least_capacity(units, wanted, cap);
    let least = count(policy.min_tasks).min(wanted);
    let mut tasks = Vec::with_capacity(wanted.min(units.len()));
    pack(units, capacity, cap, least, |task| tasks.push(task));
    tasks
}

/// Cuts the units into at most so many tasks, of which the largest is as small as it can be.
pub(super) fn in_tasks(units: &[Unit], tasks: usize) -> Vec<Range<usize>> {
    let largest = units.iter().map(|unit| u128::from(unit.bytes)).max();
    // Nothing is gained by parts that are smaller than the largest unit.
    let capacity = least_capacity(units, tasks, usize::MAX).max(largest.unwrap_or_default());
    let mut parts = Vec::with_capacity(tasks.min(units.len()));
    pack(units, capacity, usize::MAX, 0, |part| parts.push(part));
    parts
}

/// The most partitions of one task.
fn partitions_per_task(map_tasks: u64, policy: &AdaptivePolicy) -> usize {
    let by_streams = count(MAX_STREAMS_OF_COALESCED_TASK / map_tasks.max(1));
    let by_policy = match policy.max_partitions_per_task {
        0 => usize::MAX,
        most => count(most),
    };
    by_streams.min(by_policy).max(1)
}

/// How many tasks there should be.
fn wanted_tasks(units: &[Unit], cap: usize, slots: u32, policy: &AdaptivePolicy) -> usize {
    let tasks_of = |capacity: u128| {
        let mut tasks = 0;
        pack(units, capacity, cap, 0, |_| tasks += 1);
        tasks
    };
    let by_target: usize = tasks_of(u128::from(policy.target_bytes));
    // Tasks run in waves, and a last wave of few tasks would leave slots idle.
    let in_full_waves = by_target
        .checked_next_multiple_of(count(slots.max(1)))
        .unwrap_or(by_target);
    let bytes = total(units.iter().map(|unit| &unit.bytes));
    let worth = bytes / u128::from(policy.min_task_bytes.max(1));
    let worth = usize::try_from(worth).unwrap_or(usize::MAX);
    let wanted = by_target.max(in_full_waves.min(worth));
    let most = match policy.max_tasks {
        0 => units.len(),
        most => count(most).min(units.len()),
    };
    let wanted = wanted.max(count(policy.min_tasks)).min(most);
    wanted.max(least_tasks(units, cap))
}

/// How many tasks the cap of a task's partitions needs, and the shards.
fn least_tasks(units: &[Unit], cap: usize) -> usize {
    let mut tasks = 0;
    pack(units, u128::MAX, cap, 0, |_| tasks += 1);
    tasks
}

/// The least capacity with which the units fit into so many tasks, so that the largest task is as small as it can be.
fn least_capacity(units: &[Unit], tasks: usize, cap: usize) -> u128 {
    let fits = |capacity: u128| {
        let mut used = 0;
        pack(units, capacity, cap, 0, |_| used += 1);
        used <= tasks
    };
    let (mut low, mut high) = (0, total(units.iter().map(|unit| &unit.bytes)));
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

/// Fills one task after the other up to `capacity` bytes and `cap` units; a larger unit, and a shard, has a task of its own.
/// There are at least `least` tasks, if there are so many units.
fn pack(units: &[Unit], capacity: u128, cap: usize, least: usize, mut task: impl FnMut(Range<usize>)) {
    let (mut start, mut sum, mut before) = (0, 0, 0);
    let mut after_shard = false;
    for (index, unit) in units.iter().enumerate() {
        let size = u128::from(unit.bytes);
        let is_full = sum + size > capacity || index - start >= cap;
        let needs_others = before + 1 + (units.len() - index) <= least;
        if index > start && (is_full || needs_others || unit.alone || after_shard) {
            task(start..index);
            (start, sum, before) = (index, 0, before + 1);
        }
        sum += size;
        after_shard = unit.alone;
    }
    if start < units.len() {
        task(start..units.len());
    }
}

/// Workers may report any number, so the sum is wider.
pub(super) fn total<'a>(bytes: impl IntoIterator<Item = &'a u64>) -> u128 {
    bytes.into_iter().map(|bytes| u128::from(*bytes)).sum()
}

pub(super) fn count(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    pub(in super::super) fn policy() -> AdaptivePolicy {
        AdaptivePolicy {
            target_bytes: 128 * MIB,
            min_tasks: 1,
            max_tasks: 0,
            max_partitions_per_task: 0,
            min_task_bytes: MIB,
        }
    }

    /// What each task reads of inputs with so many bytes in each partition, of so many map tasks.
    fn observed(inputs: &[(&[u64], usize, bool)], slots: u32, policy: &AdaptivePolicy) -> Vec<TaskLayout> {
        let input = |(number, (bytes, map_tasks, may_split)): (u32, &(&[u64], usize, bool))| ObservedInput {
            input: number,
            partition_bytes: bytes.to_vec(),
            map_tasks: vec![None; *map_tasks],
            may_split: *may_split,
        };
        let inputs: Vec<_> = (0..).zip(inputs).map(input).collect();
        let observed = Observed {
            partitions: inputs
                .iter()
                .map(|input| input.partition_bytes.len())
                .max()
                .unwrap_or(0),
            inputs: &inputs,
            slots,
        };
        divide(&observed, policy)
    }

    fn ranges(tasks: Vec<TaskLayout>) -> Vec<Range<u32>> {
        tasks.into_iter().map(|task| task.partitions).collect()
    }

    fn tasks(mib: &[u64], slots: u32, policy: &AdaptivePolicy) -> Vec<Range<u32>> {
        let bytes: Vec<u64> = mib.iter().map(|mib| mib * MIB).collect();
        ranges(observed(&[(&bytes, 4, false)], slots, policy))
    }

    fn largest(mib: &[u64], tasks: &[Range<u32>]) -> u64 {
        let size = |task: &Range<u32>| mib[task.start as usize..task.end as usize].iter().sum();
        tasks.iter().map(size).max().unwrap_or(0)
    }

    /// Sizes that look random.
    fn sizes(seed: u64, partitions: u64) -> Vec<u64> {
        let mix = |index: u64| {
            (seed + 1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(index as u32 % 63)
        };
        (0..partitions)
            .map(|index| mix(index) % [1, 3, 40, 400][(mix(index + 7) % 4) as usize])
            .collect()
    }

    #[test]
    fn little_data_is_read_by_one_task() {
        assert_eq!(tasks(&[0; 200], 8, &policy()).len(), 1);
        assert_eq!(observed(&[(&[5 << 10; 16], 4, true)], 8, &policy()).len(), 1);
    }

    #[test]
    fn no_slot_stays_idle_while_a_task_is_worth_its_start() {
        assert_eq!(tasks(&[2; 32], 8, &policy()).len(), 8, "64 MiB");
        assert_eq!(tasks(&[1; 5], 8, &policy()).len(), 5, "5 MiB");
        let gib = [16; 64];
        assert_eq!(tasks(&gib, 8, &policy()).len(), 8);
        assert_eq!(tasks(&gib, 32, &policy()).len(), 32);
        // 1 GiB in tasks of 128 MiB on 7 slots: one would run alone in a second wave.
        let split = tasks(&gib, 7, &policy());
        assert_eq!((split.len(), largest(&gib, &split)), (13, 80));
    }

    #[test]
    fn tasks_keep_to_the_target_and_a_hot_partition_is_alone() {
        let sizes = [90, 60, 60, 1_000, 60, 60, 5, 5];
        let split = tasks(&sizes, 1, &policy());
        assert_eq!(split, [0..1, 1..3, 3..4, 4..6, 6..8]);
        let others = split.iter().filter(|task| **task != (3..4));
        assert!(largest(&sizes, &others.cloned().collect::<Vec<_>>()) <= 128);
    }

    #[test]
    fn the_largest_task_is_as_small_as_it_can_be() {
        // No task can have an even share of 5.25 MiB, and none needs to have 9.
        let sizes = [3, 3, 3, 3, 3, 3, 6, 6, 3, 3, 3, 3];
        let split = tasks(&sizes, 8, &policy());
        assert_eq!((split.len(), largest(&sizes, &split)), (7, 6));
    }

    #[test]
    fn the_bounds_of_the_policy_hold() {
        let least = AdaptivePolicy {
            min_tasks: 6,
            ..policy()
        };
        assert_eq!(tasks(&[0; 10], 1, &least).len(), 6);
        assert_eq!(tasks(&[500, 0, 0, 0, 0, 0, 0], 1, &least).len(), 6);
        assert_eq!(tasks(&[1; 4], 1, &least).len(), 4, "there are no more partitions");
        let most = AdaptivePolicy {
            max_tasks: 3,
            ..policy()
        };
        let split = tasks(&[100; 9], 8, &most);
        assert_eq!(split, [0..3, 3..6, 6..9]);
        let capped = AdaptivePolicy {
            max_partitions_per_task: 2,
            ..most
        };
        assert_eq!(
            tasks(&[0; 9], 8, &capped).len(),
            5,
            "the cap holds where both cannot"
        );
    }

    #[test]
    fn a_task_reads_no_more_streams_than_are_worth_it() {
        let split = ranges(observed(&[(&[1; 100], 1_000, true)], 1, &policy()));
        assert_eq!(split.len(), 7);
        assert!(split.iter().all(|task| task.len() <= 16));
        let vast = observed(&[(&[1; 100], 100_000, true)], 1, &policy());
        assert_eq!(vast.len(), 100);
    }

    #[test]
    fn every_partition_is_in_one_task_whatever_is_observed() {
        for seed in 0..300 {
            let sizes = sizes(seed, 1 + seed % 70);
            let policy = AdaptivePolicy {
                target_bytes: (1 + seed % 300) * MIB,
                min_tasks: (seed % 5) as u32,
                max_tasks: (seed % 7) as u32,
                max_partitions_per_task: (seed % 11) as u32,
                min_task_bytes: (1 + seed % 3) * MIB,
            };
            let split = tasks(&sizes, 1 + (seed % 9) as u32, &policy);
            assert_eq!(split.first().map(|task| task.start), Some(0));
            assert_eq!(split.last().map(|task| task.end as usize), Some(sizes.len()));
            assert!(split.iter().all(|task| !task.is_empty()), "{split:?}");
            assert!(
                split.windows(2).all(|pair| pair[0].end == pair[1].start),
                "{split:?}"
            );
        }
        let most: &[u64] = &[u64::MAX; 5];
        let vast = observed(&[(most, 1, true), (most, 1, true)], u32::MAX, &policy());
        assert_eq!(vast.len(), 5, "any number may be reported");
    }
}
