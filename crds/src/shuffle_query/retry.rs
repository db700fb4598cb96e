//! How often, and how patiently, a query tries again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// How a query reacts to failed attempts and lost workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Attempts that a task may fail before the query fails. Attempts lost together with their worker do not count.
    #[serde(default = "default_max_task_attempts")]
    #[schemars(range(min = 1, max = 20))]
    pub max_task_attempts: u32,
    /// Wait before the second attempt of a task; it doubles with every further one.
    #[serde(default = "default_backoff_base")]
    pub backoff_base: Millis,
    /// Failed attempts after which a worker gets no more tasks of this query.
    #[serde(default = "default_blacklist_after_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub blacklist_after_failures: u32,
    /// Silence after which a worker counts as lost. At least 1s.
    #[serde(default = "default_worker_liveness_timeout")]
    pub worker_liveness_timeout: Millis,
    /// How long a query without any worker waits for one before it fails.
    #[serde(default = "default_no_workers_grace")]
    pub no_workers_grace: Millis,
}

fn default_max_task_attempts() -> u32 {
    3
}

fn default_backoff_base() -> Millis {
    Millis::from_millis(250)
}

fn default_blacklist_after_failures() -> u32 {
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
            blacklist_after_failures: default_blacklist_after_failures(),
            worker_liveness_timeout: default_worker_liveness_timeout(),
            no_workers_grace: default_no_workers_grace(),
        }
    }
}
