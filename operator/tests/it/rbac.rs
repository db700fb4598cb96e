//! The operator's rights: manifests/rbac.yaml, under which every operator of these tests runs.

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::harness::{eventually, run};

/// The operator's ServiceAccount.
pub const ACCOUNT: &str = "sluice-operator";

const MANIFEST: &str = include_str!("../../../manifests/rbac.yaml");

/// The documents of one kind.
fn documents<K: DeserializeOwned>(kind: &str) -> Vec<K> {
    let documents = serde_yaml::Deserializer::from_str(MANIFEST);
    let values = documents.map(|document| serde_yaml::Value::deserialize(document).unwrap());
    let ours = values.filter(|value| value["kind"].as_str() == Some(kind));
    ours.map(|value| serde_yaml::from_value(value).unwrap()).collect()
}

/// The only document of one kind.
fn document<K: DeserializeOwned>(kind: &str) -> K {
    let mut all = documents(kind);
    assert_eq!(all.len(), 1, "{kind}");
    all.remove(0)
}

fn rules() -> Vec<PolicyRule> {
    let cluster = document::<ClusterRole>("ClusterRole").rules;
    let own = document::<Role>("Role").rules;
    [cluster, own].into_iter().flatten().flatten().collect()
}

/// Gives the account of `namespace` the manifest's rights; cluster-wide names end with the namespace's.
pub async fn install(client: &Client, namespace: &str) {
    let params = PostParams::default();
    let name = format!("{ACCOUNT}-{namespace}");
    let mut account: ServiceAccount = document("ServiceAccount");
    account.metadata.namespace = Some(namespace.to_owned());
    Api::namespaced(client.clone(), namespace)
        .create(&params, &account)
        .await
        .unwrap();

    let mut role: ClusterRole = document("ClusterRole");
    role.metadata.name = Some(name.clone());
    Api::all(client.clone()).create(&params, &role).await.unwrap();
    let mut binding: ClusterRoleBinding = document("ClusterRoleBinding");
    binding.metadata.name = Some(name.clone());
    binding.role_ref.name = name;
    binding
        .subjects
        .iter_mut()
        .flatten()
        .for_each(|subject| subject.namespace = Some(namespace.to_owned()));
    Api::all(client.clone()).create(&params, &binding).await.unwrap();

    let mut role: Role = document("Role");
    role.metadata.namespace = Some(namespace.to_owned());
    Api::namespaced(client.clone(), namespace)
        .create(&params, &role)
        .await
        .unwrap();
    let mut binding: RoleBinding = document("RoleBinding");
    binding.metadata.namespace = Some(namespace.to_owned());
    binding
        .subjects
        .iter_mut()
        .flatten()
        .for_each(|subject| subject.namespace = Some(namespace.to_owned()));
    Api::namespaced(client.clone(), namespace)
        .create(&params, &binding)
        .await
        .unwrap();
    // The API server learns of the bindings a moment later, each by itself.
    eventually("the rights are in force", async || {
        let lease = json!({"namespace": namespace, "verb": "get", "group": "coordination.k8s.io", "resource": "leases",
                           "name": "sluice-operator"});
        let pods = json!({"namespace": namespace, "verb": "list", "resource": "pods"});
        may(client, namespace, lease).await && may(client, namespace, pods).await
    })
    .await;
}

/// Whether the account of `namespace` may do this.
async fn may(client: &Client, namespace: &str, what: serde_json::Value) -> bool {
    let user = format!("system:serviceaccount:{namespace}:{ACCOUNT}");
    let review = json!({"metadata": {}, "spec": {"user": user, "resourceAttributes": what}});
    let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
    let reviews = Api::<SubjectAccessReview>::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.unwrap();
    review.status.is_some_and(|status| status.allowed)
}

/// Removes what [`install`] made outside the namespace.
pub async fn remove(client: &Client, namespace: &str) {
    let name = format!("{ACCOUNT}-{namespace}");
    let params = DeleteParams::default();
    Api::<ClusterRoleBinding>::all(client.clone())
        .delete(&name, &params)
        .await
        .unwrap();
    Api::<ClusterRole>::all(client.clone())
        .delete(&name, &params)
        .await
        .unwrap();
}

#[test]
fn no_rule_has_a_wildcard_or_opens_a_way_around() {
    let rules = rules();
    assert!(rules.len() > 8, "{} rules", rules.len());
    for rule in rules {
        let groups = rule.api_groups.clone().unwrap_or_default();
        let resources = rule.resources.clone().unwrap_or_default();
        for word in groups.iter().chain(&resources).chain(&rule.verbs) {
            assert!(!word.contains('*'), "{rule:?}");
        }
        for verb in ["impersonate", "escalate", "bind", "deletecollection"] {
            assert!(!rule.verbs.iter().any(|own| own == verb), "{rule:?}");
        }
        for resource in resources {
            let way = [
                "pods/exec",
                "pods/attach",
                "pods/portforward",
                "pods/ephemeralcontainers",
            ];
            assert!(!way.contains(&resource.as_str()), "{rule:?}");
            assert!(!resource.contains("role"), "{rule:?}");
            if resource == "secrets" {
                assert_eq!(rule.verbs, ["create"]);
            }
        }
    }
}

#[test]
fn the_bindings_bind_the_account_to_its_roles() {
    let cluster: ClusterRoleBinding = document("ClusterRoleBinding");
    let own: RoleBinding = document("RoleBinding");
    assert_eq!(
        Some(cluster.role_ref.name),
        document::<ClusterRole>("ClusterRole").metadata.name
    );
    assert_eq!(Some(own.role_ref.name), document::<Role>("Role").metadata.name);
    for subject in cluster.subjects.into_iter().chain(own.subjects).flatten() {
        assert_eq!(
            (subject.name.as_str(), subject.namespace.as_deref()),
            (ACCOUNT, Some("sluice-system"))
        );
    }
}

#[test]
fn an_operator_creates_secrets_and_reads_none() {
    run("an_operator_creates_secrets_and_reads_none", async |env| {
        let operator = Client::try_from(env.operators_config()).unwrap();
        let secrets = Api::<Secret>::namespaced(operator, &env.namespace);
        let mut secret = Secret::default();
        secret.metadata.name = Some("q-token-1".into());
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let forbidden = |result: Result<(), kube::Error>| match result {
            Err(kube::Error::Api(status)) => assert!(status.is_forbidden(), "{status:?}"),
            other => panic!("{other:?}"),
        };
        forbidden(secrets.get("q-token-1").await.map(drop));
        forbidden(secrets.list(&ListParams::default()).await.map(drop));
        forbidden(
            secrets
                .delete("q-token-1", &DeleteParams::default())
                .await
                .map(drop),
        );
    });
}
