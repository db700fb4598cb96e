//! Two operators and one lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use crate::faults::{Call, Fault, Faults, WatchFaults};
use crate::harness::{End, Running, TestEnv, eventually, run};

async fn lease(env: &TestEnv) -> Option<Lease> {
    let leases = Api::<Lease>::namespaced(env.client.clone(), &env.namespace);
    leases.get_opt("sluice-operator").await.unwrap()
}

async fn holder(env: &TestEnv) -> String {
    let spec = lease(env).await.and_then(|lease| lease.spec).unwrap_or_default();
    spec.holder_identity.unwrap_or_default()
}

/// Two operators, of which the first leads.
async fn pair(env: &TestEnv, faults: Faults) -> (Running, Running) {
    let first = env.start("first", faults);
    eventually("the first leads", async || first.leads().await).await;
    let second = env.start("second", Faults::none());
    eventually("the second is ready", async || {
        second.get("/readyz").await.is_some()
    })
    .await;
    (first, second)
}

/// Waits until the first has held the lease for longer than one lasts: it has renewed it. All the while it alone leads.
async fn is_renewed(env: &TestEnv, first: &Running, second: &Running) {
    eventually("the lease is held for longer than it lasts", async || {
        assert_eq!(first.ended(), None);
        assert!(!second.leads().await, "two lead");
        let spec = lease(env).await.unwrap().spec.unwrap();
        assert!(spec.holder_identity.unwrap().starts_with("first_"));
        let held = spec
            .renew_time
            .unwrap()
            .0
            .duration_since(spec.acquire_time.unwrap().0);
        held.as_secs() > i64::from(spec.lease_duration_seconds.unwrap())
    })
    .await;
    assert!(first.leads().await && !second.leads().await);
}

/// Waits until `next` leads; all the while `last` must not.
async fn handed_over(last: &Running, next: &Running) {
    eventually("the other leads", async || {
        // In this order: whoever led before and after the other did would be seen.
        let (led, leads) = (last.leads().await, next.leads().await);
        assert!(!(leads && led && last.leads().await), "two lead");
        leads
    })
    .await;
}

#[test]
fn one_of_two_leads_and_hands_over_when_it_stops() {
    run("one_of_two_leads_and_hands_over_when_it_stops", async |env| {
        let (first, second) = pair(env, Faults::none()).await;
        assert!(holder(env).await.starts_with("first_"));
        is_renewed(env, &first, &second).await;
        first.stop();
        assert_eq!(first.end().await, End::Returned(Ok(())));
        let spec = lease(env).await.unwrap().spec.unwrap();
        let free = spec.holder_identity.is_none();
        assert!(
            free || spec.holder_identity.unwrap().starts_with("second_"),
            "given up"
        );
        handed_over(&first, &second).await;
        assert!(holder(env).await.starts_with("second_"));
        assert_eq!(first.faults.forbidden(), [""; 0]);
        assert_eq!(second.faults.forbidden(), [""; 0]);
    });
}

#[test]
fn a_leader_that_loses_the_api_server_ends_before_another_leads() {
    run(
        "a_leader_that_loses_the_api_server_ends_before_another_leads",
        async |env| {
            let (first, second) = pair(env, Faults::none()).await;
            first.faults.disconnect();
            eventually("the second leads", async || {
                let leads = second.leads().await;
                assert!(!leads || first.ended().is_some(), "two lead");
                leads
            })
            .await;
            let End::Returned(Err(error)) = first.end().await else {
                panic!("the first ended well");
            };
            assert!(error.contains("could not be renewed within 10 s"), "{error}");
        },
    );
}

#[test]
fn a_leader_that_dies_is_followed_by_another() {
    run("a_leader_that_dies_is_followed_by_another", async |env| {
        let (first, second) = pair(env, Faults::none()).await;
        first.kill();
        assert_eq!(first.end().await, End::Crashed);
        assert!(
            holder(env).await.starts_with("first_"),
            "nobody gave the lease up"
        );
        handed_over(&first, &second).await;
    });
}

#[test]
fn answers_that_get_lost_cost_no_leader_its_lease() {
    run("answers_that_get_lost_cost_no_leader_its_lease", async |env| {
        let mut writes = 0;
        let lost = Arc::new(AtomicUsize::new(0));
        let counted = lost.clone();
        let script = move |call: &Call| {
            if call.method == http::Method::GET || !call.path.contains("/leases") {
                return None;
            }
            writes += 1;
            // The creation's, and every third renewal's.
            let loses = writes % 3 == 1;
            counted.fetch_add(usize::from(loses), Ordering::Relaxed);
            loses.then_some(Fault::LoseAnswer)
        };
        let (first, second) = pair(env, Faults::scripted(0, WatchFaults::default(), script)).await;
        eventually("some answers got lost", async || {
            assert_eq!(first.ended(), None);
            lost.load(Ordering::Relaxed) > 3
        })
        .await;
        is_renewed(env, &first, &second).await;
    });
}

#[test]
fn a_leader_whose_lease_is_taken_by_hand_ends() {
    run("a_leader_whose_lease_is_taken_by_hand_ends", async |env| {
        let (first, second) = pair(env, Faults::none()).await;
        let leases = Api::<Lease>::namespaced(env.client.clone(), &env.namespace);
        let patch = serde_json::json!({"spec": {"holderIdentity": "somebody"}});
        let patch = kube::api::Patch::Merge(patch);
        leases
            .patch("sluice-operator", &kube::api::PatchParams::default(), &patch)
            .await
            .unwrap();
        let End::Returned(Err(error)) = first.end().await else {
            panic!("the first ended well");
        };
        assert!(error.contains("held by another operator"), "{error}");
        handed_over(&first, &second).await;
    });
}
