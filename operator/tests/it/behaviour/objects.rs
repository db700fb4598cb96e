//! What a pool owns beside its pods: there, put back when somebody changes or deletes it, and gone with the pool.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::WorkerPool;

use super::fixture::{Fixture, with_operator};
use crate::harness::eventually;
use crate::pods::Kind;

/// The object as JSON, without what differs from one to the next of its name.
async fn found<K>(fixture: &Fixture<'_>, name: &str) -> Option<(String, Value)>
where
    K: Kind,
{
    let object = fixture.api::<K>().get_opt(name).await.unwrap()?;
    let uid = object.uid().unwrap();
    let mut value = serde_json::to_value(&object).unwrap();
    value["metadata"] = json!({"labels": object.labels(), "owners": object.owner_references().len()});
    value.as_object_mut().unwrap().remove("status");
    Some((uid, value))
}

/// Waits for the object, deletes it, and waits until it is there again as it was.
async fn wait_until_recreated<K>(fixture: &Fixture<'_>, name: &str)
where
    K: Kind,
{
    let kind = K::kind(&());
    let mut first = None;
    eventually(&format!("{kind} {name} is there"), async || {
        first = found::<K>(fixture, name).await;
        first.is_some()
    })
    .await;
    let (uid, was) = first.unwrap();
    assert_eq!(was["metadata"]["owners"], 1, "{kind}");
    fixture.delete::<K>(name).await;
    let mut again = was.clone();
    eventually(&format!("{kind} {name} is there again"), async || {
        let Some((new, value)) = found::<K>(fixture, name).await else {
            return false;
        };
        again = value;
        new != uid
    })
    .await;
    assert_eq!(again, was, "{kind}");
}

#[test]
fn objects_of_a_pool_come_back_when_somebody_deletes_them() {
    with_operator(
        "objects_of_a_pool_come_back_when_somebody_deletes_them",
        async |fixture| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            wait_until_recreated::<Service>(fixture, "p-workers").await;
            wait_until_recreated::<PodDisruptionBudget>(fixture, "p-workers").await;
            wait_until_recreated::<ServiceAccount>(fixture, "p-workers").await;
            wait_until_recreated::<NetworkPolicy>(fixture, "p-workers").await;
            wait_until_recreated::<ConfigMap>(fixture, "p-workers-key").await;
        },
    );
}

/// Waits for the object, merges `change` into it, and waits until it is as it was.
async fn wait_until_restored<K>(fixture: &Fixture<'_>, name: &str, change: Value)
where
    K: Kind,
{
    let kind = K::kind(&());
    let mut first = None;
    eventually(&format!("{kind} {name} is there"), async || {
        first = found::<K>(fixture, name).await;
        first.is_some()
    })
    .await;
    let changed = fixture.merge::<K>(name, change).await;
    let changed = serde_json::to_value(changed).unwrap();
    let (_, was) = first.clone().unwrap();
    assert!(
        ["spec", "data", "automountServiceAccountToken"]
            .iter()
            .any(|field| changed.get(field) != was.get(field)),
        "{kind}: nothing was changed"
    );
    eventually(&format!("{kind} {name} is as it was"), async || {
        found::<K>(fixture, name).await == first
    })
    .await;
}

#[test]
fn what_somebody_changes_in_objects_of_a_pool_is_put_back() {
    with_operator(
        "what_somebody_changes_in_objects_of_a_pool_is_put_back",
        async |fixture| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            let selector = json!({"spec": {"selector": {"sluice.dev/pool": "another"}}});
            wait_until_restored::<Service>(fixture, "p-workers", selector).await;
            let unready = json!({"spec": {"publishNotReadyAddresses": true}});
            wait_until_restored::<Service>(fixture, "p-workers", unready).await;
            let all = json!({"spec": {"maxUnavailable": "100%"}});
            wait_until_restored::<PodDisruptionBudget>(fixture, "p-workers", all).await;
            let open = json!({"spec": {"ingress": [{}]}});
            wait_until_restored::<NetworkPolicy>(fixture, "p-workers", open).await;
            for token in [json!(true), Value::Null] {
                let token = json!({"automountServiceAccountToken": token});
                wait_until_restored::<ServiceAccount>(fixture, "p-workers", token).await;
            }
            let key = json!({"data": {"public.pem": "mine"}});
            wait_until_restored::<ConfigMap>(fixture, "p-workers-key", key).await;
        },
    );
}

#[test]
fn an_object_of_somebody_else_is_left_alone() {
    with_operator("an_object_of_somebody_else_is_left_alone", async |fixture| {
        let theirs = json!({"metadata": {"name": "p-workers"}, "spec": {"ports": [{"port": 80}]}});
        let theirs: Service = fixture.create(theirs).await;
        fixture.create_pool("p", json!({"replicas": 1})).await;
        let message = fixture.wait_until_not_ready("p", "NameTaken").await;
        assert!(message.starts_with("Service p-workers exists"), "{message}");
        let now = fixture.api::<Service>().get("p-workers").await.unwrap();
        assert_eq!(now.resource_version(), theirs.resource_version());
        assert_eq!(fixture.pods("p").await, []);
        // Once it has made room, the pool takes its name.
        fixture.delete::<Service>("p-workers").await;
        fixture.wait_for_pods("p", &["p-0"]).await;
        let ours = fixture.api::<Service>().get("p-workers").await.unwrap();
        assert_eq!(ours.owner_references().len(), 1);
    });
}

/// How many objects of a kind there are, those aside that every namespace has.
async fn count<K>(fixture: &Fixture<'_>) -> usize
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let all = fixture.api::<K>().list(&Default::default()).await.unwrap();
    let own = all.iter().filter(|object| !object.owner_references().is_empty());
    own.count()
}

/// Objects with owners: pods, services, budgets, accounts, policies, maps.
async fn owned(fixture: &Fixture<'_>) -> [usize; 6] {
    [
        count::<Pod>(fixture).await,
        count::<Service>(fixture).await,
        count::<PodDisruptionBudget>(fixture).await,
        count::<ServiceAccount>(fixture).await,
        count::<NetworkPolicy>(fixture).await,
        count::<ConfigMap>(fixture).await,
    ]
}

#[test]
fn everything_that_a_pool_owns_goes_with_it() {
    with_operator("everything_that_a_pool_owns_goes_with_it", async |fixture| {
        fixture.create_pool("p", json!({"replicas": 2})).await;
        fixture.create_pool("stays", json!({"replicas": 1})).await;
        eventually("both pools have their objects", async || {
            owned(fixture).await == [3, 2, 2, 2, 4, 2]
        })
        .await;
        fixture.delete::<WorkerPool>("p").await;
        eventually("only what is the other pool's is left", async || {
            owned(fixture).await == [1, 1, 1, 1, 2, 1]
        })
        .await;
        assert_eq!(fixture.pods("stays").await.len(), 1);
    });
}

#[test]
fn a_pool_that_is_made_anew_gets_objects_of_its_own() {
    with_operator(
        "a_pool_that_is_made_anew_gets_objects_of_its_own",
        async |fixture| {
            let first = fixture.create_pool("p", json!({"replicas": 1})).await;
            fixture.wait_for_pods("p", &["p-0"]).await;
            fixture.delete::<WorkerPool>("p").await;
            // At once: what the first one owned may still be there.
            let second = fixture.create_pool("p", json!({"replicas": 1})).await;
            assert_ne!(first.uid(), second.uid());
            let owner = |object: &dyn Fn() -> Vec<String>| object() == [second.uid().unwrap()];
            eventually("all belongs to the second", async || {
                let pods = fixture.pods("p").await;
                let service = fixture.api::<Service>().get_opt("p-workers").await.unwrap();
                let uids = |of: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| {
                    of.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>()
                };
                pods.len() == 1
                    && owner(&|| uids(pods[0].owner_references()))
                    && service.is_some_and(|service| owner(&|| uids(service.owner_references())))
            })
            .await;
        },
    );
}

#[test]
fn a_namespace_under_the_restricted_standard_takes_the_pods() {
    with_operator(
        "a_namespace_under_the_restricted_standard_takes_the_pods",
        async |fixture| {
            let namespaces = Api::<Namespace>::all(fixture.env.client.clone());
            let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
            let params = PatchParams::default();
            namespaces
                .patch(&fixture.env.namespace, &params, &Patch::Merge(label))
                .await
                .unwrap();
            fixture.create_claim("data", "ReadOnlyMany", &Value::Null).await;
            let spill = json!({"limit": "2GiB", "volumes": [
                {"name": "a", "emptyDir": {"sizeLimit": "1GiB"}},
                {"name": "b", "ephemeral": {"size": "1GiB"}},
            ]});
            let spec = json!({
                "replicas": 1, "spill": spill, "credentials": {"secretName": "s"},
                "dataVolumes": [{"name": "data", "claimName": "data", "mountPath": "/data"}],
            });
            fixture.create_pool("p", spec).await;
            fixture.wait_for_pods("p", &["p-0"]).await;
            // The standard is in force: a pod that heeds it not is refused.
            let plain =
                json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
            let plain = super::fixture::object::<Pod>(plain);
            let refused = fixture.api::<Pod>().create(&Default::default(), &plain).await;
            assert!(refused.unwrap_err().to_string().contains("violates PodSecurity"));
        },
    );
}
