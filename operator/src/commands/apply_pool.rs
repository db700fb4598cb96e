//! Applies a WorkerPool from a file. A chart cannot contain the pool itself, since its definition may be installed by the same
//! release. A ConfigMap of the release owns the pool, and is deleted with the release.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sluice_crds::WorkerPool;

use crate::config::ApplyPool;

/// Not the operator's manager, which writes only the status of pools.
const FIELD_MANAGER: &str = "sluice-chart";

/// Applies the pool of `args`.
///
/// # Errors
/// The file holds no WorkerPool, there is no such ConfigMap, or the API server refuses the pool.
pub async fn run(client: &Client, args: &ApplyPool) -> anyhow::Result<()> {
    let file = args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).with_context(|| file.clone())?;
    let owners = Api::<ConfigMap>::namespaced(client.clone(), &args.namespace);
    let owner = owners
        .get(&args.owner)
        .await
        .with_context(|| format!("ConfigMap {}", args.owner))?;
    let (name, pool) = owned(&text, &args.namespace, &owner).context(file)?;
    let pools = Api::<WorkerPool>::namespaced(client.clone(), &args.namespace);
    // Strict: an unknown field is a mistake in the values, which nothing else reports.
    let how = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    pools
        .patch(&name, &how, &Patch::Apply(&pool))
        .await
        .with_context(|| format!("WorkerPool {name}"))?;
    tracing::info!(name, namespace = args.namespace, "the pool is applied");
    Ok(())
}

/// The name of the pool in `text`, and the pool in the namespace of its owner.
fn owned(text: &str, namespace: &str, owner: &ConfigMap) -> anyhow::Result<(String, Value)> {
    let mut pool: Value = serde_yaml::from_str(text)?;
    if pool["kind"] != "WorkerPool" {
        bail!("kind is {}, not WorkerPool", pool["kind"]);
    }
    let name = pool["metadata"]["name"]
        .as_str()
        .context("metadata.name is missing")?;
    let name = name.to_owned();
    let uid = owner.uid().context("the ConfigMap has no uid")?;
    pool["metadata"]["namespace"] = json!(namespace);
    pool["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": uid,
    }]);
    Ok((name, pool))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> ConfigMap {
        let owner = json!({"metadata": {"name": "o", "uid": "u"}});
        serde_json::from_value(owner).unwrap()
    }

    #[test]
    fn the_pool_has_its_owner_and_all_that_was_written() {
        let text = "kind: WorkerPool\nmetadata: {name: p}\nspec: {replicas: 3}\n";
        let (name, pool) = owned(text, "n", &owner()).unwrap();
        assert_eq!(name, "p");
        assert_eq!(pool["metadata"]["namespace"], "n");
        assert_eq!(pool["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(pool["spec"]["replicas"], 3);
    }

    #[test]
    fn other_files_are_refused() {
        for (text, why) in [
            ("kind: Pod\nmetadata: {name: p}\n", "not WorkerPool"),
            ("kind: WorkerPool\n", "metadata.name"),
            ("kind: WorkerPool\nmetadata: 3\n", "metadata.name"),
            ("3\n", "not WorkerPool"),
        ] {
            let problem = owned(text, "n", &owner()).unwrap_err();
            assert!(problem.to_string().contains(why), "{text}: {problem}");
        }
    }
}
