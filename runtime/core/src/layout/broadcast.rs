//! When the tasks of a join read all rows of its small inputs, and of the large one what lies at one worker. README.md beside
//! this file has the rule and its reasons.

use super::adaptive::{
    AdaptivePolicy, MAX_STREAMS_OF_COALESCED_TASK, MapTaskOutput, Observed, ObservedInput, SizedTask, Unit,
    count, least_capacity, narrow, pack, total, wanted_tasks,
};
use super::{Shard, TaskLayout};
use crate::joins::JoinPolicy;

/// What each task reads: of the largest input that may be split, map tasks of one worker, of the others all. `None` if they are
/// not small, or it costs more than `shuffled`, the layout by partitions.
pub(super) fn divide(
    observed: &Observed<'_>,
    shuffled: &[SizedTask],
    policy: &AdaptivePolicy,
    joins: &JoinPolicy,
) -> Option<Vec<SizedTask>> {
    let size = |input: &ObservedInput<'_>| total(&input.partition_bytes);
    let splittable = observed.inputs.iter().filter(|input| input.may_split);
    let local = splittable.max_by_key(|input| size(input))?;
    let others = || observed.inputs.iter().filter(|input| input.input != local.input);
    let repeated: u128 = others().map(size).sum();
    let most_partitions = policy.max_partitions_per_task;
    let is_bounded = most_partitions != 0 && observed.partitions > count(most_partitions);
    if others().next().is_none()
        || repeated > u128::from(joins.max_broadcast_bytes)
        || shuffled.len() < 2
        || is_bounded
    {
        return None;
    }
    let streams = count(MAX_STREAMS_OF_COALESCED_TASK) / observed.partitions.max(1);
    let of_others: usize = others().map(|input| input.map_tasks.len()).sum();
    let cap = streams.checked_sub(of_others).filter(|cap| *cap > 0)?;
    let tasks = by_worker(local, cap, observed.slots, policy)?;
    let sized = tasks.into_iter().map(|(map_tasks, bytes)| SizedTask {
        layout: TaskLayout {
            partitions: 0..narrow(observed.partitions),
            range: None,
            shard: Some(Shard {
                input: local.input,
                map_tasks,
            }),
        },
        bytes: bytes + repeated,
    });
    let tasks: Vec<SizedTask> = sized.collect();
    let least = count(policy.min_tasks).min(observed.partitions);
    let most = if policy.max_tasks == 0 {
        usize::MAX
    } else {
        count(policy.max_tasks)
    };
    let allowed = slowest_slot(shuffled, observed.slots) * u128::from(joins.max_broadcast_percent);
    let is_worth_it = slowest_slot(&tasks, observed.slots) * 100 <= allowed;
    (is_worth_it && (least..=most).contains(&tasks.len())).then_some(tasks)
}

/// The map tasks of an input in parts of at most `cap`, each of one worker, and the bytes of each part; `None` if one worker
/// has all.
fn by_worker(
    input: &ObservedInput<'_>,
    cap: usize,
    slots: u32,
    policy: &AdaptivePolicy,
) -> Option<Vec<(Vec<u32>, u128)>> {
    let all = (0_u32..).zip(&input.map_tasks);
    let (mut map_tasks, without_output): (Vec<_>, Vec<_>) =
        all.partition(|(_, output)| output.worker.is_some());
    map_tasks.sort_by_key(|(number, output)| (output.worker, *number));
    let (first, last) = (map_tasks.first()?, map_tasks.last()?);
    if first.1.worker == last.1.worker {
        return None;
    }
    let unit = |(_, output): &(u32, &MapTaskOutput<'_>)| {
        Unit::whole(output.bytes.map_or(0, super::MapTaskBytes::total))
    };
    let units: Vec<Unit> = map_tasks.iter().map(unit).collect();
    let capacity = least_capacity(&units, wanted_tasks(&units, cap, slots, policy), cap);
    let mut parts: Vec<(Vec<u32>, u128)> = Vec::new();
    for of_worker in map_tasks.chunk_by(|(_, one), (_, next)| one.worker == next.worker) {
        let units: Vec<Unit> = of_worker.iter().map(unit).collect();
        pack(&units, capacity, cap, 0, |part| {
            let numbers = of_worker.get(part.clone()).unwrap_or_default().iter();
            let bytes = total(units.get(part).unwrap_or_default().iter().map(|unit| &unit.bytes));
            parts.push((numbers.map(|(number, _)| *number).collect(), bytes));
        });
    }
    if let Some((numbers, _)) = parts.first_mut() {
        numbers.extend(without_output.iter().map(|(number, _)| *number));
        numbers.sort_unstable();
    }
    Some(parts)
}

/// The least bytes that some slot has to read.
fn slowest_slot(tasks: &[SizedTask], slots: u32) -> u128 {
    let largest = tasks.iter().map(|task| task.bytes).max().unwrap_or_default();
    let all: u128 = tasks.iter().map(|task| task.bytes).sum();
    largest.max(all / u128::from(slots.max(1)))
}

#[cfg(test)]
mod tests {
    use super::super::MapTaskBytes;
    use super::super::adaptive;
    use super::super::adaptive::tests::policy;
    use super::*;
    use crate::message::MapOutputPartitionMeta;

    const MIB: u64 = 1 << 20;
    const PARTITIONS: u32 = 4;

    /// A join of map tasks that wrote so many MiB, each at a worker, with a build side of so many MiB.
    struct Join {
        probe: Vec<(&'static str, u64)>,
        build: u64,
        slots: u32,
        policy: AdaptivePolicy,
        joins: JoinPolicy,
    }

    impl Join {
        fn new(probe: &[(&'static str, u64)], build: u64, slots: u32) -> Self {
            Self {
                probe: probe.to_vec(),
                build,
                slots,
                policy: policy(),
                joins: JoinPolicy::new(32 * MIB),
            }
        }

        /// The map tasks of the probe side that each task reads; none if it stays shuffled.
        fn tasks(&self) -> Vec<Vec<u32>> {
            let parts = u64::from(PARTITIONS);
            let wrote = |(_, mib): &(&str, u64)| {
                let output = |partition| MapOutputPartitionMeta {
                    partition,
                    bytes: mib * MIB / parts,
                    rows: 1,
                };
                let outputs: Vec<_> = (0..PARTITIONS).map(output).collect();
                MapTaskBytes::new(&outputs, PARTITIONS)
            };
            let bytes: Vec<MapTaskBytes> = self.probe.iter().map(wrote).collect();
            let outputs = self
                .probe
                .iter()
                .zip(&bytes)
                .map(|((worker, _), bytes)| MapTaskOutput {
                    bytes: Some(bytes),
                    worker: (!worker.is_empty()).then_some(*worker),
                });
            let all: u64 = self.probe.iter().map(|(_, mib)| mib * MIB).sum();
            let input = |input, bytes, map_tasks, may_split| ObservedInput {
                input,
                partition_bytes: vec![bytes / parts; PARTITIONS as usize],
                map_tasks,
                may_split,
            };
            let inputs = [
                input(0, self.build * MIB, vec![MapTaskOutput::default(); 3], false),
                input(1, all, outputs.collect(), true),
            ];
            let observed = Observed {
                partitions: PARTITIONS as usize,
                inputs: &inputs,
                slots: self.slots,
            };
            let shuffled = adaptive::divide(&observed, &self.policy);
            let tasks = divide(&observed, &shuffled, &self.policy, &self.joins).unwrap_or_default();
            let read = |task: SizedTask| {
                assert_eq!(task.layout.partitions, 0..PARTITIONS);
                let shard = task.layout.shard.expect("a part of the probe side");
                assert_eq!(shard.input, 1);
                shard.map_tasks
            };
            tasks.into_iter().map(read).collect()
        }
    }

    #[test]
    fn each_task_reads_what_one_worker_wrote() {
        let even = [("a", 60), ("b", 60), ("b", 60), ("a", 60)];
        assert_eq!(Join::new(&even, 4, 4).tasks(), [[0], [3], [1], [2]]);
        assert_eq!(Join::new(&even, 4, 2).tasks(), [[0, 3], [1, 2]]);
    }

    #[test]
    fn it_is_shuffled_where_one_worker_has_all_or_little_is_to_be_read() {
        assert_eq!(Join::new(&[("a", 60); 4], 4, 4).tasks(), [[0; 0]; 0]);
        let little = [("a", 1), ("b", 0)];
        assert_eq!(Join::new(&little, 0, 4).tasks(), [[0; 0]; 0]);
    }

    #[test]
    fn a_large_build_side_is_shuffled() {
        let even = [("a", 400), ("b", 400), ("b", 400), ("a", 400)];
        assert_eq!(Join::new(&even, 32, 4).tasks().len(), 4);
        assert_eq!(Join::new(&even, 33, 4).tasks(), [[0; 0]; 0], "the tasks' memory");
        // 20 MiB read by each of four tasks, or 65 of partitions.
        let few = [("a", 60), ("b", 60), ("b", 60), ("a", 60)];
        assert_eq!(Join::new(&few, 20, 4).tasks().len(), 4);
        let small = [("a", 30), ("b", 30), ("b", 30), ("a", 30)];
        assert_eq!(
            Join::new(&small, 30, 4).tasks(),
            [[0; 0]; 0],
            "60 MiB instead of 37"
        );
    }

    #[test]
    fn slots_do_not_stay_idle_for_it() {
        let uneven = [("a", 200), ("b", 10), ("b", 10), ("a", 10)];
        assert_eq!(Join::new(&uneven, 1, 4).tasks(), [[0; 0]; 0]);
        let few = [("a", 100), ("b", 100)];
        assert_eq!(Join::new(&few, 1, 8).tasks(), [[0; 0]; 0]);
        assert_eq!(Join::new(&few, 1, 2).tasks(), [[0], [1]]);
    }

    #[test]
    fn the_bounds_of_the_policy_hold() {
        let even = [("a", 60), ("b", 60), ("b", 60), ("a", 60)];
        let with = |change: fn(&mut AdaptivePolicy)| {
            let mut join = Join::new(&even, 4, 4);
            change(&mut join.policy);
            join.tasks().len()
        };
        assert_eq!(with(|policy| policy.max_tasks = 3), 2);
        assert_eq!(with(|policy| policy.max_tasks = 1), 0);
        assert_eq!(with(|policy| policy.min_tasks = 4), 4);
        assert_eq!(with(|policy| policy.max_partitions_per_task = 3), 0);
    }

    #[test]
    fn a_map_task_without_output_is_in_some_part() {
        let skipped = [("a", 60), ("", 0), ("b", 60)];
        assert_eq!(Join::new(&skipped, 1, 2).tasks(), [vec![0, 1], vec![2]]);
    }
}
