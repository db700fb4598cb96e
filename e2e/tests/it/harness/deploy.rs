//! The operator in the namespace of a test, serving that namespace alone, with the rights of `manifests/rbac.yaml`.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::crds::install_crds;
use super::space::Space;
use super::wait::wait_until;

/// The operator's Deployment and ServiceAccount.
const NAME: &str = "sluice-operator";
const KEY_SECRET: &str = "sluice-signing-key";
const KEY_FOLDER: &str = "/etc/sluice/signing";
/// Its pod starts, and gets an answer of the API server.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// Installs the operator and waits until it is ready.
///
/// # Errors
///
/// If an object is refused, or the operator does not become ready.
pub async fn install_operator(space: &Space) -> Result<()> {
    install_crds(&space.client).await?;
    for document in rights(space)? {
        space.apply(document).await?;
    }
    space.apply(signing_key()?).await?;
    space.apply(deployment(space)).await?;
    wait_until_ready(space).await
}

/// Kills the operator where it stands: its pod is gone at once, and the Deployment starts another.
///
/// # Errors
///
/// If it has no pod.
pub async fn kill_operator(space: &Space) -> Result<()> {
    let pods = Api::<Pod>::namespaced(space.client.clone(), &space.namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/component=operator");
    let found = pods.list(&ours).await?.items;
    if found.is_empty() {
        bail!("the operator has no pod to kill");
    }
    for pod in found {
        pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await?;
    }
    Ok(())
}

/// The node that the operator runs on.
///
/// # Errors
///
/// It runs on none.
pub async fn operator_node(space: &Space) -> Result<String> {
    let pods = Api::<Pod>::namespaced(space.client.clone(), &space.namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/component=operator");
    let mut found = pods.list(&ours).await?.items.into_iter();
    let pod = found
        .find(|pod| pod.metadata.deletion_timestamp.is_none())
        .context("the operator has no pod")?;
    pod.spec
        .and_then(|spec| spec.node_name)
        .context("the operator's pod has no node")
}

async fn wait_until_ready(space: &Space) -> Result<()> {
    let deployments = Api::<Deployment>::namespaced(space.client.clone(), &space.namespace);
    wait_until("the operator is ready", START_TIMEOUT, || async {
        let status = deployments.get(NAME).await?.status.unwrap_or_default();
        Ok(match status.ready_replicas {
            Some(1) => Ok(()),
            _ => Err(format!("{:?}", status.conditions.unwrap_or_default())),
        })
    })
    .await
}

/// The documents of `manifests/rbac.yaml` for this namespace. What belongs to no namespace gets another name, so that
/// tests do not meet.
fn rights(space: &Space) -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/rbac.yaml");
    let named = || path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(named)?;
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| {
        let mut document = Value::deserialize(document).with_context(named)?;
        move_to(&mut document, &space.namespace);
        Ok(document)
    });
    documents.collect()
}

fn move_to(document: &mut Value, namespace: &str) {
    let append = |name: Option<&mut Value>| {
        if let Some(Value::String(name)) = name {
            name.push('-');
            name.push_str(namespace);
        }
    };
    match document.pointer_mut("/metadata/namespace") {
        Some(its) => *its = json!(namespace),
        None => append(document.pointer_mut("/metadata/name")),
    }
    if document.pointer("/roleRef/kind") == Some(&json!("ClusterRole")) {
        append(document.pointer_mut("/roleRef/name"));
    }
    let subjects = document.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        subject["namespace"] = json!(namespace);
    }
}

/// A new Ed25519 key in a Secret: PKCS #8 (RFC 8410) is 16 fixed bytes before the 32 of the key.
fn signing_key() -> Result<Value> {
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let mut key = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key))
        .context("/dev/urandom")?;
    // In base64, as Kubernetes writes bytes.
    let text = serde_json::to_value(ByteString([&HEAD[..], &key[..]].concat()))?;
    let text = text.as_str().context("base64 is text")?;
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": KEY_SECRET},
        "stringData": {"key.pem": pem},
    }))
}

fn deployment(space: &Space) -> Value {
    let labels = json!({"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "operator"});
    // Another takes over from one whose node is lost, and sooner than after the usual five minutes.
    let away = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        .map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}));
    let probe = |path: &str| json!({"path": path, "port": 8080});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": NAME,
                    "tolerations": away,
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "operator",
                        "image": space.image,
                        "command": ["/usr/bin/sluice-operator"],
                        "env": [
                            {"name": "SLUICE_IMAGE", "value": space.image},
                            {"name": "SLUICE_NAMESPACES", "value": space.namespace},
                            {"name": "SLUICE_LEASE_NAMESPACE", "value": space.namespace},
                            {"name": "SLUICE_SIGNING_KEY_FILE", "value": format!("{KEY_FOLDER}/key.pem")},
                            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "RUST_LOG", "value": "info,sluice_operator=debug"},
                        ],
                        // Ready soon, and as patient as the chart's: a busy machine is no reason to restart it.
                        "readinessProbe": {"httpGet": probe("/readyz"), "periodSeconds": 1, "timeoutSeconds": 5},
                        "livenessProbe": {"httpGet": probe("/livez"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        // The chart's: without a request a busy node leaves it no processor.
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "128Mi"},
                            "limits": {"memory": "512Mi"},
                        },
                        "volumeMounts": [{"name": "key", "mountPath": KEY_FOLDER, "readOnly": true}],
                    }],
                    "volumes": [{"name": "key", "secret": {"secretName": KEY_SECRET}}],
                },
            },
        },
    })
}
