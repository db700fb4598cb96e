//! The lifecycle of a query: it is suspended, ends, is deleted, outlives operators, and its objects are deleted with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::json;
use sluice_core::coordinator::Outcome;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ShuffleQuery, WorkerPool};
use sluice_operator::objects::names;

use super::fixture::{Fixture, with_fixture};
use super::script::{
    CoordinatorSignals, ScriptedQueries, with_scripted_coordinators, with_signalled_coordinators,
};
use crate::coordinators::{programs, succeeds};
use crate::faults::{Faults, WatchFaults};
use crate::harness::{eventually, run_in_namespace};
use crate::kubelet::Kubelet;

#[test]
fn a_query_that_is_suspended_rests_and_starts_over_when_it_is_resumed() {
    with_signalled_coordinators(
        "a_query_that_is_suspended_rests_and_starts_over_when_it_is_resumed",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            fixture.wait_until_running("q", 1).await;
            fixture.edit_query("q", json!({"suspend": true})).await;
            let status = fixture.wait_for_phase("q", QueryPhase::Suspended).await;
            assert!(status.suspended_time.is_some() && status.admitted_time.is_none());
            eventually("its coordinator is gone", async || {
                fixture.coordinators("q").await.is_empty()
            })
            .await;
            // Told, so that workers drop its data; what it said of its end ended nothing.
            assert_eq!(scripted.signals.events(), ["q-c1 is cancelled"]);
            assert_eq!(fixture.query_status("q").await.phase, QueryPhase::Suspended);
            scripted.signals.signal("q");
            fixture.edit_query("q", json!({"suspend": false})).await;
            let status = fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            assert_eq!((status.coordinator_epoch, status.pod_retries), (2, 0));
            assert!(status.suspended_millis > 0);
        },
    );
}

/// Its pod is not in the cache at once.
#[test]
fn a_coordinator_is_created_once() {
    with_fixture("a_coordinator_is_created_once", async |fixture| {
        let tokens = Arc::new(AtomicUsize::new(0));
        let created = tokens.clone();
        let faults = Faults::scripted(0, WatchFaults::default(), move |call| {
            let is_token = call.method == Method::POST && call.path.ends_with("/secrets");
            created.fetch_add(usize::from(is_token), Ordering::Relaxed);
            None
        });
        let _kubelet = Kubelet::start(fixture.env, programs(succeeds)).await;
        let _operator = fixture.env.start("operator", faults);
        fixture.create_pool("p", json!({"replicas": 1})).await;
        let names: Vec<_> = (0..20).map(|number| format!("q{number}")).collect();
        for name in &names {
            fixture.create_query(name, json!({})).await;
        }
        for name in &names {
            fixture.wait_for_phase(name, QueryPhase::Succeeded).await;
        }
        assert_eq!(tokens.load(Ordering::Relaxed), names.len());
    });
}

#[test]
fn a_query_that_is_suspended_from_the_start_takes_nobodys_place() {
    with_signalled_coordinators(
        "a_query_that_is_suspended_from_the_start_takes_nobodys_place",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture
                .create_pool("p", json!({"replicas": 1, "maxConcurrentQueries": 1}))
                .await;
            fixture
                .create_query("rests", json!({"suspend": true, "priority": 9}))
                .await;
            fixture.wait_for_phase("rests", QueryPhase::Suspended).await;
            scripted.signals.signal("other");
            fixture.create_query("other", json!({})).await;
            fixture.wait_for_phase("other", QueryPhase::Succeeded).await;
            assert_eq!(fixture.owned_by_query("rests").await, [""; 0]);
        },
    );
}

/// How long ago a query was submitted.
async fn age(fixture: &Fixture<'_>, query: &str) -> SignedDuration {
    let query = fixture.api::<ShuffleQuery>().get(query).await.unwrap();
    Timestamp::now().duration_since(query.creation_timestamp().unwrap().0)
}

/// Has a query rest for longer than its deadline and run then; whether it succeeded. On a machine that stands still, it may really
/// take so long without its rest.
async fn succeeds_after_a_rest(scripted: &ScriptedQueries<'_>, name: &str) -> bool {
    let fixture = scripted.fixture;
    fixture.create_query(name, json!({"suspend": true})).await;
    fixture.wait_for_phase(name, QueryPhase::Suspended).await;
    // Beyond what it took to get there, this long to run.
    let deadline = age(fixture, name).await.as_secs() + 10;
    fixture
        .edit_query(name, json!({"deadlineSeconds": deadline}))
        .await;
    eventually("it has rested for longer", async || {
        age(fixture, name).await.as_secs() > deadline
    })
    .await;
    scripted.signals.signal(name);
    fixture.edit_query(name, json!({"suspend": null})).await;
    let mut status = ShuffleQueryStatus::default();
    eventually("the query ends", async || {
        status = fixture.query_status(name).await;
        status.phase.is_terminal()
    })
    .await;
    if status.phase == QueryPhase::Succeeded {
        return true;
    }
    let rested = SignedDuration::from_millis(status.suspended_millis.try_into().unwrap());
    let query = fixture.api::<ShuffleQuery>().get(name).await.unwrap();
    let ended = status.end_time.as_ref().unwrap().0;
    let ran = ended.duration_since(query.creation_timestamp().unwrap().0) - rested;
    // Times in objects are whole seconds.
    assert!(
        ran.as_secs() + 1 >= deadline,
        "it ran for {ran} only: {status:#?}"
    );
    false
}

#[test]
fn the_deadline_does_not_count_a_rest() {
    with_signalled_coordinators("the_deadline_does_not_count_a_rest", async |scripted| {
        scripted.fixture.create_pool("p", json!({"replicas": 1})).await;
        for query in ["q0", "q1", "q2"] {
            if succeeds_after_a_rest(scripted, query).await {
                return;
            }
        }
        panic!("no query was done within 10 s");
    });
}

#[test]
fn a_query_that_takes_longer_than_its_deadline_fails() {
    with_signalled_coordinators(
        "a_query_that_takes_longer_than_its_deadline_fails",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("runs", json!({})).await;
            fixture
                .create_query("waits", json!({"workerPoolRef": {"name": "none"}}))
                .await;
            fixture.wait_until_running("runs", 1).await;
            fixture.wait_until_pending("waits", "PoolNotFound").await;
            for query in ["runs", "waits"] {
                // From its submission on, which may be a while ago.
                let deadline = age(fixture, query).await.as_secs() + 1;
                fixture
                    .edit_query(query, json!({"deadlineSeconds": deadline}))
                    .await;
                let (reason, message) = fixture.wait_until_failed(query).await;
                assert_eq!(reason, "DeadlineExceeded");
                assert_eq!(
                    message,
                    format!("the query ran longer than its deadline of {deadline} s")
                );
            }
            assert_eq!(scripted.signals.events(), ["runs-c1 is cancelled"]);
        },
    );
}

#[test]
fn a_query_is_deleted_when_its_time_to_live_is_over() {
    with_signalled_coordinators(
        "a_query_is_deleted_when_its_time_to_live_is_over",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            for query in ["goes", "later", "stays"] {
                scripted.signals.signal(query);
            }
            fixture.create_query("stays", json!({})).await;
            fixture
                .create_query("later", json!({"ttlSecondsAfterFinished": 86400}))
                .await;
            fixture
                .create_query("goes", json!({"ttlSecondsAfterFinished": 1}))
                .await;
            let queries = fixture.api::<ShuffleQuery>();
            eventually("the query and all that it owned is gone", async || {
                queries.get_opt("goes").await.unwrap().is_none()
                    && fixture.owned_by_query("goes").await.is_empty()
            })
            .await;
            fixture.wait_for_phase("stays", QueryPhase::Succeeded).await;
            fixture.wait_for_phase("later", QueryPhase::Succeeded).await;
            // That an edit was seen is said, and nothing else changes.
            let before = fixture.query_status("stays").await;
            fixture
                .edit_query("stays", json!({"ttlSecondsAfterFinished": 86400}))
                .await;
            eventually("the edit was seen", async || {
                let query = queries.get("stays").await.unwrap();
                query.status.unwrap().observed_generation == query.metadata.generation
            })
            .await;
            let after = fixture.query_status("stays").await;
            assert_ne!(after.observed_generation, before.observed_generation);
            assert_eq!((after.stages, after.totals), (before.stages, before.totals));
            // A time to live may be set, or made shorter, after the end.
            fixture
                .edit_query("later", json!({"ttlSecondsAfterFinished": 0}))
                .await;
            eventually("the other one goes too", async || {
                queries.get_opt("later").await.unwrap().is_none()
            })
            .await;
            fixture.wait_for_phase("stays", QueryPhase::Succeeded).await;
        },
    );
}

#[test]
fn a_query_that_is_deleted_is_cancelled_and_leaves_nothing() {
    with_signalled_coordinators(
        "a_query_that_is_deleted_is_cancelled_and_leaves_nothing",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            fixture.wait_until_running("q", 1).await;
            let query = fixture.api::<ShuffleQuery>().get("q").await.unwrap();
            let token = format!("Secret {}", names::token("q", &query.uid().unwrap(), 1));
            assert_eq!(
                fixture.owned_by_query("q").await,
                ["Pod q-c1", "ConfigMap q-input", token.as_str()]
            );
            fixture.delete::<ShuffleQuery>("q").await;
            eventually("all is gone", async || {
                fixture.owned_by_query("q").await.is_empty()
            })
            .await;
            // By the operator, or by Kubernetes, whichever came first.
            let heard = scripted.signals.events();
            assert_eq!(heard.len(), 1, "{heard:?}");
        },
    );
}

#[test]
fn a_query_that_its_coordinator_cancels_is_cancelled() {
    with_scripted_coordinators(
        "a_query_that_its_coordinator_cancels_is_cancelled",
        async |coordinator| {
            coordinator.container.report_running(true).await;
            coordinator.end(Outcome::Cancelled).await
        },
        async |fixture, _| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.create_query("q", json!({})).await;
            let status = fixture.wait_for_phase("q", QueryPhase::Cancelled).await;
            assert_eq!(status.coordinator_epoch, 1);
        },
    );
}

#[test]
fn inline_workers_are_a_pool_that_comes_and_goes_with_its_query() {
    with_signalled_coordinators(
        "inline_workers_are_a_pool_that_comes_and_goes_with_its_query",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture
                .create_query("q", json!({"workers": {"replicas": 2, "memory": "1GiB"}}))
                .await;
            fixture.wait_until_running("q", 1).await;
            let pool = fixture.api::<WorkerPool>().get("q-workers").await.unwrap();
            assert_eq!(pool.spec.replicas, 2);
            fixture
                .wait_for_pods("q-workers", &["q-workers-0", "q-workers-1"])
                .await;
            scripted.signals.signal("q");
            fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
            eventually("the pool and its workers are gone", async || {
                let pool = fixture.api::<WorkerPool>().get_opt("q-workers").await.unwrap();
                pool.is_none() && fixture.pods("q-workers").await.is_empty()
            })
            .await;
        },
    );
}

#[test]
fn a_query_that_rests_gives_its_inline_workers_back() {
    with_signalled_coordinators(
        "a_query_that_rests_gives_its_inline_workers_back",
        async |scripted| {
            let fixture = scripted.fixture;
            fixture
                .create_query("q", json!({"workers": {"replicas": 1}}))
                .await;
            fixture.wait_until_running("q", 1).await;
            fixture.edit_query("q", json!({"suspend": true})).await;
            eventually("the pool and its workers are gone", async || {
                let pool = fixture.api::<WorkerPool>().get_opt("q-workers").await.unwrap();
                pool.is_none() && fixture.pods("q-workers").await.is_empty()
            })
            .await;
            scripted.signals.signal("q");
            fixture.edit_query("q", json!({"suspend": false})).await;
            fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
        },
    );
}

#[test]
fn a_query_keeps_the_text_that_it_began_with() {
    with_signalled_coordinators("a_query_keeps_the_text_that_it_began_with", async |scripted| {
        let fixture = scripted.fixture;
        fixture.create_pool("p", json!({"replicas": 1})).await;
        let from = json!({"configMapKeyRef": {"name": "texts", "key": "a.sql"}});
        fixture.create_query("q", json!({"sqlFrom": from})).await;
        let message = fixture.wait_until_pending("q", "SqlNotFound").await;
        assert_eq!(message, "ConfigMap texts does not exist");
        fixture
            .create::<ConfigMap>(json!({"metadata": {"name": "texts"}, "data": {"a.sql": "select 42"}}))
            .await;
        fixture.wait_until_running("q", 1).await;
        let input = async || {
            let input = fixture.api::<ConfigMap>().get("q-input").await.unwrap();
            assert_eq!(input.immutable, Some(true));
            (input.uid(), serde_json::to_string(&input.data).unwrap())
        };
        let before = input().await;
        assert!(before.1.contains("select 42"), "{}", before.1);
        fixture
            .merge::<ConfigMap>("texts", json!({"data": {"a.sql": "select 43"}}))
            .await;
        fixture.delete::<k8s_openapi::api::core::v1::Pod>("q-c1").await;
        fixture.wait_until_running("q", 2).await;
        assert_eq!(input().await, before);
    });
}

#[test]
fn a_query_goes_on_while_no_operator_runs() {
    with_fixture("a_query_goes_on_while_no_operator_runs", async |fixture| {
        let signals = CoordinatorSignals::default();
        let all = signals.clone();
        let program = programs(move |coordinator| all.clone().follow(coordinator));
        let kubelet = Kubelet::start(fixture.env, program).await;
        let first = fixture.start("first", &[]);
        fixture.create_pool("p", json!({"replicas": 1})).await;
        fixture.create_query("ends", json!({})).await;
        fixture.create_query("runs", json!({})).await;
        fixture.wait_until_running("ends", 1).await;
        fixture.wait_until_running("runs", 1).await;
        first.kill();
        first.end().await;
        fixture.env.release_lease().await;
        // Nobody follows it: it says how it ended with its last words.
        signals.signal("ends");
        eventually("a coordinator has ended", async || {
            let pods = fixture.coordinators("ends").await;
            let status = pods
                .first()
                .and_then(|pod| pod.status.clone())
                .unwrap_or_default();
            status.phase.as_deref() == Some("Succeeded")
        })
        .await;
        let second = fixture.start("second", &[]);
        let status = fixture.wait_for_phase("ends", QueryPhase::Succeeded).await;
        assert_eq!((status.coordinator_epoch, status.totals.rows_written), (1, 20));
        signals.signal("runs");
        let status = fixture.wait_for_phase("runs", QueryPhase::Succeeded).await;
        assert_eq!(status.coordinator_epoch, 1);
        let coordinators = kubelet.started().into_iter().map(|pod| pod.name);
        let coordinators: Vec<_> = coordinators.filter(|name| name.contains("-c")).collect();
        assert_eq!(coordinators.len(), 2, "{coordinators:?}");
        assert_eq!(signals.events(), [""; 0]);
        second.assert_nothing_forbidden();
    });
}

#[test]
fn two_operators_that_both_lead_start_one_coordinator() {
    with_fixture(
        "two_operators_that_both_lead_start_one_coordinator",
        async |fixture| {
            run_in_namespace(async |other| {
                let other = Fixture { env: other };
                let signals = CoordinatorSignals::default();
                let all = signals.clone();
                let program = programs(move |coordinator| all.clone().follow(coordinator));
                let kubelet = Kubelet::start(fixture.env, program).await;
                let one = fixture.start("one", &[]);
                let two = other.start("two", &[&format!("--namespaces={}", fixture.env.namespace)]);
                eventually("both lead", async || one.leads().await && two.leads().await).await;
                let names: Vec<_> = (0..5).map(|number| format!("q{number}")).collect();
                fixture.create_pool("p", json!({"replicas": 2})).await;
                for query in &names {
                    fixture.create_query(query, json!({})).await;
                }
                for query in &names {
                    fixture.wait_until_running(query, 1).await;
                }
                fixture.edit_query("q0", json!({"suspend": true})).await;
                fixture.wait_for_phase("q0", QueryPhase::Suspended).await;
                fixture.edit_query("q0", json!({"suspend": false})).await;
                fixture.wait_until_running("q0", 2).await;
                for query in &names {
                    signals.signal(query);
                    let status = fixture.wait_for_phase(query, QueryPhase::Succeeded).await;
                    let epoch = if query == "q0" { 2 } else { 1 };
                    assert_eq!(
                        (status.coordinator_epoch, status.pod_retries),
                        (epoch, 0),
                        "{query}"
                    );
                }
                let mut started: Vec<_> = kubelet.started().into_iter().map(|pod| pod.name).collect();
                started.retain(|name| name.starts_with('q'));
                started.sort();
                assert_eq!(started, ["q0-c1", "q0-c2", "q1-c1", "q2-c1", "q3-c1", "q4-c1"]);
                one.assert_nothing_forbidden();
                two.assert_nothing_forbidden();
            })
            .await;
        },
    );
}
