//! What a pool's status says.

use sluice_crds::ProgressReason;

use super::super::pod_problem::{self, PodProblem};
use super::*;

fn status_of(seen: &Observed, rejected: &[PodProblem]) -> WorkerPoolStatus {
    status(seen, &decide(seen), rejected)
}

#[test]
fn what_a_status_says() {
    for (replicas, workers, expected) in [
        (0, &[][..], "0/0 True ScaledToZero: scaled to 0: set replicas"),
        (0, &["draining"], "0/0 True WorkersDraining: 1 worker leaves"),
        (2, &[], "0/2 False WorkersStarting: 0 of 2 workers are ready"),
        (
            2,
            &["ready", "starting"],
            "1/2 False WorkersStarting: 1 of 2 workers are ready",
        ),
        (2, &["ready", "ready"], "2/2 True WorkersReady: "),
        (
            2,
            &["ready", "ready", "draining"],
            "2/2 True WorkersDraining: 1 worker leaves",
        ),
        (
            2,
            &["ready old", "ready old"],
            "2/2 False WorkersStarting: 0 of 2 workers are ready; 2 workers leave",
        ),
        (
            2,
            &["ready", "lost"],
            "1/2 False WorkersStarting: 1 of 2 workers are ready",
        ),
        (
            2,
            &["ready", "unplaced"],
            "1/2 False Unschedulable: pod p-1: 0/1 nodes are available: 1 Insufficient cpu.",
        ),
    ] {
        let seen = observed(&json!({"replicas": replicas}), workers);
        assert_eq!(
            readiness(&status_of(&seen, &[])),
            expected,
            "{replicas} of {workers:?}"
        );
    }
}

/// A coordinator uses workers of its own build only, and gets the image in the status.
#[test]
fn a_query_can_use_workers_of_the_image_in_the_status() {
    for (workers, ready, compatible) in [
        (&["ready", "ready"][..], 2, 2),
        (&["ready old", "ready old", "starting"], 2, 0),
        (&["ready old", "ready old", "ready"], 3, 1),
        // Another change of the pool than that of its image.
        (&["ready old image=sluice:1", "ready"], 2, 2),
        (&["ready old image=sluice:1", "unready"], 1, 1),
        (&["draining old", "ready"], 1, 1),
    ] {
        let status = status_of(&observed(&json!({"replicas": 2}), workers), &[]);
        assert_eq!(
            (
                status.image.as_deref(),
                status.ready_replicas,
                status.compatible_replicas
            ),
            (Some("sluice:1"), ready, compatible),
            "{workers:?}"
        );
    }
}

#[test]
fn a_whole_status() {
    let workers = [
        "ready busy zone=b",
        "ready zone=a",
        "draining holds=5",
        "terminating",
        "lost zone=c",
    ];
    let seen = observed(&json!({"replicas": 3, "slotsPerWorker": 4}), &workers);
    let rejected = [PodProblem::new(
        ProgressReason::QuotaExceeded,
        "creating pod p-5: exceeded quota",
    )];
    insta::assert_yaml_snapshot!("whole_status", status_of(&seen, &rejected));
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let mut seen = observed(&json!({"replicas": 1}), &["ready"]);
    let first = status_of(&seen, &[]);
    let mut pool = (*seen.pool).clone();
    pool.status = Some(first.clone());
    seen.pool = Arc::new(pool);
    seen.now = now() + SignedDuration::from_secs(60);
    assert_eq!(status_of(&seen, &[]), first);
    let rejected = [PodProblem::new(ProgressReason::NameTaken, "x".repeat(5000))];
    let condition = status_of(&seen, &rejected).conditions.remove(0);
    assert_eq!(condition.last_transition_time.0, seen.now);
    assert_eq!(condition.message.chars().count(), 1024);
}

#[test]
fn an_invalid_pool_gets_no_pods() {
    let seen = observed(&json!({"replicas": 2, "memory": "1KiB"}), &["ready old"]);
    assert_eq!(done(&decide(&seen)), "");
    let verdict = readiness(&status_of(&seen, &[]));
    assert!(
        verdict.starts_with("1/2 False InvalidSpec: spec.memory is 1KiB"),
        "{verdict}"
    );
}

#[test]
fn pods_tell_why_they_do_not_run() {
    let scheduling = |message: &str| json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]});
    let waiting = |reason: &str| {
        json!({"containerStatuses": [{"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": reason, "message": "m"}},
            "lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": "no key\n"}}}]})
    };
    for (status, expected) in [
        (json!({}), None),
        (waiting("ContainerCreating"), None),
        (
            scheduling("0/3 nodes are available: 3 node(s) had untolerated taint {b: }."),
            Some((
                ProgressReason::Tainted,
                Some("pod p-0: 0/3 nodes are available: 3 node(s) had untolerated taint {b: }."),
            )),
        ),
        (
            json!({"conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(60).to_string()},
                {"type": "PodReadyToStartContainers", "status": "False"}]}),
            Some((ProgressReason::VolumeUnavailable, None)),
        ),
        (
            waiting("ImagePullBackOff"),
            Some((
                ProgressReason::ImagePullFailed,
                Some("pod p-0: ImagePullBackOff: m"),
            )),
        ),
        (
            waiting("CrashLoopBackOff"),
            Some((
                ProgressReason::ContainerFailed,
                Some("pod p-0: CrashLoopBackOff: m; last Error, exit code 2: no key"),
            )),
        ),
    ] {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p-0"}, "status": status})).unwrap();
        let problem = pod_problem::of_pod(&pod, now());
        assert_eq!(
            problem.as_ref().map(|problem| problem.reason),
            expected.map(|(reason, _)| reason),
            "{status}"
        );
        if let Some((_, Some(message))) = expected {
            assert_eq!(problem.unwrap().message, message);
        }
    }
}

#[test]
fn a_pool_that_scales_itself_has_the_workers_that_it_chose() {
    let spec = json!({"replicas": 7, "autoscaling": {"maxReplicas": 3}});
    let mut seen = observed(&spec, &["ready", "ready"]);
    for (chosen, expected, created) in [
        (0, "2/0 True WorkersReady: ", 0),
        (2, "2/2 True WorkersReady: ", 0),
        (3, "2/3 False WorkersStarting: 2 of 3 workers are ready", 1),
    ] {
        seen.replicas = chosen;
        let status = status_of(&seen, &[]);
        assert_eq!(status.desired_replicas, Some(chosen));
        let wanted = decide(&seen);
        assert_eq!(wanted.create.len(), created);
        if chosen > 0 {
            assert_eq!(readiness(&status), expected);
        } else {
            assert_eq!(
                wanted.patch.iter().filter(|mark| mark.draining.is_some()).count(),
                2
            );
        }
    }
    let mut none = observed(&spec, &[]);
    none.replicas = 0;
    assert_eq!(
        readiness(&status_of(&none, &[])),
        "0/0 True ScaledToZero: scaled to 0: no query wants a worker"
    );
    let plain = observed(&json!({"replicas": 1}), &[]);
    assert_eq!(status_of(&plain, &[]).desired_replicas, None);
}
