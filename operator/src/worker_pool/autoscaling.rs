//! The number of workers of a pool with autoscaling. It grows at once, and shrinks by draining after the stabilization window.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use sluice_crds::WorkerPoolSpec;
use sluice_crds::worker_pool::AutoscalingSpec;

use crate::demand::PoolDemand;

/// Workers for the current demand: enough slots, and as many as a query needs to be admitted.
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

/// How long an operator that has just started keeps the existing workers, at least.
const MIN_TIME_AFTER_START: SignedDuration = SignedDuration::from_secs(60);

/// Recent demand, newest last. It keeps only values larger than all later ones: the others can never be the maximum.
#[derive(Clone, Debug, Default)]
pub struct DemandHistory {
    wanted: VecDeque<(Timestamp, u32)>,
}

impl DemandHistory {
    /// The number of workers at `now`: the maximum of `wanted` during the window. A pool without history counts as having wanted
    /// what it `has`, for a minute at least, since an operator that has just started has not seen its queries yet.
    pub fn settle(
        &mut self,
        now: Timestamp,
        wanted: u32,
        has: Option<u32>,
        scaling: &AutoscalingSpec,
    ) -> u32 {
        let window = SignedDuration::from_secs(scaling.scale_down_stabilization_seconds.into());
        if self.wanted.is_empty() {
            let until = now.saturating_add(
                MIN_TIME_AFTER_START
                    .saturating_sub(window)
                    .max(SignedDuration::ZERO),
            );
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
            // One slot is wanted, and a query needs two workers to be admitted.
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
            // A short dip does not drain workers.
            (10, 1, 7),
            (20, 5, 7),
            (61, 0, 7),
            // The demand at 2 has left the window. 5 was wanted at 20.
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
        // For a minute even without a window: queries are reconciled one after the other.
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
