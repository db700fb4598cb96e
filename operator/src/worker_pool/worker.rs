//! One worker of a pool, from its pod, its node and its report.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::pod_problem::{condition, container};
use super::revision::Revision;
use crate::objects::labels;
use crate::objects::worker::CONTAINER;
use crate::rpc::worker::WorkerReport;

/// The state of a worker.
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
    /// It takes no new attempts, finishes the running ones, and is deleted then.
    Draining,
    /// Its node does not answer. Another worker replaces it.
    Lost,
    /// All its containers have ended for good.
    Ended,
    /// It is being deleted.
    Terminating,
}

#[derive(Clone, Debug)]
pub struct Worker {
    pub pod: Arc<Pod>,
    pub state: WorkerState,
    /// Whether its pod is of an earlier spec.
    pub outdated: bool,
    /// Whether it is of the build of coordinators that start now.
    pub compatible: bool,
    /// Whether its container runs. A worker that does not run holds no data.
    pub running: bool,
    /// Whether its container has served since it started. One that still starts holds no data.
    pub served: bool,
    /// Whether its node answers, if it has one.
    pub reachable: bool,
    pub draining_since: Option<Timestamp>,
    /// Since when it is unschedulable.
    pub unschedulable_since: Option<Timestamp>,
    /// The zone of its node.
    pub zone: Option<String>,
    /// What it last told.
    pub report: Option<WorkerReport>,
    /// Whether it is about to be asked for the first time: what it holds is known soon.
    pub not_polled: bool,
}

/// What is known from asking a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PollResult {
    /// It was not asked since the operator began.
    #[default]
    NotPolled,
    /// It did not answer.
    Unreachable,
    /// It told this.
    Reported(WorkerReport),
}

impl Worker {
    /// What is seen of `pod`. `node` is where it runs, if that is known; `marked` is when it was marked to drain, where
    /// the pod at hand does not show it yet; `revision` is today's.
    pub fn observe(
        pod: Arc<Pod>,
        node: Option<&Node>,
        answer: PollResult,
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
        let state = state(&pod, reachable, draining_since.is_some());
        let (not_polled, report) = match answer {
            PollResult::NotPolled => (true, None),
            PollResult::Unreachable => (false, None),
            PollResult::Reported(report) => (false, Some(report)),
        };
        let running = container(&pod).is_some_and(|status| {
            let state = status.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        });
        Self {
            state,
            outdated: !revision.includes(&pod),
            compatible: revision.includes(&pod) || image(&pod) == Some(&*revision.image),
            served: running
                && container(&pod).is_some_and(|status| status.started == Some(true) || status.ready),
            not_polled: not_polled && can_be_asked(&pod, state, running, reachable),
            running,
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
            None if self.served => u64::MAX,
            None => 0,
        }
    }

    /// The IP of its pod, if it runs where it can be asked.
    pub fn address(&self) -> Option<IpAddr> {
        let asked = can_be_asked(&self.pod, self.state, self.running, self.reachable);
        ip(&self.pod).filter(|_| asked)
    }
}

fn ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

fn can_be_asked(pod: &Pod, state: WorkerState, running: bool, reachable: bool) -> bool {
    let there = match state {
        WorkerState::Unready | WorkerState::Ready | WorkerState::Draining => true,
        WorkerState::Lost | WorkerState::Ended | WorkerState::Terminating => false,
    };
    there && running && reachable && ip(pod).is_some()
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
