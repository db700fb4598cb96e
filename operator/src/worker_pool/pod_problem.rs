//! Why a pod of a pool does not run.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;
use sluice_crds::ProgressReason;

use crate::controller_runtime::api::Rejection;
use crate::objects::worker::CONTAINER;
use crate::pod_diagnosis;

/// A problem that keeps a pool from matching its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProblem {
    pub reason: ProgressReason,
    /// For people, with what to do.
    pub message: String,
}

impl PodProblem {
    pub fn new(reason: ProgressReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl From<Rejection> for PodProblem {
    fn from(Rejection { reason, message }: Rejection) -> Self {
        Self { reason, message }
    }
}

/// Why `pod` does not run, from its status; `None` while it just starts.
pub fn of_pod(pod: &Pod, now: Timestamp) -> Option<PodProblem> {
    let (status, name) = (pod.status.as_ref()?, pod.name_any());
    let unscheduled = pod_diagnosis::unscheduled(status)
        .map(|(reason, message)| PodProblem::new(reason, format!("pod {name}: {message}")));
    let unmounted = || {
        let (reason, message) = pod_diagnosis::unmounted(status, &name, now)?;
        Some(PodProblem::new(reason, message))
    };
    unscheduled.or_else(|| unstarted(pod)).or_else(unmounted)
}

/// Why the kubelet cannot start the container of `pod`.
pub fn unstarted(pod: &Pod) -> Option<PodProblem> {
    let container = container(pod)?;
    let (reason, word, message) = pod_diagnosis::unstarted(container.state.as_ref()?)?;
    let last = match reason {
        ProgressReason::ContainerFailed => last_end(container),
        _ => String::new(),
    };
    let name = pod.name_any();
    Some(PodProblem::new(
        reason,
        format!("pod {name}: {word}: {message}{last}"),
    ))
}

/// How the container ended last time.
fn last_end(status: &ContainerStatus) -> String {
    let last = status.last_state.as_ref();
    let Some(ended) = last.and_then(|state| state.terminated.as_ref()) else {
        return String::new();
    };
    let why = ended.reason.as_deref().unwrap_or("ended");
    let text = ended.message.as_deref().unwrap_or_default();
    format!("; last {why}, exit code {}: {}", ended.exit_code, text.trim_end())
}

/// The condition of a pod of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod_diagnosis::condition(pod.status.as_ref()?, kind)
}

/// The status of the worker's container.
pub fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod_diagnosis::container(pod.status.as_ref()?, CONTAINER)
}
