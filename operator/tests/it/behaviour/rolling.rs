//! How workers that run leave: when a pool shrinks, and when its spec changes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use super::play::direct_queries;
use crate::harness::eventually;

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && !pod.annotations().contains_key("sluice.dev/draining")
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
        let mut drained = BTreeSet::new();
        eventually("one is left", async || {
            let pods = scene.pods("p").await;
            let draining = pods
                .iter()
                .filter(|pod| pod.annotations().contains_key("sluice.dev/draining"));
            drained.extend(draining.map(ResourceExt::name_any));
            pods.len() == 1
        })
        .await;
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
            let status = scene
                .reaches("q", sluice_crds::shuffle_query::status::QueryPhase::Succeeded)
                .await;
            assert_eq!(status.coordinator_epoch, 1);
        },
    );
}
