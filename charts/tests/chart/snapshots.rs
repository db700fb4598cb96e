//! What the main sets of values render to.

use serde_json::json;

use crate::helm::{everything, run};

#[test]
fn defaults() {
    run("defaults", |helm| {
        insta::assert_snapshot!("defaults", helm.render(&json!({})));
    });
}

#[test]
fn namespaced() {
    run("namespaced", |helm| {
        let values = json!({
            "scope": "Namespaced",
            "namespaces": ["team-a", "team-b"],
            "crds": {"install": false},
            "signingKey": {"existingSecret": "mine", "secretKey": "ed25519.pem"},
        });
        insta::assert_snapshot!("namespaced", helm.render(&values));
    });
}

#[test]
fn everything_on() {
    run("everything_on", |helm| {
        let mut values = everything();
        let more = json!({
            "image": {"repository": "registry.example/sluice", "tag": "1.2.3"},
            "workerImage": "registry.example/sluice:1.2.2",
            "imagePullSecrets": [{"name": "registry"}],
            "replicas": 3,
            "nodeSelector": {"role": "system"},
            "tolerations": [{"key": "system", "operator": "Exists"}],
            "podLabels": {"team": "data"},
            "podAnnotations": {"note": "text"},
            "priorityClassName": "system-cluster-critical",
        });
        for (name, value) in more.as_object().unwrap() {
            values[name] = value.clone();
        }
        insta::assert_snapshot!("everything_on", helm.render(&values));
    });
}
