//! `helm uninstall` deletes the objects of the release and keeps those of users; the next installation uses them.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use sluice_crds::WorkerPool;

use crate::answers;
use crate::harness::{self, Pool, Query, Release, Space, rows, sample_in_pool, wait_until};
use crate::helm_install::SMALL_POOL;

/// What a release labels.
fn of_release() -> ListParams {
    ListParams::default().labels("app.kubernetes.io/managed-by=Helm,app.kubernetes.io/instance=r")
}

async fn named<K>(space: &Space) -> Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(space.client.clone(), &space.namespace);
    let found = api.list(&of_release()).await?.items;
    Ok(found
        .iter()
        .map(|object| format!("{} {}", K::kind(&()), object.name_any()))
        .collect())
}

/// Cluster-wide objects of the release: other tests have releases of that name in their namespaces.
async fn named_of_cluster<K>(space: &Space) -> Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = Api::<K>::all(space.client.clone())
        .list(&of_release())
        .await?
        .items;
    let names = found.iter().map(ResourceExt::name_any);
    Ok(names.filter(|name| name.contains(&space.namespace)).collect())
}

async fn everything_of_the_release(space: &Space) -> Result<Vec<String>> {
    let kinds = [
        named::<Deployment>(space).await?,
        named::<ConfigMap>(space).await?,
        named::<Secret>(space).await?,
        named::<Service>(space).await?,
        named::<ServiceAccount>(space).await?,
        named::<NetworkPolicy>(space).await?,
        named::<PodDisruptionBudget>(space).await?,
        named::<Role>(space).await?,
        named::<RoleBinding>(space).await?,
        named_of_cluster::<ClusterRole>(space).await?,
        named_of_cluster::<ClusterRoleBinding>(space).await?,
    ];
    Ok(kinds.concat())
}

fn pricing_summary(name: &str) -> Result<serde_json::Value> {
    let mut query = sample_in_pool("tpch-pricing-summary.yaml", "mine")?;
    query["metadata"]["name"] = json!(name);
    Ok(query)
}

#[test]
fn what_people_have_made_outlives_the_release() {
    harness::run("helm-uninstall", |space| async move {
        let release = Release::new(&space, "r");
        release.install(&SMALL_POOL).await?;
        assert!(everything_of_the_release(&space).await?.len() > 12);
        let theirs = Pool::existing(&space, "default");
        theirs.wait_until_ready(2).await?;
        let mine = Pool::apply(&space, "mine", 1, json!({})).await?;
        mine.wait_until_ready(1).await?;
        let query = Query::submit(&space, pricing_summary("first")?).await?;
        query.wait_until_succeeded().await?;
        let workers = mine.nodes().await?;

        release.uninstall().await?;
        let left = everything_of_the_release(&space).await?;
        assert_eq!(left, ["Secret r-sluice-signing-key"]);
        let leases = Api::<Lease>::namespaced(space.client.clone(), &space.namespace);
        wait_until("the lease is gone", Duration::from_secs(60), || async {
            let left = leases.list(&ListParams::default()).await?.items;
            let left: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            })
        })
        .await?;
        let pools = Api::<WorkerPool>::namespaced(space.client.clone(), &space.namespace);
        wait_until(
            "the release's pool is gone, and its pods",
            Duration::from_secs(120),
            || async {
                let (pool, pods) = (pools.get_opt("default").await?, theirs.nodes().await?);
                Ok(if pool.is_none() && pods.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{pods:?}"))
                })
            },
        )
        .await?;
        let crds = Api::<CustomResourceDefinition>::all(space.client.clone());
        for name in ["shufflequeries.sluice.dev", "workerpools.sluice.dev"] {
            crds.get_opt(name)
                .await?
                .with_context(|| format!("{name} is gone"))?;
        }
        let status = query.status().await?.context("the query is gone")?;
        assert_eq!(rows(&status)?, answers::pricing_summary());
        assert_eq!(mine.nodes().await?, workers, "workers of a user's pool run on");

        release.install(&[]).await?;
        let query = Query::submit(&space, pricing_summary("second")?).await?;
        assert_eq!(
            rows(&query.wait_until_succeeded().await?)?,
            answers::pricing_summary()
        );
        assert_eq!(mine.nodes().await?, workers, "they trust the next installation");
        Ok(())
    });
}
