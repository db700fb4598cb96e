//! Helm's linter finds nothing, and bad values are refused by name.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{chart, everything, nested, root, run};

#[test]
fn the_linter_finds_nothing() {
    run("the_linter_finds_nothing", |helm| {
        let chart = chart();
        let chart = chart.to_str().unwrap();
        for values in [json!({}), everything(), json!({"scope": "Namespaced"})] {
            let said = helm.output(&["lint", chart, "--strict"], &values);
            let said = said.unwrap_or_else(|problem| panic!("{values}: {problem}"));
            assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{said}");
        }
    });
}

/// Where a value, or a schema, has what is below it.
type Below = fn(&Value) -> Option<&Value>;

/// Paths of all that is below a value.
fn paths(value: &Value, below: Below, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in below(value).and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        paths(inner, below, &path, found);
        found.insert(path);
    }
}

#[test]
fn the_schema_knows_all_values_and_no_others() {
    let read = |name: &str| std::fs::read_to_string(chart().join(name)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    let (mut described, mut given) = (BTreeSet::new(), BTreeSet::new());
    paths(&schema, |schema| schema.get("properties"), "", &mut described);
    paths(&values, |value| Some(value), "", &mut given);
    // Free maps, whose names the schema does not know; and what every chart of Helm may be given.
    let free = [
        ".resources.requests.",
        ".resources.limits.",
        ".jobs.resources.requests.",
        ".jobs.resources.limits.",
    ];
    given.retain(|path| {
        !free
            .iter()
            .chain(&[".workerPool.spec."])
            .any(|free| path.starts_with(free))
    });
    described.remove(".global");
    assert_eq!(
        described, given,
        "the schema on the left, values.yaml on the right"
    );
}

#[test]
fn bad_values_are_refused_by_name() {
    let bad = [
        ("replica", json!(2), "replica"),
        ("image.tagg", json!("x"), "tagg"),
        ("replicas", json!(0), "replicas"),
        ("replicas", json!("two"), "replicas"),
        ("image.digest", json!("sha256:1"), "digest"),
        ("image.pullPolicy", json!("Sometimes"), "pullPolicy"),
        ("imagePullSecrets", json!(["name"]), "imagePullSecrets"),
        ("scope", json!("Everything"), "scope"),
        ("namespaces", json!(["a"]), "namespaces"),
        ("concurrency", json!(0), "concurrency"),
        ("metrics.port", json!(80), "port"),
        ("metrics.serviceMonitor.interval", json!("soon"), "interval"),
        ("resources.limits.memory", json!("much"), "memory"),
        ("resources.limit", json!({}), "limit"),
        ("podLabels", json!({"a": 1}), "podLabels"),
        ("workerPool.name", json!("Default"), "name"),
        (
            "podDisruptionBudget.maxUnavailable",
            json!("half"),
            "maxUnavailable",
        ),
        ("fullnameOverride", json!("-"), "fullnameOverride"),
        ("jobs.timeoutSeconds", json!(1), "timeoutSeconds"),
        // What no schema can say.
        (
            "leaderElection.renewalSeconds",
            json!(15),
            "leaderElection.renewalSeconds",
        ),
        ("serviceAccount.create", json!(false), "serviceAccount.name"),
        (
            "metrics",
            json!({"service": {"enabled": false}, "serviceMonitor": {"enabled": true}}),
            "metrics.service.enabled",
        ),
    ];
    run("bad_values_are_refused_by_name", |helm| {
        for (path, value, named) in bad {
            match helm.try_render(&nested(path, value.clone()), &[]) {
                Ok(_) => panic!("{path}: {value} is taken"),
                Err(problem) => assert!(problem.contains(named), "{path}: {value}: {problem}"),
            }
        }
    });
}

#[test]
fn the_chart_is_of_this_release() {
    let text = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let chart: Value = serde_yaml::from_str(&text).unwrap();
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field} of Chart.yaml");
    }
    let image = std::fs::read_to_string(root().join("e2e/image/Dockerfile")).unwrap();
    let version = concat!("ARG VERSION=", env!("CARGO_PKG_VERSION"), "\n");
    assert!(image.contains(version), "e2e/image/Dockerfile: {version}");
}
