//! Decides what a pool should have next: objects, and the pods to create, patch and delete. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use sluice_crds::{ConditionReason, ErrorReason, ProgressReason, validate_pool};

use super::observed::Observed;
use super::worker::{Worker, WorkerState};
use crate::objects::pool::PoolObjects;
use crate::objects::worker::WorkerPod;
use crate::objects::{labels, names};
use crate::volume_claims;

/// How long a new pod may be unschedulable before an old one makes room for it.
const SURGE_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Objects other than pods.
    pub objects: PoolObjects,
    pub create: Vec<Pod>,
    /// Pods whose labels or annotations must change.
    pub patch: Vec<PodPatch>,
    pub delete: Vec<PodDeletion>,
    /// Set if no pod may be created or replaced.
    pub blocked: Option<Blocked>,
}

/// The labels and annotations that the operator adds to a pod after its creation; all of them, since server-side apply removes
/// what is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPatch {
    pub pod: Arc<Pod>,
    /// Since when it drains, and why.
    pub draining: Option<(Timestamp, RemovalReason)>,
    pub zone: Option<String>,
}

/// A pod to delete.
#[derive(Clone, Debug, PartialEq)]
pub struct PodDeletion {
    pub pod: Arc<Pod>,
    /// The cause, for the log.
    pub why: RemovalReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// The pool has more workers than its spec wants.
    Surplus,
    /// The pool's spec has changed, and a newer pod stands ready.
    Outdated,
    /// It will not run again.
    Ended,
    /// It has drained.
    Drained,
    /// It drained for longer than the pool allows.
    DrainTimedOut,
    /// An earlier reconcile began the drain. The cause is not stored.
    AlreadyDraining,
}

impl RemovalReason {
    /// For the log.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Surplus => "the pool has more than it is to have",
            Self::Outdated => "the spec of the pool has changed",
            Self::Ended => "it will not run again",
            Self::Drained => "it has drained",
            Self::DrainTimedOut => "it drained for longer than drainTimeoutSeconds",
            Self::AlreadyDraining => "it drains already",
        }
    }
}

/// Why a pool gets no pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub reason: ConditionReason,
    pub message: String,
}

/// Decides what the pool should have next. The same observation gives the same result.
pub fn decide(seen: &Observed) -> Desired {
    let blocked = blocked(seen);
    let mut plan = Plan::default();
    plan.end(seen);
    plan.shrink(seen);
    if blocked.is_none() {
        plan.replace(seen);
    }
    let create = if blocked.is_none() { missing(seen) } else { 0 };
    Desired {
        objects: PoolObjects::build(&seen.pool, seen.settings.public_key.as_deref()),
        create: create_pods(seen, create),
        patch: patches(seen, &plan),
        delete: plan.delete,
        blocked,
    }
}

fn blocked(seen: &Observed) -> Option<Blocked> {
    let problems = validate_pool(&seen.pool);
    if !problems.is_empty() {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        return Some(Blocked {
            reason: ErrorReason::InvalidSpec.into(),
            message: problems.join("; "),
        });
    }
    let message = volume_claims::unmountable(&seen.claims, seen.pool.spec.most_replicas())?;
    Some(Blocked {
        reason: ProgressReason::VolumesUnmountable.into(),
        message,
    })
}

/// Pods beyond the wanted number while the pool is rolled: a quarter of it, at least one.
fn surge(replicas: usize) -> usize {
    (replicas / 4).max(1)
}

fn replicas(seen: &Observed) -> usize {
    usize::try_from(seen.replicas).unwrap_or(usize::MAX)
}

fn count(workers: &[Worker], counted: impl Fn(&Worker) -> bool) -> usize {
    workers.iter().filter(|worker| counted(worker)).count()
}

/// How many pods to create. Draining and terminating pods do not count. Lost pods do not count either, but may come back: at most
/// as many are replaced as are wanted.
fn missing(seen: &Observed) -> usize {
    let wanted = replicas(seen);
    let current = count(&seen.workers, |worker| worker.is_active() && !worker.outdated);
    let active = count(&seen.workers, Worker::is_active);
    let lost = count(&seen.workers, |worker| worker.state == WorkerState::Lost);
    let most = wanted.saturating_add(surge(wanted));
    let most_with_lost = most.saturating_add(wanted);
    wanted
        .saturating_sub(current)
        .min(most.saturating_sub(active))
        .min(most_with_lost.saturating_sub(active + lost))
}

/// Pods with the lowest unused numbers. Numbers of terminating pods and of pods of other owners are in use.
fn create_pods(seen: &Observed, count: usize) -> Vec<Pod> {
    let pool = seen.name();
    let claims = volume_claims::node_selector_terms(&seen.claims);
    // A volume that is attached to a dead node is detached by Kubernetes. The successor must not be bound to that node.
    let same_node =
        volume_claims::of_one_node(&seen.claims) && seen.workers.iter().all(|worker| worker.reachable);
    let free = (0..).filter(|number| !seen.taken.contains(&names::worker(&pool, *number)));
    free.take(count)
        .map(|number| {
            let pod = WorkerPod {
                pool: &seen.pool,
                number,
                image: seen.image(),
                spec_hash: &seen.revision.spec_hash,
                with_key: seen.settings.public_key.is_some(),
                log_format: seen.settings.log_format,
                claims: &claims,
                same_node,
            };
            pod.build()
        })
        .collect()
}

/// Pods to drain and to delete.
#[derive(Default)]
struct Plan {
    delete: Vec<PodDeletion>,
    /// Pods that begin to drain, by name.
    drain: BTreeMap<String, RemovalReason>,
}

impl Plan {
    /// Deletes pods that ended, drained, or exceeded the drain timeout.
    fn end(&mut self, seen: &Observed) {
        let limit = SignedDuration::from_secs(i64::from(seen.pool.spec.drain_timeout_seconds));
        for worker in &seen.workers {
            let since = worker.draining_since;
            let why = match worker.state {
                WorkerState::Ended => RemovalReason::Ended,
                WorkerState::Draining if worker.is_drained() => RemovalReason::Drained,
                WorkerState::Draining
                    if since.is_some_and(|since| seen.now.duration_since(since) >= limit) =>
                {
                    RemovalReason::DrainTimedOut
                }
                WorkerState::Draining
                | WorkerState::Unready
                | WorkerState::Ready
                | WorkerState::Lost
                | WorkerState::Terminating => continue,
            };
            self.delete.push(PodDeletion {
                pod: worker.pod.clone(),
                why,
            });
        }
    }

    /// Removes surplus workers of the current spec.
    fn shrink(&mut self, seen: &Observed) {
        let current = seen.workers.iter();
        let current: Vec<_> = current
            .filter(|worker| worker.is_active() && !worker.outdated)
            .collect();
        let surplus = current.len().saturating_sub(replicas(seen));
        self.remove(seen, current, surplus, RemovalReason::Surplus);
    }

    /// Removes workers of an earlier spec, as far as newer ones are ready.
    fn replace(&mut self, seen: &Observed) {
        let wanted = replicas(seen);
        let outdated = seen.workers.iter();
        let outdated = outdated.filter(|worker| worker.is_active() && worker.outdated);
        let (old, not_started): (Vec<_>, Vec<_>) = outdated.partition(|worker| worker.running);
        let ready = count(&seen.workers, |worker| worker.is_ready() && !worker.outdated);
        let all_active = count(&seen.workers, Worker::is_active);
        let leaving = count(&seen.workers, |worker| {
            worker.outdated && worker.state == WorkerState::Draining
        });
        let serving = ready.saturating_add(old.len());
        let mut excess = serving.saturating_sub(wanted);
        if excess == 0 && leaving == 0 && serving >= wanted && is_stuck(seen) {
            excess = 1;
        }
        let surge = surge(wanted);
        let most = surge
            .saturating_sub(leaving)
            .saturating_add(all_active.saturating_sub(wanted.saturating_add(surge)));
        let not_started_count = not_started.len();
        self.remove(seen, not_started, not_started_count, RemovalReason::Outdated);
        self.remove(seen, old, excess.min(most), RemovalReason::Outdated);
    }

    /// Removes `count` of `from`, in this order: pods that do not run, then those with the fewest shuffle bytes; among equals
    /// those that are not ready, have the fewest slots in use, are in the zone with most workers, and have the highest number.
    /// Running pods are kept until each of `from` was polled once, as after the start of the operator.
    fn remove(&mut self, seen: &Observed, from: Vec<&Worker>, count: usize, why: RemovalReason) {
        let mut in_zone: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for worker in seen.workers.iter().filter(|worker| worker.is_active()) {
            *in_zone.entry(worker.zone.as_deref()).or_default() += 1;
        }
        let unknown = from.iter().any(|worker| worker.not_polled);
        let mut left = from;
        for _ in 0..count {
            let next = left.iter().enumerate().min_by_key(|(_, worker)| {
                let in_zone = in_zone.get(&worker.zone.as_deref()).copied().unwrap_or_default();
                let in_use = worker.report.as_ref().map_or(0, |report| report.slots_in_use);
                let name = worker.pod.name_any();
                let number = (name.len(), name);
                (
                    worker.running,
                    worker.held_bytes(),
                    worker.is_ready(),
                    in_use,
                    Reverse(in_zone),
                    Reverse(number),
                )
            });
            let Some((next, _)) = next else { return };
            let worker = left.swap_remove(next);
            if worker.running && unknown {
                return;
            }
            if let Some(in_zone) = in_zone.get_mut(&worker.zone.as_deref()) {
                *in_zone = in_zone.saturating_sub(1);
            }
            if worker.running {
                self.drain.insert(worker.pod.name_any(), why);
            } else {
                // It never held any data.
                self.delete.push(PodDeletion {
                    pod: worker.pod.clone(),
                    why,
                });
            }
        }
    }
}

/// Whether a pod of the current spec has been unschedulable for long.
fn is_stuck(seen: &Observed) -> bool {
    seen.workers.iter().any(|worker| {
        let since = worker.unschedulable_since;
        let waited = since.map(|since| seen.now.duration_since(since));
        worker.is_active() && !worker.outdated && waited.is_some_and(|waited| waited >= SURGE_TIMEOUT)
    })
}

/// The patches of pods whose labels or annotations differ. A pod that ends gets none.
fn patches(seen: &Observed, plan: &Plan) -> Vec<PodPatch> {
    let stays = |worker: &&Worker| match worker.state {
        WorkerState::Unready | WorkerState::Ready | WorkerState::Draining | WorkerState::Lost => true,
        WorkerState::Ended | WorkerState::Terminating => false,
    };
    let removed = |worker: &&Worker| plan.delete.iter().any(|gone| Arc::ptr_eq(&gone.pod, &worker.pod));
    seen.workers
        .iter()
        .filter(stays)
        .filter(|worker| !removed(worker))
        .filter_map(|worker| {
            let labelled = worker.pod.labels().get(labels::ZONE);
            let begins = plan.drain.get(&worker.pod.name_any()).map(|why| (seen.now, *why));
            let zone = worker.zone.clone();
            if begins.is_none() && (zone.is_none() || labelled == zone.as_ref()) {
                return None;
            }
            Some(PodPatch {
                pod: worker.pod.clone(),
                draining: worker
                    .draining_since
                    .map(|since| (since, RemovalReason::AlreadyDraining))
                    .or(begins),
                zone: zone.or_else(|| labelled.cloned()),
            })
        })
        .collect()
}
