//! The pods of a pool.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedded::{OBJECT_NAME_PATTERN, annotations, labels, resources};

/// Prefixes of labels and annotations that the operator writes, and of the zone that Kubernetes writes.
pub const RESERVED_KEY_PREFIXES: [&str; 3] = ["sluice.dev/", "app.kubernetes.io/", "topology.kubernetes.io/"];

/// When the kubelet pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Whenever a pod starts.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Where the pods of a pool and the coordinators of its queries may connect to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum EgressPolicy {
    /// Anywhere, as the data may be anywhere.
    #[default]
    Any,
    /// Each other and the name service.
    Internal,
}

/// Names a Secret that the kubelet pulls images with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagePullSecret {
    /// Name of the Secret, in the namespace of the pool.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub name: String,
}

/// Credentials of workers and coordinators. The operator never reads the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSpec {
    /// Secret in the namespace of the pool whose keys become environment variables of workers and coordinators.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub secret_name: String,
}

/// Labels and annotations of pods, beside those of the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Labels. No key below sluice.dev/, app.kubernetes.io/ or topology.kubernetes.io/.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = Rule::new(free_keys()).message(FREE_KEYS_MESSAGE))]
    pub labels: BTreeMap<String, String>,
    /// Annotations. No key below sluice.dev/, app.kubernetes.io/ or topology.kubernetes.io/.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = Rule::new(free_keys()).message(FREE_KEYS_MESSAGE))]
    pub annotations: BTreeMap<String, String>,
}

const FREE_KEYS_MESSAGE: &str =
    "keys below sluice.dev/, app.kubernetes.io/ and topology.kubernetes.io/ are not for users";

/// CEL over a map: no key has a reserved prefix.
fn free_keys() -> String {
    let reserved = RESERVED_KEY_PREFIXES.map(|prefix| format!("key.startsWith('{prefix}')"));
    format!("!self.exists(key, {})", reserved.join(" || "))
}

/// The coordinators of a pool's queries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorSpec {
    /// Requests and limits of a coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
}
