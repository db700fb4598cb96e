//! Checks that nothing is left after the resources of a test are deleted.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::{Api, Resource, ResourceExt};
use sluice_crds::{ShuffleQuery, WorkerPool};

use super::space::Space;
use super::wait::wait_until;

/// What the operator makes, and the rights to list it.
const OURS: &str = "app.kubernetes.io/managed-by=sluice-operator";
/// A worker has a minute to end, which it needs if something runs.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(120);

/// Deletes the queries and pools of a namespace and waits until nothing is left of what they had.
///
/// # Errors
///
/// Something stays.
pub async fn wait_until_nothing_is_left(space: &Space) -> Result<()> {
    let (client, namespace) = (&space.client, &space.namespace);
    let (delete, all) = (DeleteParams::default(), ListParams::default());
    let queries = Api::<ShuffleQuery>::namespaced(client.clone(), namespace);
    let pools = Api::<WorkerPool>::namespaced(client.clone(), namespace);
    // A test of the API server alone comes before anything knows of them.
    match queries.delete_collection(&delete, &all).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        outcome => drop(outcome?),
    }
    drop(pools.delete_collection(&delete, &all).await?);
    wait_until(
        "nothing is left of queries and pools",
        REMOVAL_TIMEOUT,
        || async {
            let left = list_left(space).await?;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(left.join(", "))
            })
        },
    )
    .await
}

async fn list_left(space: &Space) -> Result<Vec<String>> {
    let kinds = [
        kind::<ShuffleQuery>(),
        kind::<WorkerPool>(),
        kind::<Pod>(),
        kind::<Secret>(),
        kind::<ConfigMap>(),
        kind::<PersistentVolumeClaim>(),
        kind::<Service>(),
        kind::<ServiceAccount>(),
        kind::<PodDisruptionBudget>(),
        kind::<NetworkPolicy>(),
    ];
    let mut left = Vec::new();
    for kind in kinds {
        let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.namespace, &kind);
        let found = match api.list(&ListParams::default()).await {
            // Definitions that a test has removed took all their objects along.
            Err(kube::Error::Api(status)) if status.is_not_found() => continue,
            found => found?.items,
        };
        let ours = found.iter().filter(|object| is_ours(object, &kind));
        left.extend(ours.map(|object| format!("{} {}", kind.kind, object.name_any())));
    }
    Ok(left)
}

fn kind<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// Labelled as the operator does, or owned by something of ours: the claims of a pod's own volumes carry no label.
fn is_ours(object: &DynamicObject, kind: &ApiResource) -> bool {
    let (label, value) = OURS.split_once('=').unwrap_or((OURS, ""));
    let owned = object.owner_references().iter().any(|owner| {
        owner.api_version.starts_with("sluice.dev/")
            || (kind.kind == "PersistentVolumeClaim" && owner.kind == "Pod")
    });
    owned || kind.group == "sluice.dev" || object.labels().get(label).is_some_and(|by| by == value)
}
