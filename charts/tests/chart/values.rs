//! Every value does something, and is described.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::helm::{chart, everything, merged, nested, run};

fn defaults() -> Value {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// The paths of values that have no values below them. The spec of a pool is one value: its fields are the API server's.
fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(below) if !below.is_empty() && path != "workerPool.spec" => {
            for (name, value) in below {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{dot}{name}"), found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

/// For every value another one, and what must be set for it to matter.
fn changes() -> BTreeMap<&'static str, (Value, Value)> {
    let none = || json!({});
    let digest = format!("sha256:{}", "0".repeat(64));
    let peer = json!([{"namespaceSelector": {}}]);
    let toleration = json!([{"operator": "Exists"}]);
    let spread = json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]);
    BTreeMap::from([
        ("fullnameOverride", (none(), json!("other"))),
        ("image.repository", (none(), json!("registry.example/sluice"))),
        ("image.tag", (none(), json!("other"))),
        ("image.digest", (none(), json!(digest))),
        ("image.pullPolicy", (none(), json!("Always"))),
        ("imagePullSecrets", (none(), json!([{"name": "s"}]))),
        ("workerImage", (none(), json!("other:1"))),
        ("scope", (none(), json!("Namespaced"))),
        ("namespaces", (json!({"scope": "Namespaced"}), json!(["a", "b"]))),
        ("replicas", (none(), json!(2))),
        ("leaderElection.leaseSeconds", (none(), json!(16))),
        ("leaderElection.renewalSeconds", (none(), json!(9))),
        ("leaderElection.retrySeconds", (none(), json!(1))),
        ("concurrency", (none(), json!(3))),
        ("logFilter", (none(), json!("debug"))),
        ("resources.requests.cpu", (none(), json!("2"))),
        ("resources.requests.memory", (none(), json!("1Gi"))),
        ("resources.limits.memory", (none(), json!("1Gi"))),
        ("podLabels", (none(), json!({"a": "b"}))),
        ("podAnnotations", (none(), json!({"a": "b"}))),
        ("nodeSelector", (none(), json!({"a": "b"}))),
        ("tolerations", (none(), toleration)),
        ("affinity", (none(), json!({"nodeAffinity": {}}))),
        ("topologySpreadConstraints", (none(), spread)),
        ("priorityClassName", (none(), json!("high"))),
        (
            "serviceAccount.create",
            (json!({"serviceAccount": {"name": "a"}}), json!(false)),
        ),
        ("serviceAccount.name", (none(), json!("a"))),
        ("serviceAccount.annotations", (none(), json!({"a": "b"}))),
        ("rbac.create", (none(), json!(false))),
        ("signingKey.existingSecret", (none(), json!("mine"))),
        ("signingKey.secretKey", (none(), json!("other.pem"))),
        ("podDisruptionBudget.enabled", (none(), json!(false))),
        ("podDisruptionBudget.maxUnavailable", (none(), json!("50%"))),
        ("networkPolicy.enabled", (none(), json!(false))),
        ("networkPolicy.metricsFrom", (none(), peer)),
        ("metrics.port", (none(), json!(9090))),
        (
            "metrics.service.enabled",
            (
                json!({"metrics": {"serviceMonitor": {"enabled": false}}}),
                json!(false),
            ),
        ),
        ("metrics.service.annotations", (none(), json!({"a": "b"}))),
        ("metrics.serviceMonitor.enabled", (none(), json!(false))),
        ("metrics.serviceMonitor.interval", (none(), json!("5s"))),
        ("metrics.serviceMonitor.labels", (none(), json!({"a": "b"}))),
        ("crds.install", (none(), json!(false))),
        ("jobs.timeoutSeconds", (none(), json!(60))),
        ("jobs.resources.requests.cpu", (none(), json!("1"))),
        ("jobs.resources.requests.memory", (none(), json!("1Gi"))),
        ("jobs.resources.limits.memory", (none(), json!("1Gi"))),
        ("workerPool.create", (none(), json!(false))),
        ("workerPool.name", (none(), json!("other"))),
        ("workerPool.spec", (none(), json!({"replicas": 7}))),
    ])
}

#[test]
fn every_value_has_a_change_that_is_tried() {
    let mut found = BTreeSet::new();
    leaves(&defaults(), "", &mut found);
    let tried: BTreeSet<String> = changes().into_keys().map(str::to_owned).collect();
    assert_eq!(
        found, tried,
        "values.yaml on the left, `changes` of this file on the right"
    );
}

#[test]
fn every_value_does_something() {
    run("every_value_does_something", |helm| {
        for (path, (context, changed)) in changes() {
            let base = merged(everything(), &context);
            let before = helm.render(&base);
            let after = helm.render(&merged(base, &nested(path, changed.clone())));
            assert!(before != after, "{path}: {changed} renders what the default does");
        }
    });
}

/// The comment above a value, or above the one that holds it, tells what it is for.
#[test]
fn every_value_is_described() {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    for name in defaults().as_object().unwrap().keys() {
        let at = lines
            .iter()
            .position(|line| line.starts_with(&format!("{name}:")))
            .unwrap();
        // A comment may stand over a group of neighbours, or inside over each of its values.
        let above = lines[..at].iter().rev().take_while(|line| !line.is_empty());
        let mut own = lines[at + 1..].iter().take_while(|line| line.starts_with(' '));
        assert!(
            above.into_iter().any(|line| line.starts_with('#')) || own.any(|line| line.starts_with("  #")),
            "{name} has no comment"
        );
    }
}
