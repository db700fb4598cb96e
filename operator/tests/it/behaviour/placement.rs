//! Where the scheduler puts workers, given what a pool says and where its data is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use sluice_crds::WorkerPool;

use super::fixture::{Fixture, node_of, with_operator};
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
async fn three_zones(fixture: &Fixture<'_>, pods: u32) {
    for zone in ["a", "b", "c"] {
        for number in [1, 2] {
            fixture.create_node(&format!("{zone}{number}"), zone, pods).await;
        }
    }
}

/// Terms that a node of the test's zone matches.
fn in_zone(fixture: &Fixture<'_>, zone: &str) -> Value {
    json!([{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [fixture.cluster_name(zone)]}]}])
}

/// Terms that a node of the test matches.
fn on_node(fixture: &Fixture<'_>, node: &str) -> Value {
    json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [fixture.cluster_name(node)]}]}])
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
async fn assert_placement(
    fixture: &Fixture<'_>,
    spec: Value,
    count: usize,
    wished: impl Fn(&Placed) -> bool,
) {
    fixture.wait_until_scheduler_knows_nodes().await;
    let mut seen = Vec::new();
    for number in 0..TRIES {
        let pool = format!("p{number}");
        fixture.create_pool(&pool, spec.clone()).await;
        let placed = fixture.wait_until_placed(&pool, count).await;
        if wished(&placed) {
            return;
        }
        seen.push(placed);
        // Its pods would weigh, too.
        fixture.delete::<WorkerPool>(&pool).await;
        eventually("its pods are gone", async || {
            let pods = fixture.pods(&pool).await;
            for pod in &pods {
                fixture.force_delete_pod(&pod.name_any()).await;
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
    with_operator(
        "workers_run_on_the_node_that_their_claim_is_bound_to",
        async |fixture| {
            three_zones(fixture, 10).await;
            let terms = on_node(fixture, "b2");
            fixture.create_claim("data", "ReadWriteOnce", &terms).await;
            let volumes = json!([{"name": "data", "claimName": "data", "mountPath": "/data"}]);
            let spec =
                json!({"replicas": 3, "dataVolumes": volumes, "placement": {"dataAffinity": "Required"}});
            fixture.create_pool("p", spec).await;
            assert_eq!(fixture.wait_until_placed("p", 3).await, on(&[("b2", 3)]));
            for pod in fixture.pods("p").await {
                let required = &node_affinity(&pod)["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
                assert_eq!(required, &terms);
            }
        },
    );
}

#[test]
fn workers_run_where_all_their_claims_are_reached() {
    with_operator(
        "workers_run_where_all_their_claims_are_reached",
        async |fixture| {
            three_zones(fixture, 10).await;
            let b_or_c = json!([in_zone(fixture, "b")[0], in_zone(fixture, "c")[0]]);
            fixture.create_claim("data", "ReadOnlyMany", &b_or_c).await;
            fixture
                .create_claim("sink", "ReadWriteMany", &in_zone(fixture, "b"))
                .await;
            let spec = json!({
                "replicas": 4, "placement": {"dataAffinity": "Required"},
                "dataVolumes": [{"name": "data", "claimName": "data", "mountPath": "/data"}],
                "sinkVolumes": [{"name": "sink", "claimName": "sink", "mountPath": "/sink"}],
            });
            fixture.create_pool("p", spec).await;
            assert_eq!(by_zone(&fixture.wait_until_placed("p", 4).await), on(&[("b", 4)]));
        },
    );
}

#[test]
fn workers_prefer_the_zone_that_a_hint_names() {
    with_operator("workers_prefer_the_zone_that_a_hint_names", async |fixture| {
        // Room for four in the zone: the others go elsewhere and do not wait.
        three_zones(fixture, 2).await;
        let hints = json!([{"zone": fixture.cluster_name("c")}]);
        let placement = json!({"locality": hints, "zones": "Any", "antiAffinity": "None"});
        let spec = json!({"replicas": 5, "placement": placement});
        assert_placement(fixture, spec, 5, |placed| by_zone(placed).get("c") == Some(&4)).await;
    });
}

#[test]
fn a_small_weight_yields_to_other_wishes_of_the_scheduler() {
    with_operator(
        "a_small_weight_yields_to_other_wishes_of_the_scheduler",
        async |fixture| {
            three_zones(fixture, 20).await;
            let hints = json!([{"node": fixture.cluster_name("a1")}]);
            // Three quarters of the node are taken: the scheduler would rather use another.
            let large = json!({"requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"memory": "32Gi"}});
            let placement = json!({"locality": hints, "dataAffinity": "Required", "antiAffinity": "None"});
            fixture
                .create_pool(
                    "full",
                    json!({"replicas": 6, "resources": large, "placement": placement}),
                )
                .await;
            assert_eq!(fixture.wait_until_placed("full", 6).await, on(&[("a1", 6)]));
            fixture.wait_until_scheduler_knows_nodes().await;
            for (name, weight, near) in [("light", 5, 0), ("heavy", 100, 1)] {
                let placement =
                    json!({"locality": hints, "weight": weight, "zones": "Any", "antiAffinity": "None"});
                fixture
                    .create_pool(name, json!({"replicas": 1, "placement": placement}))
                    .await;
                let placed = fixture.wait_until_placed(name, 1).await;
                assert_eq!(placed.get("a1").copied().unwrap_or(0), near, "{name}: {placed:?}");
            }
        },
    );
}

#[test]
fn workers_wait_for_the_zone_that_a_hint_demands() {
    with_operator("workers_wait_for_the_zone_that_a_hint_demands", async |fixture| {
        three_zones(fixture, 1).await;
        let placement =
            json!({"locality": [{"zone": fixture.cluster_name("c")}], "dataAffinity": "Required"});
        fixture
            .create_pool("p", json!({"replicas": 3, "placement": placement}))
            .await;
        assert_eq!(
            fixture.wait_until_placed("p", 2).await,
            on(&[("c1", 1), ("c2", 1)])
        );
        let message = fixture.wait_until_not_ready("p", "Unschedulable").await;
        assert!(message.contains("nodes are available"), "{message}");
        fixture.create_node("c3", "c", 1).await;
        assert_eq!(
            fixture.wait_until_placed("p", 3).await,
            on(&[("c1", 1), ("c2", 1), ("c3", 1)])
        );
    });
}

#[test]
fn workers_run_on_the_nodes_that_hints_demand() {
    with_operator("workers_run_on_the_nodes_that_hints_demand", async |fixture| {
        three_zones(fixture, 10).await;
        let hints = json!([{"node": fixture.cluster_name("a2")}, {"node": fixture.cluster_name("c1")}]);
        let placement = json!({"locality": hints, "dataAffinity": "Required"});
        fixture
            .create_pool("p", json!({"replicas": 4, "placement": placement}))
            .await;
        // How many on which is the scheduler's affair.
        let placed = fixture.wait_until_placed("p", 4).await;
        let demanded = |node: &String| ["a2", "c1"].contains(&node.as_str());
        assert!(placed.keys().all(demanded), "{placed:?}");
    });
}

#[test]
fn hints_that_are_ignored_attract_nobody() {
    with_operator("hints_that_are_ignored_attract_nobody", async |fixture| {
        three_zones(fixture, 10).await;
        let placement = json!({"locality": [{"zone": fixture.cluster_name("c")}], "dataAffinity": "Ignore"});
        let spec = json!({"replicas": 6, "placement": placement});
        let evenly = on(&[("a", 2), ("b", 2), ("c", 2)]);
        assert_placement(fixture, spec, 6, |placed| by_zone(placed) == evenly).await;
    });
}

#[test]
fn workers_spread_over_zones_of_different_size() {
    with_operator("workers_spread_over_zones_of_different_size", async |fixture| {
        for node in ["a1", "a2", "a3", "a4", "b1", "c1"] {
            fixture.create_node(node, &node[..1], 10).await;
        }
        let spec = json!({"replicas": 6, "placement": {"antiAffinity": "None"}});
        let evenly = on(&[("a", 2), ("b", 2), ("c", 2)]);
        assert_placement(fixture, spec, 6, |placed| by_zone(placed) == evenly).await;
    });
}

#[test]
fn packed_workers_share_a_zone_and_no_node() {
    with_operator("packed_workers_share_a_zone_and_no_node", async |fixture| {
        for zone in ["a", "b", "c"] {
            for number in 1..=4 {
                fixture.create_node(&format!("{zone}{number}"), zone, 10).await;
            }
        }
        let spec = json!({"replicas": 4, "placement": {"zones": "Pack"}});
        assert_placement(fixture, spec, 4, |placed| {
            by_zone(placed).len() == 1 && placed.values().all(|pods| *pods == 1)
        })
        .await;
    });
}

#[test]
fn workers_that_may_share_no_node_wait_for_one_each() {
    with_operator(
        "workers_that_may_share_no_node_wait_for_one_each",
        async |fixture| {
            fixture.create_node("a1", "a", 10).await;
            fixture.create_node("b1", "b", 10).await;
            fixture
                .create_pool(
                    "p",
                    json!({"replicas": 3, "placement": {"antiAffinity": "Required"}}),
                )
                .await;
            assert_eq!(
                fixture.wait_until_placed("p", 2).await,
                on(&[("a1", 1), ("b1", 1)])
            );
            fixture.wait_until_not_ready("p", "Unschedulable").await;
            fixture.create_node("c1", "c", 10).await;
            assert_eq!(
                fixture.wait_until_placed("p", 3).await,
                on(&[("a1", 1), ("b1", 1), ("c1", 1)])
            );
        },
    );
}

#[test]
fn workers_learn_the_zone_of_their_node() {
    with_operator("workers_learn_the_zone_of_their_node", async |fixture| {
        fixture.create_node("a1", "a", 10).await;
        fixture.create_node("b1", "b", 10).await;
        fixture.create_pool("p", json!({"replicas": 2})).await;
        eventually("the pods carry the zone of their node", async || {
            let pods = fixture.pods("p").await;
            pods.len() == 2
                && pods.iter().all(|pod| {
                    let node = node_of(pod).unwrap_or_default();
                    let zone =
                        fixture.cluster_name(&fixture.local_name(&node).chars().take(1).collect::<String>());
                    pod.labels().get("topology.kubernetes.io/zone") == Some(&zone)
                })
        })
        .await;
        eventually("the pool names its zones", async || {
            fixture.status("p").await.zones == [fixture.cluster_name("a"), fixture.cluster_name("b")]
        })
        .await;
    });
}

#[test]
fn inline_workers_run_where_the_tables_of_their_query_are() {
    with_operator(
        "inline_workers_run_where_the_tables_of_their_query_are",
        async |fixture| {
            three_zones(fixture, 10).await;
            // Generated, so that the workers need no volume, which would bind them to a place of its own.
            let table = json!({"name": "lineitem", "tpch": {"scaleFactor": 0.01},
                               "locality": [{"zone": fixture.cluster_name("b")}]});
            let placement = json!({"placement": {"dataAffinity": "Required"}, "replicas": 3});
            let workers = fixture.on_own_nodes(placement);
            fixture
                .create_query("q", json!({"tables": [table], "workers": workers}))
                .await;
            assert_eq!(
                by_zone(&fixture.wait_until_placed("q-workers", 3).await),
                on(&[("b", 3)])
            );
        },
    );
}

#[test]
fn a_coordinator_runs_in_the_zone_of_its_workers() {
    with_operator("a_coordinator_runs_in_the_zone_of_its_workers", async |fixture| {
        fixture.create_node("a1", "a", 10).await;
        fixture.create_pool("p", json!({"replicas": 2})).await;
        assert_eq!(fixture.wait_until_placed("p", 2).await, on(&[("a1", 2)]));
        // Nothing but the workers speaks for their zone, and there is more room in the others.
        for zone in ["b", "c"] {
            fixture.create_node(&format!("{zone}1"), zone, 100).await;
            fixture.create_node(&format!("{zone}2"), zone, 100).await;
        }
        fixture.wait_until_scheduler_knows_nodes().await;
        for pod in fixture.pods("p").await {
            fixture.mark_running(&pod).await;
        }
        fixture.create_query("q", json!({})).await;
        let mut node = None;
        eventually("the coordinator has a node", async || {
            let coordinator = fixture.api::<Pod>().get_opt("q-c1").await.unwrap();
            node = coordinator.as_ref().and_then(node_of);
            node.is_some()
        })
        .await;
        assert_eq!(fixture.local_name(&node.unwrap()), "a1");
    });
}

#[test]
fn workers_that_tolerate_no_node_say_so_until_they_do() {
    with_operator(
        "workers_that_tolerate_no_node_say_so_until_they_do",
        async |fixture| {
            // Every node of every test has a taint of its own.
            fixture.create_node("a1", "a", 10).await;
            fixture
                .create::<WorkerPool>(json!({
                    "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"},
                    "spec": {"replicas": 1},
                }))
                .await;
            let message = fixture.wait_until_not_ready("p", "Tainted").await;
            assert!(message.contains("untolerated taint"), "{message}");
            fixture.edit("p", fixture.on_own_nodes(json!({}))).await;
            assert_eq!(fixture.wait_until_placed("p", 1).await, on(&[("a1", 1)]));
        },
    );
}
