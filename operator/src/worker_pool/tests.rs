//! A table of decisions about a pool.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};
use sluice_crds::{WorkerPool, WorkerPoolStatus};

use super::decide::{Desired, decide};
use super::observed::{Observed, Settings};
use super::revision::Revision;
use super::status::status;
use super::worker::{PollResult, Worker};
use crate::rpc::worker::WorkerReport;
use crate::volume_claims;

mod mounts;
mod status;

const NOW: &str = "2030-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn pool(spec: &Value) -> WorkerPool {
    let pool = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 7}, "spec": spec,
    });
    serde_json::from_value(pool).unwrap()
}

fn revision(pool: &WorkerPool) -> Revision {
    Revision::of(pool, &[], "sluice:1")
}

/// A worker as a kind, such as `ready`, and options: `old`, `holds=5`, `zone=a`, `image=a`, `since=30`, `idle`, `busy`,
/// `asked=no`, `starts` (has not served yet). A worker without a report does not answer.
fn worker(pool: &WorkerPool, number: usize, words: &str) -> Worker {
    let mut words = words.split(' ');
    let kind = words.next().unwrap();
    let mut hash = revision(pool).spec_hash;
    let mut zone = "a";
    let (mut report, mut since) = (None::<WorkerReport>, 0);
    let (mut image, mut not_polled, mut served) = ("sluice:0", false, true);
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("old", _) => hash = "old".to_owned(),
            ("zone", name) => zone = name,
            ("image", name) => image = name,
            ("asked", "no") => not_polled = true,
            ("starts", _) => served = false,
            ("since", seconds) => since = seconds.parse().unwrap(),
            ("holds", bytes) => report.get_or_insert_default().held_bytes = bytes.parse().unwrap(),
            ("idle", _) => report.get_or_insert_default().draining = true,
            ("busy", _) => {
                let report = report.get_or_insert_default();
                (report.draining, report.queries, report.slots, report.slots_in_use) = (true, 1, 2, 1);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut pod = json!({
        "metadata": {"name": format!("p-{number}"), "namespace": "n", "uid": format!("u{number}"),
            "labels": {"sluice.dev/pool": "p", "topology.kubernetes.io/zone": zone}, "annotations": {"sluice.dev/spec-hash": hash}},
        "spec": {"containers": [{"name": "worker", "image": image}], "nodeName": "node"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "worker", "image": "", "imageID": "", "ready": served, "restartCount": 0,
                "state": {"running": {}}}], "podIP": "10.0.0.1"},
    });
    let not_running = json!({"phase": "Pending"});
    match kind {
        "ready" | "lost" => {}
        "unready" => pod["status"]["conditions"][0]["status"] = json!("False"),
        "starting" => pod["status"] = not_running,
        "unplaced" => {
            pod["spec"]["nodeName"] = Value::Null;
            pod["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu.",
                "lastTransitionTime": ago(since).to_string()}]});
        }
        "draining" => pod["metadata"]["annotations"]["sluice.dev/draining"] = json!(ago(since).to_string()),
        "failed" => pod["status"] = json!({"phase": "Failed"}),
        "terminating" => pod["metadata"]["deletionTimestamp"] = json!(NOW),
        other => panic!("{other}"),
    }
    let ready = if kind == "lost" { "Unknown" } else { "True" };
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "node", "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap();
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let answer = match report {
        _ if not_polled => PollResult::NotPolled,
        None => PollResult::Unreachable,
        Some(report) => PollResult::Reported(report),
    };
    let node = pod.spec.as_ref().unwrap().node_name.is_some().then_some(&node);
    Worker::observe(Arc::new(pod), node, answer, None, &revision(pool))
}

fn observed(spec: &Value, workers: &[&str]) -> Observed {
    let pool = pool(spec);
    let workers: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(number, words)| worker(&pool, number, words))
        .collect();
    Observed {
        replicas: pool.spec.replicas,
        demand: Default::default(),
        taken: workers.iter().map(|worker| worker.pod.name_any()).collect(),
        workers,
        claims: volume_claims::mounted(&pool.spec, |_| None, |_| None),
        revision: revision(&pool),
        settings: Settings {
            default_image: "sluice:1".to_owned(),
            public_key: None,
            log_format: Default::default(),
        },
        now: now(),
        pool: Arc::new(pool),
    }
}

/// The decision in one line.
fn done(wanted: &Desired) -> String {
    let mut parts = Vec::new();
    parts.extend(wanted.create.iter().map(|pod| format!("+{}", pod.name_any())));
    for mark in &wanted.patch {
        if let Some((_, why)) = mark.draining {
            parts.push(format!("drain {} {why:?}", mark.pod.name_any()));
        }
    }
    parts.extend(
        wanted
            .delete
            .iter()
            .map(|gone| format!("-{} {:?}", gone.pod.name_any(), gone.why)),
    );
    parts.join(", ")
}

/// The first condition in one line.
fn readiness(status: &WorkerPoolStatus) -> String {
    let condition = serde_json::to_value(&status.conditions[0]).unwrap();
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    format!(
        "{} {} {}: {}",
        status.ready.clone().unwrap(),
        text("status"),
        text("reason"),
        text("message")
    )
}

/// Wanted workers, existing workers, and the decision in any order.
const SITUATIONS: &[(u32, &[&str], &str)] = &[
    (0, &[], ""),
    (3, &[], "+p-0, +p-1, +p-2"),
    (2, &["ready", "starting"], ""),
    // Terminating pods keep their names and do not count. Lost pods do not count either. Ended pods are deleted.
    (2, &["terminating", "ready"], "+p-2"),
    (2, &["lost", "ready"], "+p-2"),
    (2, &["failed", "ready"], "+p-2, -p-0 Ended"),
    // Lost workers are not replaced without end.
    (1, &["lost", "lost"], "+p-2"),
    (1, &["lost", "lost", "lost"], ""),
    // A node that came back leaves one worker too many.
    (1, &["ready holds=9", "ready holds=1"], "drain p-1 Surplus"),
    // Fewest shuffle bytes first. Pods that never ran are deleted at once, before all others.
    (
        2,
        &["ready holds=3", "ready holds=1", "ready holds=2"],
        "drain p-1 Surplus",
    ),
    (
        1,
        &["ready holds=3", "ready holds=1", "ready holds=2"],
        "drain p-1 Surplus, drain p-2 Surplus",
    ),
    (1, &["ready holds=0", "starting"], "-p-1 Surplus"),
    (1, &["ready holds=5", "ready"], "drain p-0 Surplus"),
    // A worker that is not ready may hold more, or an unknown amount. One that has never served holds nothing.
    (1, &["ready holds=0", "unready holds=100"], "drain p-0 Surplus"),
    (1, &["ready holds=0", "unready"], "drain p-0 Surplus"),
    (1, &["ready holds=0", "unready holds=0"], "drain p-1 Surplus"),
    (1, &["ready holds=0", "unready starts"], "drain p-1 Surplus"),
    // The operator has just started: workers are polled first. Pods that do not run are not waited for.
    (1, &["ready holds=5", "ready asked=no"], ""),
    (1, &["ready asked=no", "ready asked=no"], ""),
    (1, &["ready asked=no", "starting"], "-p-1 Surplus"),
    (2, &["ready old asked=no", "ready old", "ready"], ""),
    (
        1,
        &["lost asked=no", "ready holds=2", "ready holds=1"],
        "drain p-2 Surplus",
    ),
    (
        0,
        &["ready holds=5", "unplaced"],
        "drain p-0 Surplus, -p-1 Surplus",
    ),
    // Among equals: the fullest zone, then the highest number.
    (
        2,
        &[
            "ready holds=0 zone=a",
            "ready holds=0 zone=b",
            "ready holds=0 zone=a",
        ],
        "drain p-2 Surplus",
    ),
    (
        2,
        &[
            "ready holds=0 zone=b",
            "ready holds=0 zone=a",
            "ready holds=0 zone=c",
            "ready holds=0 zone=a",
        ],
        "drain p-2 Surplus, drain p-3 Surplus",
    ),
    // A draining worker does not count. It is deleted once it is idle, late or unreachable.
    (1, &["draining busy since=10", "ready"], ""),
    (1, &["draining since=10", "ready"], ""),
    (1, &["draining holds=0 since=10", "ready"], ""),
    (1, &["draining idle since=10", "ready"], "-p-0 Drained"),
    (1, &["draining busy since=600", "ready"], "-p-0 DrainTimedOut"),
    (1, &["draining busy since=599", "ready"], ""),
    (2, &["draining busy since=10", "ready"], "+p-2"),
    // A new spec: one more pod first, then old ones drain one by one.
    (2, &["ready old", "ready old"], "+p-2"),
    (2, &["ready old", "ready old", "starting"], ""),
    (
        2,
        &["ready old holds=2", "ready old holds=1", "ready"],
        "drain p-1 Outdated",
    ),
    (2, &["ready old", "draining busy old", "ready"], "+p-3"),
    (2, &["ready old", "draining busy old", "ready", "ready"], ""),
    (
        2,
        &["ready old", "draining idle old", "ready", "ready"],
        "-p-1 Drained",
    ),
    (2, &["ready old", "ready", "ready"], "drain p-0 Outdated"),
    // Old pods that never ran are deleted at once.
    (
        2,
        &["starting old", "starting old"],
        "+p-2, -p-0 Outdated, -p-1 Outdated",
    ),
    // An unschedulable new pod makes one old worker drain, but not a second.
    (2, &["ready old", "ready old", "unplaced since=29"], ""),
    (
        2,
        &["ready old", "ready old", "unplaced since=30"],
        "drain p-1 Outdated",
    ),
    (
        2,
        &["ready old", "draining old busy", "unplaced since=90"],
        "+p-3",
    ),
    (2, &["ready old", "unplaced since=90"], "+p-2"),
    (2, &["ready old", "unplaced since=90", "unplaced since=90"], ""),
    // A smaller pool with a new spec.
    (
        1,
        &["ready old holds=2", "ready old holds=1", "ready old holds=3"],
        "drain p-1 Outdated, drain p-0 Outdated",
    ),
    (
        0,
        &["ready old", "ready old"],
        "drain p-0 Outdated, drain p-1 Outdated",
    ),
];

#[test]
fn what_a_pool_does() {
    for &(replicas, workers, expected) in SITUATIONS {
        let seen = observed(&json!({"replicas": replicas}), workers);
        let mut wanted: Vec<_> = expected.split(", ").collect();
        let got = done(&decide(&seen));
        let mut got: Vec<_> = got.split(", ").collect();
        wanted.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, wanted, "{replicas} of {workers:?}");
    }
}

#[test]
fn a_large_pool_changes_by_quarters() {
    let seen = observed(&json!({"replicas": 8}), &["ready old"; 8]);
    assert_eq!(done(&decide(&seen)), "+p-8, +p-9");
}

#[test]
fn names_of_strangers_are_not_used() {
    let mut seen = observed(&json!({"replicas": 1}), &[]);
    seen.taken = BTreeSet::from(["p-0".to_owned()]);
    assert_eq!(done(&decide(&seen)), "+p-1");
}

#[test]
fn a_mark_is_heeded_before_the_watch_shows_it() {
    let mut seen = observed(&json!({"replicas": 1}), &["ready holds=1", "ready holds=2"]);
    let pod = seen.workers[0].pod.clone();
    seen.workers[0] = Worker::observe(pod, None, PollResult::Unreachable, Some(ago(1)), &seen.revision);
    assert_eq!(done(&decide(&seen)), "");
    assert_eq!(seen.workers[0].draining_since, Some(ago(1)));
}

#[test]
fn pods_learn_their_zone_and_keep_their_marks() {
    let mut seen = observed(&json!({"replicas": 1}), &["ready", "draining busy since=10"]);
    assert_eq!(decide(&seen).patch, []);
    for worker in &mut seen.workers {
        worker.zone = Some("b".to_owned());
    }
    let marks: Vec<_> = decide(&seen).patch.iter().map(super::apply::patch_body).collect();
    assert_eq!(marks[0].labels()["topology.kubernetes.io/zone"], "b");
    assert!(marks[0].annotations().is_empty());
    assert_eq!(marks[1].annotations()["sluice.dev/draining"], ago(10).to_string());
    assert_eq!(marks[1].labels()["topology.kubernetes.io/zone"], "b");
}
