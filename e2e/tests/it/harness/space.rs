//! A namespace of one test.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// Label of every namespace that a test made; its value is the test's name.
const LABEL: &str = "sluice.dev/e2e";
/// Pods have 30 s to end, and their volumes go after them.
const LONGEST_REMOVAL: Duration = Duration::from_secs(120);

/// Where a test puts its objects.
#[derive(Clone)]
pub struct Space {
    /// A client of the cluster.
    pub client: Client,
    /// The test's own namespace.
    pub namespace: String,
    /// Folder of what is kept of this test; made on demand.
    pub evidence: PathBuf,
}

impl Space {
    /// A new namespace; the API server completes its name, so that runs do not meet.
    pub async fn create(client: Client, test: &str, evidence: PathBuf) -> Result<Self> {
        // Of an earlier run.
        if evidence.exists() {
            std::fs::remove_dir_all(&evidence).with_context(|| format!("{} stays", evidence.display()))?;
        }
        let wanted = serde_json::from_value(json!({
            "metadata": {"generateName": format!("e2e-{test}-"), "labels": {LABEL: test}},
        }))?;
        let made = Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &wanted)
            .await
            .context("the cluster made no namespace")?;
        let namespace = made
            .metadata
            .name
            .context("the API server gave the namespace no name")?;
        Ok(Self {
            client,
            namespace,
            evidence,
        })
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
        match tokio::time::timeout(LONGEST_REMOVAL, gone).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => bail!("it is still there after {} s", LONGEST_REMOVAL.as_secs()),
        }
    }
}
