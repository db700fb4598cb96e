//! The chart's jobs against an API server: definitions are never downgraded, and a pool is deleted with its owner.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use sluice_crds::WorkerPool;
use sluice_crds::yaml::{VERSION_ANNOTATION, worker_pool_crd};
use sluice_operator::commands::{apply_pool, install_crds};
use sluice_operator::config::ApplyPool;

use crate::harness::{TestEnv, eventually, run};

/// The definition of pools under another group, so that nobody else's is touched, as release `version` has it.
fn definition(env: &TestEnv, version: &str) -> CustomResourceDefinition {
    let mut crd = worker_pool_crd();
    crd.spec.group = format!("{}.sluice.test", env.namespace);
    crd.metadata.name = Some(format!("workerpools.{}", crd.spec.group));
    // Short names are of the whole cluster: the second one would not be accepted.
    crd.spec.names.short_names = None;
    let release = (VERSION_ANNOTATION.to_owned(), version.to_owned());
    crd.metadata.annotations.get_or_insert_default().extend([release]);
    crd.labels_mut().insert("of".to_owned(), version.to_owned());
    crd
}

/// The rights of the chart's job, on this definition.
async fn installer(env: &TestEnv, crd: &str) -> Client {
    let params = PostParams::default();
    let name = format!("{}-installer", env.namespace);
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some("installer".to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let accounts = Api::namespaced(env.client.clone(), &env.namespace);
    accounts.create(&params, &account).await.unwrap();
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": name},
        "rules": [{
            "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"],
            "resourceNames": [crd], "verbs": ["get", "create", "patch"],
        }],
    }))
    .unwrap();
    Api::all(env.client.clone()).create(&params, &role).await.unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "installer", "namespace": env.namespace}],
    }))
    .unwrap();
    Api::all(env.client.clone())
        .create(&params, &binding)
        .await
        .unwrap();
    let mut config = env.config.clone();
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{}:installer", env.namespace));
    Client::try_from(config).unwrap()
}

async fn remove(env: &TestEnv, crd: &str) {
    let (client, params) = (env.client.clone(), DeleteParams::default());
    let name = format!("{}-installer", env.namespace);
    Api::<CustomResourceDefinition>::all(client.clone())
        .delete(crd, &params)
        .await
        .unwrap();
    Api::<ClusterRoleBinding>::all(client.clone())
        .delete(&name, &params)
        .await
        .unwrap();
    Api::<ClusterRole>::all(client)
        .delete(&name, &params)
        .await
        .unwrap();
}

#[test]
fn definitions_go_forward_and_never_back() {
    run("definitions_go_forward_and_never_back", async |env| {
        let name = definition(env, "1.0.0").name_any();
        let installer = installer(env, &name).await;
        let crds = Api::<CustomResourceDefinition>::all(env.client.clone());
        let mut seen = Vec::new();
        for version in ["1.0.0", "1.1.0-rc.1", "0.9.0", "1.1.0", "1.1.0"] {
            install_crds::install(&installer, &[definition(env, version)])
                .await
                .unwrap();
            seen.push(crds.get(&name).await.unwrap().labels()["of"].clone());
        }
        // Somebody else's annotation, and somebody's change of what is ours.
        let annotate = |value: &str| {
            Patch::Merge(json!({"metadata": {
                "annotations": {VERSION_ANNOTATION: value}, "labels": {"of": "changed"},
            }}))
        };
        let params = PatchParams::default();
        crds.patch(&name, &params, &annotate("main")).await.unwrap();
        let refused = install_crds::install(&installer, &[definition(env, "1.1.0")]).await;
        crds.patch(&name, &params, &annotate("1.1.0")).await.unwrap();
        install_crds::install(&installer, &[definition(env, "1.1.0")])
            .await
            .unwrap();
        seen.push(crds.get(&name).await.unwrap().labels()["of"].clone());
        // Three at a time, the newest among them: it stays whoever is last.
        let versions = ["1.0.0", "1.2.0", "1.1.0"].map(|version| [definition(env, version)]);
        let [a, b, c] = versions
            .each_ref()
            .map(|crds| install_crds::install(&installer, crds));
        let (a, b, c) = tokio::join!(a, b, c);
        let newest = crds.get(&name).await.unwrap().labels()["of"].clone();
        remove(env, &name).await;

        for outcome in [a, b, c] {
            outcome.unwrap();
        }
        assert_eq!(newest, "1.2.0");

        assert_eq!(
            seen,
            ["1.0.0", "1.1.0-rc.1", "1.1.0-rc.1", "1.1.0", "1.1.0", "1.1.0"]
        );
        let problem = format!("{:#}", refused.unwrap_err());
        assert!(problem.contains(&name) && problem.contains("`main`"), "{problem}");
    });
}

#[test]
fn a_pool_of_the_chart_is_owned_and_follows_its_values() {
    run(
        "a_pool_of_the_chart_is_owned_and_follows_its_values",
        async |env| {
            let owners = Api::<ConfigMap>::namespaced(env.client.clone(), &env.namespace);
            let owner: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "o"}})).unwrap();
            let owner = owners.create(&PostParams::default(), &owner).await.unwrap();
            let pools = Api::<WorkerPool>::namespaced(env.client.clone(), &env.namespace);
            let file = std::env::temp_dir().join(format!("{}.yaml", env.namespace));
            let args = ApplyPool {
                file: file.clone(),
                namespace: env.namespace.clone(),
                owner: "o".to_owned(),
            };
            let write = |spec: &str| {
                let text = "apiVersion: sluice.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: p}\nspec: ";
                std::fs::write(&file, format!("{text}{spec}\n")).unwrap();
            };
            let mut replicas = BTreeSet::new();
            for count in [0, 1] {
                write(&format!("{{replicas: {count}, memory: 64MiB}}"));
                apply_pool::run(&env.client, &args).await.unwrap();
                let pool = pools.get("p").await.unwrap();
                assert_eq!(pool.owner_references()[0].uid, owner.uid().unwrap());
                replicas.insert(pool.spec.replicas);
            }
            assert_eq!(replicas, BTreeSet::from([0, 1]));
            write("{replica: 2}");
            let problem = format!("{:#}", apply_pool::run(&env.client, &args).await.unwrap_err());
            assert!(problem.contains("replica"), "{problem}");
            std::fs::remove_file(&file).unwrap();
            // The cluster's garbage collector takes it along.
            owners.delete("o", &DeleteParams::background()).await.unwrap();
            eventually("the pool is gone", async || {
                pools.get_opt("p").await.unwrap().is_none()
            })
            .await;
        },
    );
}
