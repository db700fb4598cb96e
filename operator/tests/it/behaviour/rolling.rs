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

use super::play::{Cues, direct_queries};
use super::scene::act;
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
    direct_queries("a_pool_that_shrinks_drains_its_workers_first", async |play| {
        let scene = play.scene;
        scene.pool("p", json!({"replicas": 3})).await;
        eventually("three are ready", async || {
            scene.status("p").await.ready_replicas == 3
        })
        .await;
        scene.edit("p", json!({"replicas": 1})).await;
        eventually("one is left", async || scene.pods("p").await.len() == 1).await;
        // That they drained, and were told to go later, shows in what they were meanwhile.
        let told = play.kubelet.told();
        let draining = told.iter().filter(|pod| {
            let marks = pod.annotations.as_ref();
            pod.deletion_timestamp.is_none() && marks.is_some_and(|marks| marks.contains_key(DRAINING))
        });
        let drained: BTreeSet<_> = draining.filter_map(|pod| pod.name.clone()).collect();
        assert_eq!(drained.len(), 2, "{drained:?}");
        let left = scene.pods("p").await;
        assert!(is_ready(&left[0]) && !drained.contains(&left[0].name_any()));
    });
}

#[test]
fn a_pool_that_changes_has_as_many_ready_workers_all_the_while() {
    direct_queries(
        "a_pool_that_changes_has_as_many_ready_workers_all_the_while",
        async |play| {
            let scene = play.scene;
            scene.pool("p", json!({"replicas": 2})).await;
            eventually("two are ready", async || {
                scene.status("p").await.ready_replicas == 2
            })
            .await;
            let before: BTreeSet<_> = scene
                .pods("p")
                .await
                .iter()
                .filter_map(ResourceExt::uid)
                .collect();
            scene.query("q", json!({})).await;
            scene.runs("q", 1).await;
            scene.edit("p", json!({"memory": "2GiB"})).await;
            eventually("both are new", async || {
                let pods = scene.pods("p").await;
                let ready = pods.iter().filter(|pod| is_ready(pod)).count();
                assert!(ready >= 2, "{ready} are ready");
                assert!(pods.len() <= 4, "{} pods", pods.len());
                ready == 2 && pods.iter().all(|pod| !before.contains(&pod.uid().unwrap()))
            })
            .await;
            // The query has kept its coordinator.
            play.cues.give("q");
            let status = scene.reaches("q", QueryPhase::Succeeded).await;
            assert_eq!(status.coordinator_epoch, 1);
        },
    );
}

#[test]
fn the_worker_that_holds_least_goes_first() {
    act("the_worker_that_holds_least_goes_first", async |scene| {
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
        let _kubelet = Kubelet::start(scene.place, program).await;
        scene.pool("p", json!({"replicas": 3})).await;
        eventually("it is known what they hold", async || {
            let status = scene.status("p").await;
            (status.ready_replicas, status.held_bytes) == (3, 15 << 20)
        })
        .await;
        scene.edit("p", json!({"replicas": 2})).await;
        scene.has_pods("p", &["p-0", "p-2"]).await;
        scene.edit("p", json!({"replicas": 1})).await;
        scene.has_pods("p", &["p-2"]).await;
    });
}

#[test]
fn a_worker_that_does_not_end_what_it_runs_goes_at_the_drain_time_out() {
    act(
        "a_worker_that_does_not_end_what_it_runs_goes_at_the_drain_time_out",
        async |scene| {
            let busy = WorkerStatus {
                queries: 1,
                slots_in_use: 1,
                ..idle()
            };
            let program = programs_with(move |_| busy.clone(), succeeds);
            let _kubelet = Kubelet::start(scene.place, program).await;
            scene.pool("p", json!({"replicas": 2})).await;
            eventually("both are busy", async || {
                let status = scene.status("p").await;
                (status.ready_replicas, status.slots_in_use) == (2, 2)
            })
            .await;
            scene.edit("p", json!({"replicas": 1})).await;
            eventually("one takes no more attempts", async || {
                let pods = scene.pods("p").await;
                pods.iter().any(|pod| drains(pod) && !is_ready(pod))
                    && scene.status("p").await.draining_replicas == 1
            })
            .await;
            // It runs on for up to ten minutes, or as long as its user says.
            assert_eq!(scene.pods("p").await.len(), 2);
            scene.edit("p", json!({"drainTimeoutSeconds": 1})).await;
            let left = scene.has_pods("p", &["p-0"]).await;
            assert!(!drains(&left[0]));
        },
    );
}

#[test]
fn a_query_that_starts_while_the_image_changes_waits_for_workers_of_the_new_one() {
    act(
        "a_query_that_starts_while_the_image_changes_waits_for_workers_of_the_new_one",
        async |scene| {
            let cues = Cues::default();
            let all = cues.clone();
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
            let _kubelet = Kubelet::start(scene.place, program).await;
            scene.pool("p", json!({"replicas": 1})).await;
            scene.query("before", json!({})).await;
            scene.runs("before", 1).await;
            scene.edit("p", json!({"image": "next:1"})).await;
            eventually("coordinators get the new image", async || {
                scene.status("p").await.image.as_deref() == Some("next:1")
            })
            .await;
            scene.query("meanwhile", json!({})).await;
            let message = scene.waits("meanwhile", "WaitingForPool").await;
            assert!(
                message.starts_with("pool p is being rolled: 0 workers"),
                "{message}"
            );
            assert_eq!(scene.query_status("before").await.phase, QueryPhase::Running);
            may_start.send_replace(true);
            scene.runs("meanwhile", 1).await;
            let coordinators = scene.coordinators("meanwhile").await;
            assert_eq!(image(&coordinators[0]), Some("next:1"));
            for query in ["before", "meanwhile"] {
                cues.give(query);
                let status = scene.reaches(query, QueryPhase::Succeeded).await;
                assert_eq!(status.coordinator_epoch, 1, "{query}");
            }
        },
    );
}

fn image(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers[0].image.as_deref()
}
