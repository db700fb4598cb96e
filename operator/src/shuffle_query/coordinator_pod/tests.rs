use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2030-01-01T00:01:00Z".parse().unwrap()
}

fn read(status: Value) -> CoordinatorPod {
    read_pod(status, false)
}

fn read_pod(status: Value, leaving: bool) -> CoordinatorPod {
    let mut pod = json!({
        "metadata": {"name": "q-c3", "labels": {
            "app.kubernetes.io/component": "coordinator", "sluice.dev/epoch": "3"},
            "annotations": {"sluice.dev/memory-factor": "4"}},
    });
    pod["status"] = status;
    if leaving {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    }
    CoordinatorPod::read(&serde_json::from_value(pod).unwrap(), now()).unwrap()
}

fn container(state: Value) -> Value {
    let mut container =
        json!({"name": "coordinator", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
    container["state"] = state;
    Value::Array(vec![container])
}

#[test]
fn a_pod_waits_for_what_kubernetes_says() {
    let unscheduled = |message: &str| {
        json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]})
    };
    let waiting = |reason: &str| {
        json!({"phase": "Pending",
               "containerStatuses": container(json!({"waiting": {"reason": reason, "message": "m"}}))})
    };
    for (status, reason) in [
        (json!({}), ProgressReason::CoordinatorStarting),
        (waiting("ContainerCreating"), ProgressReason::CoordinatorStarting),
        (waiting("ImagePullBackOff"), ProgressReason::ImagePullFailed),
        (waiting("ErrImagePull"), ProgressReason::ImagePullFailed),
        (
            waiting("CreateContainerConfigError"),
            ProgressReason::ContainerFailed,
        ),
        (
            unscheduled("0/3 nodes are available: 3 Insufficient cpu."),
            ProgressReason::Unschedulable,
        ),
        (
            unscheduled("0/3 nodes are available: 3 node(s) had untolerated taint {a: b}."),
            ProgressReason::Tainted,
        ),
        (
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"},
                {"type": "PodReadyToStartContainers", "status": "False"}]}),
            ProgressReason::VolumeUnavailable,
        ),
    ] {
        let PodState::Waiting(wait) = read(status.clone()).state else {
            panic!("{status} does not wait");
        };
        assert_eq!(wait.reason, reason, "{status}");
    }
}

#[test]
fn a_pod_is_asked_once_its_container_runs() {
    let running = json!({"phase": "Running", "podIP": "10.0.0.1",
                         "containerStatuses": container(json!({"running": {}}))});
    let pod = read(running);
    assert_eq!((pod.epoch, pod.memory_factor, pod.leaving), (3, 4, false));
    assert_eq!(pod.state, PodState::Running("10.0.0.1".to_owned()));
}

#[test]
fn how_a_pod_ended_is_read_from_its_words_then_from_kubernetes_then_from_its_code() {
    let ended = |code: i32, reason: &str, message: &str| {
        json!({"phase": "Failed", "containerStatuses": container(json!({"terminated":
            {"exitCode": code, "reason": reason, "message": message}}))})
    };
    let mut evicted = ended(143, "Error", "");
    evicted["reason"] = json!("Evicted");
    evicted["message"] = json!("low on memory");
    let mut preempted = ended(143, "Error", "");
    preempted["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    let lost = |why: &str| PodEnd::Lost(why.to_owned());
    for (status, end) in [
        (ended(137, "OOMKilled", ""), PodEnd::OutOfMemory),
        (evicted, lost("Evicted: low on memory")),
        (preempted, lost("the pod was disrupted")),
        (
            ended(137, "ContainerStatusUnknown", ""),
            lost("the node was lost"),
        ),
        (
            json!({"phase": "Failed", "reason": "NodeShutdown"}),
            lost("NodeShutdown"),
        ),
        (
            ended(2, "Error", "no such file\n"),
            PodEnd::Refused("no such file".to_owned()),
        ),
        (ended(4, "Error", ""), PodEnd::NoWorkers),
        (ended(130, "Error", ""), PodEnd::Cancelled),
        (
            ended(101, "Error", "panicked"),
            PodEnd::Crashed("exit code 101: panicked".to_owned()),
        ),
    ] {
        assert_eq!(read(status.clone()).state, PodState::Ended(end), "{status}");
    }
    // Who stopped it: somebody who deleted its pod, or the kubelet, as the probe of a mount that hangs fails.
    let stopped = || ended(143, "Error", "reading /data");
    let leaves = read_pod(stopped(), true);
    assert_eq!(leaves.state, PodState::Ended(lost("the coordinator was stopped")));
    let PodState::Ended(PodEnd::Crashed(how)) = read(stopped()).state else {
        panic!("it starts again without end");
    };
    assert!(
        how.starts_with("stopped by its kubelet: ") && how.ends_with(": reading /data"),
        "{how}"
    );
    let message = r#"{"phase":"Failed","reason":"TaskFailed","message":"m"}"#;
    let PodState::Ended(PodEnd::Reported(termination)) = read(ended(137, "OOMKilled", message)).state else {
        panic!("the termination message is not read");
    };
    assert_eq!(termination.message.as_deref(), Some("m"));
}
