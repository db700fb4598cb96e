//! A WorkerPool on three nodes: workers in every zone, scaled down by a drain, and gone with everything it owned.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use sluice_crds::ConditionStatus;

use crate::harness::{self, Pool, Space, wait_until};

/// Workers have a minute to stop, which they use if attempts run.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(150);

#[test]
fn a_pool_spreads_over_zones_scales_and_leaves_nothing() {
    harness::run("worker-pool", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::apply_ready(&space, "p").await?;
        assert_spread(&pool).await?;
        let kinds: BTreeSet<_> = owned(&space).await?.into_iter().map(|(kind, _)| kind).collect();
        let wanted = [
            "ConfigMap",
            "NetworkPolicy",
            "Pod",
            "PodDisruptionBudget",
            "Service",
            "ServiceAccount",
        ];
        assert_eq!(kinds, wanted.map(str::to_owned).into());

        pool.scale(2).await?;
        let status = pool.wait_until_ready(2).await?;
        assert_eq!(status.slots, 4, "two workers of two slots");
        wait_until("the third pod is gone", REMOVAL_TIMEOUT, || async {
            let pods = listed::<Pod>(&space).await?;
            Ok(if pods.len() == 2 {
                Ok(())
            } else {
                Err(format!("{pods:?}"))
            })
        })
        .await?;

        pool.delete().await?;
        wait_until("everything owned is gone", REMOVAL_TIMEOUT, || async {
            let left = owned(&space).await?;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            })
        })
        .await
    });
}

/// Three workers on three nodes; the status shows their zones.
async fn assert_spread(pool: &Pool) -> Result<()> {
    let status = pool.wait_until_ready(3).await?;
    assert_eq!(status.slots, 6, "three workers of two slots");
    assert_eq!(status.zones, ["zone-1", "zone-2", "zone-3"]);
    let ready: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| condition.status)
        .collect();
    assert_eq!(ready, [ConditionStatus::True]);
    let nodes = pool.nodes().await?;
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["p-0", "p-1", "p-2"]);
    let distinct: BTreeSet<_> = nodes.values().collect();
    assert_eq!(distinct.len(), 3, "{nodes:?}");
    Ok(())
}

/// Kinds and names of what carries the pool's label.
async fn owned(space: &Space) -> Result<Vec<(String, String)>> {
    let mut all = listed::<Pod>(space).await?;
    all.extend(listed::<Service>(space).await?);
    all.extend(listed::<ServiceAccount>(space).await?);
    all.extend(listed::<ConfigMap>(space).await?);
    all.extend(listed::<PodDisruptionBudget>(space).await?);
    all.extend(listed::<NetworkPolicy>(space).await?);
    Ok(all)
}

async fn listed<K>(space: &Space) -> Result<Vec<(String, String)>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::namespaced(space.client.clone(), &space.namespace);
    let found = api
        .list(&ListParams::default().labels("sluice.dev/pool=p"))
        .await?;
    let names = found
        .items
        .iter()
        .map(|object| (K::kind(&()).into_owned(), object.name_any()));
    Ok(names.collect())
}
