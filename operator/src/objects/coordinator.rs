//! What a ShuffleQuery owns: its input, and per epoch a token and the coordinator's pod; and its pool, if its workers are
//! inline.

mod pod;
mod resources;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use sluice_crds::worker_pool::{LocalityHint, MAX_LOCALITY};
use sluice_crds::{GROUP, ShuffleQuery, ShuffleQuerySpec, VERSION, WorkerPool};

use super::labels::{self, Component};
use super::names;

pub use pod::{COORDINATOR_CONTAINER, CoordinatorPlan, coordinator_pod};
pub use resources::MAX_MEMORY_FACTOR;

/// Annotation of a coordinator's pod: how many times the pool's memory for a coordinator it has.
const MEMORY_FACTOR: &str = "sluice.dev/memory-factor";
/// The query in its ConfigMap.
const INPUT_FILE: &str = "query.yaml";
/// The token in its Secret.
const TOKEN_FILE: &str = "token";

/// Number of the coordinator that a pod is of; `None` if it is no coordinator's.
pub fn epoch_of(pod: &Pod) -> Option<u64> {
    let labels = pod.labels();
    let ours = labels.get(labels::COMPONENT).map(String::as_str) == Some(Component::Coordinator.name());
    labels.get(labels::EPOCH).filter(|_| ours)?.parse().ok()
}

/// How many times the pool's memory for a coordinator a pod has.
pub fn memory_factor_of(pod: &Pod) -> u32 {
    let factor = pod.annotations().get(MEMORY_FACTOR);
    factor.and_then(|factor| factor.parse().ok()).unwrap_or(1).max(1)
}

fn metadata(query: &ShuffleQuery, pool: Option<&str>, epoch: Option<u64>, name: String) -> ObjectMeta {
    let mut labels = labels::common(Component::Coordinator);
    labels.insert(labels::QUERY.to_owned(), query.name_any());
    labels.extend(pool.map(|pool| (labels::POOL.to_owned(), pool.to_owned())));
    labels.extend(epoch.map(|epoch| (labels::EPOCH.to_owned(), epoch.to_string())));
    ObjectMeta {
        name: Some(name),
        namespace: query.namespace(),
        labels: Some(labels),
        owner_references: names::owned_by(query),
        ..ObjectMeta::default()
    }
}

/// The input of all coordinators of a query: the object with its SQL text in place. What a user may change later is the
/// operator's affair and left out: a deadline, say, counts from the submission and not while the query is suspended.
///
/// # Errors
/// None that a value of this type can cause; YAML encoding has them in its signature.
pub fn input(query: &ShuffleQuery, sql: &str) -> Result<ConfigMap, serde_yaml::Error> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        api_version: String,
        kind: &'a str,
        metadata: BTreeMap<&'a str, String>,
        spec: ShuffleQuerySpec,
    }
    let names = [("name", Some(query.name_any())), ("namespace", query.namespace())];
    let document = Document {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "ShuffleQuery",
        metadata: names
            .into_iter()
            .filter_map(|(key, name)| Some((key, name?)))
            .collect(),
        spec: ShuffleQuerySpec {
            sql: Some(sql.to_owned()),
            sql_from: None,
            deadline_seconds: None,
            ttl_seconds_after_finished: None,
            suspend: false,
            priority: 0,
            ..query.spec.clone()
        },
    };
    Ok(ConfigMap {
        metadata: metadata(query, None, None, names::input(&query.name_any())),
        data: Some([(INPUT_FILE.to_owned(), serde_yaml::to_string(&document)?)].into()),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}

/// The Secret with the token of coordinator `epoch`. The input of the query, whose unique id is `input_uid`, owns it: the operator
/// may create Secrets and nothing else, deletes the input when the query has ended, and Kubernetes the Secret with it.
pub fn token(query: &ShuffleQuery, epoch: u64, token: &str, input_uid: &str) -> Secret {
    let input = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: names::input(&query.name_any()),
        uid: input_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let name = names::token(&query.name_any(), &query.uid().unwrap_or_default(), epoch);
    Secret {
        metadata: ObjectMeta {
            owner_references: Some(vec![input]),
            ..metadata(query, None, Some(epoch), name)
        },
        string_data: Some([(TOKEN_FILE.to_owned(), token.to_owned())].into()),
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The pool of a query whose workers are inline; `None` if it names a pool. Its pods are drawn to where the tables are.
pub fn inline_pool(query: &ShuffleQuery) -> Option<WorkerPool> {
    let mut spec = query.spec.workers.clone()?;
    for hint in table_locality(query) {
        let hints = &mut spec.placement.locality;
        if !hints.contains(hint) && hints.len() < MAX_LOCALITY {
            hints.push(hint.clone());
        }
    }
    let mut pool = WorkerPool::new(&names::inline_pool(&query.name_any()), spec);
    let query_label = (labels::QUERY.to_owned(), query.name_any());
    let ours = [
        (labels::NAME, labels::SLUICE),
        (labels::MANAGED_BY, labels::OPERATOR),
    ];
    let ours = ours.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pool.metadata = ObjectMeta {
        namespace: query.namespace(),
        labels: Some(ours.into_iter().chain([query_label]).collect()),
        owner_references: names::owned_by(query),
        ..pool.metadata
    };
    Some(pool)
}

/// Where a query's tables are, as far as they say so.
fn table_locality(query: &ShuffleQuery) -> impl Iterator<Item = &LocalityHint> {
    query.spec.tables.iter().flat_map(|table| &table.locality)
}

#[cfg(test)]
mod tests;
