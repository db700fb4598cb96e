//! Observed state of a `WorkerPool`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spec::MAX_IMAGE;
use crate::conditions::{Condition, PoolConditionType};

/// Most zones in the status of a pool.
pub const MAX_ZONES: usize = 16;
/// Most characters of all of them in one text: names of 63 and a comma each.
const MAX_ZONE_LIST: usize = MAX_ZONES * 64;

/// The observed state of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of workers that exist and are not draining or terminating.
    #[serde(default)]
    pub replicas: u32,
    /// Workers that are ready to take attempts.
    #[serde(default)]
    pub ready_replicas: u32,
    /// Ready workers that a coordinator started now could use: those of `image`. While the image is being replaced
    /// these are fewer than the ready ones, and queries that start wait for them.
    #[serde(default)]
    pub compatible_replicas: u32,
    /// Workers that autoscaling wants, where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// Workers that drain: they finish their attempts and are deleted then.
    #[serde(default)]
    pub draining_replicas: u32,
    /// Ready workers of the wanted ones, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ready: Option<String>,
    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,
    /// Slots of the ready workers.
    #[serde(default)]
    pub slots: u32,
    /// Slots that run an attempt.
    #[serde(default)]
    pub slots_in_use: u32,
    /// Bytes that the workers have on disk.
    #[serde(default)]
    pub spill_used_bytes: u64,
    /// Bytes of shuffle data that the workers hold, in memory and on disk.
    #[serde(default)]
    pub held_bytes: u64,
    /// Zones with workers, in alphabetical order; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ZONES), inner(length(max = 63)))]
    pub zones: Vec<String>,
    /// The same zones, separated by commas: columns of kubectl show no lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_ZONE_LIST))]
    pub zone_list: Option<String>,
    /// Image that new pods get, coordinators included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_IMAGE))]
    pub image: Option<String>,
    /// Observations, one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition<PoolConditionType>>,
}
