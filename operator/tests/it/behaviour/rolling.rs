//! How workers that run leave: when a pool shrinks, and when its spec changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_operator::objects::labels;
use sluice_proto::wire::WorkerStatus;
use tokio::sync::watch;

use super::fixture::with_operator;
use super::script::{CoordinatorSignals, with_signalled_coordinators};
use crate::coordinators::{idle, programs, programs_with, succeeds};
use crate::harness::eventually;
use crate::kubelet::{Container, Kubelet, Program};

const DRAINING: &str = "sluice.dev/draining";

fn drains(pod: &Pod) -> bool {
    pod.annotations().contains_key(DRAINING)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && !drains(pod)
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[test]
fn a_pool_that_shrinks_drains_its_workers_first() {
    with_signalled_coordinators("a_pool_that_shrinks_drains_its_workers_first", async |scripted| {
        let fixture = scripted.fixture;
        fixture.create_pool("p", json!({"replicas": 3})).await;
        eventually("three are ready", async || {
            fixture.status("p").await.ready_replicas == 3
        })
        .await;
        fixture.edit("p", json!({"replicas": 1})).await;
        eventually("one is left", async || fixture.pods("p").await.len() == 1).await;
        // That they drained, and were told to go later, shows in what they were meanwhile.
        let told = scripted.kubelet.pod_versions();
        let draining = told.iter().filter(|pod| {
            let marks = pod.annotations.as_ref();
            pod.deletion_timestamp.is_none() && marks.is_some_and(|marks| marks.contains_key(DRAINING))
        });
        let drained: BTreeSet<_> = draining.filter_map(|pod| pod.name.clone()).collect();
        assert_eq!(drained.len(), 2, "{drained:?}");
        let left = fixture.pods("p").await;
        assert!(is_ready(&left[0]) && !drained.contains(&left[0].name_any()));
    });
}

#[test]
fn a_pool_that_changes_has_as_many_ready_workers_all_the_while() {
    with_signalled_coordinators(
        "a_pool_that_changes_has_as_many_ready_workers_all_the_while",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 2})).await;
            eventually("two are ready", async || {
                fixture.status("p").await.ready_replicas == 2
            })
            .await;
            let before: BTreeSet<_> = fixture
                .pods("p")
                .await
                .iter()
                .filter_map(ResourceExt::uid)
                .collect();
            fixture.create_query("q", json!({})).await;
            fixture.wait_until_running("q", 1).await;
            fixture.edit("p", json!({"memory": "2GiB"})).await;
            eventually("both are new", async || {
                let pods = fixture.pods("p").await;
                let ready = pods.iter().filter(|pod| is_ready(pod)).count();
                assert!(ready >= 2, "{ready} are ready");
                assert!(pods.len() <= 4, "{} pods", pods.len());
                ready == 2 && pods.iter().all(|pod| !before.contains(&pod.uid().unwrap()))
            })
            .await;
            // The query has kept its coordinator.
            scripted.signals.signal("q");
            let status = fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            assert_eq!(status.coordinator_epoch, 1);
        },
    );
}

#[test]
fn the_worker_that_holds_least_goes_first() {
    with_operator("the_worker_that_holds_least_goes_first", async |fixture| {
        let program = programs_with(
            |worker| WorkerStatus {
                held_bytes: match worker.pod.name_any().as_str() {
                    "p-0" => 5 << 20,
                    "p-1" => 1 << 20,
                    _ => 9 << 20,
                },
                ..idle()
            },
            succeeds,
        );
        let _kubelet = Kubelet::start(fixture.env, program).await;
        fixture.create_pool("p", json!({"replicas": 3})).await;
        eventually("it is known what they hold", async || {
            let status = fixture.status("p").await;
            (status.ready_replicas, status.held_bytes) == (3, 15 << 20)
        })
        .await;
        fixture.edit("p", json!({"replicas": 2})).await;
        fixture.wait_for_pods("p", &["p-0", "p-2"]).await;
        fixture.edit("p", json!({"replicas": 1})).await;
        fixture.wait_for_pods("p", &["p-2"]).await;
    });
}

#[test]
fn a_worker_that_does_not_end_what_it_runs_goes_at_the_drain_time_out() {
    with_operator(
        "a_worker_that_does_not_end_what_it_runs_goes_at_the_drain_time_out",
        async |fixture| {
            let busy = WorkerStatus {
                queries: 1,
                slots_in_use: 1,
                ..idle()
            };
            let program = programs_with(move |_| busy, succeeds);
            let _kubelet = Kubelet::start(fixture.env, program).await;
            fixture.create_pool("p", json!({"replicas": 2})).await;
            eventually("both are busy", async || {
                let status = fixture.status("p").await;
                (status.ready_replicas, status.slots_in_use) == (2, 2)
            })
            .await;
            fixture.edit("p", json!({"replicas": 1})).await;
            eventually("one takes no more attempts", async || {
                let pods = fixture.pods("p").await;
                pods.iter().any(|pod| drains(pod) && !is_ready(pod))
                    && fixture.status("p").await.draining_replicas == 1
            })
            .await;
            // It runs on for up to ten minutes, or as long as its user says.
            assert_eq!(fixture.pods("p").await.len(), 2);
            fixture.edit("p", json!({"drainTimeoutSeconds": 1})).await;
            let left = fixture.wait_for_pods("p", &["p-0"]).await;
            assert!(!drains(&left[0]));
        },
    );
}

#[test]
fn a_query_that_starts_while_the_image_changes_waits_for_workers_of_the_new_one() {
    with_operator(
        "a_query_that_starts_while_the_image_changes_waits_for_workers_of_the_new_one",
        async |fixture| {
            let signals = CoordinatorSignals::default();
            let all = signals.clone();
            let running = programs(move |coordinator| all.clone().follow(coordinator));
            let (may_start, started) = watch::channel(false);
            let program: Program = Arc::new(move |container: Container| {
                let (running, mut started) = (running.clone(), started.clone());
                async move {
                    let next = image(&container.pod) == Some("next:1");
                    if next && container.label(labels::COMPONENT) == "worker" {
                        let _ = started.wait_for(|may| *may).await;
                    }
                    running(container).await
                }
                .boxed()
            });
            let _kubelet = Kubelet::start(fixture.env, program).await;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("before", json!({})).await;
            fixture.wait_until_running("before", 1).await;
            fixture.edit("p", json!({"image": "next:1"})).await;
            eventually("coordinators get the new image", async || {
                fixture.status("p").await.image.as_deref() == Some("next:1")
            })
            .await;
            fixture.create_query("meanwhile", json!({})).await;
            let message = fixture.wait_until_pending("meanwhile", "WaitingForPool").await;
            assert!(
                message.starts_with("pool p is being rolled: 0 workers"),
                "{message}"
            );
            assert_eq!(fixture.query_status("before").await.phase, QueryPhase::Running);
            may_start.send_replace(true);
            fixture.wait_until_running("meanwhile", 1).await;
            let coordinators = fixture.coordinators("meanwhile").await;
            assert_eq!(image(&coordinators[0]), Some("next:1"));
            for query in ["before", "meanwhile"] {
                signals.signal(query);
                let status = fixture.wait_for_phase(query, QueryPhase::Succeeded).await;
                assert_eq!(status.coordinator_epoch, 1, "{query}");
            }
        },
    );
}

fn image(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers[0].image.as_deref()
}
