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
use super::wait::wait_until;

/// The scheduler, three kubelets and three workers on a machine that may be busy.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

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
    pub async fn apply_ready(space: &Space, name: &str) -> Result<Self> {
        let pool = Self::apply(space, name, 3, json!({})).await?;
        pool.wait_until_ready(3).await?;
        Ok(pool)
    }

    /// Waits until the pool has this many workers, all ready and none leaving.
    ///
    /// # Errors
    ///
    /// It does not get there.
    pub async fn wait_until_ready(&self, replicas: u32) -> Result<WorkerPoolStatus> {
        let wanted = format!("{replicas}/{replicas}");
        self.wait_until(&format!("is ready {wanted}"), |status| {
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
    pub async fn wait_until(
        &self,
        what: &str,
        wanted: impl Fn(&WorkerPoolStatus) -> bool,
    ) -> Result<WorkerPoolStatus> {
        let pools = Api::<WorkerPool>::namespaced(self.space.client.clone(), &self.space.namespace);
        wait_until(&format!("pool {}: {what}", self.name), CHANGE_TIMEOUT, || async {
            let status = pools.get(&self.name).await?.status.unwrap_or_default();
            Ok(if wanted(&status) {
                Ok(status)
            } else {
                Err(describe(&status))
            })
        })
        .await
    }

    /// Waits until its workers run something of a query and hold what that has shuffled.
    ///
    /// # Errors
    ///
    /// They do not.
    pub async fn wait_until_busy(&self) -> Result<WorkerPoolStatus> {
        self.wait_until("holds what a query has shuffled", |status| {
            status.held_bytes > 0 && status.slots_in_use > 0
        })
        .await
    }

    /// Waits until its workers run nothing and hold nothing.
    ///
    /// # Errors
    ///
    /// They do.
    pub async fn wait_until_idle(&self) -> Result<WorkerPoolStatus> {
        self.wait_until("does nothing and holds nothing", |status| {
            status.held_bytes == 0 && status.slots_in_use == 0 && status.spill_used_bytes == 0
        })
        .await
    }

    /// Waits until this many of its pods are ready, as their kubelets say, on other nodes than this.
    ///
    /// # Errors
    ///
    /// They do not become so.
    pub async fn wait_until_ready_elsewhere(&self, node: &str, count: usize) -> Result<()> {
        let what = format!("pool {} has {count} ready workers off {node}", self.name);
        wait_until(&what, CHANGE_TIMEOUT, || async {
            let mut pods = self.pods().await?;
            pods.retain(|pod| is_ready(pod) && node_of(pod).is_some_and(|its| its != node));
            Ok(if pods.len() == count {
                Ok(())
            } else {
                Err(format!(
                    "{:?}",
                    pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
                ))
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
            let node = node_of(&pod).context("a pod without a node")?;
            Ok((pod.name_any(), node.to_owned()))
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
    pub async fn wait_for_pods(&self, count: usize) -> Result<()> {
        let what = format!("pool {} has {count} pods", self.name);
        wait_until(&what, CHANGE_TIMEOUT, || async {
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

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|seen| seen.type_ == "Ready" && seen.status == "True")
}

fn describe(status: &WorkerPoolStatus) -> String {
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
