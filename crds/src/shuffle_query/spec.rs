//! Desired state of a `ShuffleQuery`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::retry::RetrySpec;
use super::shuffle::ShuffleSpec;
use super::sink::{PreviewMode, SinkSpec};
use super::status::ShuffleQueryStatus;
use super::table::TableSpec;
use crate::bounds::{MAX_PRIORITY, MAX_SECONDS};
use crate::embedded::{CONFIG_KEY_PATTERN, DNS_LABEL_PATTERN, OBJECT_NAME_PATTERN};
use crate::worker_pool::{SERVICE_NAME_PATTERN, WorkerPoolSpec};

/// Most bytes of the SQL text.
pub const MAX_SQL_BYTES: usize = 65_536;
/// Most tables of one query.
pub const MAX_TABLES: usize = 64;
/// Most characters of the name of a query: its objects put suffixes behind it and hold 63.
pub const MAX_QUERY_NAME: usize = 40;

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
    validation = Rule::new(format!("size(self.metadata.name) <= {MAX_QUERY_NAME}"))
        .message("the name of a query has at most 40 characters"),
    validation = Rule::new(format!("!has(self.spec.workers) || self.metadata.name.matches('{SERVICE_NAME_PATTERN}')"))
        .message("the name of a query with workers of its own has lower-case letters, digits and '-' alone, and starts with a letter"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Succeeded', 'Failed', 'Cancelled']) || (has(self.status) && has(self.status.phase) && self.status.phase == oldSelf.status.phase)")
        .message("a query that ended keeps its phase"),
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Stages","type":"string","jsonPath":".status.stagesDone","description":"Stages done of stages planned."}"#,
    printcolumn = r#"{"name":"Tasks","type":"string","jsonPath":".status.tasksDone","description":"Tasks done of tasks planned."}"#,
    printcolumn = r#"{"name":"Rows","type":"integer","jsonPath":".status.totals.rowsWritten","description":"Rows of the result."}"#,
    printcolumn = r#"{"name":"TTFR(ms)","type":"integer","jsonPath":".status.timeToFirstRowMillis","description":"Milliseconds to the first result row."}"#,
    printcolumn = r#"{"name":"Spill(bytes)","type":"integer","jsonPath":".status.totals.bytesSpilled","description":"Bytes that went to disk for lack of memory."}"#,
    printcolumn = r#"{"name":"Local","type":"string","jsonPath":".status.localAttempts","description":"Attempts near their data of those that should be."}"#,
    printcolumn = r#"{"name":"Speculative","type":"integer","jsonPath":".status.speculation.launched","description":"Duplicates of slow attempts that were started."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason","priority":1}"#,
    printcolumn = r#"{"name":"Duration(ms)","type":"integer","jsonPath":".status.durationMillis","priority":1,"description":"Milliseconds from submission to the end."}"#,
    printcolumn = r#"{"name":"Shuffled(bytes)","type":"integer","jsonPath":".status.totals.bytesShuffled","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[x_kube(
    validation = Rule::new("has(self.sql) != has(self.sqlFrom)")
        .message("exactly one of sql and sqlFrom must be set"),
    validation = Rule::new("!(has(self.workerPoolRef) && has(self.workers))")
        .message("workerPoolRef and workers exclude each other"),
    validation = Rule::new(inline_rule()).message(INLINE_MESSAGE),
    validation = Rule::new(unchanged("sql")).message("sql cannot be changed: create another query"),
    validation = Rule::new(unchanged("sqlFrom")).message("sqlFrom cannot be changed: create another query"),
    validation = Rule::new(unchanged("tables")).message("tables cannot be changed: create another query"),
    validation = Rule::new(unchanged("sink")).message("sink cannot be changed: create another query"),
    validation = Rule::new(unchanged("preview")).message("preview cannot be changed: create another query"),
    validation = Rule::new(unchanged("shuffle")).message("shuffle cannot be changed: create another query"),
    validation = Rule::new(unchanged("retry")).message("retry cannot be changed: create another query"),
    validation = Rule::new(unchanged("workerPoolRef")).message("workerPoolRef cannot be changed: create another query"),
    validation = Rule::new(unchanged("workers")).message("workers cannot be changed: create another query"),
)]
pub struct ShuffleQuerySpec {
    /// The query: one SELECT statement (WITH and set operations included) of at most 65536 bytes. Not together with
    /// sqlFrom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_SQL_BYTES))]
    pub sql: Option<String>,
    /// Where the SQL text is kept, instead of sql. Only in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_from: Option<SqlSource>,
    /// Tables that the SQL may read. It can read nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_TABLES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub tables: Vec<TableSpec>,
    /// Where the rows go. If the query orders them, the files are in order by name. Without a sink the status carries
    /// the first rows of the result, as preview says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkSpec>,
    /// What the status shows of the rows of a query without a sink: the FirstRows, or None of them. With None a cluster
    /// counts the rows (status.totals.rowsWritten) and keeps none of them: for rows that readers of the status must not
    /// see, give a sink too. `sluice run` prints all rows either way. Of no effect with a sink, whose rows no status shows.
    #[serde(default)]
    pub preview: PreviewMode,
    /// How rows move between stages.
    #[serde(default)]
    pub shuffle: ShuffleSpec,
    /// How failed attempts and lost workers are handled.
    #[serde(default)]
    pub retry: RetrySpec,
    /// Seconds after which an unfinished query fails, time of suspension not counted. Without it there is no limit. May
    /// be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SECONDS))]
    pub deadline_seconds: Option<u32>,
    /// The WorkerPool, in the namespace of the query, whose workers run it. Not together with workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_pool_ref: Option<WorkerPoolRef>,
    /// Workers of this query alone. Not together with workerPoolRef. What they may not have is said at each field:
    /// images, Secrets, claims, labels and priority classes are for the authors of pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerPoolSpec>,
    /// Whether the query is suspended: its coordinator is stopped and its shuffle data are deleted. Set back to false,
    /// it starts over. No effect outside a cluster, where a query runs as long as its command. May be changed.
    #[serde(default)]
    pub suspend: bool,
    /// Seconds after its end that the query is deleted. Without it, it stays. Of no effect outside a cluster, where no
    /// object stays behind. May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_SECONDS))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Of the queries that wait for admission to the pool, the one with the highest priority goes first, then the
    /// oldest. No effect outside a cluster, where a query has its workers to itself. May be changed.
    #[serde(default)]
    #[schemars(range(min = -MAX_PRIORITY, max = MAX_PRIORITY))]
    pub priority: i32,
}

/// CEL: a field is what it was, or absent as it was.
fn unchanged(field: &str) -> String {
    format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    )
}

/// Fields of inline workers that a query may not set, lists among them, and one below `placement`.
const INLINE_REFUSED: [&str; 8] = [
    "image",
    "imagePullPolicy",
    "imagePullSecrets",
    "credentials",
    "dataVolumes",
    "sinkVolumes",
    "podMetadata",
    "placement.priorityClassName",
];
const INLINE_MESSAGE: &str = "workers of a query have no image, imagePullPolicy, imagePullSecrets, credentials, dataVolumes, \
     sinkVolumes, podMetadata and placement.priorityClassName: name a pool with workerPoolRef";

/// CEL: inline workers set nothing that only a pool may set.
fn inline_rule() -> String {
    let absent = INLINE_REFUSED.map(|field| match field {
        "imagePullSecrets" | "dataVolumes" | "sinkVolumes" => {
            format!("(!has(self.workers.{field}) || size(self.workers.{field}) == 0)")
        }
        "placement.priorityClassName" => {
            format!("(!has(self.workers.placement) || !has(self.workers.{field}))")
        }
        _ => format!("!has(self.workers.{field})"),
    });
    format!("!has(self.workers) || ({})", absent.join(" && "))
}

/// Where a SQL text is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlSource {
    /// A key of a ConfigMap in the namespace of the query. It is read once, before the query starts.
    pub config_map_key_ref: ConfigMapKeyRef,
}

/// Names a key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub name: String,
    /// Key of the text within the ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = CONFIG_KEY_PATTERN))]
    pub key: String,
}

/// Names a WorkerPool in the namespace of the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolRef {
    /// Name of the pool.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,
}
