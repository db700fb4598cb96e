//! From the YAML of a pool to the objects that it owns.

use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use serde_json::{Value, json};
use sluice_crds::WorkerPool;
use sluice_proto::log::LogFormat;

use super::affinity::NodeSelectorTerms;
use super::labels;
use super::pool::PoolObjects;
use super::worker::WorkerPod;

fn pool(spec: &str) -> WorkerPool {
    let spec: Value = serde_yaml::from_str(spec).unwrap();
    let pool = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec,
    });
    serde_json::from_value(pool).unwrap()
}

fn pod_near(spec: &str, claims: &[NodeSelectorTerms], with_key: bool) -> Pod {
    let pool = pool(spec);
    let pod = WorkerPod {
        pool: &pool,
        number: 3,
        image: super::pod::image(&pool.spec, "sluice:1"),
        spec_hash: "00ff",
        with_key,
        log_format: LogFormat::Text,
        claims,
        same_node: false,
    };
    pod.build()
}

/// The pod as JSON.
fn pod(spec: &str) -> Value {
    serde_json::to_value(pod_near(spec, &[], true)).unwrap()
}

fn reach(yaml: &str) -> NodeSelectorTerms {
    serde_yaml::from_str(yaml).unwrap()
}

#[test]
fn a_pool_that_says_nothing() {
    insta::assert_yaml_snapshot!("plain_pod", pod("{}"));
    let objects = PoolObjects::build(&pool("{}"), Some("PEM"));
    insta::assert_yaml_snapshot!("service", objects.service);
    insta::assert_yaml_snapshot!("disruption_budget", objects.disruption_budget);
    insta::assert_yaml_snapshot!("service_account", objects.service_account);
    insta::assert_yaml_snapshot!("network_policy", objects.network_policy);
    insta::assert_yaml_snapshot!("key", objects.key);
}

#[test]
fn without_a_key_no_tokens_are_checked() {
    assert_eq!(PoolObjects::build(&pool("{}"), None).key, None);
    let pod = serde_json::to_string(&pod_near("{}", &[], false)).unwrap();
    assert!(!pod.contains("/etc/sluice/keys") && !pod.contains("SLUICE_VERIFY_KEY_FILE"));
}

/// Checks that a spec shows at a place in the pod, where a pool that says nothing has something else.
fn assert_shows(spec: &str, place: &str, expected: &Value) {
    assert_eq!(pod(spec).pointer(place), Some(expected), "{spec} at {place}");
    assert_ne!(
        pod("{}").pointer(place),
        Some(expected),
        "{place} has this anyway"
    );
}

#[test]
fn fields_of_the_container_show_in_the_pod() {
    let container = "/spec/containers/0";
    for (spec, place, expected) in [
        ("image: a", format!("{container}/image"), json!("a")),
        (
            "imagePullPolicy: Never",
            format!("{container}/imagePullPolicy"),
            json!("Never"),
        ),
        (
            "imagePullSecrets: [{name: a}]",
            "/spec/imagePullSecrets".to_owned(),
            json!([{"name": "a"}]),
        ),
        (
            "credentials: {secretName: a}",
            format!("{container}/envFrom"),
            json!([{"secretRef": {"name": "a"}}]),
        ),
        (
            "memory: 1GiB",
            format!("{container}/resources/requests/memory"),
            json!("1Gi"),
        ),
        (
            "spill: {limit: 1GiB}",
            format!("{container}/resources/requests"),
            json!({"ephemeral-storage": "1280Mi"}),
        ),
        (
            "resources: {limits: {ephemeral-storage: 1Gi}}",
            format!("{container}/resources/requests/ephemeral-storage"),
            json!("1Gi"),
        ),
        (
            "resources: {requests: {ephemeral-storage: 7Gi}}",
            format!("{container}/resources/requests/ephemeral-storage"),
            json!("7Gi"),
        ),
    ] {
        assert_shows(spec, &place, &expected);
    }
}

#[test]
fn fields_of_the_pod_show_in_the_pod() {
    for (spec, place, expected) in [
        (
            "placement: {schedulerName: a}",
            "/spec/schedulerName".to_owned(),
            json!("a"),
        ),
        (
            "placement: {priorityClassName: a}",
            "/spec/priorityClassName".to_owned(),
            json!("a"),
        ),
        (
            "placement: {nodeSelector: {a: b}}",
            "/spec/nodeSelector".to_owned(),
            json!({"a": "b"}),
        ),
        (
            "placement: {tolerations: [{operator: Exists}]}",
            "/spec/tolerations".to_owned(),
            json!([{"operator": "Exists"}]),
        ),
        (
            "podMetadata: {labels: {a: b}}",
            "/metadata/labels/a".to_owned(),
            json!("b"),
        ),
        (
            "podMetadata: {annotations: {a: b}}",
            "/metadata/annotations/a".to_owned(),
            json!("b"),
        ),
    ] {
        assert_shows(spec, &place, &expected);
    }
}

#[test]
fn variables_follow_the_spec() {
    let variable = |spec: &str, name: &str| {
        let pod = pod(spec);
        let variables = pod.pointer("/spec/containers/0/env").unwrap().as_array().unwrap();
        let found = variables.iter().find(|variable| variable["name"] == name);
        found.and_then(|variable| Some(variable["value"].as_str()?.to_owned()))
    };
    let two = "spill: {limit: 1GiB, volumes: [{name: a, emptyDir: {sizeLimit: 1GiB}}, {name: b, ephemeral: {size: 1GiB}}]}";
    for (spec, name, expected) in [
        ("{}", "SLUICE_SLOTS", Some("2")),
        ("slotsPerWorker: 9", "SLUICE_SLOTS", Some("9")),
        ("resources: {limits: {cpu: 3500m}}", "SLUICE_SLOTS", Some("4")),
        ("{}", "SLUICE_MEMORY", None),
        ("memory: 1MiB", "SLUICE_MEMORY", Some("1048576")),
        (
            "resources: {limits: {memory: 1000}}",
            "SLUICE_MEMORY",
            Some("700"),
        ),
        (
            "resources: {limits: {memory: 1Gi}}\nmemory: 2MiB",
            "SLUICE_MEMORY",
            Some("2097152"),
        ),
        ("{}", "SLUICE_SPILL_LIMIT", Some("10737418240")),
        ("spill: {limit: 0}", "SLUICE_SPILL_LIMIT", Some("0")),
        ("{}", "SLUICE_SPILL_DIRS", Some("/spill/default")),
        (two, "SLUICE_SPILL_DIRS", Some("/spill/a,/spill/b")),
    ] {
        assert_eq!(variable(spec, name).as_deref(), expected, "{spec}: {name}");
    }
}

/// A worker that has filled its disk fails a query; the kubelet must not evict it before.
#[test]
fn empty_dirs_have_room_beyond_what_a_worker_fills() {
    let two = "spill: {limit: 2GiB, volumes: [{name: a, emptyDir: {sizeLimit: 1GiB}}, {name: b, ephemeral: {size: 1GiB}}]}";
    for (spec, name, field, expected) in [
        (
            "spill: {limit: 0}",
            "spill-default",
            "/emptyDir/sizeLimit",
            "82Mi",
        ),
        (
            "spill: {limit: 1GiB}",
            "spill-default",
            "/emptyDir/sizeLimit",
            "1216Mi",
        ),
        (two, "spill-a", "/emptyDir/sizeLimit", "1216Mi"),
        (
            two,
            "spill-b",
            "/ephemeral/volumeClaimTemplate/spec/resources/requests/storage",
            "1Gi",
        ),
    ] {
        let pod = pod(spec);
        let volumes = pod.pointer("/spec/volumes").unwrap().as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == name).unwrap();
        assert_eq!(volume.pointer(field), Some(&json!(expected)), "{spec}: {name}");
    }
}

#[test]
fn users_labels_do_not_replace_ours() {
    let pool = pool("podMetadata: {labels: {sluice.dev/pool: other}}");
    let user = pool.spec.pod_metadata.as_ref();
    let labels = super::pod::with_user_labels(labels::of_pool("p"), user);
    assert_eq!(labels[labels::POOL], "p");
}

/// The node affinity of pods, for all data affinities.
#[test]
fn pods_go_where_the_data_is() {
    let local = reach("[{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}]");
    let zonal = reach(
        "[{matchExpressions: [{key: zone, operator: In, values: [z1]}]}, {matchExpressions: [{key: zone, operator: In, values: [z2]}]}]",
    );
    let affinity = |spec: &str, claims: &[NodeSelectorTerms]| {
        let pod = serde_json::to_value(pod_near(spec, claims, true)).unwrap();
        pod.pointer("/spec/affinity/nodeAffinity").cloned()
    };
    let hints = "locality: [{zone: z1}, {node: n7}]";
    let cases = [
        (
            "preferred",
            format!("placement: {{weight: 7, {hints}}}"),
            vec![local.clone()],
        ),
        (
            "required",
            format!("placement: {{dataAffinity: Required, {hints}}}"),
            vec![local.clone(), zonal],
        ),
        (
            "ignored",
            format!("placement: {{dataAffinity: Ignore, {hints}}}"),
            vec![local.clone()],
        ),
        (
            "nothing known",
            "placement: {dataAffinity: Required}".to_owned(),
            vec![],
        ),
        (
            "twice the same",
            "placement: {dataAffinity: Required}".to_owned(),
            vec![local.clone(), local],
        ),
    ];
    let shown: Vec<_> = cases
        .iter()
        .map(|(title, spec, claims)| json!({"case": title, "affinity": affinity(spec, claims)}))
        .collect();
    insta::assert_yaml_snapshot!("node_affinity", shown);
}

#[test]
fn terms_stay_bounded() {
    let many = |key: &str| -> NodeSelectorTerms {
        let term =
            |n: u32| json!({"matchExpressions": [{"key": key, "operator": "In", "values": [n.to_string()]}]});
        serde_json::from_value((0..10).map(term).collect()).unwrap()
    };
    let claims = [many("a"), many("b"), many("c")];
    let pod = serde_json::to_value(pod_near("placement: {dataAffinity: Required}", &claims, true)).unwrap();
    let place =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    assert_eq!(pod.pointer(place).unwrap().as_array().unwrap().len(), 10);
}

#[test]
fn zones_and_nodes_are_shared_as_the_spec_says() {
    let shown: Vec<_> = [
        "{zones: Spread, antiAffinity: None}",
        "{zones: Pack, antiAffinity: None}",
        "{zones: Any, antiAffinity: Preferred}",
        "{zones: Any, antiAffinity: Required}",
        "{zones: Any, antiAffinity: None}",
    ]
    .into_iter()
    .map(|placement| {
        let pod = pod(&format!("placement: {placement}"));
        json!({
            "placement": placement,
            "affinity": pod.pointer("/spec/affinity"),
            "spread": pod.pointer("/spec/topologySpreadConstraints"),
        })
    })
    .collect();
    insta::assert_yaml_snapshot!("zones_and_nodes", shown);
}

#[test]
fn everything_is_owned_and_labelled() {
    let objects = PoolObjects::build(&pool("{}"), Some("PEM"));
    let metas = [
        objects.service.metadata,
        objects.disruption_budget.metadata,
        objects.service_account.metadata,
        objects.network_policy.metadata,
        objects.coordinator_policy.metadata,
        objects.key.unwrap().metadata,
        pod_near("{}", &[], true).meta().clone(),
    ];
    for meta in metas {
        let labels = meta.labels.unwrap();
        let ours = labels::of_pool("p");
        assert!(ours.iter().all(|(key, value)| labels.get(key) == Some(value)));
        assert_eq!(meta.owner_references.unwrap()[0].uid, "u");
        assert_eq!(meta.namespace.as_deref(), Some("n"));
    }
}
