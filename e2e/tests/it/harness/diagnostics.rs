//! Diagnostics of a failed test: its objects, their events and the logs of its pods, in every namespace that it used.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node, Pod};
use kube::api::{DynamicObject, ListParams, LogParams, TypeMeta};
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;

use super::space::Space;

/// Longest log that is kept of one container.
const LOG_LINES: i64 = 20_000;

/// What is kept of one namespace, and where.
struct Place<'a> {
    client: &'a Client,
    namespace: &'a str,
    folder: &'a Path,
}

/// Writes everything to the folder of the test, and what is in further namespaces to folders of their names in it. What
/// cannot be had is noted there, in `problems.txt`, and the rest is written all the same. A further namespace that was
/// kept before, as the test removes it, stays as it was kept.
///
/// # Errors
///
/// If a folder cannot be written.
pub async fn keep(space: &Space) -> Result<()> {
    let own = (space.namespace.clone(), space.evidence.clone());
    let further = space.tracked_namespaces().into_iter().map(|name| {
        let folder = space.evidence.join(&name);
        (name, folder)
    });
    let further = further.filter(|(_, folder)| !folder.exists());
    for (namespace, folder) in std::iter::once(own).chain(further.collect::<Vec<_>>()) {
        keep_namespace(&Place {
            client: &space.client,
            namespace: &namespace,
            folder: &folder,
        })
        .await?;
    }
    Ok(())
}

async fn keep_namespace(place: &Place<'_>) -> Result<()> {
    let folder = place.folder;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut problems = Vec::new();
    for (what, outcome) in [
        ("objects", objects(place).await),
        ("events", events(place).await),
        ("nodes", nodes(place).await),
        ("logs", logs(place, &mut problems).await),
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

async fn objects(place: &Place<'_>) -> Result<()> {
    let kinds = Discovery::new(place.client.clone()).run_aggregated().await?;
    for (resource, capabilities) in kinds.groups().flat_map(|group| group.recommended_resources()) {
        if is_kept(&resource, &capabilities) {
            let api: Api<DynamicObject> =
                Api::namespaced_with(place.client.clone(), place.namespace, &resource);
            let found = api
                .list(&ListParams::default())
                .await
                .with_context(|| resource.plural.clone())?;
            write_objects(place, &resource, found.items)?;
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

fn write_objects(place: &Place<'_>, resource: &ApiResource, mut found: Vec<DynamicObject>) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    for object in &mut found {
        object.metadata.managed_fields = None;
        // Items of a list come without.
        object.types = Some(TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        });
    }
    write_documents(place, &resource.plural, &found)
}

fn write_documents<T: Serialize>(place: &Place<'_>, name: &str, objects: &[T]) -> Result<()> {
    let documents = objects
        .iter()
        .map(serde_yaml::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    let path = place.folder.join(format!("{name}.yaml"));
    Ok(fs::write(path, documents.join("---\n"))?)
}

async fn nodes(place: &Place<'_>) -> Result<()> {
    let api = Api::<Node>::all(place.client.clone());
    let mut found = api.list(&ListParams::default()).await?.items;
    for node in &mut found {
        node.metadata.managed_fields = None;
    }
    write_documents(place, "nodes", &found)
}

async fn events(place: &Place<'_>) -> Result<()> {
    let api = Api::<Event>::namespaced(place.client.clone(), place.namespace);
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
        place.folder.join("events.txt"),
        lines.collect::<String>(),
    )?)
}

async fn logs(place: &Place<'_>, problems: &mut Vec<String>) -> Result<()> {
    let api = Api::<Pod>::namespaced(place.client.clone(), place.namespace);
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
                Ok(text) => fs::write(place.folder.join(file), text)?,
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
