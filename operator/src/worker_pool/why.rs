//! Why a pod does not run, in words of the status.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;
use sluice_crds::ProgressReason;

use crate::objects::worker::CONTAINER;

/// Something that keeps a pool from being as its spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As the condition has it.
    pub reason: ProgressReason,
    /// The same for a human reader, with what to do.
    pub message: String,
}

impl Trouble {
    /// A trouble.
    pub fn new(reason: ProgressReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Why `pod` does not run, as far as its status tells; `None` while it just starts.
pub fn of_pod(pod: &Pod) -> Option<Trouble> {
    scheduling(pod).or_else(|| container(pod).and_then(|status| starting(&pod.name_any(), status)))
}

fn scheduling(pod: &Pod) -> Option<Trouble> {
    let scheduled = condition(pod, "PodScheduled").filter(|scheduled| scheduled.status == "False")?;
    let message = scheduled.message.as_deref().unwrap_or_default();
    let lower = message.to_lowercase();
    let reason = if [
        "persistentvolumeclaim",
        "persistent volume",
        "volume node affinity",
    ]
    .iter()
    .any(|words| lower.contains(words))
    {
        ProgressReason::VolumeUnavailable
    } else if all_tainted(message) {
        ProgressReason::Tainted
    } else {
        ProgressReason::Unschedulable
    };
    Some(Trouble::new(reason, format!("pod {}: {message}", pod.name_any())))
}

/// Whether the scheduler found a taint on every node: `0/3 nodes are available: 1 node(s) had untolerated taint(s) .., 2
/// node(s) had ..`.
fn all_tainted(message: &str) -> bool {
    let Some((nodes, causes)) = message.split_once(" nodes are available: ") else {
        return false;
    };
    let total = nodes
        .rsplit('/')
        .next()
        .and_then(|total| total.parse::<usize>().ok());
    // What follows speaks of preemption.
    let causes = causes.split(". ").next().unwrap_or_default();
    let mut tainted = 0_usize;
    let mut before: Option<&str> = None;
    for part in causes.split(" node(s) had untolerated taint") {
        if let Some(count) = before {
            let digits = count.rsplit(' ').next().unwrap_or_default();
            tainted = tainted.saturating_add(digits.parse().unwrap_or(0));
        }
        before = Some(part);
    }
    total.is_some_and(|total| total > 0 && tainted == total)
}

fn starting(pod: &str, status: &ContainerStatus) -> Option<Trouble> {
    let state = status.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref())?;
    let message = waiting
        .and_then(|waiting| waiting.message.as_deref())
        .unwrap_or_default();
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => Some(Trouble::new(
            ProgressReason::ImagePullFailed,
            format!("pod {pod}: {reason}: {message}"),
        )),
        "CrashLoopBackOff"
        | "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "StartError" => Some(Trouble::new(
            ProgressReason::ContainerFailed,
            format!("pod {pod}: {reason}: {message}{}", last_end(status)),
        )),
        _ => None,
    }
}

/// How the container ended the last time.
fn last_end(status: &ContainerStatus) -> String {
    let last = status.last_state.as_ref();
    let Some(ended) = last.and_then(|state| state.terminated.as_ref()) else {
        return String::new();
    };
    let why = ended.reason.as_deref().unwrap_or("ended");
    let text = ended.message.as_deref().unwrap_or_default();
    format!("; last {why}, exit code {}: {}", ended.exit_code, text.trim_end())
}

/// Why the API server does not take a pod; `None` if trying again may help.
pub fn of_refusal(doing: &str, error: &kube::Error) -> Option<Trouble> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let reason = match status.code {
        403 if status.message.contains("exceeded quota") => ProgressReason::QuotaExceeded,
        400 | 403 | 404 | 422 => ProgressReason::PodRefused,
        _ => return None,
    };
    Some(Trouble::new(reason, format!("{doing}: {}", status.message)))
}

/// The condition of a pod of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The status of the worker's container.
pub fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|status| status.name == CONTAINER)
}
