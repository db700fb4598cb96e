//! How a query retries.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// Longest wait before a second attempt.
pub const MAX_BACKOFF_BASE: Millis = Millis::from_millis(3_600_000);
/// Shortest silence after which a worker may count as lost.
pub const MIN_WORKER_LIVENESS_TIMEOUT: Millis = Millis::from_millis(1_000);
/// Longest silence after which a worker counts as lost.
pub const MAX_WORKER_LIVENESS_TIMEOUT: Millis = Millis::from_millis(3_600_000);
/// Longest wait of a query without workers.
pub const MAX_NO_WORKERS_GRACE: Millis = Millis::from_millis(86_400_000);

/// How a query reacts to failed attempts and lost workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Attempts that a task may fail before the query fails. Attempts lost together with their worker do not count.
    #[serde(default = "default_max_task_attempts")]
    #[schemars(range(min = 1, max = 20))]
    pub max_task_attempts: u32,
    /// Wait before the second attempt of a task; it doubles with every further one. At most 1h.
    #[serde(default = "default_backoff_base")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("at most 1h"))]
    pub backoff_base: Millis,
    /// Failed attempts after which a worker gets no more tasks of this query.
    #[serde(default = "default_exclude_worker_after_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub exclude_worker_after_failures: u32,
    /// Silence after which a worker counts as lost. 1s to 1h.
    #[serde(default = "default_worker_liveness_timeout")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
            .message("1s to 1h")
    )]
    pub worker_liveness_timeout: Millis,
    /// How long a query without any worker waits for one before it fails. At most 24h.
    #[serde(default = "default_no_workers_grace")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("at most 24h"))]
    pub no_workers_grace: Millis,
}

fn default_max_task_attempts() -> u32 {
    3
}

fn default_backoff_base() -> Millis {
    Millis::from_millis(250)
}

fn default_exclude_worker_after_failures() -> u32 {
    3
}

fn default_worker_liveness_timeout() -> Millis {
    Millis::from_millis(15_000)
}

fn default_no_workers_grace() -> Millis {
    Millis::from_millis(30_000)
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self {
            max_task_attempts: default_max_task_attempts(),
            backoff_base: default_backoff_base(),
            exclude_worker_after_failures: default_exclude_worker_after_failures(),
            worker_liveness_timeout: default_worker_liveness_timeout(),
            no_workers_grace: default_no_workers_grace(),
        }
    }
}
