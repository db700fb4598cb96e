//! Why the container of a pod does not run: the same for workers and coordinators.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodCondition, PodStatus};
use sluice_crds::ProgressReason;

/// How long a kubelet may take to mount volumes before the delay is reported.
const MOUNT_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// The condition of this type.
pub fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

/// The status of the container of this name.
pub fn container<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let mut containers = status.container_statuses.iter().flatten();
    containers.find(|container| container.name == name)
}

/// The reason and the scheduler's message of a pod without a node; `None` if it has one, or was not scheduled yet.
pub fn unscheduled(status: &PodStatus) -> Option<(ProgressReason, &str)> {
    let seen = condition(status, "PodScheduled").filter(|seen| seen.status == "False")?;
    let message = seen.message.as_deref().unwrap_or_default();
    Some((why_unscheduled(message), message))
}

/// The scheduler counts nodes by obstacle, only as prose: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated
/// taint {a: b}.`
fn why_unscheduled(message: &str) -> ProgressReason {
    const VOLUMES: [&str; 5] = [
        "persistentvolumeclaim",
        "persistent volume",
        "volume node affinity",
        "volume count",
        "pvc(s)",
    ];
    let lower = message.to_lowercase();
    if VOLUMES.iter().any(|words| lower.contains(words)) {
        ProgressReason::VolumeUnavailable
    } else if all_tainted(message) {
        ProgressReason::Tainted
    } else {
        ProgressReason::Unschedulable
    }
}

/// Whether every node has a taint: `0/3 nodes are available: 1 node(s) had untolerated taint(s) .., 2 node(s) had ..`.
fn all_tainted(message: &str) -> bool {
    let Some((nodes, causes)) = message.split_once(" nodes are available: ") else {
        return false;
    };
    let total = nodes
        .rsplit('/')
        .next()
        .and_then(|total| total.parse::<usize>().ok());
    // The rest is about preemption.
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

/// Why the kubelet cannot start a container: our reason, the kubelet's, and the message. `None` while it may still start.
pub fn unstarted(state: &ContainerState) -> Option<(ProgressReason, &str, &str)> {
    let waiting = state.waiting.as_ref()?;
    let word = waiting.reason.as_deref()?;
    let reason = match word {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => ProgressReason::ImagePullFailed,
        "CrashLoopBackOff"
        | "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "StartError" => ProgressReason::ContainerFailed,
        _ => return None,
    };
    Some((reason, word, waiting.message.as_deref().unwrap_or_default()))
}

/// Why a pod that was scheduled a while ago has no container yet. Only events name the cause. Pulling the image comes later.
pub fn unmounted(status: &PodStatus, name: &str, now: Timestamp) -> Option<(ProgressReason, String)> {
    let scheduled = condition(status, "PodScheduled").filter(|seen| seen.status == "True")?;
    condition(status, "PodReadyToStartContainers").filter(|seen| seen.status == "False")?;
    let begun = status.container_statuses.iter().flatten().any(|container| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    });
    let since = scheduled.last_transition_time.as_ref()?.0;
    if begun || now.duration_since(since) < MOUNT_TIMEOUT {
        return None;
    }
    let message = format!(
        "a Secret, a ConfigMap or a volume of pod {name} is missing or cannot be mounted, or its node gives it no network: \
         kubectl describe pod {name}"
    );
    Some((ProgressReason::VolumeUnavailable, message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_scheduler_is_understood() {
        use ProgressReason::{Tainted, Unschedulable, VolumeUnavailable};
        for (message, expected) in [
            ("0/3 nodes are available: 3 Insufficient cpu.", Unschedulable),
            (
                "0/3 nodes are available: 3 node(s) had untolerated taint {a: b}.",
                Tainted,
            ),
            (
                "0/3 nodes are available: 1 node(s) had untolerated taint(s) {a: }, 2 node(s) had untolerated taint {b: }. \
                 preemption: 0/3 nodes are available: 3 Preemption is not helpful",
                Tainted,
            ),
            (
                "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}.",
                Unschedulable,
            ),
            // The node without a taint is not one that the pod may use.
            (
                "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) had untolerated \
                 taint {a: b}.",
                Unschedulable,
            ),
            (
                "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
                VolumeUnavailable,
            ),
            ("persistentvolumeclaim \"data\" not found", VolumeUnavailable),
            (
                "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
                VolumeUnavailable,
            ),
            (
                "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.",
                VolumeUnavailable,
            ),
            (
                "0/1 nodes are available: 1 node(s) exceed max volume count.",
                VolumeUnavailable,
            ),
        ] {
            let status =
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]});
            let status: PodStatus = serde_json::from_value(status).unwrap();
            assert_eq!(unscheduled(&status), Some((expected, message)));
        }
        assert_eq!(unscheduled(&PodStatus::default()), None);
    }

    #[test]
    fn a_pod_that_cannot_mount_says_so_after_a_while() {
        let scheduled_at: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let pod = |begins: &str, state: Value| -> PodStatus {
            let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            let conditions = json!([
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled_at.to_string()},
                {"type": "PodReadyToStartContainers", "status": begins},
            ]);
            serde_json::from_value(json!({"conditions": conditions, "containerStatuses": [container]}))
                .unwrap()
        };
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        for (begins, state, seconds, expected) in [
            ("False", &creating, 59, false),
            ("False", &creating, 60, true),
            // It pulls its image.
            ("True", &creating, 600, false),
            ("False", &json!({"terminated": {"exitCode": 0}}), 600, false),
            ("False", &json!({"running": {}}), 600, false),
        ] {
            let now = scheduled_at + SignedDuration::from_secs(seconds);
            let said = unmounted(&pod(begins, state.clone()), "q-c1", now);
            assert_eq!(said.is_some(), expected, "{begins} {state} after {seconds} s");
            if let Some((reason, message)) = said {
                assert_eq!(reason, ProgressReason::VolumeUnavailable);
                assert!(message.ends_with("kubectl describe pod q-c1"), "{message}");
            }
        }
        assert_eq!(unmounted(&PodStatus::default(), "q-c1", scheduled_at), None);
    }
}
