//! The fixture of the behaviour tests: a namespace with an operator, nodes for its pods alone, and helpers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::FutureExt;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::{PoolConditionType, WorkerPool, WorkerPoolStatus};

use crate::faults::Faults;
use crate::harness::{Running, TestEnv, eventually, run, until};
use crate::pods::Kind;

/// Label and taint of the nodes of a test; its value is the test's namespace.
const OWN: &str = "sluice.test/namespace";
/// The label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A test's namespace, and what it holds.
pub struct Fixture<'a> {
    /// The namespace.
    pub env: &'a TestEnv,
}

/// Runs `test` with an operator. The operator may not send requests that manifests/rbac.yaml does not allow.
pub fn with_operator(name: &str, test: impl AsyncFnOnce(&Fixture<'_>)) {
    with_fixture(name, async |fixture| {
        let operator = fixture.start("operator", &[]);
        test(fixture).await;
        operator.assert_nothing_forbidden();
    });
}

/// Runs `test`, which starts its operators itself.
pub fn with_fixture(name: &str, test: impl AsyncFnOnce(&Fixture<'_>)) {
    run(name, async |env| {
        let fixture = Fixture { env };
        let ended = AssertUnwindSafe(test(&fixture)).catch_unwind().await;
        fixture.clear().await;
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
    });
}

pub fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

impl Running {
    /// Asserts that no request was forbidden.
    pub fn assert_nothing_forbidden(&self) {
        assert_eq!(self.faults.forbidden(), [""; 0]);
    }
}

impl Fixture<'_> {
    /// Starts an operator with additional `flags`.
    pub fn start(&self, name: &str, flags: &[&str]) -> Running {
        self.env.start_with(name, Faults::none(), flags)
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.env.client.clone(), &self.env.namespace)
    }

    /// The cluster-wide name of `name` in this test.
    pub fn cluster_name(&self, name: &str) -> String {
        format!("{}-{name}", self.env.namespace)
    }

    /// Creates an object in the test's namespace.
    pub async fn create<K>(&self, value: Value) -> K
    where
        K: Kind,
    {
        let api = self.api::<K>();
        api.create(&PostParams::default(), &object(value)).await.unwrap()
    }

    /// Merges `patch` into an object of the test's namespace.
    pub async fn merge<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        let patch = Patch::Merge(patch);
        api.patch(name, &PatchParams::default(), &patch).await.unwrap()
    }

    /// Deletes an object of the test's namespace.
    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let params = DeleteParams::background();
        self.api::<K>().delete(name, &params).await.unwrap();
    }

    /// Registers the node `name` of this test in `zone`, with room for `pods` pods.
    pub async fn create_node(&self, name: &str, zone: &str, pods: u32) {
        let nodes = Api::<Node>::all(self.env.client.clone());
        let name = self.cluster_name(name);
        let own = json!([{"key": OWN, "value": self.env.namespace, "effect": "NoSchedule"}]);
        let labels =
            json!({"kubernetes.io/hostname": name, ZONE: self.cluster_name(zone), OWN: self.env.namespace});
        let node = object(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": own}}));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let room =
            json!({"cpu": "64", "memory": "256Gi", "ephemeral-storage": "4Ti", "pods": pods.to_string()});
        let status =
            json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready("True")]}});
        let params = PatchParams::default();
        nodes
            .patch_status(&name, &params, &Patch::Merge(&status))
            .await
            .unwrap();
        // A new node is tainted as not ready, and no kubelet removes the taint.
        let spec = json!({"spec": {"taints": own}});
        nodes.patch(&name, &params, &Patch::Merge(&spec)).await.unwrap();
    }

    /// Waits until the scheduler knows every node of this test, by a pod that it places there. The scheduler ignores unknown
    /// nodes, whatever the preferences.
    pub async fn wait_until_scheduler_knows_nodes(&self) {
        let nodes = Api::<Node>::all(self.env.client.clone());
        let own = ListParams::default().labels(&format!("{OWN}={}", self.env.namespace));
        let nodes = nodes.list(&own).await.unwrap();
        join_all(
            nodes
                .iter()
                .map(|node| self.wait_until_scheduler_knows(node.name_any())),
        )
        .await;
    }

    async fn wait_until_scheduler_knows(&self, node: String) {
        let name = format!("finds-{}", self.local_name(&node));
        self.create::<Pod>(json!({
            "metadata": {"name": name},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": node},
                "tolerations": [{"key": OWN, "operator": "Exists"}],
                "containers": [{"name": "c", "image": "localhost/none"}]},
        }))
        .await;
        eventually(&format!("the scheduler knows {node}"), async || {
            node_of(&self.api::<Pod>().get(&name).await.unwrap()).is_some()
        })
        .await;
        self.force_delete_pod(&name).await;
    }

    /// Makes a node ready or not ready.
    pub async fn set_node_ready(&self, name: &str, answers: bool) {
        let nodes = Api::<Node>::all(self.env.client.clone());
        let condition = ready(if answers { "True" } else { "Unknown" });
        let status = json!({"status": {"conditions": [condition]}});
        let params = PatchParams::default();
        nodes
            .patch_status(&self.cluster_name(name), &params, &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// A volume, reached from nodes that match `terms`, and the claim `name` bound to it.
    pub async fn create_claim(&self, name: &str, mode: &str, terms: &Value) {
        let storage = json!({"storage": "1Gi"});
        let volumes = Api::<PersistentVolume>::all(self.env.client.clone());
        let affinity = (!terms.is_null()).then(|| json!({"required": {"nodeSelectorTerms": terms}}));
        let volume = json!({
            "metadata": {"name": self.cluster_name(name), "labels": {OWN: self.env.namespace}},
            "spec": {"capacity": storage, "accessModes": [mode], "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain", "nodeAffinity": affinity,
                "claimRef": {"namespace": self.env.namespace, "name": name},
                "csi": {"driver": "sluice.test", "volumeHandle": self.cluster_name(name)}},
        });
        volumes
            .create(&PostParams::default(), &object(volume))
            .await
            .unwrap();
        self.create::<PersistentVolumeClaim>(json!({
            "metadata": {"name": name},
            "spec": {"accessModes": [mode], "storageClassName": "", "volumeName": self.cluster_name(name),
                "resources": {"requests": storage}},
        }))
        .await;
        let claims = self.api::<PersistentVolumeClaim>();
        eventually("the claim is bound", async || {
            let status = claims.get(name).await.unwrap().status.unwrap_or_default();
            status.phase.as_deref() == Some("Bound")
        })
        .await;
    }

    /// Creates a quota of as many pods as the namespace has, and waits until it is in force.
    pub async fn exhaust_pod_quota(&self, name: &str, there: u32) {
        let spec = json!({"hard": {"pods": there.to_string()}});
        let quota = json!({"metadata": {"name": name}, "spec": spec});
        self.create::<ResourceQuota>(quota).await;
        let one_more =
            json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let one_more = object::<Pod>(one_more);
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        eventually("the quota is in force", async || {
            let refused = self.api::<Pod>().create(&dry, &one_more).await;
            refused.is_err_and(|error| error.to_string().contains("exceeded quota"))
        })
        .await;
    }

    /// The `spec` of a pool whose workers run on the test's nodes.
    pub fn on_own_nodes(&self, mut spec: Value) -> Value {
        let placement = &mut spec["placement"];
        placement["nodeSelector"] = json!({OWN: self.env.namespace});
        placement["tolerations"] = json!([{"key": OWN, "operator": "Exists"}]);
        spec
    }

    /// Creates a pool whose workers run on the test's nodes.
    pub async fn create_pool(&self, name: &str, spec: Value) -> WorkerPool {
        let spec = self.on_own_nodes(spec);
        self.create(json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool",
                           "metadata": {"name": name}, "spec": spec}))
            .await
    }

    /// Changes the spec of a pool.
    pub async fn edit(&self, pool: &str, spec: Value) -> WorkerPool {
        self.merge(pool, json!({"spec": spec})).await
    }

    /// The status of a pool, if it describes the current spec.
    pub async fn status(&self, pool: &str) -> WorkerPoolStatus {
        let pool = self.api::<WorkerPool>().get(pool).await.unwrap();
        let seen = pool.status.unwrap_or_default();
        if seen.observed_generation == pool.metadata.generation {
            seen
        } else {
            WorkerPoolStatus::default()
        }
    }

    /// Waits until the status of the current spec is not ready for this reason. Returns the message.
    pub async fn wait_until_not_ready(&self, pool: &str, reason: &str) -> String {
        let mut message = String::new();
        eventually(&format!("{pool} says {reason}"), async || {
            let status = self.status(pool).await;
            let ready = status.conditions.into_iter().next();
            let Some(ready) = ready.filter(|ready| ready.type_ == PoolConditionType::Ready) else {
                return false;
            };
            message = ready.message;
            serde_json::to_value(ready.reason).unwrap() == json!(reason)
        })
        .await;
        message
    }

    /// The workers of a pool, by name; terminating ones come last.
    pub async fn pods(&self, pool: &str) -> Vec<Pod> {
        let workers = format!("sluice.dev/pool={pool},app.kubernetes.io/component=worker");
        let params = ListParams::default().labels(&workers);
        let mut pods = self.api::<Pod>().list(&params).await.unwrap().items;
        pods.sort_by_key(|pod| (pod.metadata.deletion_timestamp.is_some(), pod.name_any()));
        pods
    }

    /// Waits until the pool has exactly the pods `names`, apart from terminating ones.
    pub async fn wait_for_pods(&self, pool: &str, names: &[&str]) -> Vec<Pod> {
        until(&format!("{pool} has the pods {names:?}"), async || {
            let mut pods = self.pods(pool).await;
            pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
            let there: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
            if there == names {
                return Ok(pods);
            }
            Err(format!("it has {there:?}: {:?}", self.status(pool).await))
        })
        .await
    }

    /// Waits until the scheduler has placed `count` pods of the pool and found the others unschedulable. Returns the number of
    /// pods by node.
    pub async fn wait_until_placed(&self, pool: &str, count: usize) -> BTreeMap<String, usize> {
        let mut nodes = BTreeMap::new();
        eventually(&format!("{count} pods of {pool} have a node"), async || {
            let mut pods = self.pods(pool).await;
            pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
            nodes = BTreeMap::new();
            for node in pods.iter().filter_map(node_of) {
                *nodes.entry(self.local_name(&node)).or_default() += 1;
            }
            nodes.values().sum::<usize>() == count && pods.iter().all(has_scheduling_condition)
        })
        .await;
        nodes
    }

    /// The name within this test of a cluster-wide name.
    pub fn local_name(&self, name: &str) -> String {
        let prefix = format!("{}-", self.env.namespace);
        name.strip_prefix(&prefix).unwrap_or(name).to_owned()
    }

    /// Marks a placed pod as running, as the kubelet of its node does. No process answers there.
    pub async fn mark_running(&self, pod: &Pod) {
        let status =
            json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [ready("True")]}});
        let patch = Patch::Merge(status);
        let (pods, params) = (self.api::<Pod>(), PatchParams::default());
        pods.patch_status(&pod.name_any(), &params, &patch).await.unwrap();
    }

    /// Deletes a pod for good, as a kubelet does in the end.
    pub async fn force_delete_pod(&self, pod: &str) {
        let params = DeleteParams::default().grace_period(0);
        let _ = self.api::<Pod>().delete(pod, &params).await;
    }

    /// Deletes what is not deleted with the namespace.
    async fn clear(&self) {
        let own = ListParams::default().labels(&format!("{OWN}={}", self.env.namespace));
        let params = DeleteParams::default();
        let nodes = Api::<Node>::all(self.env.client.clone());
        nodes.delete_collection(&params, &own).await.unwrap();
        // There is no kubelet to end them.
        let now = DeleteParams::default().grace_period(0);
        let pods = self.api::<Pod>();
        pods.delete_collection(&now, &ListParams::default())
            .await
            .unwrap();
        self.api::<PersistentVolumeClaim>()
            .delete_collection(&params, &ListParams::default())
            .await
            .unwrap();
        let volumes = Api::<PersistentVolume>::all(self.env.client.clone());
        volumes.delete_collection(&params, &own).await.unwrap();
    }
}

fn ready(status: &str) -> Value {
    let now = Timestamp::now().to_string();
    json!({"type": "Ready", "status": status, "reason": "Test", "message": "",
           "lastHeartbeatTime": now, "lastTransitionTime": now})
}

/// The node of a pod, if it has one.
pub fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn has_scheduling_condition(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "PodScheduled")
}
