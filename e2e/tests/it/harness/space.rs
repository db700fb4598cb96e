//! A namespace of one test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, oneshot};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::config::ClusterConfig;
use super::node::Nodes;

/// Label of every namespace that a test made; its value is the test's name.
const LABEL: &str = "sluice.dev/e2e";
/// Every pod of a test conforms to the Pod Security Standard of a strict cluster.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Not the operator's manager: it does not own these objects.
const FIELD_MANAGER: &str = "sluice-e2e";
/// Pods have 30 s to end, and their volumes go after them.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(120);

/// Where a test puts its objects.
#[derive(Clone)]
pub struct Space {
    /// A client of the cluster.
    pub client: Client,
    /// The test's own namespace.
    pub namespace: String,
    /// Unique id of the namespace.
    pub uid: String,
    /// Folder of what is kept of this test; made on demand.
    pub evidence: PathBuf,
    /// Image with both programs, which every node has or can pull.
    pub image: String,
    /// What the test took from the cluster.
    pub nodes: Nodes,
    tracked: Arc<Mutex<BTreeSet<String>>>,
}

impl Space {
    /// A new namespace; the API server completes its name, so that runs do not meet.
    pub async fn create(config: &ClusterConfig, test: &str) -> Result<Self> {
        let client = config.client().await?;
        let evidence = config.evidence.join(test);
        // Of an earlier run.
        if evidence.exists() {
            std::fs::remove_dir_all(&evidence).with_context(|| format!("{} stays", evidence.display()))?;
        }
        let wanted = serde_json::from_value(json!({
            "metadata": {
                "generateName": format!("e2e-{test}-"),
                "labels": {LABEL: test, POD_SECURITY: "restricted"},
            },
        }))?;
        let made = Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &wanted)
            .await
            .context("the cluster made no namespace")?;
        Ok(Self {
            client,
            namespace: made.metadata.name.context("a namespace without a name")?,
            uid: made.metadata.uid.context("a namespace without a uid")?,
            evidence,
            image: config.image.clone(),
            nodes: Nodes::new(config.programs.clone(), config.client_without_retry().await?),
            tracked: Arc::default(),
        })
    }

    /// Names a further namespace that the test uses: what is in it is kept too if the test fails. Who makes it removes it.
    pub fn track_namespace(&self, namespace: &str) {
        let mut tracked = self.tracked.lock().unwrap_or_else(PoisonError::into_inner);
        tracked.insert(namespace.to_owned());
    }

    /// The further namespaces that the test has named.
    pub fn tracked_namespaces(&self) -> BTreeSet<String> {
        let tracked = self.tracked.lock().unwrap_or_else(PoisonError::into_inner);
        tracked.clone()
    }

    /// A further namespace, which goes with the test's own.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn create_namespace(&self, name: &str) -> Result<Self> {
        self.track_namespace(name);
        self.apply(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {POD_SECURITY: "restricted"}},
        }))
        .await?;
        Ok(Self {
            namespace: name.to_owned(),
            ..self.clone()
        })
    }

    /// Applies an object, in the namespace of the test if it is of one; otherwise it goes with that namespace.
    ///
    /// # Errors
    ///
    /// The API server refuses it or does not know its kind.
    pub async fn apply(&self, mut object: Value) -> Result<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let name = text(&object["metadata"]["name"]);
        let about = || format!("{kind} {name}");
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let wanted = GroupVersionKind::gvk(group, version, &kind);
        let (resource, capabilities) = oneshot::pinned_kind(&self.client, &wanted)
            .await
            .with_context(about)?;
        let api: Api<DynamicObject> = if capabilities.scope == Scope::Cluster {
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "v1", "kind": "Namespace", "name": self.namespace, "uid": self.uid,
            }]);
            Api::all_with(self.client.clone(), &resource)
        } else {
            object["metadata"]["namespace"] = json!(self.namespace);
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        };
        let how = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        api.patch(&name, &how, &Patch::Apply(&object))
            .await
            .with_context(about)
    }

    /// Deletes a pod, which has these seconds to end; with 0 it is gone at once.
    ///
    /// # Errors
    ///
    /// There is no such pod.
    pub async fn delete_pod(&self, name: &str, grace_seconds: u32) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let how = DeleteParams::default().grace_period(grace_seconds);
        pods.delete(name, &how)
            .await
            .with_context(|| format!("pod {name}"))?;
        Ok(())
    }

    /// A claim and a volume for it in a folder that all nodes have.
    ///
    /// # Errors
    ///
    /// The API server refuses one.
    pub async fn create_claim(&self, name: &str, mode: &str, folder: &Path) -> Result<()> {
        let volume = format!("{}-{name}", self.namespace);
        self.apply(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": [mode],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "hostPath": {"path": folder, "type": "Directory"},
                "claimRef": {"namespace": self.namespace, "name": name},
            },
        }))
        .await?;
        self.apply(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": [mode],
                "storageClassName": "",
                "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }))
        .await?;
        Ok(())
    }

    /// The node that a pod runs on.
    ///
    /// # Errors
    ///
    /// There is no such pod, or it waits for a node.
    pub async fn node_of(&self, pod: &str) -> Result<String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let found = pods.get(pod).await.with_context(|| format!("pod {pod}"))?;
        let node = found.spec.and_then(|spec| spec.node_name);
        node.with_context(|| format!("pod {pod} has no node"))
    }

    /// Deletes the namespace and waits until it is gone, so that what is left in it shows as a failure.
    pub async fn remove(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        let gone = async {
            while namespaces.get_opt(&self.namespace).await?.is_some() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(REMOVAL_TIMEOUT, gone).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => bail!("it is still there after {} s", REMOVAL_TIMEOUT.as_secs()),
        }
    }
}
