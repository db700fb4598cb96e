//! From YAML to objects, for every field that a query's objects follow from.

use sluice_proto::log::LogFormat;

use super::*;

const QUERY: &str = r"
apiVersion: sluice.dev/v1alpha1
kind: ShuffleQuery
metadata: {name: daily, namespace: reports, uid: 3f2c, generation: 2, annotations: {not: copied}}
spec:
  sqlFrom: {configMapKeyRef: {name: text, key: q.sql}}
  tables:
  - {name: lineitem, tpch: {scaleFactor: 1}, locality: [{zone: a}, {node: n1}]}
  - {name: t, location: /data/t, format: parquet, locality: [{zone: b}, {zone: a}]}
  sink: {location: /out/daily, format: parquet, ifExists: Replace}
  shuffle: {partitions: 8, compression: Zstd}
  retry: {maxTaskAttempts: 5}
  deadlineSeconds: 60
  suspend: true
  ttlSecondsAfterFinished: 5
  priority: 7
";

fn query(workers: &str) -> ShuffleQuery {
    serde_yaml::from_str(&format!("{QUERY}{workers}")).unwrap()
}

#[test]
fn the_input_has_the_text_in_place_and_nothing_that_may_change() {
    insta::assert_yaml_snapshot!(input(&query("  workerPoolRef: {name: p}\n"), "select 1").unwrap());
}

#[test]
fn the_token_is_of_one_epoch() {
    insta::assert_yaml_snapshot!(token(&query("  workerPoolRef: {name: p}\n"), 3, "a.b.c", "input"));
}

#[test]
fn inline_workers_become_a_pool_near_the_tables() {
    let pool = inline_pool(&query(
        "  workers: {replicas: 3, placement: {locality: [{zone: a}]}}\n",
    ))
    .unwrap();
    insta::assert_yaml_snapshot!(pool);
    assert!(inline_pool(&query("  workerPoolRef: {name: p}\n")).is_none());
}

fn pod_of(pool: &str, epoch: u64, memory_factor: u32) -> Pod {
    placed(pool, epoch, memory_factor, false)
}

fn placed(pool: &str, epoch: u64, memory_factor: u32, with_workers: bool) -> Pod {
    let spec = serde_yaml::from_str(pool).unwrap();
    coordinator_pod(&CoordinatorPlan {
        query: &query("  workerPoolRef: {name: p}\n"),
        epoch,
        pool: "p",
        pool_spec: &spec,
        image: "sluice:1",
        memory_factor,
        log_format: LogFormat::Text,
        with_workers,
    })
}

#[test]
fn a_coordinator_of_a_pool_that_says_nothing() {
    let pod = pod_of("{}", 1, 1);
    assert_eq!((epoch_of(&pod), memory_factor_of(&pod)), (Some(1), 1));
    insta::assert_yaml_snapshot!(pod);
}

#[test]
fn a_coordinator_of_a_pool_that_says_all() {
    let pool = r"
replicas: 3
slotsPerWorker: 4
imagePullPolicy: Always
imagePullSecrets: [{name: pull}]
dataVolumes: [{name: d, claimName: data, mountPath: /data}]
sinkVolumes: [{name: o, claimName: out, mountPath: /out}]
credentials: {secretName: keys}
placement:
  dataAffinity: Required
  weight: 80
  locality: [{zone: c}]
  nodeSelector: {disk: ssd}
  tolerations: [{key: batch, operator: Exists}]
  priorityClassName: high
  schedulerName: other
podMetadata: {labels: {team: a}, annotations: {note: b}}
coordinator: {resources: {requests: {memory: 1Gi}, limits: {cpu: '2', memory: 1.5Gi}}}
";
    insta::assert_yaml_snapshot!(pod_of(pool, 2, 4));
}

/// The taint manager takes the first toleration that matches a taint.
#[test]
fn no_pool_keeps_its_coordinators_on_nodes_that_are_gone() {
    for tolerations in [
        "[]",
        "[{operator: Exists}]",
        "[{key: node.kubernetes.io/unreachable, operator: Exists}]",
    ] {
        let pod = pod_of(&format!("placement: {{tolerations: {tolerations}}}"), 1, 1);
        let all = pod.spec.unwrap().tolerations.unwrap();
        for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let heeded = all.iter().find(|toleration| {
                toleration.key.as_deref().is_none_or(|key| key == taint)
                    && toleration
                        .effect
                        .as_deref()
                        .is_none_or(|effect| effect == "NoExecute")
            });
            let seconds = heeded.and_then(|toleration| toleration.toleration_seconds);
            assert_eq!(seconds, Some(30), "{taint}: {tolerations}");
        }
    }
}

/// A claim that one node can attach at a time is where the workers are.
#[test]
fn a_coordinator_can_be_bound_to_the_node_of_the_workers() {
    let required = |with_workers| {
        let affinity = placed("{}", 1, 1, with_workers).spec.unwrap().affinity.unwrap();
        let terms = affinity
            .pod_affinity
            .unwrap()
            .required_during_scheduling_ignored_during_execution;
        terms.map(|terms| serde_json::to_value(terms).unwrap())
    };
    assert_eq!(required(false), None);
    let labels = serde_json::json!({"app.kubernetes.io/component": "worker", "sluice.dev/pool": "p"});
    let term = serde_json::json!([{"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}]);
    assert_eq!(required(true), Some(term));
}
