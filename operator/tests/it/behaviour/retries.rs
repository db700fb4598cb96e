//! When a query gets another coordinator, what that one gets, and when it does not.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use sluice_core::coordinator::Outcome;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_operator::objects::quantity::bytes_of;

use super::script::{with_scripted_coordinators, with_signalled_coordinators};
use crate::coordinators::failure;
use crate::harness::eventually;
use crate::kubelet::Exit;

#[test]
fn a_lost_coordinator_is_followed_by_another_without_end() {
    with_signalled_coordinators(
        "a_lost_coordinator_is_followed_by_another_without_end",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            // One that counts would be one too many.
            fixture
                .create_query("q", json!({"retry": {"maxTaskAttempts": 1}}))
                .await;
            fixture.wait_until_running("q", 1).await;
            scripted.kubelet.end("q-c1", Exit::evicted());
            fixture.wait_until_running("q", 2).await;
            let shutdown = Some((
                "Terminated",
                "Pod was terminated in response to imminent node shutdown.",
            ));
            scripted.kubelet.end(
                "q-c2",
                Exit {
                    pod: shutdown,
                    ..Exit::stopped()
                },
            );
            fixture.wait_until_running("q", 3).await;
            fixture.delete::<Pod>("q-c3").await;
            let status = fixture.wait_until_running("q", 4).await;
            assert_eq!((status.pod_retries, status.coordinator_failures), (3, 0));
            scripted.signals.signal("q");
            let status = fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            assert_eq!(status.coordinator_epoch, 4);
        },
    );
}

/// As after a probe that failed: nobody has told the pod to go.
#[test]
fn a_coordinator_that_its_kubelet_stops_is_followed_a_few_times_only() {
    with_signalled_coordinators(
        "a_coordinator_that_its_kubelet_stops_is_followed_a_few_times_only",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture
                .create_query("q", json!({"retry": {"maxTaskAttempts": 2}}))
                .await;
            fixture.wait_until_running("q", 1).await;
            scripted.kubelet.end("q-c1", Exit::stopped());
            fixture.wait_until_running("q", 2).await;
            scripted.kubelet.end("q-c2", Exit::stopped());
            let (reason, message) = fixture.wait_until_failed("q").await;
            assert_eq!(reason, "CoordinatorLost");
            assert!(message.contains("stopped by its kubelet"), "{message}");
        },
    );
}

#[test]
fn nobody_waits_for_the_pod_of_a_lost_coordinator_to_vanish() {
    with_signalled_coordinators(
        "nobody_waits_for_the_pod_of_a_lost_coordinator_to_vanish",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            fixture.wait_until_running("q", 1).await;
            // As of a node out of reach: its pods are told to go, and do not.
            scripted.kubelet.set_unreachable(true);
            fixture.delete::<Pod>("q-c1").await;
            eventually("the next one is there beside it", async || {
                let pods = fixture.coordinators("q").await;
                pods.len() == 2 && pods[0].metadata.deletion_timestamp.is_some()
            })
            .await;
            scripted.kubelet.set_unreachable(false);
            fixture.wait_until_running("q", 2).await;
        },
    );
}

#[test]
fn a_coordinator_without_memory_is_followed_by_one_with_more() {
    with_scripted_coordinators(
        "a_coordinator_without_memory_is_followed_by_one_with_more",
        async |coordinator| {
            coordinator.container.report_running(true).await;
            match coordinator.epoch() {
                1 | 2 => Exit::out_of_memory(),
                _ => coordinator.end(Outcome::Succeeded).await,
            }
        },
        async |fixture, kubelet| {
            let resources = json!({"requests": {"memory": "100Mi"}, "limits": {"memory": "200Mi"}});
            fixture
                .create_pool(
                    "p",
                    json!({"replicas": 1, "coordinator": {"resources": resources}}),
                )
                .await;
            fixture.create_query("q", json!({})).await;
            let status = fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            assert_eq!((status.pod_retries, status.coordinator_failures), (2, 2));
            let memory = |pod: &Pod| {
                let resources = pod.spec.as_ref().unwrap().containers[0]
                    .resources
                    .as_ref()
                    .unwrap();
                let of = |amounts| bytes_of(amounts, "memory").unwrap() >> 20;
                (of(resources.requests.as_ref()), of(resources.limits.as_ref()))
            };
            let started = kubelet.started().into_iter();
            let coordinators = started.filter(|pod| pod.name.starts_with("q-c"));
            let given: Vec<_> = coordinators.map(|coordinator| memory(&coordinator.pod)).collect();
            assert_eq!(given, [(100, 200), (200, 400), (400, 800)]);
        },
    );
}

#[test]
fn a_coordinator_that_never_has_enough_memory_fails_its_query() {
    with_scripted_coordinators(
        "a_coordinator_that_never_has_enough_memory_fails_its_query",
        async |coordinator| {
            coordinator.container.report_running(true).await;
            Exit::out_of_memory()
        },
        async |fixture, kubelet| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            let (reason, message) = fixture.wait_until_failed("q").await;
            assert_eq!(reason, "OutOfMemory");
            assert!(
                message.contains("raise coordinator.resources of the pool"),
                "{message}"
            );
            // Once, twice, four times, eight times as much.
            let coordinators = kubelet
                .started()
                .into_iter()
                .filter(|pod| pod.name.starts_with("q-c"));
            assert_eq!(coordinators.count(), 4);
        },
    );
}

#[test]
fn bad_input_is_not_tried_again() {
    with_scripted_coordinators(
        "bad_input_is_not_tried_again",
        async |coordinator| {
            coordinator.container.report_running(true).await;
            match coordinator.query() {
                "sql" => {
                    let outcome = failure(ErrorReason::InvalidSql, "no such column: x");
                    coordinator.end(outcome).await
                }
                "poison" => {
                    let outcome = failure(ErrorReason::TaskFailed, "division by zero");
                    coordinator.end(outcome).await
                }
                _ => Exit::with(2, "spec.tables[0]: no such format"),
            }
        },
        async |fixture, _| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            for query in ["sql", "poison", "refused"] {
                fixture.create_query(query, json!({})).await;
            }
            for (query, expected, words) in [
                ("sql", "InvalidSql", "no such column: x"),
                ("poison", "TaskFailed", "division by zero"),
                ("refused", "InvalidSpec", "spec.tables[0]: no such format"),
            ] {
                let (reason, message) = fixture.wait_until_failed(query).await;
                assert_eq!(reason, expected);
                assert!(message.contains(words), "{message}");
                let status = fixture.query_status(query).await;
                assert_eq!((status.coordinator_epoch, status.pod_retries), (1, 0), "{query}");
            }
        },
    );
}

#[test]
fn what_may_be_gone_the_next_time_is_tried_a_few_times() {
    with_scripted_coordinators(
        "what_may_be_gone_the_next_time_is_tried_a_few_times",
        async |coordinator| {
            coordinator.container.report_running(true).await;
            match (coordinator.query(), coordinator.epoch()) {
                ("heals", 2) => coordinator.end(Outcome::Succeeded).await,
                ("heals" | "sink", _) => {
                    let outcome = failure(ErrorReason::SinkFailed, "no space left");
                    coordinator.end(outcome).await
                }
                ("workers", _) => Exit::with(4, ""),
                _ => Exit::with(101, "a panic"),
            }
        },
        async |fixture, _| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            for query in ["heals", "sink", "workers", "crashes"] {
                fixture
                    .create_query(query, json!({"retry": {"maxTaskAttempts": 2}}))
                    .await;
            }
            for (query, expected) in [
                ("sink", "SinkFailed"),
                ("workers", "WorkersLost"),
                ("crashes", "CoordinatorLost"),
            ] {
                assert_eq!(fixture.wait_until_failed(query).await.0, expected);
                let status = fixture.query_status(query).await;
                assert_eq!(
                    (status.coordinator_epoch, status.coordinator_failures),
                    (2, 1),
                    "{query}"
                );
            }
            let status = fixture.wait_for_phase("heals", QueryPhase::Succeeded).await;
            assert_eq!((status.coordinator_epoch, status.coordinator_failures), (2, 1));
        },
    );
}
