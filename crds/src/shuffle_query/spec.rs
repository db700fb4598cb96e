//! Desired state of a `ShuffleQuery`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::retry::RetrySpec;
use super::shuffle::ShuffleSpec;
use super::sink::SinkSpec;
use super::status::ShuffleQueryStatus;
use super::table::TableSpec;
use crate::worker_pool::WorkerPoolSpec;

/// Most bytes of the SQL text.
pub const MAX_SQL_BYTES: usize = 65_536;
/// Most tables of one query.
pub const MAX_TABLES: usize = 64;
/// What the name of a pool looks like (a DNS label, as in Kubernetes); 63 characters at most.
pub const POOL_NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Desired state of a query: what to run, over which tables, and where its rows go.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "ShuffleQuery",
    plural = "shufflequeries",
    shortname = "sq",
    namespaced,
    status = "ShuffleQueryStatus",
    derive = "PartialEq",
    doc = "A SQL query, run as stages that shuffle rows between workers.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Stages","type":"string","jsonPath":".status.stagesDone"}"#,
    printcolumn = r#"{"name":"Tasks","type":"string","jsonPath":".status.tasksDone"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.error.reason"}"#,
    printcolumn = r#"{"name":"Shuffled","type":"integer","jsonPath":".status.totals.bytesShuffled","priority":1}"#,
    printcolumn = r#"{"name":"Spilled","type":"integer","jsonPath":".status.totals.bytesSpilled","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.error.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("!(has(self.workerPoolRef) && has(self.workers))")
        .message("workerPoolRef and workers exclude each other"),
)]
pub struct ShuffleQuerySpec {
    /// The query: one SELECT statement (WITH and set operations included) of at most 65536 bytes.
    #[schemars(length(min = 1, max = MAX_SQL_BYTES))]
    pub sql: String,
    /// Tables that the SQL may read. It can read nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_TABLES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub tables: Vec<TableSpec>,
    /// Where the rows go. Without it the status carries a bounded preview of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkSpec>,
    /// How rows move between stages.
    #[serde(default)]
    pub shuffle: ShuffleSpec,
    /// How failed attempts and lost workers are handled.
    #[serde(default)]
    pub retry: RetrySpec,
    /// Seconds after which an unfinished query fails. Without it there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub deadline_seconds: Option<u32>,
    /// The WorkerPool, in the namespace of the query, whose workers run it. Not together with workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_pool_ref: Option<WorkerPoolRef>,
    /// Workers of this query alone. Not together with workerPoolRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerPoolSpec>,
}

/// Names a WorkerPool in the namespace of the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolRef {
    /// Name of the pool.
    #[schemars(length(min = 1, max = 63), regex(pattern = POOL_NAME_PATTERN))]
    pub name: String,
}
