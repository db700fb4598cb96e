//! What a query's fields mean to its coordinator and its planner.

use std::time::Duration;

use sluice_core::coordinator::Policy;
use sluice_core::ids::CoordinatorEpoch;
use sluice_core::joins::JoinPolicy;
use sluice_core::layout::AdaptivePolicy;
use sluice_core::locality::LocalityPolicy;
use sluice_core::speculation::SpeculationPolicy;
use sluice_crds::ShuffleQuerySpec;
use sluice_crds::shuffle_query::{
    AdaptiveJoins, AdaptiveMode, AdaptiveSpec, SpeculationMode, SpeculationSpec,
};

use crate::planner::BroadcastLimit;

/// Encoded bytes of sorted rows that are worth a merging task of their own.
const MIN_RANGE_BYTES: u64 = 4 << 20;

/// How long a running attempt may make no progress.
const ATTEMPT_STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Encoded bytes that are worth a reading task of their own while slots are free: a task's start takes about as long as its
/// work on them.
const MIN_TASK_BYTES: u64 = 1 << 20;

/// Encoded bytes that a task must save by running where most of its input lies: fewer are fetched in less time than a slot is
/// waited for.
const MIN_LOCAL_BYTES: u64 = 4 << 20;

/// How long slots are requested of workers that tasks prefer before they are requested of others. A task reads little more than
/// 100 MiB, which a network of 10 Gbit/s carries in this time.
const MAX_LOCALITY_WAIT: Duration = Duration::from_millis(100);

/// The part of a slot's memory that the encoded bytes of a coalesced task may have: decoded they are several times as large,
/// and so is the hash table over them.
const TARGET_SHARE_OF_SLOT: u64 = 8;

/// The part of the time of attempts that win which duplicates may take in vain, in percent.
const MAX_WASTED_PERCENT: u32 = 10;

/// How partitions are coalesced on workers with so much memory for each slot.
pub(super) fn adaptive_policy(spec: &AdaptiveSpec, slot_memory_bytes: Option<u64>) -> Option<AdaptivePolicy> {
    match spec.mode {
        AdaptiveMode::Off => return None,
        AdaptiveMode::Auto => {}
    }
    let share = slot_memory_bytes.map_or(u64::MAX, |bytes| bytes / TARGET_SHARE_OF_SLOT);
    Some(AdaptivePolicy {
        target_bytes: spec.target_bytes.bytes().min(share),
        min_tasks: spec.min_reduce_tasks,
        max_tasks: spec.max_reduce_tasks,
        max_partitions_per_task: spec.max_partitions_per_task,
        min_task_bytes: MIN_TASK_BYTES,
    })
}

/// When joins are done in another way than planned, on workers with so much memory for each slot.
pub(super) fn join_policy(joins: AdaptiveJoins, slot_memory_bytes: Option<u64>) -> Option<JoinPolicy> {
    match joins {
        AdaptiveJoins::Auto => Some(JoinPolicy::new(BroadcastLimit::of_slots(slot_memory_bytes).bytes)),
        AdaptiveJoins::Off => None,
    }
}

/// When slow attempts get duplicates.
fn speculation_policy(spec: &SpeculationSpec) -> Option<SpeculationPolicy> {
    match spec.mode {
        SpeculationMode::Off => return None,
        SpeculationMode::Auto => {}
    }
    Some(SpeculationPolicy {
        min_completed_samples: spec.min_completed_samples,
        p95_multiplier_percent: percent(spec.p95_multiplier),
        min_runtime: spec.min_runtime.into(),
        max_wasted_percent: MAX_WASTED_PERCENT,
    })
}

/// A number in percent, rounded. The schema has bounds for it.
fn percent(number: f64) -> u32 {
    let percent = (number * 100.0).round().clamp(0.0, f64::from(u32::MAX));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a whole number within the bounds"
    )]
    {
        percent as u32
    }
}

/// The policy of the coordinator.
pub(super) fn policy(
    spec: &ShuffleQuerySpec,
    sink: bool,
    adaptive: Option<AdaptivePolicy>,
    joins: Option<JoinPolicy>,
) -> Policy {
    Policy {
        max_task_attempts: spec.retry.max_task_attempts,
        retry_backoff_base: spec.retry.backoff_base.into(),
        exclude_worker_after_failures: spec.retry.exclude_worker_after_failures,
        worker_liveness_timeout: spec.retry.worker_liveness_timeout.into(),
        coordinator_epoch: CoordinatorEpoch(1),
        recovery_wait: Duration::ZERO,
        no_workers_grace: spec.retry.no_workers_grace.into(),
        attempt_stall_timeout: ATTEMPT_STALL_TIMEOUT,
        deadline: spec
            .deadline_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
        reduce_fetch_window_partitions: spec.shuffle.reduce_fetch_window_partitions,
        min_range_bytes: MIN_RANGE_BYTES,
        adaptive,
        joins,
        speculation: speculation_policy(&spec.shuffle.speculation),
        locality: LocalityPolicy {
            min_bytes: MIN_LOCAL_BYTES,
            max_wait: MAX_LOCALITY_WAIT,
        },
        retention: spec.shuffle.retention,
        sink,
    }
}

/// Most partitions that an exchange has where the query does not say: each map task writes a stream for each of them.
const MAX_DEFAULT_PARTITIONS: u64 = 1024;

/// How many partitions exchanges have where the query does not say: the bytes of the tables that it reads divided by the
/// target, and at least one for each slot. Mostly less is shuffled than is read; layouts coalesce surplus partitions.
pub(super) fn default_partitions(table_bytes: u64, target_bytes: u64, slots: u32) -> u32 {
    let wanted = table_bytes
        .div_ceil(target_bytes.max(1))
        .min(MAX_DEFAULT_PARTITIONS);
    u32::try_from(wanted).unwrap_or(u32::MAX).max(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_coalesced_as_far_as_a_slot_has_memory_for() {
        let spec = AdaptiveSpec::default();
        let target = |memory| adaptive_policy(&spec, memory).map(|policy| policy.target_bytes);
        assert_eq!(target(None), Some(128 << 20));
        assert_eq!(target(Some(2 << 30)), Some(128 << 20));
        assert_eq!(target(Some(256 << 20)), Some(32 << 20));
        let off = AdaptiveSpec {
            mode: AdaptiveMode::Off,
            ..spec
        };
        assert_eq!(adaptive_policy(&off, None), None);
    }

    #[test]
    fn what_a_query_says_of_duplicates_is_what_its_coordinator_does() {
        let policy = speculation_policy(&SpeculationSpec::default()).expect("it is on");
        assert_eq!(
            (policy.min_completed_samples, policy.p95_multiplier_percent),
            (5, 150)
        );
        assert_eq!(policy.min_runtime, Duration::from_millis(250));
        let off = SpeculationSpec {
            mode: SpeculationMode::Off,
            ..SpeculationSpec::default()
        };
        assert_eq!(speculation_policy(&off), None);
        assert_eq!((percent(1.0), percent(1.006), percent(f64::NAN)), (100, 101, 0));
    }

    #[test]
    fn partitions_follow_the_tables_and_not_below_the_slots() {
        let target = 128 << 20;
        assert_eq!(default_partitions(0, target, 4), 4);
        assert_eq!(
            default_partitions(4 * target, target, 4),
            4,
            "little data pay nothing"
        );
        assert_eq!(default_partitions(4 * target + 1, target, 4), 5);
        assert_eq!(default_partitions(80 * target, target, 4), 80);
        assert_eq!(default_partitions(u64::MAX, target, 4), 1024);
        assert_eq!(default_partitions(u64::MAX, 0, 4_000), 4_000);
    }
}
