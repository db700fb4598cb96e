//! Every value does something, and is described.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use sluice_crds::{Resource, parse_documents, validate_pool};

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
        ("logFormat", (none(), json!("json"))),
        ("quota.queriesPerNamespace", (none(), json!(5))),
        ("quota.slotsPerNamespace", (none(), json!(40))),
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
        ("rbac.userRoles.create", (none(), json!(false))),
        ("rbac.userRoles.aggregate", (none(), json!(false))),
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

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// What differs is where it should be.
#[test]
fn values_are_where_kubernetes_looks_for_them() {
    run("values_are_where_kubernetes_looks_for_them", |helm| {
        let changed = |path: &str| changes().remove(path).unwrap().1;
        let objects = |path: &str| helm.objects(&merged(everything(), &nested(path, changed(path))));

        for path in ["affinity", "topologySpreadConstraints", "priorityClassName"] {
            let objects = objects(path);
            let pod = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
            assert_eq!(pod[path], changed(path), "{path} of the operator");
            for job in of_kind(&objects, "Job") {
                assert!(job["spec"]["template"]["spec"][path].is_null(), "{path} of a job");
            }
        }
        for path in ["nodeSelector", "tolerations", "imagePullSecrets"] {
            let objects = objects(path);
            let pods = [of_kind(&objects, "Deployment"), of_kind(&objects, "Job")].concat();
            assert_eq!(pods.len(), 4);
            for pod in pods {
                assert_eq!(pod["spec"]["template"]["spec"][path], changed(path), "{path}");
            }
        }

        let objects_of = objects("image.digest");
        let image = format!("localhost/sluice@{}", changed("image.digest").as_str().unwrap());
        let pods = [of_kind(&objects_of, "Deployment"), of_kind(&objects_of, "Job")].concat();
        for pod in &pods {
            assert_eq!(pod["spec"]["template"]["spec"]["containers"][0]["image"], image);
        }
        // Workers get that of the operator's container, which it reads.
        let args = pods[0]["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        assert!(!args.contains("--image"), "{args}");

        let objects_of = objects("networkPolicy.metricsFrom");
        let policies = of_kind(&objects_of, "NetworkPolicy").into_iter();
        let mut policies = policies.filter(|policy| policy["metadata"]["name"] == "sluice-operator");
        let ingress = &policies.next().unwrap()["spec"]["ingress"];
        assert_eq!(ingress[0]["from"], changed("networkPolicy.metricsFrom"));
        assert_eq!(ingress.as_array().unwrap().len(), 1, "nobody else: {ingress}");

        let objects_of = objects("podDisruptionBudget.maxUnavailable");
        let budget = &of_kind(&objects_of, "PodDisruptionBudget")[0]["spec"];
        assert_eq!(budget["maxUnavailable"], "50%");

        let objects_of = objects("metrics.serviceMonitor.labels");
        let monitor = of_kind(&objects_of, "ServiceMonitor")[0];
        assert_eq!(monitor["metadata"]["labels"]["a"], "b");
        let service = of_kind(&objects_of, "Service")[0];
        let selected = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        for (label, value) in selected {
            assert_eq!(
                &service["metadata"]["labels"][label], value,
                "it finds the Service"
            );
        }
    });
}

/// What is left are the rights of the chart's own jobs.
#[test]
fn without_rbac_the_operator_gets_no_rights() {
    run("without_rbac_the_operator_gets_no_rights", |helm| {
        for scope in ["Cluster", "Namespaced"] {
            let values = json!({"scope": scope, "rbac": {"create": false}});
            let objects = helm.objects(&merged(everything(), &values));
            let mut left: Vec<_> = objects
                .iter()
                .filter(|object| object["kind"].as_str().unwrap().contains("Role"))
                .map(|object| object["metadata"]["name"].as_str().unwrap())
                .collect();
            left.sort_unstable();
            left.dedup();
            let jobs = ["sluice-pool", "sluice-system:sluice-install-crds", "sluice-test"];
            assert_eq!(left, jobs, "{scope}");
            let account = objects.iter().find(|object| {
                object["kind"] == "ServiceAccount" && object["metadata"]["name"] == "sluice-operator"
            });
            assert!(account.is_some(), "somebody else gives it rights");
        }
    });
}

/// The pool goes with the ConfigMap that owns it, so a pool of another name must have another owner.
#[test]
fn a_pool_of_another_name_has_another_owner() {
    run("a_pool_of_another_name_has_another_owner", |helm| {
        let owner = |name: &str| {
            let values = merged(everything(), &json!({"workerPool": {"name": name}}));
            let objects = helm.objects(&values);
            let owner = of_kind(&objects, "ConfigMap")[0]["metadata"]["name"].clone();
            let jobs = of_kind(&objects, "Job").into_iter();
            let args = jobs.map(|job| job["spec"]["template"]["spec"]["containers"][0]["args"].to_string());
            let given = format!("--owner={}", owner.as_str().unwrap());
            assert_eq!(args.filter(|args| args.contains(&given)).count(), 1, "{given}");
            let roles = of_kind(&objects, "Role").into_iter();
            let mut rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
            assert!(
                rules.any(|rule| rule["resourceNames"] == json!([owner])),
                "{owner}"
            );
            owner
        };
        let longest = "p".repeat(50);
        assert_ne!(owner("one"), owner("two"));
        assert!(owner(&longest).as_str().unwrap().ends_with(&longest));
    });
}

/// The number is then of whoever scales the pool.
#[test]
fn a_pool_may_come_without_replicas() {
    run("a_pool_may_come_without_replicas", |helm| {
        let values = json!({"workerPool": {"spec": {"replicas": null}}});
        let objects = helm.objects(&merged(everything(), &values));
        let text = of_kind(&objects, "ConfigMap")[0]["data"]["pool.yaml"]
            .as_str()
            .unwrap();
        assert!(!text.contains("replicas"), "{text}");
        let resources = parse_documents(text).unwrap();
        let [Resource::Pool(pool)] = resources.as_slice() else {
            panic!("{resources:?}")
        };
        assert_eq!(validate_pool(pool), []);
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
