//! The operator's API calls are safe to repeat: the lifecycle of three objects, interrupted before and after every write and
//! started again, ends as it does without faults.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ListParams, PostParams};
use kube::client::ClientBuilder;
use kube::{Api, Client, Resource, ResourceExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_operator::controller_runtime::api::{Created, apply, apply_status, create, create_blind, delete};

use crate::faults::{Call, Fault, Faults, WatchFaults};
use crate::harness::{TestEnv, run};

/// Writes of the lifecycle without faults.
const WRITES: usize = 8;

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// The lifecycle of the objects of `owner`. It reads what exists and does what remains.
async fn live(client: &Client, owner: &ConfigMap) -> kube::Result<()> {
    let namespace = owner.namespace().unwrap();
    let (maps, pods) = (
        Api::<ConfigMap>::namespaced(client.clone(), &namespace),
        Api::<Pod>::namespaced(client.clone(), &namespace),
    );
    let metadata = |name: &str| {
        let reference = OwnerReference {
            controller: Some(true),
            ..owner.owner_ref(&()).unwrap()
        };
        json!({"name": name, "namespace": namespace, "ownerReferences": [reference],
               "labels": {"of": owner.name_any()}})
    };
    let name = |part: &str| format!("{}-{part}", owner.name_any());
    let map = |part: &str, value: u32| -> ConfigMap {
        object(json!({"metadata": metadata(&name(part)), "data": {"value": value.to_string()}}))
    };
    // Without a token's volume, whose name is drawn.
    let spec = json!({"schedulerName": "nobody", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "localhost/none"}]});
    let pod: Pod = object(json!({"metadata": metadata(&name("pod")), "spec": spec}));
    let secret: Secret = object(json!({"metadata": metadata(&name("token")), "stringData": {"token": "t"}}));

    // Once the last map says 3, all is done but for the deletion of the first.
    let last = maps.get_opt(&name("last")).await?;
    let value = last
        .as_ref()
        .and_then(|map| map.data.as_ref()?.get("value").cloned());
    if value.as_deref() != Some("3") {
        assert!(matches!(
            create(client, &map("first", 1)).await?,
            Created::Ours(_)
        ));
        create_blind(client, &secret).await?;
        let Created::Ours(pod) = create(client, &pod).await? else {
            panic!("the pod belongs to somebody else");
        };
        for message in ["one", "two"] {
            let seen = pods.get(&pod.name_any()).await?;
            let at = seen.status.as_ref().and_then(|status| status.message.as_deref());
            // Never back.
            if at != Some("two") {
                apply_status(client, &seen, &json!({"phase": "Pending", "message": message})).await?;
            }
        }
        apply(client, &map("last", 2), last.as_ref()).await?;
        let last = maps.get_opt(&name("last")).await?;
        apply(client, &map("last", 3), last.as_ref()).await?;
    }
    if let Some(first) = maps.get_opt(&name("first")).await? {
        delete(client, &first, None).await?;
    }
    Ok(())
}

/// What is left at the end: the objects of `owner` without what differs from run to run, by name without the owner's.
async fn outcome(env: &TestEnv, owner: &ConfigMap) -> BTreeMap<String, Value> {
    async fn list<K>(env: &TestEnv, owner: &str, into: &mut BTreeMap<String, Value>)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let api = Api::<K>::namespaced(env.client.clone(), &env.namespace);
        let params = ListParams::default().labels(&format!("of={owner}"));
        for mut object in api.list(&params).await.unwrap() {
            let name = format!("{} {}", K::kind(&()), object.name_any().replace(owner, "q"));
            let owners = object.owner_references().len();
            *object.meta_mut() = kube::api::ObjectMeta::default();
            let mut value = serde_json::to_value(object).unwrap();
            value["owners"] = json!(owners);
            into.insert(name, value);
        }
    }
    let (mut all, name) = (BTreeMap::new(), owner.name_any());
    list::<ConfigMap>(env, &name, &mut all).await;
    list::<Secret>(env, &name, &mut all).await;
    list::<Pod>(env, &name, &mut all).await;
    all
}

async fn owner(env: &TestEnv, name: &str) -> ConfigMap {
    let maps = Api::<ConfigMap>::namespaced(env.client.clone(), &env.namespace);
    let owner: ConfigMap = object(json!({"metadata": {"name": name}}));
    maps.create(&PostParams::default(), &owner).await.unwrap()
}

/// Lives until it is done, through `faults`; a crash begins it again without them. How often it began.
async fn lifecycle(env: &TestEnv, owner: &ConfigMap, faults: &Faults) -> usize {
    let builder = ClientBuilder::try_from(env.config.clone()).unwrap();
    let faulty = builder.with_layer(faults).build();
    for began in 1..100 {
        let client = if faults.is_crashed() { &env.client } else { &faulty };
        let ended = tokio::select! {
            biased;
            () = faults.crashed(), if !faults.is_crashed() => continue,
            ended = live(client, owner) => ended,
        };
        if ended.is_ok() {
            return began;
        }
    }
    panic!("the lifecycle of {} does not end", owner.name_any());
}

#[test]
fn a_crash_before_or_after_any_write_changes_nothing_in_the_end() {
    run(
        "a_crash_before_or_after_any_write_changes_nothing_in_the_end",
        async |env| {
            let without_faults = owner(env, "without-faults").await;
            let faults = Faults::none();
            assert_eq!(lifecycle(env, &without_faults, &faults).await, 1);
            assert_eq!(faults.writes(), WRITES);
            let wanted = outcome(env, &without_faults).await;
            assert_eq!(wanted.len(), 3, "{wanted:?}");
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                for n in 0..WRITES {
                    let name = format!("{fault:?}-{n}").to_lowercase();
                    let owner = owner(env, &name).await;
                    assert_eq!(
                        lifecycle(env, &owner, &Faults::crash_at(n, fault)).await,
                        2,
                        "{name}"
                    );
                    assert_eq!(outcome(env, &owner).await, wanted, "{name}");
                }
            }
        },
    );
}

#[test]
fn refused_lost_and_late_requests_change_nothing_in_the_end() {
    run(
        "refused_lost_and_late_requests_change_nothing_in_the_end",
        async |env| {
            let without_faults = owner(env, "without-faults").await;
            lifecycle(env, &without_faults, &Faults::none()).await;
            let wanted = outcome(env, &without_faults).await;
            let mut disturbed = 0;
            for seed in 0..20 {
                let mut random = SmallRng::seed_from_u64(seed);
                let script = move |call: &Call| match random.random_range(0..30) {
                    0 => Some(Fault::Refuse(409)),
                    1 => Some(Fault::Refuse(429)),
                    2 => Some(Fault::Refuse(500)),
                    3 => Some(Fault::Refuse(503)),
                    4 => Some(Fault::Disconnect),
                    5 => Some(Fault::Delay(Duration::from_millis(50))),
                    6..10 if call.write.is_some() => Some(Fault::LoseAnswer),
                    _ => None,
                };
                let owner = owner(env, &format!("seed{seed}")).await;
                let began = lifecycle(
                    env,
                    &owner,
                    &Faults::scripted(seed, WatchFaults::default(), script),
                )
                .await;
                disturbed += usize::from(began > 1);
                assert_eq!(outcome(env, &owner).await, wanted, "seed {seed}");
            }
            assert!(disturbed > 10, "only {disturbed} of 20 lifecycles were disturbed");
        },
    );
}
