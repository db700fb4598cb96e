//! Every field that a user may write, from YAML to objects. A field that is new fails here until it is written, and shows.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde_json::{Value, json};
use sluice_crds::yaml::{shuffle_query_crd, worker_pool_crd};
use sluice_crds::{ShuffleQuery, WorkerPool, validate_pool, validate_query};
use sluice_proto::log::LogFormat;

use super::coordinator::{CoordinatorPlan, coordinator_pod, inline_pool, input, token};
use super::pod::image;
use super::pool::PoolObjects;
use super::worker::WorkerPod;

const POOL: &str = r"
apiVersion: sluice.dev/v1alpha1
kind: WorkerPool
metadata: {name: p, namespace: n, uid: u}
spec:
  replicas: 4
  slotsPerWorker: 8
  memory: 3GiB
  spill:
    limit: 70GiB
    volumes:
    - {name: near, emptyDir: {sizeLimit: 20GiB}}
    - {name: far, ephemeral: {storageClassName: fast, size: 50GiB}}
  image: registry.example/sluice:2
  imagePullPolicy: Always
  imagePullSecrets: [{name: pull}]
  resources: {requests: {cpu: 2, example.com/disk: 1}, limits: {memory: 4Gi}}
  dataVolumes: [{name: lake, claimName: lake-claim, mountPath: /lake}]
  sinkVolumes: [{name: out, claimName: out-claim, mountPath: /out}]
  credentials: {secretName: bucket}
  placement:
    dataAffinity: Required
    weight: 80
    locality: [{zone: z1}, {node: n7}]
    zones: Pack
    antiAffinity: Required
    nodeSelector: {disk: fast}
    tolerations: [{key: only, operator: Equal, value: sluice, effect: NoExecute, tolerationSeconds: 60}]
    priorityClassName: high
    schedulerName: other
  podMetadata: {labels: {team: a}, annotations: {note: b}}
  minReadyWorkers: 2
  maxConcurrentQueries: 5
  drainTimeoutSeconds: 30
  autoscaling: {minReplicas: 1, maxReplicas: 6, scaleDownStabilizationSeconds: 90}
  defaultDeadlineSeconds: 3600
  defaultTtlSecondsAfterFinished: 600
  maxQueryPriority: 10
  egress: Internal
  coordinator: {resources: {requests: {memory: 1Gi}, limits: {cpu: 1}}}
";

const QUERY: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: ShuffleQuery
metadata: {name: daily, namespace: n, uid: u}
spec:
  sqlFrom: {configMapKeyRef: {name: texts, key: daily.sql}}
  tables:
  - name: readings
    location: /lake/readings
    format: csv
    options: {header: false, delimiter: ";", quote: "'", escape: "\\", newlinesInValues: false, nullRegex: "^n/a$"}
    schema: [{name: at, type: Int64, nullable: false}]
    locality: [{zone: z1}, {node: n7}]
  - {name: stations, locations: [/lake/north, /lake/south], format: parquet}
  - {name: lines, tpch: {scaleFactor: 0.5, table: lineitem}}
  sink: {location: /out/daily, format: parquet, ifExists: Replace}
  preview: None
  shuffle: {partitions: 8, compression: Zstd, reduceFetchWindowPartitions: 7, runtimeFilters: "Off", joinOrder: AsWritten, retention: UntilEnd, keepWhileSuspended: 5m, speculation: {mode: "Off", minCompletedSamples: 9, p95Multiplier: 2.5, minRuntime: 3s}, adaptive: {mode: "Off", joins: "Off", targetBytes: 32Mi, minReduceTasks: 2, maxReduceTasks: 6, maxPartitionsPerTask: 3}}
  retry:
    maxTaskAttempts: 5
    backoffBase: 1s
    excludeWorkerAfterFailures: 2
    workerLivenessTimeout: 20s
    noWorkersGrace: 1m
  deadlineSeconds: 60
  suspend: true
  ttlSecondsAfterFinished: 5
  priority: 7
  workerPoolRef: {name: p}
"#;

const INLINE: &str = r"
apiVersion: sluice.dev/v1alpha1
kind: ShuffleQuery
metadata: {name: daily, namespace: n, uid: u}
spec:
  sql: select 1
  workers:
    replicas: 4
    slotsPerWorker: 8
    memory: 3GiB
    spill:
      limit: 70GiB
      volumes:
      - {name: near, emptyDir: {sizeLimit: 20GiB}}
      - {name: far, ephemeral: {storageClassName: fast, size: 50GiB}}
    resources: {requests: {cpu: 2}, limits: {memory: 4Gi}}
    placement:
      dataAffinity: Required
      weight: 80
      locality: [{zone: z1}, {node: n7}]
      zones: Pack
      antiAffinity: Required
      nodeSelector: {disk: fast}
      tolerations: [{key: only, operator: Equal, value: sluice, effect: NoExecute, tolerationSeconds: 60}]
      schedulerName: other
    minReadyWorkers: 2
    maxConcurrentQueries: 5
    drainTimeoutSeconds: 30
    autoscaling: {minReplicas: 1, maxReplicas: 6, scaleDownStabilizationSeconds: 90}
    defaultDeadlineSeconds: 3600
    defaultTtlSecondsAfterFinished: 600
    maxQueryPriority: 10
    egress: Internal
    coordinator: {resources: {requests: {memory: 1Gi}, limits: {cpu: 1}}}
";

/// What a query may not say of its workers.
const NOT_INLINE: [&str; 8] = [
    "spec.workers.image",
    "spec.workers.imagePullPolicy",
    "spec.workers.imagePullSecrets",
    "spec.workers.dataVolumes",
    "spec.workers.sinkVolumes",
    "spec.workers.credentials",
    "spec.workers.placement.priorityClassName",
    "spec.workers.podMetadata",
];
/// What the operator heeds itself: no object tells of it.
const OF_THE_OPERATOR: [&str; 13] = [
    "spec.minReadyWorkers",
    "spec.maxConcurrentQueries",
    "spec.drainTimeoutSeconds",
    "spec.deadlineSeconds",
    "spec.suspend",
    "spec.ttlSecondsAfterFinished",
    "spec.priority",
    "spec.replicas",
    "spec.autoscaling.minReplicas",
    "spec.autoscaling.scaleDownStabilizationSeconds",
    "spec.defaultDeadlineSeconds",
    "spec.defaultTtlSecondsAfterFinished",
    "spec.maxQueryPriority",
];

fn document(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap()
}

/// The schema of a kind's spec.
fn schema(crd: &CustomResourceDefinition) -> Value {
    let crd = serde_json::to_value(crd).unwrap();
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    spec.unwrap().clone()
}

/// The fields of a schema that have no fields of their own.
fn fields(schema: &Value, path: &str, all: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, schema) in properties {
            fields(schema, &format!("{path}.{name}"), all);
        }
    } else if schema["items"].is_object() {
        fields(&schema["items"], &format!("{path}[]"), all);
    } else {
        all.insert(path.to_owned());
    }
}

/// The fields that `value` sets, and where (JSON pointers).
fn set(value: &Value, schema: &Value, (path, place): (&str, &str), all: &mut Vec<(String, String)>) {
    match (value, &schema["properties"], &schema["items"]) {
        (Value::Object(values), Value::Object(properties), _) => {
            for (name, value) in values {
                let at = (&*format!("{path}.{name}"), &*format!("{place}/{name}"));
                let schema = properties.get(name);
                set(
                    value,
                    schema.unwrap_or_else(|| panic!("there is no {}", at.0)),
                    at,
                    all,
                );
            }
        }
        (Value::Array(items), _, schema @ Value::Object(_)) => {
            for (number, item) in items.iter().enumerate() {
                let at = (&*format!("{path}[]"), &*format!("{place}/{number}"));
                set(item, schema, at, all);
            }
        }
        _ => all.push((path.to_owned(), place.to_owned())),
    }
}

fn set_in(document: &Value, crd: &CustomResourceDefinition) -> Vec<(String, String)> {
    let mut all = Vec::new();
    set(&document["spec"], &schema(crd), ("spec", "/spec"), &mut all);
    all
}

fn is_within(path: &str, of: &str) -> bool {
    path.strip_prefix(of)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The same without what is at `place`.
fn without(document: &Value, place: &str) -> Value {
    let mut document = document.clone();
    let (parent, name) = place.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(fields) => {
            fields.remove(name).unwrap();
        }
        Value::Array(items) => {
            items.remove(name.parse().unwrap());
        }
        _ => panic!("{parent} holds nothing"),
    }
    document
}

fn shown(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn worker(pool: &WorkerPool) -> Pod {
    let worker = WorkerPod {
        pool,
        number: 0,
        image: image(&pool.spec, "sluice:1"),
        spec_hash: "00ff",
        with_key: true,
        log_format: LogFormat::Json,
        claims: &[],
        same_node: false,
    };
    worker.build()
}

fn coordinator(query: &ShuffleQuery, name: &str, pool: &WorkerPool) -> Pod {
    coordinator_pod(&CoordinatorPlan {
        query,
        epoch: 3,
        pool: name,
        pool_spec: &pool.spec,
        image: image(&pool.spec, "sluice:1"),
        log_format: LogFormat::Json,
        memory_factor: 2,
        with_workers: false,
    })
}

/// All that there is of a pool: what it owns, and the coordinator of a query that runs there.
fn objects_of_pool(pool: &WorkerPool) -> Vec<Value> {
    let objects = PoolObjects::build(pool, Some("PEM"));
    let query = json!({"metadata": {"name": "q", "namespace": "n", "uid": "q"}, "spec": {"sql": "select 1"}});
    let query: ShuffleQuery = serde_json::from_value(query).unwrap();
    vec![
        shown(&objects.service),
        shown(&objects.disruption_budget),
        shown(&objects.service_account),
        shown(&objects.network_policy),
        shown(&objects.key),
        shown(&worker(pool)),
        shown(&coordinator(&query, "p", pool)),
    ]
}

/// All that there is of a query: what it owns, and the workers of a pool of its own.
fn objects_of_query(query: &ShuffleQuery) -> Vec<Value> {
    let sql = query.spec.sql.as_deref().unwrap_or("select 'from the ConfigMap'");
    let own = inline_pool(query);
    let pool = own
        .clone()
        .unwrap_or_else(|| WorkerPool::new("p", Default::default()));
    let reference = query.spec.worker_pool_ref.as_ref();
    let name = reference.map_or("daily-workers", |pool| &*pool.name);
    let mut objects = vec![
        shown(&input(query, sql).unwrap()),
        shown(&token(query, 3, "a.b.c", "input")),
        shown(&coordinator(query, name, &pool)),
    ];
    objects.extend(own.iter().flat_map(|pool| [shown(pool), shown(&worker(pool))]));
    objects
}

fn objects(document: &Value) -> serde_json::Result<Vec<Value>> {
    Ok(if document["kind"] == "WorkerPool" {
        objects_of_pool(&serde_json::from_value(document.clone())?)
    } else {
        objects_of_query(&serde_json::from_value(document.clone())?)
    })
}

#[test]
fn every_field_is_written() {
    for (crd, documents) in [
        (worker_pool_crd(), vec![POOL]),
        (shuffle_query_crd(), vec![QUERY, INLINE]),
    ] {
        let mut all = BTreeSet::new();
        fields(&schema(&crd), "spec", &mut all);
        assert!(all.len() > 30, "{all:?}");
        all.retain(|field| !NOT_INLINE.iter().any(|not| is_within(field, not)));
        let written = documents
            .into_iter()
            .flat_map(|yaml| set_in(&document(yaml), &crd));
        let written: BTreeSet<_> = written.map(|(field, _)| field).collect();
        let missing: Vec<_> = all.difference(&written).collect();
        assert!(missing.is_empty(), "write them in this file: {missing:?}");
    }
}

#[test]
fn what_is_written_is_valid() {
    assert_eq!(validate_pool(&serde_yaml::from_str(POOL).unwrap()), []);
    for query in [QUERY, INLINE] {
        assert_eq!(validate_query(&serde_yaml::from_str(query).unwrap()), []);
    }
}

#[test]
fn a_pool_with_every_field() {
    insta::assert_yaml_snapshot!(objects(&document(POOL)).unwrap());
}

#[test]
fn a_query_with_every_field() {
    insta::assert_yaml_snapshot!(objects(&document(QUERY)).unwrap());
}

#[test]
fn a_query_with_every_field_of_workers() {
    insta::assert_yaml_snapshot!(objects(&document(INLINE)).unwrap());
}

#[test]
fn every_field_shows_in_an_object_or_is_the_operators_own() {
    for (yaml, crd) in [
        (POOL, worker_pool_crd()),
        (QUERY, shuffle_query_crd()),
        (INLINE, shuffle_query_crd()),
    ] {
        let document = document(yaml);
        let whole = objects(&document).unwrap();
        for (field, place) in set_in(&document, &crd) {
            // There is no such thing without a field that must be there.
            let Ok(without) = objects(&without(&document, &place)) else {
                continue;
            };
            let own = OF_THE_OPERATOR.contains(&field.as_str());
            assert_eq!(without == whole, own, "{field}");
        }
    }
}
