//! What the status says of a query that cannot run, or not yet.

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt;
use serde_json::json;
use sluice_crds::WorkerPool;
use sluice_crds::shuffle_query::status::QueryPhase;

use super::fixture::with_fixture;
use super::script::{with_scripted_coordinators, with_signalled_coordinators};
use crate::coordinators::{programs, succeeds};
use crate::kubelet::Kubelet;

#[test]
fn a_query_is_refused_with_the_names_of_its_fields() {
    with_signalled_coordinators(
        "a_query_is_refused_with_the_names_of_its_fields",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            // What no schema can say.
            let table = json!({"name": "t", "location": format!("/{}", "é".repeat(600)), "format": "csv"});
            for (query, spec, fields) in [
                ("blank", json!({"sql": " "}), vec!["spec.sql"]),
                (
                    "little",
                    json!({"workers": {"memory": "1KiB"}}),
                    vec!["spec.workers.memory"],
                ),
                (
                    "several",
                    json!({"sql": " ", "tables": [table]}),
                    vec!["spec.sql", "spec.tables[0].location"],
                ),
            ] {
                fixture.create_query(query, spec).await;
                let (reason, message) = fixture.wait_until_failed(query).await;
                assert_eq!(reason, "InvalidSpec");
                for field in fields {
                    assert!(message.contains(field), "{message}");
                }
                assert_eq!(fixture.owned_by_query(query).await, [""; 0]);
            }
            // One that is good is none the worse for them.
            scripted.signals.signal("good");
            fixture.create_query("good", json!({})).await;
            fixture.wait_for_phase("good", QueryPhase::Succeeded).await;
        },
    );
}

#[test]
fn a_coordinator_whose_image_is_not_there_says_so() {
    with_scripted_coordinators(
        "a_coordinator_whose_image_is_not_there_says_so",
        async |coordinator| {
            let container = &coordinator.container;
            container
                .report_waiting("ImagePullBackOff", "no such image")
                .await;
            container.terminated().await;
            crate::kubelet::Exit::stopped()
        },
        async |fixture, _| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            let message = fixture.wait_until_pending("q", "ImagePullFailed").await;
            assert_eq!(message, "no such image");
        },
    );
}

#[test]
fn a_coordinator_beyond_the_quota_says_so_and_starts_when_there_is_room() {
    with_fixture(
        "a_coordinator_beyond_the_quota_says_so_and_starts_when_there_is_room",
        async |fixture| {
            let kubelet = Kubelet::start(fixture.env, programs(succeeds)).await;
            let operator = fixture.start("operator", &[]);
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.wait_for_pods("p", &["p-0"]).await;
            fixture.exhaust_pod_quota("quota", 1).await;
            fixture.create_query("q", json!({})).await;
            let message = fixture.wait_until_pending("q", "QuotaExceeded").await;
            assert!(message.contains("exceeded quota: quota"), "{message}");
            let room = json!({"spec": {"hard": {"pods": "100"}}});
            fixture.merge::<ResourceQuota>("quota", room).await;
            fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            let started: Vec<_> = kubelet.started().into_iter().map(|pod| pod.name).collect();
            assert_eq!(started, ["p-0", "q-c1"]);
            // The quota's refusal is a 403 too.
            let refused = format!("POST /api/v1/namespaces/{}/pods", fixture.env.namespace);
            let forbidden = operator.faults.forbidden();
            assert!(forbidden.iter().all(|call| *call == refused), "{forbidden:?}");
        },
    );
}

#[test]
fn a_pool_of_somebody_else_is_not_taken_for_inline_workers() {
    with_signalled_coordinators(
        "a_pool_of_somebody_else_is_not_taken_for_inline_workers",
        async |scripted| {
            let fixture = scripted.fixture;
            let theirs = fixture.create_pool("q-workers", json!({"replicas": 1})).await;
            fixture
                .create_query("q", json!({"workers": {"replicas": 3}}))
                .await;
            let message = fixture.wait_until_pending("q", "NameTaken").await;
            assert!(message.contains("WorkerPool q-workers exists"), "{message}");
            let now = fixture.api::<WorkerPool>().get("q-workers").await.unwrap();
            assert_eq!(now.uid(), theirs.uid());
            assert_eq!(now.spec, theirs.spec);
            assert!(fixture.coordinators("q").await.is_empty());
        },
    );
}
