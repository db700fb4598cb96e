//! The state of a coordinator's pod: why it waits, whether it runs, how it ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodStatus};
use kube::ResourceExt;
use sluice_core::termination::Termination;
use sluice_crds::ProgressReason;
use sluice_crds::process::exit_code;

use crate::objects::coordinator::{COORDINATOR_CONTAINER, epoch_of, memory_factor_of};
use crate::pod_diagnosis;

/// Why a process ended by SIGTERM although its pod was not deleted.
const STOPPED_BY_PROBE: &str =
    "stopped by its kubelet: it took too long to start, or did not answer for over a minute";
/// Most characters of a termination message that is not ours.
const MAX_TERMINATION_MESSAGE: usize = 512;

#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorPod {
    pub name: String,
    pub epoch: u64,
    /// The multiple of the pool's coordinator memory that it has.
    pub memory_factor: u32,
    /// Whether it is being deleted. It may still run on a node that cannot be reached.
    pub leaving: bool,
    /// Its address. It is often known a second before the kubelet reports that the container runs.
    pub ip: Option<String>,
    /// When its container started, if it runs.
    pub started: Option<Timestamp>,
    pub state: PodState,
}

/// The state of a coordinator's pod.
///
/// ```text
/// Waiting --> Running --> Ended
///    `----------------------^
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// Its container does not run yet.
    Waiting(WaitReason),
    /// Its container runs at this address. Only its reports show whether it serves.
    Running(String),
    /// Its container will not run again.
    Ended(PodEnd),
}

/// Why a pod waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitReason {
    pub reason: ProgressReason,
    /// The message of Kubernetes, with what to do.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PodEnd {
    /// It reported the end of its query.
    Reported(Box<Termination>),
    /// It rejected its input. Only its log says why.
    Refused(String),
    /// It was cancelled, and could not report that.
    Cancelled,
    NoWorkers,
    /// It was stopped, evicted, preempted, or lost with its node. That is not its fault.
    Lost(String),
    /// It ran out of memory.
    OutOfMemory,
    /// It ended for an unknown reason.
    Crashed(String),
}

impl CoordinatorPod {
    /// Reads a pod at `now`; `None` if it is no coordinator's.
    pub fn read(pod: &Pod, now: Timestamp) -> Option<Self> {
        let none = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&none);
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let name = pod.name_any();
        Some(Self {
            epoch: epoch_of(pod)?,
            memory_factor: memory_factor_of(pod),
            leaving,
            ip: address(status).cloned(),
            started: started(status),
            state: state(status, leaving, &name, now),
            name,
        })
    }

    /// Whether its process runs or may still start.
    pub fn may_run(&self) -> bool {
        match self.state {
            PodState::Waiting(_) | PodState::Running(_) => true,
            PodState::Ended(_) => false,
        }
    }

    /// Where its service is or will soon be; `None` if it has no address yet, or has ended.
    pub fn service_address(&self) -> Option<&str> {
        self.ip.as_deref().filter(|_| self.may_run())
    }

    /// The address of its service, if it runs.
    pub fn address(&self) -> Option<&str> {
        match &self.state {
            PodState::Running(address) => Some(address),
            PodState::Waiting(_) | PodState::Ended(_) => None,
        }
    }
}

fn state(status: &PodStatus, leaving: bool, name: &str, now: Timestamp) -> PodState {
    if let Some(end) = end(status, leaving) {
        return PodState::Ended(end);
    }
    let running = container(status).is_some_and(|state| state.running.is_some());
    match address(status) {
        Some(ip) if running => PodState::Running(ip.clone()),
        Some(_) | None => PodState::Waiting(wait_reason(status, name, now)),
    }
}

fn address(status: &PodStatus) -> Option<&String> {
    status.pod_ip.as_ref().filter(|ip| !ip.is_empty())
}

fn started(status: &PodStatus) -> Option<Timestamp> {
    let running = container(status)?.running.as_ref()?;
    running.started_at.as_ref().map(|started| started.0)
}

fn container(status: &PodStatus) -> Option<&ContainerState> {
    pod_diagnosis::container(status, COORDINATOR_CONTAINER)?
        .state
        .as_ref()
}

fn is_true(status: &PodStatus, condition: &str) -> bool {
    pod_diagnosis::condition(status, condition).is_some_and(|seen| seen.status == "True")
}

fn wait_reason(status: &PodStatus, name: &str, now: Timestamp) -> WaitReason {
    let unstarted = || {
        let (reason, _, message) = pod_diagnosis::unstarted(container(status)?)?;
        Some((reason, message.to_owned()))
    };
    let unscheduled = || {
        let (reason, message) = pod_diagnosis::unscheduled(status)?;
        Some((reason, message.to_owned()))
    };
    let known = unstarted()
        .or_else(unscheduled)
        .or_else(|| pod_diagnosis::unmounted(status, name, now));
    let (reason, message) = known.unwrap_or((ProgressReason::CoordinatorStarting, String::new()));
    WaitReason { reason, message }
}

fn end(status: &PodStatus, leaving: bool) -> Option<PodEnd> {
    if let Some(terminated) = container(status).and_then(|state| state.terminated.as_ref()) {
        return Some(why_terminated(status, terminated, leaving));
    }
    let reason = status.reason.clone().unwrap_or_default();
    match status.phase.as_deref() {
        Some("Failed") => Some(PodEnd::Lost(sentence(&reason, status.message.as_deref()))),
        Some("Succeeded") => Some(PodEnd::Crashed("the pod ended without its container".to_owned())),
        _ => None,
    }
}

fn why_terminated(status: &PodStatus, terminated: &ContainerStateTerminated, leaving: bool) -> PodEnd {
    let message = terminated.message.as_deref().unwrap_or_default();
    if let Ok(termination) = Termination::decode(message)
        && termination.phase.is_terminal()
    {
        return PodEnd::Reported(Box::new(termination));
    }
    let reason = terminated.reason.as_deref().unwrap_or_default();
    if reason == "OOMKilled" {
        return PodEnd::OutOfMemory;
    }
    // It was evicted or preempted, or its node went down. The pod's status has the cause.
    let disrupted = is_true(status, "DisruptionTarget") || status.reason.is_some();
    if disrupted {
        let reason = status.reason.as_deref().unwrap_or("the pod was disrupted");
        return PodEnd::Lost(sentence(reason, status.message.as_deref()));
    }
    // After a node was away, the kubelet does not know how the container ended.
    if ["ContainerStatusUnknown", "Unknown"].contains(&reason) {
        return PodEnd::Lost("the node was lost".to_owned());
    }
    match u8::try_from(terminated.exit_code) {
        Ok(exit_code::TERMINATED) if leaving => PodEnd::Lost("the coordinator was stopped".to_owned()),
        // The kubelet stopped it after a failed probe. The next one may fail in the same way.
        Ok(exit_code::TERMINATED) => {
            PodEnd::Crashed(sentence(STOPPED_BY_PROBE, Some(&termination_message(message))))
        }
        Ok(exit_code::INVALID_INPUT) => PodEnd::Refused(termination_message(message)),
        Ok(exit_code::NO_WORKERS) => PodEnd::NoWorkers,
        Ok(exit_code::CANCELLED) => PodEnd::Cancelled,
        _ => PodEnd::Crashed(sentence(
            &format!("exit code {}", terminated.exit_code),
            Some(&termination_message(message)),
        )),
    }
}

fn sentence(reason: &str, message: Option<&str>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) if reason.is_empty() => message.to_owned(),
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

/// The end of a log, which says more than its start.
fn termination_message(log: &str) -> String {
    let log = log.trim();
    let skip = log.chars().count().saturating_sub(MAX_TERMINATION_MESSAGE);
    log.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests;
