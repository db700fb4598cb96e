//! Rules of a `WorkerPool`, and of the inline workers of a query.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::patterns::{is_qualified_name, is_service_name};
use super::schema::{POOL, check_spec};
use super::volumes::{check_claims, check_spill};
use super::{Problem, check_name};
use crate::text::excerpt;
use crate::units::{nanos, quantity_bytes};
use crate::worker_pool::{
    LocalityHint, MAX_WORKER_POOL_NAME, MIN_MEMORY, PlacementSpec, RESERVED_KEY_PREFIXES, WorkerPool,
    WorkerPoolSpec,
};

/// Everything that is wrong with a pool; empty if it is valid.
pub fn validate_pool(pool: &WorkerPool) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_name(pool.metadata.name.as_deref(), &mut problems);
    if let (Some(name), []) = (pool.metadata.name.as_deref(), problems.as_slice())
        && (name.len() > MAX_WORKER_POOL_NAME || !is_service_name(name))
    {
        let fix = format!(
            "write at most {MAX_WORKER_POOL_NAME} lower-case letters, digits and `-`, a letter first: Services take no other"
        );
        let problem = format!("`{}` is no name for a pool", excerpt(name));
        problems.push(Problem::new("metadata.name", problem, fix));
    }
    check_spec(&pool.spec, &POOL, &mut problems);
    check_workers(&pool.spec, "spec", &mut problems);
    problems
}

/// Rules of a pool's spec beyond the schema; `path` is where it stands.
pub(super) fn check_workers(workers: &WorkerPoolSpec, path: &str, problems: &mut Vec<Problem>) {
    let coordinator = workers.coordinator.as_ref();
    if let Some(resources) = &workers.resources {
        check_resources(resources, &format!("{path}.resources"), problems);
    }
    if let Some(resources) = coordinator.and_then(|coordinator| coordinator.resources.as_ref()) {
        check_resources(resources, &format!("{path}.coordinator.resources"), problems);
    }
    check_memory(workers, path, problems);
    if let Some(scaling) = workers.autoscaling.as_ref()
        && scaling.min_replicas > scaling.max_replicas
    {
        let (least, most) = (scaling.min_replicas, scaling.max_replicas);
        problems.push(Problem::new(
            format!("{path}.autoscaling"),
            format!("has at least {least} workers and at most {most}"),
            "write a minReplicas that is not above maxReplicas",
        ));
    }
    if let Some(spill) = &workers.spill {
        check_spill(spill, &format!("{path}.spill"), problems);
    }
    check_claims(workers, path, problems);
    check_placement(&workers.placement, &format!("{path}.placement"), problems);
    if let Some(metadata) = &workers.pod_metadata {
        for (field, keys) in [
            ("labels", &metadata.labels),
            ("annotations", &metadata.annotations),
        ] {
            check_pod_keys(keys, &format!("{path}.podMetadata.{field}"), problems);
        }
    }
}

/// Fields that a query may not set in its inline workers, since the operator would mount or use for its author what the
/// author may not.
pub(super) fn check_inline(workers: &WorkerPoolSpec, path: &str, problems: &mut Vec<Problem>) {
    let refused = [
        ("image", workers.image.is_some()),
        ("imagePullPolicy", workers.image_pull_policy.is_some()),
        ("imagePullSecrets", !workers.image_pull_secrets.is_empty()),
        ("credentials", workers.credentials.is_some()),
        ("dataVolumes", !workers.data_volumes.is_empty()),
        ("sinkVolumes", !workers.sink_volumes.is_empty()),
        ("podMetadata", workers.pod_metadata.is_some()),
        (
            "placement.priorityClassName",
            workers.placement.priority_class_name.is_some(),
        ),
    ];
    for (field, _) in refused.into_iter().filter(|(_, set)| *set) {
        problems.push(Problem::new(
            format!("{path}.{field}"),
            "is for pools, not for the workers of a query",
            "remove it, or name a pool that has it with spec.workerPoolRef",
        ));
    }
}

fn check_memory(workers: &WorkerPoolSpec, path: &str, problems: &mut Vec<Problem>) {
    let field = format!("{path}.memory");
    let limits = workers
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref());
    let limit = limits
        .and_then(|limits| limits.get("memory"))
        .and_then(quantity_bytes);
    let query_memory = workers.query_memory();
    match (workers.memory, limit) {
        (Some(memory), _) if memory < MIN_MEMORY => {
            let fix = format!("write at least {MIN_MEMORY}, or remove the field");
            problems.push(Problem::new(
                field,
                format!("is {memory}, too little to run"),
                fix,
            ));
        }
        (Some(memory), Some(limit)) if memory > limit => {
            let problem = format!("is {memory}, more than the limit of the pod, {limit}");
            problems.push(Problem::new(
                field,
                problem,
                "write less, or raise resources.limits",
            ));
        }
        (None, Some(limit)) if query_memory.is_some_and(|memory| memory < MIN_MEMORY) => {
            let field = format!("{path}.resources.limits[memory]");
            let problem = format!("is {limit}, too little to run");
            problems.push(Problem::new(field, problem, "write more, such as 2Gi"));
        }
        _ => {}
    }
}

/// Names of resources, sizes that can be counted, and no request above its limit.
fn check_resources(resources: &ResourceRequirements, path: &str, problems: &mut Vec<Problem>) {
    let none = BTreeMap::new();
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let limits = resources.limits.as_ref().unwrap_or(&none);
    for (list, amounts) in [("requests", requests), ("limits", limits)] {
        for name in amounts.keys().filter(|name| !is_qualified_name(name)) {
            let field = format!("{path}.{list}[{}]", excerpt(name));
            problems.push(Problem::new(
                field,
                "is not a resource",
                "write cpu, memory or a resource of the cluster's nodes",
            ));
        }
    }
    let above = |request: &Quantity, limit: &Quantity| {
        nanos(request)
            .zip(nanos(limit))
            .is_some_and(|(request, limit)| request > limit)
    };
    for (name, request) in requests {
        if let Some(limit) = limits.get(name).filter(|limit| above(request, limit)) {
            let field = format!("{path}.requests[{}]", excerpt(name));
            let problem = format!("is {}, above its limit, {}", request.0, limit.0);
            problems.push(Problem::new(field, problem, "write at most the limit"));
        }
    }
}

fn check_placement(placement: &PlacementSpec, path: &str, problems: &mut Vec<Problem>) {
    check_locality(&placement.locality, &format!("{path}.locality"), problems);
    for key in placement
        .node_selector
        .keys()
        .filter(|key| !is_qualified_name(key))
    {
        let field = format!("{path}.nodeSelector[{}]", excerpt(key));
        problems.push(Problem::new(
            field,
            "is not the key of a label",
            "write a key that nodes have",
        ));
    }
    for (index, toleration) in placement.tolerations.iter().enumerate() {
        check_toleration(toleration, &format!("{path}.tolerations[{index}]"), problems);
    }
}

/// The rules of Kubernetes for a toleration. With another one it would reject every pod.
fn check_toleration(toleration: &Toleration, path: &str, problems: &mut Vec<Problem>) {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let text = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    if toleration
        .key
        .as_deref()
        .is_some_and(|key| !key.is_empty() && !is_qualified_name(key))
    {
        let field = format!("{path}.key");
        problems.push(Problem::new(
            field,
            "is not the key of a taint",
            "write a key that nodes have",
        ));
    }
    if !text(&toleration.key) && !exists {
        let fix = "write one, or operator: Exists to tolerate every taint";
        problems.push(Problem::new(format!("{path}.key"), "is missing", fix));
    }
    if exists && text(&toleration.value) {
        let field = format!("{path}.value");
        problems.push(Problem::new(
            field,
            "is not for operator Exists",
            "remove one of the two",
        ));
    }
    if toleration.toleration_seconds.is_some() && toleration.effect.as_deref() != Some("NoExecute") {
        let field = format!("{path}.tolerationSeconds");
        problems.push(Problem::new(
            field,
            "is for effect NoExecute only",
            "write the effect, or remove it",
        ));
    }
}

/// Hints of a pool or of a table. Each names one location.
pub(super) fn check_locality(hints: &[LocalityHint], path: &str, problems: &mut Vec<Problem>) {
    for (index, hint) in hints.iter().enumerate() {
        if hint.zone.is_some() == hint.node.is_some() {
            problems.push(Problem::new(
                format!("{path}[{index}]"),
                "does not name one place",
                "write either zone or node",
            ));
        }
    }
}

fn check_pod_keys(keys: &BTreeMap<String, String>, path: &str, problems: &mut Vec<Problem>) {
    for key in keys.keys() {
        let field = format!("{path}[{}]", excerpt(key));
        if !is_qualified_name(key) {
            problems.push(Problem::new(
                field,
                "is not a key",
                "write a name of letters, digits, `-`, `_` and `.`, alone or after a domain and a slash",
            ));
        } else if RESERVED_KEY_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            problems.push(Problem::new(
                field,
                "is not for users",
                "use a domain of your own; the operator and Kubernetes write these",
            ));
        }
    }
}
