//! A WorkerPool of a test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sluice_crds::{WorkerPool, WorkerPoolStatus};

use super::space::Space;
use super::wait::until;

/// The scheduler, three kubelets and three workers on a machine that may be busy.
const LONGEST_CHANGE: Duration = Duration::from_secs(120);

/// A pool in the namespace of a test.
#[derive(Clone)]
pub struct Pool {
    space: Space,
    name: String,
}

impl Pool {
    /// Applies a pool of small workers of two slots; `more` goes over its spec.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn apply(space: &Space, name: &str, replicas: u32, more: Value) -> Result<Self> {
        let mut pool = json!({
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "slotsPerWorker": 2,
                "memory": "512MiB",
                "spill": {"limit": "1GiB"},
                "resources": {"limits": {"memory": "2Gi"}},
            },
        });
        if let (Some(spec), Value::Object(more)) = (pool["spec"].as_object_mut(), more) {
            spec.extend(more);
        }
        space.apply(pool).await?;
        Ok(Self {
            space: space.clone(),
            name: name.to_owned(),
        })
    }

    /// A pool that somebody else has applied.
    pub fn existing(space: &Space, name: &str) -> Self {
        Self {
            space: space.clone(),
            name: name.to_owned(),
        }
    }

    /// Applies a pool of three and waits until all of them are ready.
    ///
    /// # Errors
    ///
    /// It is refused, or does not become ready.
    pub async fn ready(space: &Space, name: &str) -> Result<Self> {
        let pool = Self::apply(space, name, 3, json!({})).await?;
        pool.until_ready(3).await?;
        Ok(pool)
    }

    /// Waits until the pool has this many workers, all ready and none leaving.
    ///
    /// # Errors
    ///
    /// It does not get there.
    pub async fn until_ready(&self, replicas: u32) -> Result<WorkerPoolStatus> {
        let wanted = format!("{replicas}/{replicas}");
        self.until(&format!("is ready {wanted}"), |status| {
            status.ready.as_deref() == Some(&wanted)
                && status.replicas == replicas
                && status.draining_replicas == 0
        })
        .await
    }

    /// Does what `kubectl scale` does.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn scale(&self, replicas: u32) -> Result<()> {
        let pools = Api::<WorkerPool>::namespaced(self.space.client.clone(), &self.space.namespace);
        let wanted = json!({"spec": {"replicas": replicas}});
        let how = kube::api::PatchParams::default();
        pools
            .patch_scale(&self.name, &how, &kube::api::Patch::Merge(wanted))
            .await?;
        Ok(())
    }

    /// Changes fields of its spec.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn change(&self, spec: Value) -> Result<()> {
        let pools = Api::<WorkerPool>::namespaced(self.space.client.clone(), &self.space.namespace);
        let change = kube::api::Patch::Merge(json!({"spec": spec}));
        let how = kube::api::PatchParams::default();
        pools.patch(&self.name, &how, &change).await?;
        Ok(())
    }

    /// Waits until the status is as `wanted` says.
    ///
    /// # Errors
    ///
    /// It does not become so.
    pub async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&WorkerPoolStatus) -> bool,
    ) -> Result<WorkerPoolStatus> {
        let pools = Api::<WorkerPool>::namespaced(self.space.client.clone(), &self.space.namespace);
        until(&format!("pool {}: {what}", self.name), LONGEST_CHANGE, || async {
            let status = pools.get(&self.name).await?.status.unwrap_or_default();
            Ok(if wanted(&status) {
                Ok(status)
            } else {
                Err(stands(&status))
            })
        })
        .await
    }

    /// Deletes the pool.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn delete(&self) -> Result<()> {
        let pools = Api::<WorkerPool>::namespaced(self.space.client.clone(), &self.space.namespace);
        pools.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Its pods that are not on their way out, with the nodes that they are on.
    ///
    /// # Errors
    ///
    /// A pod has no node.
    pub async fn nodes(&self) -> Result<BTreeMap<String, String>> {
        let pods = self.pods().await?.into_iter();
        let pods = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.map(|pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            Ok((pod.name_any(), node.context("a pod without a node")?))
        })
        .collect()
    }

    /// All its pods.
    ///
    /// # Errors
    ///
    /// The API server is not reached.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let of_pool = format!("sluice.dev/pool={},app.kubernetes.io/component=worker", self.name);
        let pods = Api::<Pod>::namespaced(self.space.client.clone(), &self.space.namespace);
        Ok(pods.list(&ListParams::default().labels(&of_pool)).await?.items)
    }

    /// Waits until its pods are these many, those on their way out included.
    ///
    /// # Errors
    ///
    /// They do not become so.
    pub async fn until_pods(&self, count: usize) -> Result<()> {
        let what = format!("pool {} has {count} pods", self.name);
        until(&what, LONGEST_CHANGE, || async {
            let names: Vec<_> = self.pods().await?.iter().map(ResourceExt::name_any).collect();
            Ok(if names.len() == count {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            })
        })
        .await
    }
}

fn stands(status: &WorkerPoolStatus) -> String {
    let why = status.conditions.iter().map(|condition| &condition.message);
    let why: Vec<_> = why.map(String::as_str).collect();
    format!(
        "ready {}, {} replicas, {} draining, {}",
        status.ready.as_deref().unwrap_or("?"),
        status.replicas,
        status.draining_replicas,
        why.join("; ")
    )
}
