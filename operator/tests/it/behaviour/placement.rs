//! Where the scheduler puts workers, given what a pool says and where its data is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use sluice_crds::WorkerPool;

use super::scene::{Scene, act, node_of};
use crate::harness::eventually;

/// Pods by the name of their node.
type Placed = BTreeMap<String, usize>;

fn on(nodes: &[(&str, usize)]) -> Placed {
    nodes
        .iter()
        .map(|(node, pods)| ((*node).to_owned(), *pods))
        .collect()
}

/// Three zones of two nodes each: a1, a2, b1, b2, c1 and c2, with room for `pods` pods each.
async fn three_zones(scene: &Scene<'_>, pods: u32) {
    for zone in ["a", "b", "c"] {
        for number in [1, 2] {
            scene.node(&format!("{zone}{number}"), zone, pods).await;
        }
    }
}

/// Terms that a node of the test's zone matches.
fn in_zone(scene: &Scene<'_>, zone: &str) -> Value {
    json!([{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [scene.global(zone)]}]}])
}

/// Terms that a node of the test matches.
fn on_node(scene: &Scene<'_>, node: &str) -> Value {
    json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [scene.global(node)]}]}])
}

fn by_zone(placed: &Placed) -> Placed {
    let mut zones = Placed::new();
    for (node, pods) in placed {
        *zones.entry(node.chars().take(1).collect()).or_default() += pods;
    }
    zones
}

/// How often a pool is made anew whose pods were not placed as it wished.
const TRIES: usize = 3;

/// Makes a pool of `count` workers that the scheduler places as `wished` says. It weighs wishes against one another and promises
/// none: a pool gets a few tries.
async fn is_placed_as_wished(scene: &Scene<'_>, spec: Value, count: usize, wished: impl Fn(&Placed) -> bool) {
    scene.scheduler_knows_nodes().await;
    let mut seen = Vec::new();
    for number in 0..TRIES {
        let pool = format!("p{number}");
        scene.pool(&pool, spec.clone()).await;
        let placed = scene.placed(&pool, count).await;
        if wished(&placed) {
            return;
        }
        seen.push(placed);
        // Its pods would weigh, too.
        scene.delete::<WorkerPool>(&pool).await;
        eventually("its pods are gone", async || {
            let pods = scene.pods(&pool).await;
            for pod in &pods {
                scene.bury(&pod.name_any()).await;
            }
            pods.is_empty()
        })
        .await;
    }
    panic!("never as wished: {seen:?}");
}

/// The node affinity of a pod.
fn node_affinity(pod: &Pod) -> Value {
    serde_json::to_value(pod).unwrap()["spec"]["affinity"]["nodeAffinity"].clone()
}

#[test]
fn workers_run_on_the_node_that_their_claim_is_bound_to() {
    act(
        "workers_run_on_the_node_that_their_claim_is_bound_to",
        async |scene| {
            three_zones(scene, 10).await;
            let terms = on_node(scene, "b2");
            scene.claim("data", "ReadWriteOnce", &terms).await;
            let volumes = json!([{"name": "data", "claimName": "data", "mountPath": "/data"}]);
            let spec =
                json!({"replicas": 3, "dataVolumes": volumes, "placement": {"dataAffinity": "Required"}});
            scene.pool("p", spec).await;
            assert_eq!(scene.placed("p", 3).await, on(&[("b2", 3)]));
            for pod in scene.pods("p").await {
                let required = &node_affinity(&pod)["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
                assert_eq!(required, &terms);
            }
        },
    );
}

#[test]
fn workers_run_where_all_their_claims_are_reached() {
    act("workers_run_where_all_their_claims_are_reached", async |scene| {
        three_zones(scene, 10).await;
        let b_or_c = json!([in_zone(scene, "b")[0], in_zone(scene, "c")[0]]);
        scene.claim("data", "ReadOnlyMany", &b_or_c).await;
        scene.claim("sink", "ReadWriteMany", &in_zone(scene, "b")).await;
        let spec = json!({
            "replicas": 4, "placement": {"dataAffinity": "Required"},
            "dataVolumes": [{"name": "data", "claimName": "data", "mountPath": "/data"}],
            "sinkVolumes": [{"name": "sink", "claimName": "sink", "mountPath": "/sink"}],
        });
        scene.pool("p", spec).await;
        assert_eq!(by_zone(&scene.placed("p", 4).await), on(&[("b", 4)]));
    });
}

#[test]
fn workers_prefer_the_zone_that_a_hint_names() {
    act("workers_prefer_the_zone_that_a_hint_names", async |scene| {
        // Room for four in the zone: the others go elsewhere and do not wait.
        three_zones(scene, 2).await;
        let hints = json!([{"zone": scene.global("c")}]);
        let placement = json!({"locality": hints, "zones": "Any", "antiAffinity": "None"});
        let spec = json!({"replicas": 5, "placement": placement});
        is_placed_as_wished(scene, spec, 5, |placed| by_zone(placed).get("c") == Some(&4)).await;
    });
}

#[test]
fn a_small_weight_yields_to_other_wishes_of_the_scheduler() {
    act(
        "a_small_weight_yields_to_other_wishes_of_the_scheduler",
        async |scene| {
            three_zones(scene, 20).await;
            let hints = json!([{"node": scene.global("a1")}]);
            // Three quarters of the node are taken: the scheduler would rather use another.
            let large = json!({"requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"memory": "32Gi"}});
            let placement = json!({"locality": hints, "dataAffinity": "Required", "antiAffinity": "None"});
            scene
                .pool(
                    "full",
                    json!({"replicas": 6, "resources": large, "placement": placement}),
                )
                .await;
            assert_eq!(scene.placed("full", 6).await, on(&[("a1", 6)]));
            scene.scheduler_knows_nodes().await;
            for (name, weight, near) in [("light", 5, 0), ("heavy", 100, 1)] {
                let placement =
                    json!({"locality": hints, "weight": weight, "zones": "Any", "antiAffinity": "None"});
                scene
                    .pool(name, json!({"replicas": 1, "placement": placement}))
                    .await;
                let placed = scene.placed(name, 1).await;
                assert_eq!(placed.get("a1").copied().unwrap_or(0), near, "{name}: {placed:?}");
            }
        },
    );
}

#[test]
fn workers_wait_for_the_zone_that_a_hint_demands() {
    act("workers_wait_for_the_zone_that_a_hint_demands", async |scene| {
        three_zones(scene, 1).await;
        let placement = json!({"locality": [{"zone": scene.global("c")}], "dataAffinity": "Required"});
        scene
            .pool("p", json!({"replicas": 3, "placement": placement}))
            .await;
        assert_eq!(scene.placed("p", 2).await, on(&[("c1", 1), ("c2", 1)]));
        let message = scene.complains("p", "Unschedulable").await;
        assert!(message.contains("nodes are available"), "{message}");
        scene.node("c3", "c", 1).await;
        assert_eq!(scene.placed("p", 3).await, on(&[("c1", 1), ("c2", 1), ("c3", 1)]));
    });
}

#[test]
fn workers_run_on_the_nodes_that_hints_demand() {
    act("workers_run_on_the_nodes_that_hints_demand", async |scene| {
        three_zones(scene, 10).await;
        let hints = json!([{"node": scene.global("a2")}, {"node": scene.global("c1")}]);
        let placement = json!({"locality": hints, "dataAffinity": "Required"});
        scene
            .pool("p", json!({"replicas": 4, "placement": placement}))
            .await;
        // How many on which is the scheduler's affair.
        let placed = scene.placed("p", 4).await;
        let demanded = |node: &String| ["a2", "c1"].contains(&node.as_str());
        assert!(placed.keys().all(demanded), "{placed:?}");
    });
}

#[test]
fn hints_that_are_ignored_attract_nobody() {
    act("hints_that_are_ignored_attract_nobody", async |scene| {
        three_zones(scene, 10).await;
        let placement = json!({"locality": [{"zone": scene.global("c")}], "dataAffinity": "Ignore"});
        let spec = json!({"replicas": 6, "placement": placement});
        let evenly = on(&[("a", 2), ("b", 2), ("c", 2)]);
        is_placed_as_wished(scene, spec, 6, |placed| by_zone(placed) == evenly).await;
    });
}

#[test]
fn workers_spread_over_zones_of_different_size() {
    act("workers_spread_over_zones_of_different_size", async |scene| {
        for node in ["a1", "a2", "a3", "a4", "b1", "c1"] {
            scene.node(node, &node[..1], 10).await;
        }
        let spec = json!({"replicas": 6, "placement": {"antiAffinity": "None"}});
        let evenly = on(&[("a", 2), ("b", 2), ("c", 2)]);
        is_placed_as_wished(scene, spec, 6, |placed| by_zone(placed) == evenly).await;
    });
}

#[test]
fn packed_workers_share_a_zone_and_no_node() {
    act("packed_workers_share_a_zone_and_no_node", async |scene| {
        for zone in ["a", "b", "c"] {
            for number in 1..=4 {
                scene.node(&format!("{zone}{number}"), zone, 10).await;
            }
        }
        let spec = json!({"replicas": 4, "placement": {"zones": "Pack"}});
        is_placed_as_wished(scene, spec, 4, |placed| {
            by_zone(placed).len() == 1 && placed.values().all(|pods| *pods == 1)
        })
        .await;
    });
}

#[test]
fn workers_that_may_share_no_node_wait_for_one_each() {
    act(
        "workers_that_may_share_no_node_wait_for_one_each",
        async |scene| {
            scene.node("a1", "a", 10).await;
            scene.node("b1", "b", 10).await;
            scene
                .pool(
                    "p",
                    json!({"replicas": 3, "placement": {"antiAffinity": "Required"}}),
                )
                .await;
            assert_eq!(scene.placed("p", 2).await, on(&[("a1", 1), ("b1", 1)]));
            scene.complains("p", "Unschedulable").await;
            scene.node("c1", "c", 10).await;
            assert_eq!(scene.placed("p", 3).await, on(&[("a1", 1), ("b1", 1), ("c1", 1)]));
        },
    );
}

#[test]
fn workers_learn_the_zone_of_their_node() {
    act("workers_learn_the_zone_of_their_node", async |scene| {
        scene.node("a1", "a", 10).await;
        scene.node("b1", "b", 10).await;
        scene.pool("p", json!({"replicas": 2})).await;
        eventually("the pods carry the zone of their node", async || {
            let pods = scene.pods("p").await;
            pods.len() == 2
                && pods.iter().all(|pod| {
                    let node = node_of(pod).unwrap_or_default();
                    let zone = scene.global(&scene.local(&node).chars().take(1).collect::<String>());
                    pod.labels().get("topology.kubernetes.io/zone") == Some(&zone)
                })
        })
        .await;
        eventually("the pool names its zones", async || {
            scene.status("p").await.zones == [scene.global("a"), scene.global("b")]
        })
        .await;
    });
}

#[test]
fn inline_workers_run_where_the_tables_of_their_query_are() {
    act(
        "inline_workers_run_where_the_tables_of_their_query_are",
        async |scene| {
            three_zones(scene, 10).await;
            // Generated, so that the workers need no volume, which would bind them to a place of its own.
            let table = json!({"name": "lineitem", "tpch": {"scaleFactor": 0.01},
                               "locality": [{"zone": scene.global("b")}]});
            let placement = json!({"placement": {"dataAffinity": "Required"}, "replicas": 3});
            let workers = scene.on_own_nodes(placement);
            scene
                .query("q", json!({"tables": [table], "workers": workers}))
                .await;
            assert_eq!(by_zone(&scene.placed("q-workers", 3).await), on(&[("b", 3)]));
        },
    );
}

#[test]
fn a_coordinator_runs_in_the_zone_of_its_workers() {
    act("a_coordinator_runs_in_the_zone_of_its_workers", async |scene| {
        scene.node("a1", "a", 10).await;
        scene.pool("p", json!({"replicas": 2})).await;
        assert_eq!(scene.placed("p", 2).await, on(&[("a1", 2)]));
        // Nothing but the workers speaks for their zone, and there is more room in the others.
        for zone in ["b", "c"] {
            scene.node(&format!("{zone}1"), zone, 100).await;
            scene.node(&format!("{zone}2"), zone, 100).await;
        }
        scene.scheduler_knows_nodes().await;
        for pod in scene.pods("p").await {
            scene.has_started(&pod).await;
        }
        scene.query("q", json!({})).await;
        let mut node = None;
        eventually("the coordinator has a node", async || {
            let coordinator = scene.api::<Pod>().get_opt("q-c1").await.unwrap();
            node = coordinator.as_ref().and_then(node_of);
            node.is_some()
        })
        .await;
        assert_eq!(scene.local(&node.unwrap()), "a1");
    });
}

#[test]
fn workers_that_tolerate_no_node_say_so_until_they_do() {
    act(
        "workers_that_tolerate_no_node_say_so_until_they_do",
        async |scene| {
            // Every node of every test has a taint of its own.
            scene.node("a1", "a", 10).await;
            scene
                .create::<WorkerPool>(json!({
                    "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"},
                    "spec": {"replicas": 1},
                }))
                .await;
            let message = scene.complains("p", "Tainted").await;
            assert!(message.contains("untolerated taint"), "{message}");
            scene.edit("p", scene.on_own_nodes(json!({}))).await;
            assert_eq!(scene.placed("p", 1).await, on(&[("a1", 1)]));
        },
    );
}
