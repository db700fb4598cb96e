//! Autoscaling of a pool.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::spec::MAX_REPLICAS;

/// Longest time for which a pool keeps workers that it does not need, in seconds: a day.
const MAX_STABILIZATION_SECONDS: u32 = 86_400;
/// The message for a pool whose minimum is above its maximum, of the API server and of `validate_pool`.
const ORDER_MESSAGE: &str = "minReplicas must not be above maxReplicas";

/// The bounds of autoscaling. The pool follows the slots that its queries want: it grows at once, and shrinks by
/// draining workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message(ORDER_MESSAGE))]
pub struct AutoscalingSpec {
    /// Least number of workers, also without queries.
    #[serde(default)]
    #[schemars(range(max = MAX_REPLICAS))]
    pub min_replicas: u32,
    /// Largest number of workers.
    #[schemars(range(min = 1, max = MAX_REPLICAS))]
    pub max_replicas: u32,
    /// Seconds for which workers stay after they are no longer wanted: the pool has the largest number that was wanted
    /// during this time.
    #[serde(default = "default_scale_down_stabilization_seconds")]
    #[schemars(range(max = MAX_STABILIZATION_SECONDS))]
    pub scale_down_stabilization_seconds: u32,
}

fn default_scale_down_stabilization_seconds() -> u32 {
    300
}
