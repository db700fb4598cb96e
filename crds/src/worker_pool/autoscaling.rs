//! How a pool chooses its number of workers.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::spec::MAX_REPLICAS;

/// Longest time for which a pool keeps workers that it does not need, in seconds: a day.
const MAX_STABILIZATION_SECONDS: u32 = 86_400;
/// What a pool with more workers at least than at most is told, by the API server and by `validate_pool` alike.
const ORDER_MESSAGE: &str = "minReplicas must not be above maxReplicas";

/// The bounds between which a pool chooses its number of workers, by the slots that its queries want. It grows at once, and
/// shrinks by draining workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message(ORDER_MESSAGE))]
pub struct AutoscalingSpec {
    /// Workers that stay while nothing wants them.
    #[serde(default)]
    #[schemars(range(max = MAX_REPLICAS))]
    pub min_replicas: u32,
    /// Most workers.
    #[schemars(range(min = 1, max = MAX_REPLICAS))]
    pub max_replicas: u32,
    /// Seconds for which workers stay that are not wanted any more: the pool has as many as were wanted at any time of so many
    /// seconds before.
    #[serde(default = "default_scale_down_stabilization_seconds")]
    #[schemars(range(max = MAX_STABILIZATION_SECONDS))]
    pub scale_down_stabilization_seconds: u32,
}

fn default_scale_down_stabilization_seconds() -> u32 {
    300
}
