//! Watches that lose, repeat and end events catch up with the current state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::client::ClientBuilder;
use kube::{Api, ResourceExt};
use serde_json::json;
use sluice_operator::controller_runtime::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::faults::{Fault, Faults, WatchFaults};
use crate::harness::{TestEnv, eventually, run};

/// Writes or deletes one of five maps.
async fn change(env: &TestEnv, n: u32) {
    let maps = Api::<ConfigMap>::namespaced(env.client.clone(), &env.namespace);
    let name = format!("m{}", n % 5);
    if n.is_multiple_of(7) {
        let _ = maps.delete(&name, &DeleteParams::default()).await;
        return;
    }
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                     "metadata": {"name": name, "labels": {"watched": "yes"}}, "data": {"n": n.to_string()}});
    maps.patch(&name, &PatchParams::apply("test"), &Patch::Apply(map))
        .await
        .unwrap();
}

#[test]
fn a_watch_whose_events_are_lost_repeated_and_cut_ends_with_the_truth() {
    run(
        "a_watch_whose_events_are_lost_repeated_and_cut_ends_with_the_truth",
        async |env| {
            let faults = Faults::none();
            let builder = ClientBuilder::try_from(env.config.clone()).unwrap();
            let api = Api::<ConfigMap>::namespaced(builder.with_layer(&faults).build(), &env.namespace);
            let (store, events) = watch::from_api(api, "watched=yes");
            let _watching = AbortOnDropHandle::new(tokio::spawn(events.for_each(|_| async {})));
            store.wait_until_ready().await.unwrap();

            let cached = || {
                let mut all: Vec<_> = store
                    .state()
                    .iter()
                    .map(|map| (map.name_any(), map.data.clone()))
                    .collect();
                all.sort();
                all
            };
            let truth = async || {
                let maps = Api::<ConfigMap>::namespaced(env.client.clone(), &env.namespace);
                let params = kube::api::ListParams::default().labels("watched=yes");
                let maps = maps.list(&params).await.unwrap();
                let mut all: Vec<_> = maps
                    .iter()
                    .map(|map| (map.name_any(), map.data.clone()))
                    .collect();
                all.sort();
                all
            };
            faults.set_watch_faults(WatchFaults {
                drop: 15,
                repeat: 15,
                cut: 5,
                stall: 5,
                ..WatchFaults::default()
            });
            for n in 0..60 {
                change(env, n).await;
            }
            eventually("many events met a fault", async || faults.fault_count() > 10).await;
            // What was dropped comes back with the next list, which an expired history asks for.
            faults.set_watch_faults(WatchFaults {
                expire: 100,
                ..WatchFaults::default()
            });
            let before = faults.fault_count();
            change(env, 61).await;
            eventually("the watch was told that its history is gone", async || {
                faults.fault_count() > before
            })
            .await;
            faults.set_watch_faults(WatchFaults::default());
            change(env, 62).await;
            eventually("the store holds the truth", async || cached() == truth().await).await;
        },
    );
}

#[test]
fn a_watch_that_cannot_go_on_from_where_it_was_lists_again() {
    run(
        "a_watch_that_cannot_go_on_from_where_it_was_lists_again",
        async |env| {
            // No watch is started until somebody has listed.
            let refuses = Arc::new(AtomicBool::new(false));
            let refused = refuses.clone();
            let faults = Faults::scripted(0, WatchFaults::default(), move |call| {
                if !call.watches {
                    refused.store(false, Ordering::Relaxed);
                }
                refused.load(Ordering::Relaxed).then_some(Fault::Refuse(410))
            });
            let builder = ClientBuilder::try_from(env.config.clone()).unwrap();
            let api = Api::<ConfigMap>::namespaced(builder.with_layer(&faults).build(), &env.namespace);
            let (store, events) = watch::from_api(api, "watched=yes");
            let told = Arc::new(Mutex::new(Vec::new()));
            let tell = told.clone();
            let _watching = AbortOnDropHandle::new(tokio::spawn(events.for_each(move |map| {
                let name = map.map_or_else(|_| "an error".to_owned(), |map| map.name_any());
                tell.lock().unwrap().push(name);
                async {}
            })));
            store.wait_until_ready().await.unwrap();
            for n in 1..4 {
                change(env, n).await;
            }
            eventually("the store has three", async || store.len() == 3).await;
            faults.set_watch_faults(WatchFaults {
                drop: 100,
                ..WatchFaults::default()
            });
            let before = faults.fault_count();
            change(env, 4).await;
            let maps = Api::<ConfigMap>::namespaced(env.client.clone(), &env.namespace);
            maps.delete("m1", &DeleteParams::default()).await.unwrap();
            eventually("both are dropped", async || faults.fault_count() >= before + 2).await;
            faults.set_watch_faults(WatchFaults::default());
            told.lock().unwrap().clear();
            refuses.store(true, Ordering::Relaxed);
            faults.break_watches();
            eventually("it lists again", async || {
                let told = told.lock().unwrap();
                let has = |name: &str| told.iter().any(|told| told == name);
                has("m4") && has("m1")
            })
            .await;
            let told = told.lock().unwrap();
            assert!(!told.iter().any(|told| told == "m2"), "as it was: {told:?}");
            assert_eq!(store.len(), 3);
        },
    );
}
