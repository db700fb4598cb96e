//! manifests/install.yaml, manifests/rbac.yaml and manifests/user-roles.yaml are those of the chart.

use serde_json::{Value, json};

use crate::helm::{Helm, NAMESPACE, documents, root, run};

/// Set, it makes the test write the file instead.
const WRITE: &str = "SLUICE_RENDER";

/// The chart without what only Helm can do: its jobs, and a key that is made at the installation.
fn install_yaml(helm: &Helm) -> String {
    let values = json!({"signingKey": {"existingSecret": "sluice-signing-key"}});
    let rendered = helm.try_render(&values, &["--no-hooks"]).unwrap();
    let helms = [
        "helm.sh/chart:",
        "app.kubernetes.io/managed-by: Helm",
        "# Source:",
    ];
    let lines = rendered
        .lines()
        .filter(|line| !helms.iter().any(|its| line.trim_start().starts_with(its)));
    let lines: Vec<_> = lines.map(str::trim_end).collect();
    format!(
        "# Generated from charts/sluice by `{WRITE}=1 cargo test -p sluice-chart-tests install_yaml`. Do not edit.\n\
         # docs/quickstart.md says what belongs to it: the definitions, and a Secret with a key.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    \
         pod-security.kubernetes.io/enforce: restricted\n{}\n",
        lines.join("\n").trim_end()
    )
}

#[test]
fn install_yaml_is_up_to_date() {
    run("install_yaml_is_up_to_date", |helm| {
        let file = root().join("manifests/install.yaml");
        let wanted = install_yaml(helm);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&file, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == wanted,
            "manifests/install.yaml differs from the chart: run `{WRITE}=1 cargo test -p sluice-chart-tests install_yaml`"
        );
        assert!(documents(&found).len() > 8);
    });
}

/// What gives rights, without labels but those that give a role's rights to others.
fn rights(text: &str) -> Vec<Value> {
    let mut objects = documents(text);
    objects.retain(|object| {
        let kind = object["kind"].as_str().unwrap();
        kind == "ServiceAccount" || kind.contains("Role")
    });
    for object in &mut objects {
        let metadata = object["metadata"].as_object_mut().unwrap();
        let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) else {
            continue;
        };
        labels.retain(|label, _| label.starts_with("rbac."));
        if labels.is_empty() {
            metadata.remove("labels");
        }
    }
    objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
    objects
}

#[test]
fn rbac_yaml_is_what_the_chart_gives() {
    run("rbac_yaml_is_what_the_chart_gives", |helm| {
        let read = |name: &str| std::fs::read_to_string(root().join("manifests").join(name)).unwrap();
        let files = format!("{}\n---\n{}", read("rbac.yaml"), read("user-roles.yaml"));
        let rendered = helm.try_render(&json!({}), &["--no-hooks"]).unwrap();
        assert_eq!(
            rights(&files),
            rights(&rendered),
            "manifests/rbac.yaml and user-roles.yaml on the left, the chart on the right"
        );
    });
}

/// With scope Namespaced the same rights are given, the namespaces' in each of them.
#[test]
fn namespaced_rights_are_the_same_rights() {
    run("namespaced_rights_are_the_same_rights", |helm| {
        let rules = |values: &Value, kind: &str, name: &str| -> Vec<Value> {
            let objects = helm.objects(values);
            let ours = objects.iter().filter(|object| {
                let metadata = &object["metadata"];
                object["kind"] == kind
                    && metadata["name"].as_str().unwrap().starts_with(name)
                    && metadata["annotations"].is_null()
            });
            ours.map(|object| object["rules"].clone()).collect()
        };
        let cluster = rules(&json!({}), "ClusterRole", "sluice-operator");
        let namespaced = json!({"scope": "Namespaced", "namespaces": ["a", "b"]});
        let reads = rules(&namespaced, "ClusterRole", "sluice-operator:sluice-system:sluice");
        let each = rules(&namespaced, "Role", "sluice-operator");
        assert_eq!(
            (cluster.len(), reads.len(), each.len()),
            (1, 1, 3),
            "two namespaces and the lease"
        );
        let joined = [
            each[0].as_array().unwrap().clone(),
            reads[0].as_array().unwrap().clone(),
        ]
        .concat();
        assert_eq!(cluster[0], json!(joined));
        assert_eq!(each[0], each[1]);
    });
}
