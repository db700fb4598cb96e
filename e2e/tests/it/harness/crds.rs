//! The custom resource definitions of the repository, on the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use super::helm::share_definitions;

/// Not the operator's manager: it does not own the definitions.
const FIELD_MANAGER: &str = "sluice-e2e";
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Applies `crds/yaml/*.yaml` and waits until the API server serves them. Tests may do it side by side.
///
/// # Errors
///
/// If a file cannot be read, or the API server refuses it or finds a fault in its schema.
pub async fn install_crds(client: &Client) -> Result<()> {
    let _same = share_definitions().await;
    apply_crds(client).await
}

/// As [`install_crds`], for a caller that shares or locks the definitions.
///
/// # Errors
///
/// As [`install_crds`].
pub async fn apply_crds(client: &Client) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for path in files()? {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(named)?;
        // As it is in the file: the types of this program may know less than the file says.
        let crd: serde_json::Value = serde_yaml::from_str(&text).with_context(named)?;
        let name = crd["metadata"]["name"].as_str().with_context(named)?.to_owned();
        let before = api.get_opt(&name).await?.and_then(|crd| crd.metadata.generation);
        let mut how = PatchParams::apply(FIELD_MANAGER).force();
        how = how.validation_strict();
        let applied = api
            .patch(&name, &how, &Patch::Apply(&crd))
            .await
            .with_context(named)?;
        wait_until_served(&api, &name).await.with_context(named)?;
        if before.is_some() && before != applied.metadata.generation {
            // Established stays true over a change, which reaches the handlers a moment later, and nothing tells when.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    Ok(())
}

fn files() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{} holds no YAML file", folder.display());
    }
    Ok(files)
}

async fn wait_until_served(api: &Api<CustomResourceDefinition>, name: &str) -> Result<()> {
    let served = async {
        loop {
            let crd = api.get(name).await?;
            if let Some(fault) = condition(&crd, "NonStructuralSchema", "True")
                .or_else(|| condition(&crd, "NamesAccepted", "False"))
            {
                return Err(anyhow!("{}: {fault}", crd.name_any()));
            }
            if condition(&crd, "Established", "True").is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(ESTABLISH_TIMEOUT, served)
        .await
        .unwrap_or_else(|_| {
            Err(anyhow!(
                "{name} is not served after {} s",
                ESTABLISH_TIMEOUT.as_secs()
            ))
        })
}

/// The message of a condition that has this status.
fn condition(crd: &CustomResourceDefinition, kind: &str, status: &str) -> Option<String> {
    let conditions = crd.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == status)?;
    Some(
        found
            .message
            .clone()
            .unwrap_or_else(|| format!("{kind} is {status}")),
    )
}
