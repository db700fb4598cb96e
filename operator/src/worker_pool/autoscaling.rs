//! How many workers a pool is to have that scales itself. It grows at once and shrinks once nothing has wanted the workers for a
//! while, by draining them as any pool that shrinks.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use sluice_crds::WorkerPoolSpec;
use sluice_crds::worker_pool::AutoscalingSpec;

use crate::demand::PoolDemand;

/// Workers for what is wanted now: enough slots, and as many as a query needs to be admitted.
pub fn wanted(spec: &WorkerPoolSpec, scaling: &AutoscalingSpec, demand: PoolDemand) -> u32 {
    let for_slots = demand.slots.div_ceil(spec.slots().max(1));
    let for_admission = match demand {
        PoolDemand {
            running: 0,
            queued: 0,
            ..
        } => 0,
        _ => spec.min_ready_workers,
    };
    let most = scaling.max_replicas;
    for_slots.max(for_admission).max(scaling.min_replicas).min(most)
}

/// How long an operator keeps the workers that it finds, at the least.
const LEAST_AFTER_START: SignedDuration = SignedDuration::from_secs(60);

/// What was wanted lately, newest last: only what is larger than all after it, as the rest can never be the most of them.
#[derive(Clone, Debug, Default)]
pub struct DemandHistory {
    wanted: VecDeque<(Timestamp, u32)>,
}

impl DemandHistory {
    /// The workers that a pool is to have `now` that wants so many: the most that it has wanted during the window. A pool
    /// that nothing is known of counts as having wanted what it `has`, for a minute at least: an operator that has just started
    /// has not looked at its queries yet.
    pub fn settle(
        &mut self,
        now: Timestamp,
        wanted: u32,
        has: Option<u32>,
        scaling: &AutoscalingSpec,
    ) -> u32 {
        let window = SignedDuration::from_secs(scaling.scale_down_stabilization_seconds.into());
        if self.wanted.is_empty() {
            let until =
                now.saturating_add(LEAST_AFTER_START.saturating_sub(window).max(SignedDuration::ZERO));
            self.wanted
                .extend(has.zip(until.ok()).map(|(has, until)| (until, has)));
        }
        while self.wanted.back().is_some_and(|(_, before)| *before <= wanted) {
            self.wanted.pop_back();
        }
        self.wanted.push_back((now, wanted));
        while self.wanted.len() > 1
            && self
                .wanted
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) >= window)
        {
            self.wanted.pop_front();
        }
        let most = self.wanted.front().map_or(wanted, |(_, most)| *most);
        most.max(scaling.min_replicas).min(scaling.max_replicas)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(min: u32, max: u32, window: u32) -> (WorkerPoolSpec, AutoscalingSpec) {
        let scaling =
            json!({"minReplicas": min, "maxReplicas": max, "scaleDownStabilizationSeconds": window});
        let spec = json!({"slotsPerWorker": 4, "minReadyWorkers": 2, "autoscaling": scaling});
        let spec: WorkerPoolSpec = serde_json::from_value(spec).unwrap();
        let scaling = spec.autoscaling.clone().unwrap();
        (spec, scaling)
    }

    #[test]
    fn workers_are_wanted_for_slots_and_for_admission_within_bounds() {
        for ((min, max), (slots, running, queued), expected) in [
            ((0, 9), (0, 0, 0), 0),
            ((1, 9), (0, 0, 0), 1),
            // One slot is wanted, and no query is admitted with less than two workers.
            ((0, 9), (1, 0, 1), 2),
            ((0, 9), (9, 1, 0), 3),
            ((0, 9), (12, 1, 0), 3),
            ((0, 9), (1_000, 9, 9), 9),
            ((0, 1), (1, 0, 1), 1),
            ((5, 9), (4, 1, 0), 5),
        ] {
            let (spec, scaling) = pool(min, max, 0);
            let demand = PoolDemand {
                slots,
                running,
                queued,
            };
            assert_eq!(
                wanted(&spec, &scaling, demand),
                expected,
                "{min}..{max}: {demand:?}"
            );
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn a_pool_grows_at_once_and_shrinks_when_the_window_is_over() {
        let (_, scaling) = pool(0, 9, 60);
        let mut history = DemandHistory::default();
        for (second, wanted, expected) in [
            (0, 0, 0),
            (1, 3, 3),
            (2, 7, 7),
            // A dip is no reason to drain.
            (10, 1, 7),
            (20, 5, 7),
            (61, 0, 7),
            // What was wanted at 2 is over; 5 was wanted at 20.
            (62, 0, 5),
            (80, 0, 0),
            (81, 2, 2),
        ] {
            assert_eq!(
                history.settle(at(second), wanted, None, &scaling),
                expected,
                "at {second}"
            );
        }
    }

    #[test]
    fn an_operator_that_has_just_started_keeps_what_is_there_for_a_window() {
        let (_, scaling) = pool(0, 9, 60);
        let mut history = DemandHistory::default();
        assert_eq!(history.settle(at(0), 0, Some(6), &scaling), 6);
        assert_eq!(history.settle(at(59), 0, Some(6), &scaling), 6);
        assert_eq!(history.settle(at(60), 0, Some(6), &scaling), 0);
        // For a minute also without a window: queries are looked at one after the other.
        let (_, scaling) = pool(0, 9, 0);
        let mut history = DemandHistory::default();
        assert_eq!(history.settle(at(0), 0, Some(6), &scaling), 6);
        assert_eq!(history.settle(at(1), 8, Some(6), &scaling), 8);
        assert_eq!(history.settle(at(2), 2, Some(6), &scaling), 2);
        let mut history = DemandHistory::default();
        assert_eq!(history.settle(at(0), 0, Some(6), &scaling), 6);
        assert_eq!(history.settle(at(59), 0, Some(6), &scaling), 6);
        assert_eq!(history.settle(at(60), 0, Some(6), &scaling), 0);
    }

    #[test]
    fn bounds_that_were_changed_hold_at_once() {
        let mut history = DemandHistory::default();
        assert_eq!(history.settle(at(0), 8, None, &pool(0, 9, 60).1), 8);
        assert_eq!(history.settle(at(1), 3, None, &pool(0, 5, 60).1), 5);
        assert_eq!(history.settle(at(2), 0, None, &pool(7, 9, 60).1), 8);
    }

    #[test]
    fn a_history_stays_small() {
        let (_, scaling) = pool(0, 1_000, 86_400);
        let mut history = DemandHistory::default();
        for second in 0..5_000 {
            history.settle(at(second), u32::try_from(second % 3).unwrap(), None, &scaling);
        }
        assert!(history.wanted.len() <= 3, "{history:?}");
    }
}
