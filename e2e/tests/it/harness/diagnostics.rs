//! What is kept of a failed test: its objects, their events, the logs of its pods.

use std::fs;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod};
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope, verbs};
use kube::{Api, ResourceExt};

use super::space::Space;

/// Longest log that is kept of one container.
const LOG_LINES: i64 = 20_000;

/// Writes everything to the folder of the test. What cannot be had is noted there, in `problems.txt`, and the rest
/// is written all the same.
///
/// # Errors
///
/// If the folder cannot be written.
pub async fn keep(space: &Space) -> Result<()> {
    let folder = &space.evidence;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut problems = Vec::new();
    for (what, outcome) in [
        ("objects", objects(space).await),
        ("events", events(space).await),
        ("nodes", nodes(space).await),
        ("logs", logs(space, &mut problems).await),
    ] {
        if let Err(problem) = outcome {
            problems.push(format!("{what}: {problem:#}"));
        }
    }
    if !problems.is_empty() {
        fs::write(folder.join("problems.txt"), problems.join("\n"))?;
    }
    Ok(())
}

async fn objects(space: &Space) -> Result<()> {
    let kinds = Discovery::new(space.client.clone()).run_aggregated().await?;
    for (resource, capabilities) in kinds.groups().flat_map(|group| group.recommended_resources()) {
        if is_kept(&resource, &capabilities) {
            let api: Api<DynamicObject> =
                Api::namespaced_with(space.client.clone(), &space.namespace, &resource);
            let found = api
                .list(&ListParams::default())
                .await
                .with_context(|| resource.plural.clone())?;
            write_objects(space, &resource.plural, found.items)?;
        }
    }
    Ok(())
}

/// Secrets stay in the cluster; events have a file of their own, written to be read.
fn is_kept(resource: &ApiResource, capabilities: &ApiCapabilities) -> bool {
    capabilities.scope == Scope::Namespaced
        && capabilities.supports_operation(verbs::LIST)
        && !matches!(resource.plural.as_str(), "secrets" | "events")
}

fn write_objects(space: &Space, plural: &str, mut found: Vec<DynamicObject>) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    for object in &mut found {
        object.metadata.managed_fields = None;
    }
    let documents = found
        .iter()
        .map(serde_yaml::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(fs::write(
        space.evidence.join(format!("{plural}.yaml")),
        documents.join("---\n"),
    )?)
}

async fn nodes(space: &Space) -> Result<()> {
    let mut found = Api::<Node>::all(space.client.clone())
        .list(&ListParams::default())
        .await?
        .items;
    for node in &mut found {
        node.metadata.managed_fields = None;
    }
    let documents = found
        .iter()
        .map(serde_yaml::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(fs::write(
        space.evidence.join("nodes.yaml"),
        documents.join("---\n"),
    )?)
}

async fn events(space: &Space) -> Result<()> {
    let api = Api::<Event>::namespaced(space.client.clone(), &space.namespace);
    let mut found = api.list(&ListParams::default()).await?.items;
    found.sort_by_key(|event| event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let lines = found.iter().map(|event| {
        let about = &event.involved_object;
        format!(
            "{} {} x{} {} {}/{}: {}\n",
            event
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.to_string())
                .unwrap_or_default(),
            event.type_.as_deref().unwrap_or_default(),
            event.count.unwrap_or(1),
            event.reason.as_deref().unwrap_or_default(),
            about.kind.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default(),
        )
    });
    Ok(fs::write(
        space.evidence.join("events.txt"),
        lines.collect::<String>(),
    )?)
}

async fn logs(space: &Space, problems: &mut Vec<String>) -> Result<()> {
    let api = Api::<Pod>::namespaced(space.client.clone(), &space.namespace);
    for pod in api.list(&ListParams::default()).await?.items {
        let name = pod.name_any();
        for (container, previous) in containers(&pod) {
            let how = LogParams {
                container: Some(container.clone()),
                previous,
                tail_lines: Some(LOG_LINES),
                ..LogParams::default()
            };
            let file = format!(
                "{name}.{container}{}.log",
                if previous { ".previous" } else { "" }
            );
            match api.logs(&name, &how).await {
                Ok(text) => fs::write(space.evidence.join(file), text)?,
                Err(problem) => problems.push(format!("{file}: {problem}")),
            }
        }
    }
    Ok(())
}

/// Every container of a pod that has run, and whether it is the run before the present one.
fn containers(pod: &Pod) -> Vec<(String, bool)> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let of = |statuses: &Option<Vec<ContainerStatus>>| statuses.clone().unwrap_or_default();
    let all = of(&status.init_container_statuses)
        .into_iter()
        .chain(of(&status.container_statuses));
    all.filter(|container| container.container_id.is_some())
        .flat_map(|container| {
            let before = (container.restart_count > 0).then(|| (container.name.clone(), true));
            [Some((container.name, false)), before]
        })
        .flatten()
        .collect()
}
