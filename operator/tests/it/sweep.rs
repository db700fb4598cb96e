//! Whatever faults the operator meets, the lifecycle of a pool and its queries ends as it does without faults: with the same
//! objects, one pod for each coordinator, and nothing left behind after deletion.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::PostParams;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::faults::{Call, Fault, Faults, WatchFaults};
use crate::harness::{TestEnv, eventually, run};
use crate::lifecycle::{FinalState, run_lifecycle};
use crate::pods::object;

/// Between the seeds of two operators of one lifecycle.
const SECOND_OPERATOR_SEED: u64 = 1_000;
/// Lifecycles that run at the same time, each in its own namespace.
const PARALLEL: usize = 4;

/// The lifecycle without faults, and the number of writes in it; `None` without a cluster.
fn without_faults(name: &str) -> Option<(FinalState, usize)> {
    let left = Mutex::new(None);
    run(name, async |env| {
        let faults = Faults::none();
        let (lived, deaths) = run_lifecycle(env, &mut |_| faults.clone(), true, async || {}).await;
        assert_eq!(deaths, 0);
        assert_eq!(faults.forbidden(), [""; 0]);
        let pods: Vec<_> = lived
            .coordinators
            .iter()
            .map(|(name, pods)| (name.as_str(), *pods))
            .collect();
        assert_eq!(pods, [("lost-c1", 1), ("lost-c2", 1), ("plain-c1", 1)]);
        // Both queries, the pool, its pod and what else it owns; of ended queries nothing else is left.
        assert!(lived.objects.len() > 9, "{:?}", lived.objects.keys());
        assert_eq!(lived.orphans, [""; 0], "left behind by the garbage collector");
        *left.lock().unwrap_or_else(PoisonError::into_inner) = Some((lived, faults.writes()));
    });
    left.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs lifecycles, several at a time, until `run_one` returns false. It gets the number of the lifecycle.
fn in_parallel(name: &str, run_one: impl AsyncFn(&TestEnv, usize) -> bool + Sync) {
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                run(name, async |env| {
                    while !over.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if !run_one(env, number).await {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
}

#[test]
fn a_crash_before_or_after_any_write_of_the_operator_changes_nothing_in_the_end() {
    let name = "a_crash_before_or_after_any_write_of_the_operator_changes_nothing_in_the_end";
    let Some((wanted, writes)) = without_faults(name) else {
        return;
    };
    let (crashes, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    in_parallel(name, async |env, number| {
        let fault = [Fault::CrashBefore, Fault::CrashAfter][number % 2];
        let mut faults_of = |operator| match operator {
            0 => Faults::crash_at(number / 2, fault),
            _ => Faults::none(),
        };
        let (left, deaths) = run_lifecycle(env, &mut faults_of, false, async || {}).await;
        crashes.fetch_add(usize::try_from(deaths).unwrap(), Ordering::Relaxed);
        let differences = left.differs_from(&wanted);
        if !differences.is_empty() {
            let position = format!("{fault:?} of write {}: {differences:#?}", number / 2);
            wrong
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(position);
        }
        // Beyond the last write no operator crashes.
        deaths > 0
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let crashes = crashes.into_inner();
    // Up to two per write. Runs differ in their writes, since events may be merged.
    assert!(crashes >= writes, "only {crashes} crashes at {writes} writes");
}

/// Random faults, drawn by `seed`: lost, late and repeated events, broken watches, expired history, refusals, lost answers, crashes
/// and, in every fourth lifecycle, an API server that is away for longer than a lease lasts, once for minutes.
fn random_faults(seed: u64) -> Faults {
    let mut random = SmallRng::seed_from_u64(seed);
    // Only for the first operator. Its successors get the time to finish.
    let away = seed < SECOND_OPERATOR_SEED && seed.is_multiple_of(4);
    let mut away = away.then(|| random.random_range(10..40_usize));
    let script = move |call: &Call| {
        if call.write.is_some() && call.write == away {
            away = None;
            let seconds = if seed == 0 { 130 } else { 20 };
            return Some(Fault::Unreachable(Duration::from_secs(seconds)));
        }
        match random.random_range(0..100) {
            0 => Some(Fault::Refuse(409)),
            1 => Some(Fault::Refuse(429)),
            2 => Some(Fault::Refuse(503)),
            3 => Some(Fault::Refuse(500)),
            4 => Some(Fault::Disconnect),
            5 => Some(Fault::Delay(Duration::from_millis(50))),
            6..12 if call.write.is_some() => Some(Fault::LoseAnswer),
            12 if call.write.is_some() => Some(Fault::CrashAfter),
            _ => None,
        }
    };
    let watches = WatchFaults {
        drop: 3,
        repeat: 8,
        cut: 2,
        expire: 2,
        stall: 5,
    };
    Faults::scripted(seed, watches, script)
}

#[test]
fn operator_survives_faults() {
    let name = "operator_survives_faults";
    // SLUICE_FAULT_SEEDS=100..120 draws others.
    let named = std::env::var("SLUICE_FAULT_SEEDS");
    let seeds = named.map_or(0..8, |seeds| {
        let (from, to) = seeds.split_once("..").expect("SLUICE_FAULT_SEEDS: FROM..TO");
        from.parse().unwrap()..to.parse().unwrap()
    });
    let Some((wanted, _)) = without_faults(name) else {
        return;
    };
    let (disturbed, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    in_parallel(name, async |env, number| {
        let Some(seed) = seeds.clone().nth(number) else {
            return false;
        };
        let mut all = Vec::new();
        let mut faults_of = |operator: u32| {
            // After a few crashes there are no more faults.
            let faults = match operator {
                0..6 => random_faults(seed + SECOND_OPERATOR_SEED * u64::from(operator)),
                _ => Faults::none(),
            };
            all.push(faults.clone());
            faults
        };
        let (left, deaths) = run_lifecycle(env, &mut faults_of, false, async || {}).await;
        let faulty: usize = all.iter().map(Faults::fault_count).sum();
        disturbed.fetch_add(usize::from(faulty > 0 || deaths > 0), Ordering::Relaxed);
        let differences = left.differs_from(&wanted);
        if !differences.is_empty() {
            let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.push(format!("seed {seed}: {differences:#?}"));
        }
        true
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        disturbed.into_inner(),
        seeds.count(),
        "every lifecycle meets a fault"
    );
}

#[test]
fn a_second_coordinator_and_what_nobody_owns_are_found() {
    let name = "a_second_coordinator_and_what_nobody_owns_are_found";
    let Some((wanted, _)) = without_faults(name) else {
        return;
    };
    run(name, async |env| {
        let labels =
            json!({"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "coordinator"});
        let disturbance = async || {
            let pods = Api::<Pod>::namespaced(env.client.clone(), &env.namespace);
            let container = json!({"name": "coordinator", "image": "localhost/none"});
            let pod: Pod = object(json!({"metadata": {"name": "plain-c2", "labels": labels},
                "spec": {"containers": [container], "restartPolicy": "Never"}}));
            pods.create(&PostParams::default(), &pod).await.unwrap();
            // The test's kubelet starts it; it must not be there when the others are looked at.
            eventually("the pod is started", async || {
                let status = pods.get("plain-c2").await.unwrap().status;
                status.is_some_and(|status| status.pod_ip.is_some())
            })
            .await;
            let now = kube::api::DeleteParams::default();
            pods.delete("plain-c2", &now).await.unwrap();
            let maps = Api::<ConfigMap>::namespaced(env.client.clone(), &env.namespace);
            let map: ConfigMap = object(json!({"metadata": {"name": "stray", "labels": labels}}));
            maps.create(&PostParams::default(), &map).await.unwrap();
        };
        let (left, _) = run_lifecycle(env, &mut |_| Faults::none(), false, disturbance).await;
        let differences = left.differs_from(&wanted);
        for found in ["plain-c2", "ConfigMap stray", "orphans: [\"ConfigMap stray\"]"] {
            assert!(
                differences.iter().any(|line| line.contains(found)),
                "{found} is not among {differences:#?}"
            );
        }
    });
}
