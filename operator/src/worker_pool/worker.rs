//! One worker of a pool, as its pod, its node and its own report show it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::revision::Revision;
use super::rpc::WorkerReport;
use super::why::{condition, container};
use crate::objects::labels;
use crate::objects::worker::CONTAINER;

/// What a pod is to its pool.
///
/// ```text
/// Unready <-> Ready          counted as replicas
///    |  |       |
///    |  +-------+---> Lost   its node does not answer; back, once the node does
///    +----------+---> Draining
///   any -> Ended             it will not run again; deleted
///   any -> Terminating       deleted, and not gone yet
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerState {
    /// It starts, or its container does not answer.
    Unready,
    /// It takes attempts.
    Ready,
    /// It takes no new attempts, ends what it runs, and is deleted then.
    Draining,
    /// Its node does not answer: another takes its place.
    Lost,
    /// All its containers ended for good.
    Ended,
    /// It is deleted, but not gone.
    Terminating,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its pod.
    pub pod: Arc<Pod>,
    /// What it is to the pool.
    pub state: WorkerState,
    /// Whether the pool has changed since the pod was made.
    pub outdated: bool,
    /// Whether it is of the build of coordinators that start now.
    pub usable: bool,
    /// Whether its container runs: what does not run holds nothing.
    pub running: bool,
    /// Whether its node answers, if it has one.
    pub reachable: bool,
    /// Since when it drains.
    pub draining_since: Option<Timestamp>,
    /// Since when the scheduler has found no place for it.
    pub unschedulable_since: Option<Timestamp>,
    /// The zone of its node.
    pub zone: Option<String>,
    /// What it last told.
    pub report: Option<WorkerReport>,
}

impl Worker {
    /// What is seen of `pod`. `node` is where it runs, if that is known; `marked` is when it was marked to drain, where
    /// the pod at hand does not show it yet; `revision` is today's.
    pub fn observe(
        pod: Arc<Pod>,
        node: Option<&Node>,
        report: Option<WorkerReport>,
        marked: Option<Timestamp>,
        revision: &Revision,
    ) -> Self {
        let annotation = |key: &str| pod.annotations().get(key).map(String::as_str);
        let shown = annotation(labels::DRAINING).map(|since| {
            // A time that nobody can read is one that has passed.
            since.parse().unwrap_or(Timestamp::UNIX_EPOCH)
        });
        let draining_since = shown.or(marked);
        let reachable = node.is_none_or(answers);
        Self {
            state: state(&pod, reachable, draining_since.is_some()),
            outdated: !revision.includes(&pod),
            usable: revision.includes(&pod) || image(&pod) == Some(&*revision.image),
            running: container(&pod).is_some_and(|status| {
                let state = status.state.as_ref();
                state.is_some_and(|state| state.running.is_some())
            }),
            reachable,
            draining_since,
            unschedulable_since: unschedulable_since(&pod),
            zone: node.and_then(|node| node.labels().get(labels::ZONE).cloned()),
            report,
            pod,
        }
    }

    /// Whether the pod counts as one of the pool's replicas.
    pub fn is_active(&self) -> bool {
        match self.state {
            WorkerState::Unready | WorkerState::Ready => true,
            WorkerState::Draining | WorkerState::Lost | WorkerState::Ended | WorkerState::Terminating => {
                false
            }
        }
    }

    /// Whether the worker takes attempts.
    pub fn is_ready(&self) -> bool {
        self.state == WorkerState::Ready
    }

    /// Whether the worker, which drains, has nothing left that a query needs.
    pub fn is_drained(&self) -> bool {
        let report = self.report.as_ref();
        !self.running
            || !self.reachable
            || report.is_some_and(|report| report.draining && report.queries == 0 && report.slots_in_use == 0)
    }

    /// Shuffle bytes that would be lost with it; unknown counts as most.
    pub fn held_bytes(&self) -> u64 {
        match &self.report {
            Some(report) => report.held_bytes,
            None if self.running => u64::MAX,
            None => 0,
        }
    }
}

/// The image of the worker's container, as the pod asks for it.
fn image(pod: &Pod) -> Option<&str> {
    let containers = &pod.spec.as_ref()?.containers;
    let ours = containers.iter().find(|container| container.name == CONTAINER)?;
    ours.image.as_deref()
}

/// Whether a node's kubelet reports, and says that pods run there.
fn answers(node: &Node) -> bool {
    const GONE: [&str; 2] = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"];
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = taints
        .into_iter()
        .flatten()
        .any(|taint| GONE.contains(&taint.key.as_str()));
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut ready = conditions
        .into_iter()
        .flatten()
        .filter(|condition| condition.type_ == "Ready");
    !tainted && ready.all(|condition| condition.status == "True")
}

fn state(pod: &Pod, reachable: bool, draining: bool) -> WorkerState {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() {
        WorkerState::Terminating
    } else if matches!(phase, Some("Failed" | "Succeeded")) {
        WorkerState::Ended
    } else if draining {
        WorkerState::Draining
    } else if !reachable {
        WorkerState::Lost
    } else if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
        WorkerState::Ready
    } else {
        WorkerState::Unready
    }
}

fn unschedulable_since(pod: &Pod) -> Option<Timestamp> {
    let scheduled = condition(pod, "PodScheduled")?;
    let unschedulable = scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
    let since = scheduled.last_transition_time.as_ref();
    unschedulable.then(|| since.map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}
