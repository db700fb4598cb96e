//! What is rendered is what Kubernetes and the operator take.

use clap::Parser;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::{Resource, parse_documents, validate_pool};
use sluice_operator::config::{Command, CommandLine, Scope};

use crate::helm::{NAMESPACE, documents, everything, merged, run};

/// Value sets that together render every template.
fn sets() -> Vec<Value> {
    let namespaced = json!({"scope": "Namespaced", "namespaces": ["team-a", "team-b"]});
    vec![
        json!({}),
        everything(),
        merged(everything(), &namespaced),
        namespaced,
    ]
}

fn about(object: &Value) -> String {
    format!("{} {}", object["kind"], object["metadata"]["name"])
}

/// The object as the type reads it; what the type does not know is missing in it.
fn typed<K: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let read: K =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{}: {error}", about(object)));
    serde_json::to_value(read).unwrap()
}

fn as_kubernetes_reads(object: &Value) -> Value {
    match object["kind"].as_str().unwrap() {
        "ClusterRole" => typed::<ClusterRole>(object),
        "ClusterRoleBinding" => typed::<ClusterRoleBinding>(object),
        "ConfigMap" => typed::<ConfigMap>(object),
        "Deployment" => typed::<Deployment>(object),
        "Job" => typed::<Job>(object),
        "NetworkPolicy" => typed::<NetworkPolicy>(object),
        "PodDisruptionBudget" => typed::<PodDisruptionBudget>(object),
        "Role" => typed::<Role>(object),
        "RoleBinding" => typed::<RoleBinding>(object),
        "Secret" => typed::<Secret>(object),
        "Service" => typed::<Service>(object),
        "ServiceAccount" => typed::<ServiceAccount>(object),
        // Of the Prometheus operator, whose types are not here.
        "ServiceMonitor" => object.clone(),
        kind => panic!("{kind}: no type is named for it"),
    }
}

/// Everything of `written` is in `read`.
fn assert_read(written: &Value, read: &Value, path: &str) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                let path = format!("{path}.{name}");
                let read = read.get(name);
                assert_read(value, read.unwrap_or_else(|| panic!("{path} is no field")), &path);
            }
        }
        (Value::Array(written), Value::Array(read)) => {
            assert_eq!(written.len(), read.len(), "{path}");
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                assert_read(written, read, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(written, read, "{path}"),
    }
}

#[test]
fn every_object_is_of_its_type() {
    run("every_object_is_of_its_type", |helm| {
        for values in sets() {
            for mut object in documents(&helm.render(&values)) {
                let read = as_kubernetes_reads(&object);
                object
                    .as_object_mut()
                    .unwrap()
                    .retain(|_, value| !value.is_null());
                assert_read(&object, &read, &about(&object));
            }
        }
    });
}

#[test]
fn no_two_objects_have_one_name() {
    run("no_two_objects_have_one_name", |helm| {
        for values in sets() {
            let mut seen = std::collections::BTreeSet::new();
            for object in helm.objects(&values) {
                let metadata = &object["metadata"];
                let key = format!(
                    "{} {}/{}",
                    object["kind"], metadata["namespace"], metadata["name"]
                );
                assert!(seen.insert(key.clone()), "{key} twice");
            }
        }
    });
}

fn pod_template(object: &Value) -> Option<&Value> {
    matches!(object["kind"].as_str(), Some("Deployment" | "Job")).then(|| &object["spec"]["template"])
}

/// The rules of the Pod Security Standard "restricted", and a read-only root.
#[test]
fn every_pod_is_restricted() {
    run("every_pod_is_restricted", |helm| {
        let mut pods = 0;
        for values in sets() {
            let objects = helm.objects(&values);
            for object in &objects {
                let Some(template) = pod_template(object) else {
                    continue;
                };
                let (about, spec) = (about(object), &template["spec"]);
                pods += 1;
                assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{about}");
                assert_ne!(spec["securityContext"]["runAsUser"], 0, "{about}");
                let seccomp = &spec["securityContext"]["seccompProfile"]["type"];
                assert_eq!(seccomp, "RuntimeDefault", "{about}");
                for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
                    assert!(spec.get(field).is_none(), "{about}: {field}");
                }
                for volume in spec["volumes"].as_array().into_iter().flatten() {
                    assert!(volume.get("hostPath").is_none(), "{about}");
                }
                for container in spec["containers"].as_array().unwrap() {
                    let security = &container["securityContext"];
                    assert_eq!(security["allowPrivilegeEscalation"], false, "{about}");
                    assert_eq!(security["readOnlyRootFilesystem"], true, "{about}");
                    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{about}");
                    assert!(security.get("privileged").is_none(), "{about}");
                    let resources = &container["resources"];
                    assert!(resources["requests"]["memory"].is_string(), "{about}");
                    assert!(resources["limits"]["memory"].is_string(), "{about}");
                }
            }
        }
        assert!(pods >= 10, "{pods} pods");
    });
}

fn command_line(template: &Value) -> CommandLine {
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["command"], json!(["/usr/bin/sluice-operator"]));
    let args = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap());
    CommandLine::try_parse_from(["sluice-operator"].into_iter().chain(args))
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_operator_takes_its_arguments() {
    run("the_operator_takes_its_arguments", |helm| {
        let values = json!({
            "scope": "Namespaced", "namespaces": ["a", "b"], "workerImage": "w:1", "concurrency": 3,
            "leaderElection": {"leaseSeconds": 20, "renewalSeconds": 11, "retrySeconds": 3}, "metrics": {"port": 9999},
            "quota": {"queriesPerNamespace": 5, "slotsPerNamespace": 40},
        });
        let objects = helm.objects(&values);
        let deployment = objects
            .iter()
            .find(|object| object["kind"] == "Deployment")
            .unwrap();
        let config = command_line(&deployment["spec"]["template"]).config.unwrap();
        assert_eq!(config.image.as_deref(), Some("w:1"));
        assert_eq!(
            config.scopes(),
            ["a", "b"].map(|name| Scope::Namespace(name.to_owned()))
        );
        assert_eq!(config.listen.to_string(), "0.0.0.0:9999");
        assert_eq!(config.lease_namespace, NAMESPACE);
        assert_eq!(config.lease_name, "sluice-operator");
        assert_eq!(
            (
                config.lease_seconds,
                config.lease_renewal_seconds,
                config.lease_retry_seconds
            ),
            (20, 11, 3)
        );
        assert_eq!(config.concurrency, 3);
        assert_eq!(
            (config.max_queries_per_namespace, config.max_slots_per_namespace),
            (Some(5), Some(40))
        );
        // The key is where the flag says.
        let spec = &deployment["spec"]["template"]["spec"];
        let mount = spec["containers"][0]["volumeMounts"][0]["mountPath"]
            .as_str()
            .unwrap();
        assert_eq!(config.signing_key_file.parent().unwrap().to_str(), Some(mount));
    });
}

#[test]
fn the_jobs_arguments_are_commands() {
    run("the_jobs_arguments_are_commands", |helm| {
        let objects = helm.objects(&everything());
        let jobs = objects.iter().filter(|object| object["kind"] == "Job");
        let commands: Vec<_> = jobs
            .map(|job| command_line(&job["spec"]["template"]).command.unwrap())
            .collect();
        assert_eq!(commands.len(), 3, "{commands:?}");
        for command in commands {
            match command {
                Command::InstallCrds => {}
                Command::ApplyPool(args) => assert_eq!(
                    (args.namespace.as_str(), args.owner.as_str()),
                    (NAMESPACE, "sluice-pool-default")
                ),
                Command::TryQuery(args) => {
                    assert_eq!(
                        (args.namespace.as_str(), args.pool.as_deref()),
                        (NAMESPACE, Some("default"))
                    );
                    assert!(
                        args.within_seconds < 300,
                        "the job must not end before its query does"
                    );
                }
            }
        }
    });
}

/// Else every rendering would have another key, and workers would trust none but the last.
#[test]
fn without_a_cluster_and_without_a_key_nothing_is_rendered() {
    run(
        "without_a_cluster_and_without_a_key_nothing_is_rendered",
        |helm| {
            let none = json!({"signingKey": {"existingSecret": ""}});
            let refused = helm.try_render(&none, &[]).unwrap_err();
            for words in [
                "signingKey.existingSecret is missing",
                "openssl genpkey",
                "kubectl -n sluice-system create secret generic",
            ] {
                assert!(refused.contains(words), "{refused}");
            }
        },
    );
}

#[test]
fn the_default_pool_is_valid() {
    run("the_default_pool_is_valid", |helm| {
        let objects = helm.objects(&everything());
        let file = objects
            .iter()
            .find(|object| object["kind"] == "ConfigMap")
            .unwrap();
        let resources = parse_documents(file["data"]["pool.yaml"].as_str().unwrap()).unwrap();
        match resources.as_slice() {
            [Resource::Pool(pool)] => assert_eq!(validate_pool(pool), []),
            other => panic!("{other:?}"),
        }
    });
}

/// Workers let the operator in by these labels (objects/pool of the operator); jobs of the chart must not have them.
#[test]
fn only_operators_are_let_in_by_workers() {
    run("only_operators_are_let_in_by_workers", |helm| {
        for object in helm.objects(&everything()) {
            let Some(template) = pod_template(&object) else {
                continue;
            };
            let labels = &template["metadata"]["labels"];
            let operator = object["kind"] == "Deployment";
            assert_eq!(
                labels["app.kubernetes.io/name"] == "sluice",
                operator,
                "{}",
                about(&object)
            );
            assert_eq!(
                labels["app.kubernetes.io/component"] == "operator",
                operator,
                "{}",
                about(&object)
            );
        }
    });
}
