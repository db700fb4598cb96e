//! What somebody on call relies on: quotas, defaults of pools, coordinators out of reach, objects that cannot be read, what is
//! left of finished queries, and pools that scale themselves.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_operator::objects::labels;
use sluice_operator::own_pod::OwnPod;

use super::fixture::{Fixture, with_fixture, with_operator};
use super::script::{CoordinatorSignals, with_signalled_coordinators};
use crate::coordinators::{programs, succeeds};
use crate::harness::{eventually, until};
use crate::kubelet::{Container, Exit, Kubelet, Program};

#[test]
fn a_namespace_runs_as_many_queries_as_it_is_granted_in_all_its_pools() {
    with_fixture(
        "a_namespace_runs_as_many_queries_as_it_is_granted",
        async |fixture| {
            let signals = CoordinatorSignals::default();
            let all = signals.clone();
            let program = programs(move |coordinator| all.clone().follow(coordinator));
            let _kubelet = Kubelet::start(fixture.env, program).await;
            let operator = fixture.start("operator", &["--max-queries-per-namespace=1"]);
            for pool in ["p", "other"] {
                fixture.create_pool(pool, json!({"replicas": 1})).await;
            }
            fixture.create_query("first", json!({})).await;
            fixture.wait_until_running("first", 1).await;
            fixture
                .create_query("second", json!({"workerPoolRef": {"name": "other"}}))
                .await;
            let message = fixture
                .wait_until_pending("second", "NamespaceQuotaReached")
                .await;
            assert!(
                message.starts_with("1 queries run in this namespace, which may have 1"),
                "{message}"
            );
            // Its workers are not started before.
            fixture
                .create_query("third", json!({"workers": {"replicas": 1}, "priority": -1}))
                .await;
            fixture.wait_until_pending("third", "NamespaceQuotaReached").await;
            assert_eq!(fixture.owned_by_query("third").await, [""; 0]);
            for (name, next) in [
                ("first", Some("second")),
                ("second", Some("third")),
                ("third", None),
            ] {
                signals.signal(name);
                fixture.wait_for_phase(name, QueryPhase::Succeeded).await;
                if let Some(next) = next {
                    fixture.wait_until_running(next, 1).await;
                }
            }
            operator.assert_nothing_forbidden();
        },
    );
}

#[test]
fn a_pool_says_what_queries_have_that_do_not_say() {
    with_signalled_coordinators(
        "a_pool_says_what_queries_have_that_do_not_say",
        async |scripted| {
            let fixture = scripted.fixture;
            let spec = json!({"replicas": 1, "maxConcurrentQueries": 1, "defaultDeadlineSeconds": 8,
                          "defaultTtlSecondsAfterFinished": 1, "maxQueryPriority": 3});
            fixture.create_pool("p", spec).await;
            fixture
                .create_query("late", json!({"ttlSecondsAfterFinished": 3600}))
                .await;
            fixture.wait_until_running("late", 1).await;
            // Of two that are above the cap, the older goes first.
            fixture
                .create_query("older", json!({"priority": 4, "deadlineSeconds": 600}))
                .await;
            fixture.wait_until_pending("older", "Queued").await;
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            fixture
                .create_query("younger", json!({"priority": 9, "deadlineSeconds": 600}))
                .await;
            let (reason, message) = fixture.wait_until_failed("late").await;
            assert_eq!(reason, "DeadlineExceeded");
            assert!(message.contains("deadline of 8 s"), "{message}");
            fixture.wait_until_running("older", 1).await;
            scripted.signals.signal("older");
            scripted.signals.signal("younger");
            eventually("the default time to live deletes both", async || {
                let queries = fixture.api::<ShuffleQuery>();
                let left = queries.list(&ListParams::default()).await.unwrap();
                left.iter().map(ResourceExt::name_any).collect::<Vec<_>>() == ["late"]
            })
            .await;
            let mut started: Vec<_> = scripted
                .kubelet
                .started()
                .into_iter()
                .map(|pod| pod.name)
                .collect();
            started.retain(|name| name != "p-0");
            assert_eq!(started, ["late-c1", "older-c1", "younger-c1"]);
        },
    );
}

#[test]
fn what_coordinators_needed_goes_with_the_end_of_their_query() {
    with_signalled_coordinators(
        "what_coordinators_needed_goes_with_the_end_of_their_query",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            let text = json!({"metadata": {"name": "text"}, "data": {"q.sql": "select 1"}});
            fixture.create::<ConfigMap>(text).await;
            let source = json!({"sqlFrom": {"configMapKeyRef": {"name": "text", "key": "q.sql"}}});
            fixture.create_query("q", source).await;
            fixture.wait_until_running("q", 1).await;
            let left = async || {
                let ours = ListParams::default().labels(&format!("{}=q", labels::QUERY));
                let maps = fixture.api::<ConfigMap>().list(&ours).await.unwrap();
                let secrets = fixture.api::<Secret>().list(&ours).await.unwrap();
                (maps.items.len(), secrets.items.len())
            };
            assert_eq!(left().await, (1, 1));
            scripted.signals.signal("q");
            fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            eventually("input and token are gone", async || left().await == (0, 0)).await;
            assert!(
                fixture
                    .api::<ConfigMap>()
                    .get_opt("text")
                    .await
                    .unwrap()
                    .is_some()
            );
            assert_eq!(fixture.query_status("q").await.phase, QueryPhase::Succeeded);
        },
    );
}

/// Workers that are as usual, and coordinators whose port nobody serves.
fn silent_coordinators() -> Program {
    let usual = programs(succeeds);
    Arc::new(move |container: Container| {
        if container.label(labels::COMPONENT) == "worker" {
            return usual(container);
        }
        async move {
            container.report_running(true).await;
            container.terminated().await;
            Exit::stopped()
        }
        .boxed()
    })
}

#[test]
fn a_coordinator_that_the_operator_does_not_reach_is_told_of() {
    with_operator(
        "a_coordinator_that_the_operator_does_not_reach_is_told_of",
        async |fixture| {
            let _kubelet = Kubelet::start(fixture.env, silent_coordinators()).await;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            let message = fixture.wait_until_pending("q", "CoordinatorUnreachable").await;
            assert!(
                message.contains("port 7401 since") && message.contains("NetworkPolicy"),
                "{message}"
            );
            let told = async || {
                let events = fixture.api::<Event>().list(&ListParams::default()).await.unwrap();
                let mut events = events.into_iter();
                events.any(|event| event.reason.as_deref() == Some("CoordinatorUnreachable"))
            };
            eventually("an event tells of it", told).await;
        },
    );
}

#[test]
fn coordinators_of_a_pool_have_a_network_policy_of_their_own() {
    with_operator(
        "coordinators_of_a_pool_have_a_network_policy_of_their_own",
        async |fixture| {
            fixture
                .create_pool("p", json!({"replicas": 0, "egress": "Internal"}))
                .await;
            let policies = fixture.api::<NetworkPolicy>();
            let policy = until("the pool has the policy", async || {
                let policy = policies.get_opt("p-coordinators").await.unwrap();
                policy.ok_or_else(|| "none".to_owned())
            })
            .await;
            let spec = policy.spec.unwrap();
            assert_eq!(spec.egress.unwrap().len(), 2);
            // What the cluster has of it is as it should be, or the operator would write it again and again.
            fixture.edit("p", json!({"egress": "Any"})).await;
            eventually("it is opened", async || {
                let policy = policies.get("p-coordinators").await.unwrap();
                policy.spec.unwrap().egress.unwrap().len() == 1
            })
            .await;
            let settled = policies.get("p-coordinators").await.unwrap().resource_version();
            fixture.edit("p", json!({"drainTimeoutSeconds": 7})).await;
            eventually("the pool was looked at again", async || {
                fixture.status("p").await.observed_generation.is_some()
            })
            .await;
            assert_eq!(
                policies.get("p-coordinators").await.unwrap().resource_version(),
                settled
            );
        },
    );
}

#[test]
fn an_object_that_cannot_be_read_is_told_of_and_stops_nothing() {
    with_fixture(
        "an_object_that_cannot_be_read_is_told_of_and_stops_nothing",
        async |fixture| {
            let _kubelet = Kubelet::start(fixture.env, programs(succeeds)).await;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("odd", json!({"suspend": true})).await;
            // As a newer operator may have written it.
            let status = json!({"status": {"phase": "Pending", "reason": "FromTheFuture"}});
            let odd = async |status| {
                // Not as a query: this version cannot read it.
                let path = <ShuffleQuery as kube::Resource>::url_path(&(), Some(&fixture.env.namespace));
                let (params, patch) = (PatchParams::default(), Patch::Merge(status));
                let request = kube::core::Request::new(path);
                let request = request
                    .patch_subresource("status", "odd", &params, &patch)
                    .unwrap();
                let client = &fixture.env.client;
                client.request::<serde_json::Value>(request).await.unwrap();
            };
            odd(status).await;
            let operator = fixture.start("operator", &[]);
            let gauge = format!(
                "sluice_operator_unreadable_objects{{kind=\"ShuffleQuery\",scope=\"{}\"}}",
                fixture.env.namespace
            );
            let counts = async |count: u32| {
                let text = operator.get("/metrics").await.unwrap_or_default();
                text.contains(&format!("{gauge} {count}\n"))
            };
            eventually("one is counted", async || counts(1).await).await;
            let told = async || {
                let events = fixture.api::<Event>().list(&ListParams::default()).await.unwrap();
                let mut events = events.into_iter();
                events.any(|event| {
                    let regarding = event.regarding.unwrap_or_default();
                    event.reason.as_deref() == Some("Unreadable") && regarding.name.as_deref() == Some("odd")
                })
            };
            eventually("an event tells of it", told).await;
            fixture.create_query("q", json!({})).await;
            fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            odd(json!({"status": null})).await;
            fixture.wait_for_phase("odd", QueryPhase::Suspended).await;
            eventually("none is counted", async || counts(0).await).await;
            operator.assert_nothing_forbidden();
        },
    );
}

/// An operator that is told of no image has that of its own container, whoever has set it, and its lease goes with its pod's
/// owner.
#[test]
fn the_operators_own_pod_names_the_image_and_owns_the_lease() {
    with_fixture(
        "the_operators_own_pod_names_the_image_and_owns_the_lease",
        async |fixture| {
            let owner = json!({"metadata": {"name": "installation"}});
            let owner = fixture.create::<ConfigMap>(owner).await;
            let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "installation",
                               "uid": owner.metadata.uid.unwrap()});
            fixture
            .create::<Pod>(json!({
                "metadata": {"name": "own", "ownerReferences": [reference]},
                "spec": {"nodeName": "nowhere", "containers": [{"name": "operator", "image": "localhost/sluice:own"}]},
            }))
            .await;
            let config = fixture.env.operators_config();
            let client = kube::Client::try_from(config).unwrap();
            let own = OwnPod::read(&client, &fixture.env.namespace, "own")
                .await
                .unwrap();
            assert_eq!(own.image.as_deref(), Some("localhost/sluice:own"));
            let none = OwnPod::read(&client, &fixture.env.namespace, "other")
                .await
                .unwrap();
            assert_eq!(none, OwnPod::default());
            let operator = fixture.start("own", &[]);
            let leases = fixture.api::<Lease>();
            eventually("the lease has the owner", async || {
                let lease = leases.get_opt("sluice-operator").await.unwrap();
                lease.is_some_and(|lease| lease.owner_references() == own.owners)
            })
            .await;
            operator.stop();
            operator.end().await;
            fixture.delete::<ConfigMap>("installation").await;
            eventually("the lease is gone with it", async || {
                leases.get_opt("sluice-operator").await.unwrap().is_none()
            })
            .await;
            operator.assert_nothing_forbidden();
        },
    );
}

async fn desired(fixture: &Fixture<'_>, pool: &str) -> Option<u32> {
    fixture.status(pool).await.desired_replicas
}

#[test]
fn a_pool_scales_itself_from_zero_and_back() {
    with_fixture("a_pool_scales_itself_from_zero_and_back", async |fixture| {
        let signals = CoordinatorSignals::default();
        let all = signals.clone();
        let program = programs(move |coordinator| all.clone().follow(coordinator));
        let _kubelet = Kubelet::start(fixture.env, program).await;
        let operator = fixture.start("operator", &[]);
        let scaling = json!({"maxReplicas": 3, "scaleDownStabilizationSeconds": 2});
        fixture
            .create_pool(
                "p",
                json!({"replicas": 1, "slotsPerWorker": 2, "autoscaling": scaling}),
            )
            .await;
        eventually("nothing is wanted", async || {
            desired(fixture, "p").await == Some(0)
        })
        .await;
        let names = ["a", "b", "c", "d", "e"];
        for name in names {
            fixture.create_query(name, json!({})).await;
        }
        // Five queries that are not planned want two slots each: more than the most.
        fixture.wait_for_pods("p", &["p-0", "p-1", "p-2"]).await;
        for name in names {
            fixture.wait_until_running(name, 1).await;
        }
        let shown = async |line: &str| {
            let text = operator.get("/metrics").await.unwrap_or_default();
            let namespace = &fixture.env.namespace;
            let (name, value) = line.split_once(' ').unwrap();
            text.contains(&format!(
                "sluice_operator_{name}{{namespace=\"{namespace}\",pool=\"p\"}} {value}\n"
            ))
        };
        // Each has one task that runs.
        eventually("what is wanted is shown", async || {
            shown("pool_slots_wanted 5").await
                && shown("pool_queries_running 5").await
                && shown("pool_workers_wanted 3").await
        })
        .await;
        for name in &names[..4] {
            signals.signal(name);
            fixture.wait_for_phase(name, QueryPhase::Succeeded).await;
        }
        eventually("one worker is left for one query", async || {
            desired(fixture, "p").await == Some(1)
        })
        .await;
        signals.signal("e");
        fixture.wait_for_phase("e", QueryPhase::Succeeded).await;
        eventually("nothing is wanted again", async || {
            desired(fixture, "p").await == Some(0)
        })
        .await;
        fixture.wait_for_pods("p", &[]).await;
        fixture.delete::<sluice_crds::WorkerPool>("p").await;
        eventually("a pool that is gone is not shown", async || {
            let text = operator.get("/metrics").await.unwrap_or_default();
            !text.contains("pool=\"p\"")
        })
        .await;
        operator.assert_nothing_forbidden();
    });
}
