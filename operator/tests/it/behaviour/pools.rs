//! What a pool does with its pods: as many as wanted, replaced when they or the spec change, and when not.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_crds::{ShuffleQuery, WorkerPool};
use sluice_proto::wire::WorkerStatus;

use super::fixture::{Fixture, node_of, with_fixture, with_operator};
use crate::coordinators::{idle, programs, programs_with, succeeds};
use crate::harness::{Running, eventually, run_in_namespace};
use crate::kubelet::Kubelet;

fn uids(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(ResourceExt::uid).collect()
}

fn image(pod: &Pod) -> &str {
    let container = &pod.spec.as_ref().unwrap().containers[0];
    container.image.as_deref().unwrap_or_default()
}

/// The value of an environment variable of a worker.
fn variable(pod: &Pod, name: &str) -> Option<String> {
    let env = pod.spec.as_ref().unwrap().containers[0].env.iter().flatten();
    let mut env = env.filter(|variable| variable.name == name);
    env.next()?.value.clone()
}

/// Waits until the status describes today's spec: what there was to do about it is done.
async fn seen(fixture: &Fixture<'_>, pool: &str) {
    eventually("the status is of today's spec", async || {
        fixture.status(pool).await.observed_generation.is_some()
    })
    .await;
}

/// How often each of the operators has looked at a pool.
async fn reconcile_counts(operators: &[&Running]) -> Vec<u64> {
    let mut all = Vec::new();
    for operator in operators {
        let metrics = operator.get("/metrics").await.unwrap_or_default();
        let counters = metrics
            .lines()
            .filter(|line| line.starts_with("sluice_operator_reconciles_total{kind=\"WorkerPool\""));
        let values = counters.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        all.push(values.sum());
    }
    all
}

fn writes(operators: &[&Running]) -> Vec<usize> {
    let counts = operators.iter().map(|operator| operator.faults.writes());
    counts.collect()
}

/// Waits until each of the operators has looked at each of as many pools this often.
async fn wait_until_reconciled(operators: &[&Running], pools: u64, times: u64) {
    let before = reconcile_counts(operators).await;
    eventually("the operators look at their pools", async || {
        let now = reconcile_counts(operators).await;
        now.iter()
            .zip(&before)
            .all(|(now, before)| *now >= before + pools * times)
    })
    .await;
}

/// Waits until each of the operators has looked at each of as many pools twice since one of them wrote.
async fn wait_until_idle(operators: &[&Running], pools: u64) {
    let (mut written, mut since) = (Vec::new(), Vec::new());
    eventually("nobody writes any more", async || {
        let (writes, looks) = (writes(operators), reconcile_counts(operators).await);
        if writes != written {
            (written, since) = (writes, looks);
            return false;
        }
        let mut looks = looks.iter().zip(&since);
        looks.all(|(now, since)| *now >= since + 2 * pools)
    })
    .await;
}

#[test]
fn a_pool_scales_by_its_scale_subresource() {
    with_operator("a_pool_scales_by_its_scale_subresource", async |fixture| {
        fixture.create_pool("p", json!({"replicas": 2})).await;
        fixture.wait_for_pods("p", &["p-0", "p-1"]).await;
        let pools = fixture.api::<WorkerPool>();
        let scale = async |replicas: u32| {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            pools
                .patch_scale("p", &PatchParams::default(), &patch)
                .await
                .unwrap();
        };
        scale(4).await;
        let pods = fixture.wait_for_pods("p", &["p-0", "p-1", "p-2", "p-3"]).await;
        eventually("the scale tells of four", async || {
            let status = pools.get_scale("p").await.unwrap().status.unwrap();
            status.replicas == 4
                && status.selector.as_deref() == Some("app.kubernetes.io/component=worker,sluice.dev/pool=p")
        })
        .await;
        scale(1).await;
        let left = fixture.wait_for_pods("p", &["p-0"]).await;
        assert!(uids(&left).is_subset(&uids(&pods)));
        scale(0).await;
        fixture.wait_for_pods("p", &[]).await;
    });
}

#[test]
fn a_pool_at_rest_is_not_written() {
    with_fixture("a_pool_at_rest_is_not_written", async |fixture| {
        // The workers are asked all the while, and say the same.
        let program = programs_with(
            |_| WorkerStatus {
                held_bytes: 1 << 20,
                ..idle()
            },
            succeeds,
        );
        let _kubelet = Kubelet::start(fixture.env, program).await;
        let operator = fixture.start("operator", &[]);
        fixture.create_pool("p", json!({"replicas": 2})).await;
        eventually("both workers have told what they hold", async || {
            let status = fixture.status("p").await;
            (status.ready_replicas, status.held_bytes) == (2, 2 << 20)
        })
        .await;
        wait_until_idle(&[&operator], 1).await;
        let before = writes(&[&operator]);
        wait_until_reconciled(&[&operator], 1, 3).await;
        assert_eq!(writes(&[&operator]), before, "a pool at rest was written");
        operator.assert_nothing_forbidden();
    });
}

#[test]
fn a_pod_that_somebody_deletes_is_replaced() {
    with_operator("a_pod_that_somebody_deletes_is_replaced", async |fixture| {
        fixture.create_pool("p", json!({"replicas": 3})).await;
        let before = uids(&fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await);
        fixture.delete::<Pod>("p-1").await;
        let mut pods = Vec::new();
        eventually("three again, one of them new", async || {
            pods = fixture.pods("p").await;
            pods.len() == 3 && uids(&pods).intersection(&before).count() == 2
        })
        .await;
        // The lowest number that was free: the name of a pod that is about to go is not.
        let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
        assert!(
            names == ["p-0", "p-1", "p-2"] || names == ["p-0", "p-2", "p-3"],
            "{names:?}"
        );
    });
}

#[test]
fn a_terminating_pod_does_not_block_its_replacement() {
    with_operator(
        "a_terminating_pod_does_not_block_its_replacement",
        async |fixture| {
            fixture.create_node("a1", "a", 10).await;
            fixture.create_pool("p", json!({"replicas": 2})).await;
            fixture.wait_until_placed("p", 2).await;
            // It has a node, whose kubelet never ends it.
            fixture.delete::<Pod>("p-0").await;
            fixture.wait_for_pods("p", &["p-1", "p-2"]).await;
            let all = fixture.pods("p").await;
            assert_eq!(all.last().map(ResourceExt::name_any).as_deref(), Some("p-0"));
            // Its name is free once it is gone.
            fixture.force_delete_pod("p-0").await;
            fixture.edit("p", json!({"replicas": 3})).await;
            fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await;
        },
    );
}

#[test]
fn pods_of_a_node_that_does_not_answer_are_replaced_until_it_does() {
    with_operator(
        "pods_of_a_node_that_does_not_answer_are_replaced_until_it_does",
        async |fixture| {
            fixture.create_node("a1", "a", 1).await;
            fixture.create_node("b1", "b", 1).await;
            fixture.create_pool("p", json!({"replicas": 2})).await;
            fixture.wait_until_placed("p", 2).await;
            let pods = fixture.wait_for_pods("p", &["p-0", "p-1"]).await;
            let node = fixture.local_name(&node_of(&pods[0]).unwrap());
            fixture.set_node_ready(&node, false).await;
            fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await;
            eventually("the lost one does not count", async || {
                fixture.status("p").await.replicas == 2
            })
            .await;
            fixture.set_node_ready(&node, true).await;
            fixture.wait_for_pods("p", &["p-0", "p-1"]).await;
        },
    );
}

#[test]
fn an_edit_that_pods_see_replaces_them() {
    with_operator("an_edit_that_pods_see_replaces_them", async |fixture| {
        fixture
            .create_pool("p", json!({"replicas": 2, "memory": "1GiB"}))
            .await;
        let before = uids(&fixture.wait_for_pods("p", &["p-0", "p-1"]).await);
        fixture
            .edit(
                "p",
                json!({"memory": "2GiB", "podMetadata": {"labels": {"team": "a"}}}),
            )
            .await;
        let mut pods = Vec::new();
        eventually("both are new", async || {
            pods = fixture.pods("p").await;
            pods.len() == 2 && uids(&pods).is_disjoint(&before)
        })
        .await;
        for pod in pods {
            assert_eq!(variable(&pod, "SLUICE_MEMORY").as_deref(), Some("2147483648"));
            assert_eq!(pod.labels().get("team").map(String::as_str), Some("a"));
        }
    });
}

#[test]
fn an_edit_that_pods_do_not_see_replaces_none() {
    with_operator("an_edit_that_pods_do_not_see_replaces_none", async |fixture| {
        fixture.create_pool("p", json!({"replicas": 2})).await;
        let before = uids(&fixture.wait_for_pods("p", &["p-0", "p-1"]).await);
        let unseen = json!({
            "maxConcurrentQueries": 3, "minReadyWorkers": 2, "drainTimeoutSeconds": 7,
            "coordinator": {"resources": {"requests": {"cpu": "1"}}}, "slotsPerWorker": 2,
        });
        fixture.edit("p", unseen).await;
        seen(fixture, "p").await;
        assert_eq!(uids(&fixture.pods("p").await), before);
    });
}

#[test]
fn an_operator_of_another_version_restarts_no_pod() {
    with_fixture(
        "an_operator_of_another_version_restarts_no_pod",
        async |fixture| {
            let old = fixture.start("old", &["--image=localhost/sluice:old"]);
            fixture.create_pool("p", json!({"replicas": 2})).await;
            let pinned = json!({"replicas": 1, "image": "localhost/sluice:pinned"});
            fixture.create_pool("pinned", pinned).await;
            let before = uids(&fixture.wait_for_pods("p", &["p-0", "p-1"]).await);
            fixture.wait_for_pods("pinned", &["pinned-0"]).await;
            eventually("the status tells the image", async || {
                fixture.status("p").await.image.as_deref() == Some("localhost/sluice:old")
            })
            .await;
            old.stop();
            old.end().await;

            let new = fixture.start("new", &["--image=localhost/sluice:new"]);
            // A pool that grows stays of one build: a coordinator uses no other workers than its own.
            fixture.edit("p", json!({"replicas": 3})).await;
            let pods = fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await;
            assert!(uids(&pods).is_superset(&before));
            assert!(pods.iter().all(|pod| image(pod) == "localhost/sluice:old"));
            seen(fixture, "p").await;
            let status = fixture.status("p").await;
            assert_eq!(status.image.as_deref(), Some("localhost/sluice:old"));
            // So does one whose user writes down the image that it has.
            fixture.edit("p", json!({"image": "localhost/sluice:old"})).await;
            seen(fixture, "p").await;
            assert_eq!(uids(&fixture.pods("p").await), uids(&pods));
            // New pods are of the new build: those of a new pool, and those of an old one that change anyway.
            fixture.create_pool("later", json!({"replicas": 1})).await;
            let later = fixture.wait_for_pods("later", &["later-0"]).await;
            assert_eq!(image(&later[0]), "localhost/sluice:new");
            fixture
                .edit(
                    "p",
                    json!({"image": null, "podMetadata": {"labels": {"team": "a"}}}),
                )
                .await;
            eventually("all three are of the new build", async || {
                let pods = fixture.pods("p").await;
                pods.len() == 3 && pods.iter().all(|pod| image(pod) == "localhost/sluice:new")
            })
            .await;
            let pinned = fixture.pods("pinned").await;
            assert_eq!(image(&pinned[0]), "localhost/sluice:pinned");
            old.assert_nothing_forbidden();
            new.assert_nothing_forbidden();
        },
    );
}

#[test]
fn a_pool_that_makes_no_sense_keeps_its_pods_and_says_so() {
    with_operator(
        "a_pool_that_makes_no_sense_keeps_its_pods_and_says_so",
        async |fixture| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            let before = uids(&fixture.wait_for_pods("p", &["p-0"]).await);
            fixture.edit("p", json!({"replicas": 3, "memory": "1KiB"})).await;
            let message = fixture.wait_until_not_ready("p", "InvalidSpec").await;
            assert!(message.starts_with("spec.memory"), "{message}");
            assert_eq!(uids(&fixture.pods("p").await), before);
            fixture.edit("p", json!({"memory": null})).await;
            let now = fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await;
            assert!(uids(&now).is_superset(&before));
        },
    );
}

#[test]
fn a_claim_that_all_pods_cannot_mount_is_refused() {
    with_operator("a_claim_that_all_pods_cannot_mount_is_refused", async |fixture| {
        let volumes = |claim: &str| json!([{"name": "data", "claimName": claim, "mountPath": "/data"}]);
        fixture
            .create_pool("p", json!({"replicas": 2, "dataVolumes": volumes("missing")}))
            .await;
        let message = fixture.wait_until_not_ready("p", "VolumesUnmountable").await;
        assert_eq!(
            message,
            "spec.dataVolumes[0]: claim `missing` does not exist: create it"
        );
        fixture.create_claim("one", "ReadWriteOnce", &Value::Null).await;
        fixture.edit("p", json!({"dataVolumes": volumes("one")})).await;
        let message = fixture.wait_until_not_ready("p", "VolumesUnmountable").await;
        assert!(message.contains("is ReadWriteOnce"), "{message}");
        assert_eq!(fixture.pods("p").await, []);
        // One pod can; and all can once the claim that was missing is there.
        fixture.edit("p", json!({"replicas": 1})).await;
        fixture.wait_for_pods("p", &["p-0"]).await;
        fixture
            .edit("p", json!({"replicas": 2, "dataVolumes": volumes("missing")}))
            .await;
        fixture.wait_until_not_ready("p", "VolumesUnmountable").await;
        fixture
            .create_claim("missing", "ReadOnlyMany", &Value::Null)
            .await;
        eventually("two pods mount it", async || {
            let pods = fixture.pods("p").await;
            let mounts = |pod: &Pod| serde_json::to_string(pod).unwrap().contains("\"missing\"");
            pods.len() == 2 && pods.iter().all(mounts)
        })
        .await;
    });
}

#[test]
fn a_pool_without_room_in_its_quota_says_so_and_goes_on_when_there_is() {
    with_fixture(
        "a_pool_without_room_in_its_quota_says_so_and_goes_on_when_there_is",
        async |fixture| {
            let operator = fixture.start("operator", &[]);
            fixture.exhaust_pod_quota("quota", 0).await;
            fixture.create_pool("p", json!({"replicas": 3})).await;
            let message = fixture.wait_until_not_ready("p", "QuotaExceeded").await;
            assert!(message.contains("exceeded quota: quota"), "{message}");
            assert_eq!(fixture.pods("p").await, []);
            // Requests that the quota's controller has not caught up with yet count against it for minutes.
            let room = json!({"spec": {"hard": {"pods": "100"}}});
            fixture.merge::<ResourceQuota>("quota", room).await;
            fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await;
            // The quota's refusal is a 403 too.
            let refused = format!("POST /api/v1/namespaces/{}/pods", fixture.env.namespace);
            let forbidden = operator.faults.forbidden();
            assert!(forbidden.iter().all(|call| *call == refused), "{forbidden:?}");
        },
    );
}

#[test]
fn a_namespace_that_is_not_served_is_left_alone() {
    with_operator("a_namespace_that_is_not_served_is_left_alone", async |fixture| {
        run_in_namespace(async |other| {
            let other = Fixture { env: other };
            let pool = other.create_pool("p", json!({"replicas": 1})).await;
            let query = other.create_query("q", json!({})).await;
            // Created later, and done: the operator had its time for the others.
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.wait_for_pods("p", &["p-0"]).await;
            seen(fixture, "p").await;
            fixture.create_query("q", json!({})).await;
            fixture.wait_until_pending("q", "WaitingForPool").await;
            let now = other.api::<WorkerPool>().get("p").await.unwrap();
            assert_eq!(now.resource_version(), pool.resource_version());
            let now = other.api::<ShuffleQuery>().get("q").await.unwrap();
            assert_eq!(now.resource_version(), query.resource_version());
            assert_eq!(other.pods("p").await, []);
            assert_eq!(other.owned_by_query("q").await, [""; 0]);
        })
        .await;
    });
}

#[test]
fn several_namespaces_are_served_by_one_operator() {
    with_fixture("several_namespaces_are_served_by_one_operator", async |fixture| {
        run_in_namespace(async |other| {
            let other = Fixture { env: other };
            let both = format!("--namespaces={},{}", fixture.env.namespace, other.env.namespace);
            let operator = fixture.start("operator", &[&both]);
            for fixture in [fixture, &other] {
                let _kubelet = Kubelet::start(fixture.env, programs(succeeds)).await;
                fixture.create_pool("p", json!({"replicas": 1})).await;
                fixture.wait_for_pods("p", &["p-0"]).await;
                fixture.create_query("q", json!({})).await;
                fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            }
            operator.assert_nothing_forbidden();
        })
        .await;
    });
}

#[test]
fn two_operators_that_both_lead_do_no_harm() {
    with_fixture("two_operators_that_both_lead_do_no_harm", async |fixture| {
        run_in_namespace(async |other| {
            // Each leads by a lease of its own, and serves the same namespace.
            let other = Fixture { env: other };
            let one = fixture.start("one", &[]);
            let two = other.start("two", &[&format!("--namespaces={}", fixture.env.namespace)]);
            eventually("both lead", async || one.leads().await && two.leads().await).await;
            for number in 0..5 {
                fixture
                    .create_pool(&format!("p{number}"), json!({"replicas": 3}))
                    .await;
            }
            for number in 0..5 {
                let names = [0, 1, 2].map(|pod| format!("p{number}-{pod}"));
                let names = names.each_ref().map(String::as_str);
                fixture.wait_for_pods(&format!("p{number}"), &names).await;
            }
            wait_until_idle(&[&one, &two], 5).await;
            let kept = uids(&fixture.pods("p0").await);
            fixture.edit("p0", json!({"replicas": 5})).await;
            fixture.edit("p1", json!({"replicas": 1})).await;
            fixture.edit("p2", json!({"memory": "1GiB"})).await;
            let grown = fixture
                .wait_for_pods("p0", &["p0-0", "p0-1", "p0-2", "p0-3", "p0-4"])
                .await;
            assert!(uids(&grown).is_superset(&kept));
            fixture.wait_for_pods("p1", &["p1-0"]).await;
            eventually("all pods are of the new spec", async || {
                let pods = fixture.pods("p2").await;
                pods.len() == 3 && pods.iter().all(|pod| variable(pod, "SLUICE_MEMORY").is_some())
            })
            .await;
            wait_until_idle(&[&one, &two], 5).await;
            for (pool, pods) in [("p0", 5), ("p1", 1), ("p2", 3), ("p3", 3), ("p4", 3)] {
                assert_eq!(fixture.pods(pool).await.len(), pods, "{pool}");
                assert_eq!(fixture.status(pool).await.replicas, pods as u32, "{pool}");
            }
            one.assert_nothing_forbidden();
            two.assert_nothing_forbidden();
        })
        .await;
    });
}
