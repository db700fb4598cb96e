//! From a valid query to one that a coordinator can run: tables listed and pinned, SQL planned and cut, sink checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionContext;
use sluice_core::coordinator::{GraphError, Policy, check_graph};
use sluice_core::ids::{CoordinatorEpoch, QueryId, StageId};
use sluice_core::layout::AdaptivePolicy;
use sluice_core::limits::check_fragment_bytes;
use sluice_core::locality::DataLocality;
use sluice_crds::shuffle_query::{
    AdaptiveMode, AdaptiveSpec, Compression, MAX_PARTITIONS, PreviewMode, RuntimeFilters, TableSpec,
};
use sluice_crds::{ErrorReason, ShuffleQuerySpec};
use sluice_proto::LeafSplit;
use sluice_proto::auth::Guard;
use tokio::time::Instant;

use super::error::PrepareError;
use super::load::LoadedQuery;
use crate::coordinator::{CoordinatorOptions, StageAssignment, SystemResolver};
use crate::planner::{
    BroadcastLimit, DeclaredTables, HashJoinLimit, PlanError, PlannedQuery, PlannedStage,
    RuntimeFilterPolicy, plan, session_options, session_state, tables_read,
};
use crate::sink::{Sink, SinkError};
use crate::source::{InputManifest, InputRoots, SourceError, register_tables};
use crate::stage_template::StageTemplate;

/// A query that is ready to run.
pub struct PreparedQuery {
    pub query: QueryId,
    pub name: String,
    pub planned: PlannedQuery,
    /// Its input files, pinned.
    pub manifest: InputManifest,
    /// Where its rows land.
    pub sink: Option<Sink>,
    /// When the query began, from which its deadline counts.
    pub began: Instant,
    policy: Policy,
    preview: PreviewMode,
    compression: Option<Compression>,
}

/// What the workers of a query have, as far as it is known when the query is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerCapacity {
    /// Slots of all workers, the number of partitions where the query does not say.
    pub slots: u32,
    /// Memory for each slot, bytes.
    pub slot_memory_bytes: Option<u64>,
}

/// Prepares a query for workers of this capacity.
///
/// # Errors
/// A table cannot be read, the SQL is no single query over the tables, or the sink exists.
pub async fn prepare(
    loaded: &LoadedQuery,
    query: &QueryId,
    capacity: WorkerCapacity,
) -> Result<PreparedQuery, PrepareError> {
    let listed = InputManifest::list(&loaded.query.spec.tables, &loaded.base).await;
    prepare_with_manifest(loaded, query, capacity, listed.map_err(bad_source)?).await
}

/// Prepares a query whose files are listed already.
///
/// # Errors
/// Those of [`prepare`].
pub async fn prepare_with_manifest(
    loaded: &LoadedQuery,
    query: &QueryId,
    capacity: WorkerCapacity,
    manifest: InputManifest,
) -> Result<PreparedQuery, PrepareError> {
    prepare_checked(loaded, query, capacity, manifest, Sink::check).await
}

/// Prepares a query to explain it: like [`prepare`], but writes nothing and allows an existing sink.
///
/// # Errors
/// A table cannot be read, or the SQL is no single query over the tables.
pub async fn plan_only(
    loaded: &LoadedQuery,
    query: &QueryId,
    capacity: WorkerCapacity,
) -> Result<PreparedQuery, PrepareError> {
    let listed = InputManifest::list(&loaded.query.spec.tables, &loaded.base).await;
    prepare_checked(
        loaded,
        query,
        capacity,
        listed.map_err(bad_source)?,
        |_, _| Ok(()),
    )
    .await
}

async fn prepare_checked(
    loaded: &LoadedQuery,
    query: &QueryId,
    capacity: WorkerCapacity,
    manifest: InputManifest,
    check: impl Fn(&Sink, &InputRoots) -> Result<(), SinkError>,
) -> Result<PreparedQuery, PrepareError> {
    let began = Instant::now();
    let spec = &loaded.query.spec;
    let sql = spec.sql.as_deref().ok_or_else(|| {
        let message = "spec.sqlFrom needs a cluster, which alone has ConfigMaps: write the text to spec.sql";
        PrepareError::BadInput(message.to_owned())
    })?;
    let sink = sink_of(loaded)?;
    if let Some(sink) = &sink {
        check(sink, &manifest.roots).map_err(bad_sink)?;
    }
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .build_arc()
        .map_err(anyhow::Error::from)?;
    let partitions = spec
        .shuffle
        .partitions
        .unwrap_or(capacity.slots)
        .clamp(1, MAX_PARTITIONS);
    let memory = capacity.slot_memory_bytes;
    let options = session_options(usize::try_from(partitions).unwrap_or(1))
        .with_extension(Arc::new(BroadcastLimit::of_slots(memory)))
        .with_extension(Arc::new(HashJoinLimit::of_slots(memory)))
        .with_extension(Arc::new(RuntimeFilterPolicy {
            enabled: spec.shuffle.runtime_filters == RuntimeFilters::Auto,
            ..RuntimeFilterPolicy::default()
        }))
        .with_extension(Arc::new(DeclaredTables(
            spec.tables.iter().map(|table| table.name.clone()).collect(),
        )));
    let context = SessionContext::new_with_state(session_state(options, runtime));
    let unplanned = |error: PlanError| PrepareError::rejected(error.reason(), error);
    let read = tables_read(&context.state(), sql).await.map_err(unplanned)?;
    let declared = spec.tables.iter();
    let tables: Vec<_> = declared
        .filter(|table| read.contains(&table.name))
        .cloned()
        .collect();
    register_tables(&context, &tables, &manifest)
        .await
        .map_err(bad_source)?;
    let mut planned = plan(&context.state(), sql).await.map_err(unplanned)?;
    check_graph(&planned.graph).map_err(|error| PrepareError::rejected(graph_reason(&error), error))?;
    planned.locate(&data_locality(spec));
    let adaptive = adaptive_policy(&spec.shuffle.adaptive, memory);
    if adaptive.is_none() {
        planned
            .graph
            .stages
            .iter_mut()
            .for_each(|stage| stage.coalesces = false);
    }
    if let Some(sink) = &sink {
        sink.check_columns(&planned.schema).map_err(bad_sink)?;
    }
    let policy = policy(spec, sink.is_some(), adaptive);
    let (query, compression) = (query.clone(), spec.shuffle.compression);
    Ok(PreparedQuery {
        query,
        name: loaded.query.metadata.name.clone().unwrap_or_default(),
        planned,
        manifest,
        sink,
        began,
        policy,
        preview: spec.preview,
        compression,
    })
}

/// The reason for a graph that no coordinator accepts.
fn graph_reason(error: &GraphError) -> ErrorReason {
    match error {
        GraphError::TooLarge(_) => ErrorReason::UnsupportedPlan,
        _ => ErrorReason::Internal,
    }
}

/// Where the rows of each table are, as far as the query declares it.
fn data_locality(spec: &ShuffleQuerySpec) -> BTreeMap<String, DataLocality> {
    let of_table = |table: &TableSpec| DataLocality {
        nodes: table
            .locality
            .iter()
            .filter_map(|hint| hint.node.clone())
            .collect(),
        zones: table
            .locality
            .iter()
            .filter_map(|hint| hint.zone.clone())
            .collect(),
    };
    let tables = spec.tables.iter();
    tables
        .map(|table| (table.name.clone(), of_table(table)))
        .collect()
}

/// The sink of a query, if it has one. Does not access the file system.
///
/// # Errors
/// Its location is no path.
pub fn sink_of(loaded: &LoadedQuery) -> Result<Option<Sink>, PrepareError> {
    let sink = loaded.query.spec.sink.as_ref();
    let sink = sink.map(|sink| Sink::new(sink, &loaded.base)).transpose();
    sink.map_err(bad_sink)
}

fn bad_sink(error: SinkError) -> PrepareError {
    PrepareError::rejected(error.reason(), error)
}

fn bad_source(error: SourceError) -> PrepareError {
    PrepareError::rejected(error.reason, error)
}

/// Encoded bytes of sorted rows that are worth a merging task of their own.
const MIN_RANGE_BYTES: u64 = 4 << 20;

/// How long a running attempt may make no progress.
const ATTEMPT_STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Encoded bytes that are worth a reading task of their own while slots are free: a task's start takes about as long as its
/// work on them.
const MIN_TASK_BYTES: u64 = 1 << 20;

/// The part of a slot's memory that the encoded bytes of a coalesced task may have: decoded they are several times as large,
/// and so is the hash table over them.
const TARGET_SHARE_OF_SLOT: u64 = 8;

/// How partitions are coalesced on workers with so much memory for each slot.
fn adaptive_policy(spec: &AdaptiveSpec, slot_memory_bytes: Option<u64>) -> Option<AdaptivePolicy> {
    match spec.mode {
        AdaptiveMode::Off => return None,
        AdaptiveMode::Auto => {}
    }
    let share = slot_memory_bytes.map_or(u64::MAX, |bytes| bytes / TARGET_SHARE_OF_SLOT);
    Some(AdaptivePolicy {
        target_bytes: spec.target_bytes.bytes().min(share),
        min_tasks: spec.min_reduce_tasks,
        max_tasks: spec.max_reduce_tasks,
        max_partitions_per_task: spec.max_partitions_per_task,
        min_task_bytes: MIN_TASK_BYTES,
    })
}

fn policy(spec: &ShuffleQuerySpec, sink: bool, adaptive: Option<AdaptivePolicy>) -> Policy {
    Policy {
        max_task_attempts: spec.retry.max_task_attempts,
        retry_backoff_base: spec.retry.backoff_base.into(),
        exclude_worker_after_failures: spec.retry.exclude_worker_after_failures,
        worker_liveness_timeout: spec.retry.worker_liveness_timeout.into(),
        no_workers_grace: spec.retry.no_workers_grace.into(),
        attempt_stall_timeout: ATTEMPT_STALL_TIMEOUT,
        deadline: spec
            .deadline_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
        reduce_fetch_window_partitions: spec.shuffle.reduce_fetch_window_partitions,
        min_range_bytes: MIN_RANGE_BYTES,
        adaptive,
        retention: spec.shuffle.retention,
        sink,
    }
}

impl PreparedQuery {
    /// The options of a coordinator that runs the query on workers at these addresses.
    ///
    /// # Errors
    /// A stage cannot be encoded, or the stages are too large together.
    pub fn into_options(
        self,
        epoch: CoordinatorEpoch,
        workers: Vec<String>,
    ) -> Result<CoordinatorOptions, PrepareError> {
        let compression = self.compression.unwrap_or_else(|| compression_to(&workers));
        let graph = &self.planned.graph;
        let result = usize::try_from(graph.result.0)
            .ok()
            .and_then(|index| graph.exchanges.get(index));
        let roots: Vec<StageId> = result
            .map(|exchange| exchange.writers.clone())
            .unwrap_or_default();
        let stages = graph
            .stages
            .iter()
            .zip(&self.planned.stages)
            .map(|(stage, planned)| {
                let sink = self.sink.clone().filter(|_| roots.contains(&stage.id));
                stage_assignment(planned, compression, sink)
            });
        let stages = stages.collect::<anyhow::Result<Vec<_>>>()?;
        let encoded = stages.iter().map(|stage| stage.template.len() as u64).sum();
        check_fragment_bytes(encoded)
            .map_err(|error| PrepareError::rejected(ErrorReason::UnsupportedPlan, error))?;
        Ok(CoordinatorOptions {
            query: self.query,
            query_name: self.name,
            began: self.began,
            epoch,
            workers,
            resolver: Arc::new(SystemResolver),
            token: None,
            guard: Guard::default(),
            stages,
            graph: self.planned.graph.clone(),
            schema: self.planned.schema.clone(),
            policy: self.policy,
            sink: self.sink,
            preview: self.preview,
            input_roots: self.manifest.roots.to_strings(),
        })
    }
}

/// The default compression of shuffle data: none if it never leaves this machine, where compression costs more than it
/// saves.
fn compression_to(workers: &[String]) -> Compression {
    let is_here = |worker: &String| {
        let host = worker
            .rsplit_once(':')
            .map(|(host, _)| host.trim_matches(['[', ']']));
        let address = host.and_then(|host| host.parse::<IpAddr>().ok());
        host == Some("localhost") || address.is_some_and(|address| address.is_loopback())
    };
    if !workers.is_empty() && workers.iter().all(is_here) {
        Compression::None
    } else {
        Compression::Lz4
    }
}

fn stage_assignment(
    planned: &PlannedStage,
    compression: Compression,
    sink: Option<Sink>,
) -> anyhow::Result<StageAssignment> {
    let template = StageTemplate {
        fragment: planned.fragment.clone(),
        output: planned.output.clone(),
        compression,
        sink,
        filters: planned.filters.clone(),
    };
    let splits = planned.tasks.iter().map(|task| {
        task.splits
            .iter()
            .map(|(leaf, split)| LeafSplit {
                leaf: *leaf,
                split: split.clone(),
            })
            .collect()
    });
    Ok(StageAssignment {
        template: template.encode()?,
        splits: splits.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_coalesced_as_far_as_a_slot_has_memory_for() {
        let spec = AdaptiveSpec::default();
        let target = |memory| adaptive_policy(&spec, memory).map(|policy| policy.target_bytes);
        assert_eq!(target(None), Some(128 << 20));
        assert_eq!(target(Some(2 << 30)), Some(128 << 20));
        assert_eq!(target(Some(256 << 20)), Some(32 << 20));
        let off = AdaptiveSpec {
            mode: AdaptiveMode::Off,
            ..spec
        };
        assert_eq!(adaptive_policy(&off, None), None);
    }

    #[test]
    fn bytes_are_compressed_only_if_they_may_leave_the_machine() {
        for (workers, expected) in [
            (&["127.0.0.1:7400", "127.0.0.1:7401"][..], Compression::None),
            (&["localhost:1", "[::1]:2", "127.3.4.5:3"], Compression::None),
            (&["127.0.0.1:7400", "10.0.0.1:7400"], Compression::Lz4),
            (&["pool.namespace.svc:7400"], Compression::Lz4),
            (&["localhost.example:7400"], Compression::Lz4),
            (&[], Compression::Lz4),
        ] {
            let workers: Vec<String> = workers.iter().map(|worker| (*worker).to_owned()).collect();
            assert_eq!(compression_to(&workers), expected, "{workers:?}");
        }
    }
}
