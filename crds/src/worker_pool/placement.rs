//! Where the pods of a pool run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedded::{LABEL_VALUE_PATTERN, OBJECT_NAME_PATTERN, labels, tolerations};

/// Most locality hints of one list.
pub const MAX_LOCALITY: usize = 16;

/// Where the pods of a pool run. Outside a cluster it has no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementSpec {
    /// How data locality affects scheduling where it is known (claims bound to nodes or zones, locality hints):
    /// Preferred (by weight), Required (pods wait for such a node) or Ignore.
    #[serde(default)]
    pub data_affinity: DataAffinity,
    /// Weight of dataAffinity Preferred among the scheduler's other preferences, such as even use of nodes and zones: a
    /// node far from the data scores this many of 100 points less. 1 to 100.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
    /// Zones and nodes of data that no claim shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_LOCALITY))]
    pub locality: Vec<LocalityHint>,
    /// How pods share the zones: Spread (evenly), Pack (into one, which saves traffic between zones) or Any.
    #[serde(default)]
    pub zones: ZonePolicy,
    /// Whether two workers of the pool may share a node: Preferred (better not), Required (never) or None (do not
    /// care).
    #[serde(default)]
    pub anti_affinity: AntiAffinity,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the pods. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub priority_class_name: Option<String>,
    /// Scheduler of the pods. Without it, the default of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub scheduler_name: Option<String>,
}

fn default_weight() -> u32 {
    100
}

impl Default for PlacementSpec {
    fn default() -> Self {
        Self {
            data_affinity: DataAffinity::default(),
            weight: default_weight(),
            locality: Vec::new(),
            zones: ZonePolicy::default(),
            anti_affinity: AntiAffinity::default(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class_name: None,
            scheduler_name: None,
        }
    }
}

/// A location of data: exactly one of zone and node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.zone) != has(self.node)").message("exactly one of zone and node must be set"))]
pub struct LocalityHint {
    /// A zone: a value of the node label topology.kubernetes.io/zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_VALUE_PATTERN))]
    pub zone: Option<String>,
    /// The name of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub node: Option<String>,
}

/// How data locality affects scheduling.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum DataAffinity {
    /// Nodes near the data are preferred, by weight.
    #[default]
    Preferred,
    /// Only nodes near the data are used.
    Required,
    /// Locality has no effect.
    Ignore,
}

/// How pods share the zones of a cluster.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ZonePolicy {
    /// Evenly.
    #[default]
    Spread,
    /// All in one.
    Pack,
    /// As the scheduler decides.
    Any,
}

/// Whether two workers of a pool may share a node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum AntiAffinity {
    /// Preferably not.
    #[default]
    Preferred,
    /// Never: pods wait for a node of their own.
    Required,
    /// Allowed.
    None,
}
