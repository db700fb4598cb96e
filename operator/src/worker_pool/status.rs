//! Composes the status of a pool from an observation and the result of applying a decision. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sluice_crds::conditions::MAX_MESSAGE;
use sluice_crds::text::shortened;
use sluice_crds::worker_pool::MAX_ZONES;
use sluice_crds::{
    Condition, ConditionReason, ConditionStatus, PoolConditionType, ProgressReason, Time, WorkerPoolStatus,
};

use super::decide::Desired;
use super::observed::Observed;
use super::pod_problem::{self, PodProblem};
use super::worker::{Worker, WorkerState};
use crate::objects::labels;

/// The status. `rejected` are rejected calls.
pub fn status(seen: &Observed, wanted: &Desired, rejected: &[PodProblem]) -> WorkerPoolStatus {
    let count = |counted: &dyn Fn(&Worker) -> bool| {
        let workers = seen.workers.iter().filter(|worker| counted(worker));
        u32::try_from(workers.count()).unwrap_or(u32::MAX)
    };
    let reports = || {
        let there = seen.workers.iter();
        there
            .filter(|worker| worker.running && worker.reachable)
            .filter_map(|worker| worker.report.as_ref())
    };
    let ready = count(&Worker::is_ready);
    let zones = zones(seen);
    WorkerPoolStatus {
        observed_generation: seen.pool.metadata.generation,
        replicas: count(&Worker::is_active),
        ready_replicas: ready,
        compatible_replicas: count(&|worker| worker.is_ready() && worker.compatible),
        desired_replicas: seen.pool.spec.autoscaling.as_ref().map(|_| seen.replicas),
        draining_replicas: count(&|worker| worker.state == WorkerState::Draining),
        ready: Some(format!("{ready}/{}", seen.replicas)),
        selector: Some(labels::selector_text(&labels::workers_of(&seen.name()))),
        slots: slots(seen),
        slots_in_use: reports().fold(0, |sum: u32, report| sum.saturating_add(report.slots_in_use)),
        spill_used_bytes: reports().fold(0, |sum: u64, report| sum.saturating_add(report.spill_used_bytes)),
        held_bytes: reports().fold(0, |sum: u64, report| sum.saturating_add(report.held_bytes)),
        zone_list: Some(zones.join(",")).filter(|list| !list.is_empty()),
        zones,
        image: Some(seen.image().to_owned()),
        conditions: vec![ready_condition(seen, wanted, rejected)],
    }
}

fn slots(seen: &Observed) -> u32 {
    let ready = seen.workers.iter().filter(|worker| worker.is_ready());
    ready
        .map(|worker| {
            let told = worker.report.as_ref().map(|report| report.slots);
            told.unwrap_or(seen.pool.spec.slots())
        })
        .fold(0, u32::saturating_add)
}

fn zones(seen: &Observed) -> Vec<String> {
    let there = seen
        .workers
        .iter()
        .filter(|worker| worker.is_active() || worker.state == WorkerState::Draining);
    let zones: BTreeSet<_> = there.filter_map(|worker| worker.zone.clone()).collect();
    zones.into_iter().take(MAX_ZONES).collect()
}

fn ready_condition(
    seen: &Observed,
    wanted: &Desired,
    rejected: &[PodProblem],
) -> Condition<PoolConditionType> {
    let (status, reason, message) = readiness(seen, wanted, rejected);
    let before = seen.pool.status.as_ref();
    let before = before.and_then(|status| {
        let mut conditions = status.conditions.iter();
        conditions.find(|condition| condition.type_ == PoolConditionType::Ready)
    });
    let unchanged = before.filter(|condition| condition.status == status);
    Condition {
        type_: PoolConditionType::Ready,
        status,
        reason,
        message: shortened(&message, MAX_MESSAGE),
        observed_generation: seen.pool.metadata.generation,
        last_transition_time: unchanged.map_or_else(
            || Time(whole_seconds(seen.now)),
            |condition| condition.last_transition_time.clone(),
        ),
    }
}

fn readiness(
    seen: &Observed,
    wanted: &Desired,
    rejected: &[PodProblem],
) -> (ConditionStatus, ConditionReason, String) {
    let no = |reason: ConditionReason, message: String| (ConditionStatus::False, reason, message);
    if let Some(blocked) = &wanted.blocked {
        return no(blocked.reason, blocked.message.clone());
    }
    let replicas = usize::try_from(seen.replicas).unwrap_or(usize::MAX);
    let current = || {
        seen.workers
            .iter()
            .filter(|worker| worker.is_active() && !worker.outdated)
    };
    let ready = current().filter(|worker| worker.is_ready()).count();
    let leaving = seen.workers.iter();
    let leaving = leaving.filter(|worker| match worker.state {
        WorkerState::Unready | WorkerState::Ready => worker.outdated,
        WorkerState::Draining => true,
        WorkerState::Lost | WorkerState::Ended | WorkerState::Terminating => false,
    });
    let leaving = leaving.count();
    if ready >= replicas && rejected.is_empty() {
        let (reason, message) = match leaving {
            0 if replicas == 0 => (ProgressReason::ScaledToZero, scaled_to_zero(seen).to_owned()),
            0 => (ProgressReason::WorkersReady, String::new()),
            _ => (ProgressReason::WorkersDraining, leave_message(leaving)),
        };
        return (ConditionStatus::True, reason.into(), message);
    }
    let pods = current().filter(|worker| !worker.is_ready());
    let problems = pods.filter_map(|worker| pod_problem::of_pod(&worker.pod, seen.now));
    if let Some(problem) = rejected.iter().cloned().chain(problems).next() {
        return no(problem.reason.into(), problem.message);
    }
    let mut message = format!("{ready} of {replicas} workers are ready");
    if leaving > 0 {
        message.push_str("; ");
        message.push_str(&leave_message(leaving));
    }
    no(ProgressReason::WorkersStarting.into(), message)
}

fn scaled_to_zero(seen: &Observed) -> &'static str {
    match seen.pool.spec.autoscaling {
        Some(_) => "scaled to 0: no query wants a worker",
        None => "scaled to 0: set replicas",
    }
}

fn leave_message(count: usize) -> String {
    match count {
        1 => "1 worker leaves".to_owned(),
        count => format!("{count} workers leave"),
    }
}

/// Rounds to whole seconds, as Kubernetes stores times.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
