//! From a valid query to one that a coordinator can run: tables listed and pinned, SQL planned and cut, sink checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use sluice_core::coordinator::{GraphError, Policy, check_graph};
use sluice_core::ids::{CoordinatorEpoch, QueryId, StageId};
use sluice_core::limits::check_fragment_bytes;
use sluice_core::locality::DataLocality;
use sluice_crds::shuffle_query::{
    Compression, JoinOrderMode, MAX_PARTITIONS, PreviewMode, RuntimeFilters, TableSpec,
};
use sluice_crds::{ErrorReason, ShuffleQuerySpec};
use sluice_proto::LeafSplit;
use sluice_proto::auth::Authorizer;
use tokio::time::Instant;

use super::error::PrepareError;
use super::load::LoadedQuery;
use super::policy::{adaptive_policy, default_partitions, join_policy, policy};
use crate::coordinator::{CoordinatorOptions, StageAssignment, SystemResolver};
use crate::planner::{
    BroadcastLimit, DeclaredTables, HashJoinLimit, JoinOrderPolicy, PlanError, PlannedQuery, PlannedStage,
    RuntimeFilterPolicy, plan, session_options, session_state, tables_read,
};
use crate::sink::{Sink, SinkError};
use crate::source::{InputManifest, InputRoots, SourceError, register_tables, table_bytes};
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
    keep_while_suspended: Duration,
    compression: Option<Compression>,
}

/// What the workers of a query have, as far as it is known when the query is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerCapacity {
    /// Slots of all workers, the least number of partitions where the query does not say.
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
    let memory = capacity.slot_memory_bytes;
    let adaptive = adaptive_policy(&spec.shuffle.adaptive, memory);
    let given = spec.shuffle.partitions.unwrap_or(capacity.slots);
    let given = given.clamp(1, MAX_PARTITIONS);
    let options = planning_options(spec, given, memory);
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
    if let (None, Some(adaptive)) = (spec.shuffle.partitions, &adaptive) {
        let sizes = tables.iter().map(|table| table_bytes(table, &manifest));
        let bytes = sizes.fold(0, u64::saturating_add);
        set_partitions(&context, default_partitions(bytes, adaptive.target_bytes, given));
    }
    let mut planned = plan(&context.state(), sql).await.map_err(unplanned)?;
    check_graph(&planned.graph).map_err(|error| PrepareError::rejected(graph_reason(&error), error))?;
    planned.locate(&data_locality(spec));
    planned.hash_files();
    let stages = planned.graph.stages.iter_mut();
    stages.for_each(|stage| stage.coalesces &= adaptive.is_some());
    if let Some(sink) = &sink {
        sink.check_columns(&planned.schema).map_err(bad_sink)?;
    }
    let joins = join_policy(spec.shuffle.adaptive.joins, memory);
    let policy = policy(spec, sink.is_some(), adaptive, joins);
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
        keep_while_suspended: spec.shuffle.keep_while_suspended.into(),
        compression,
    })
}

/// What the planner may do for a query on workers with so much memory for each slot.
fn planning_options(spec: &ShuffleQuerySpec, partitions: u32, memory: Option<u64>) -> SessionConfig {
    session_options(usize::try_from(partitions).unwrap_or(1))
        .with_extension(Arc::new(BroadcastLimit::of_slots(memory)))
        .with_extension(Arc::new(HashJoinLimit::of_slots(memory)))
        .with_extension(Arc::new(RuntimeFilterPolicy {
            enabled: spec.shuffle.runtime_filters == RuntimeFilters::Auto,
            ..RuntimeFilterPolicy::default()
        }))
        .with_extension(Arc::new(JoinOrderPolicy {
            enabled: spec.shuffle.join_order == JoinOrderMode::Auto,
            ..JoinOrderPolicy::default()
        }))
        .with_extension(Arc::new(DeclaredTables(
            spec.tables.iter().map(|table| table.name.clone()).collect(),
        )))
}

/// Sets how many partitions exchanges have. Scans keep the number of tasks for which the session was made.
fn set_partitions(context: &SessionContext, partitions: u32) {
    let state = context.state_ref();
    let mut state = state.write();
    let options = state.config_mut().options_mut();
    options.execution.target_partitions = usize::try_from(partitions).unwrap_or(1);
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
            authorizer: Authorizer::default(),
            stages,
            graph: self.planned.graph.clone(),
            schema: self.planned.schema.clone(),
            policy: self.policy,
            sink: self.sink,
            preview: self.preview,
            keep_while_suspended: self.keep_while_suspended,
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
    use sluice_core::plan::ExchangeKind;
    use sluice_crds::shuffle_query::{AdaptiveMode, TpchSpec};
    use sluice_crds::{ByteSize, ShuffleQuery};

    use super::*;

    /// The partitions of the exchange by which a generated table of this scale is grouped on two slots.
    async fn planned_partitions(scale_factor: f64, change: impl FnOnce(&mut ShuffleQuerySpec)) -> u32 {
        let mut spec = ShuffleQuerySpec {
            sql: Some("select l_partkey, count(*) from lineitem group by l_partkey".to_owned()),
            tables: vec![TableSpec {
                name: "lineitem".to_owned(),
                tpch: Some(TpchSpec {
                    scale_factor,
                    table: None,
                }),
                ..TableSpec::default()
            }],
            ..ShuffleQuerySpec::default()
        };
        change(&mut spec);
        let loaded = LoadedQuery {
            query: ShuffleQuery::new("q", spec),
            pool: None,
            base: std::path::PathBuf::new(),
        };
        let capacity = WorkerCapacity {
            slots: 2,
            slot_memory_bytes: None,
        };
        let id = QueryId::new("q").unwrap();
        let prepared = plan_only(&loaded, &id, capacity).await.unwrap();
        let exchanges = prepared.planned.graph.exchanges;
        let hashed = exchanges
            .iter()
            .find(|exchange| exchange.kind == ExchangeKind::Hash);
        hashed.unwrap().partitions
    }

    #[tokio::test]
    async fn exchanges_have_as_many_partitions_as_the_tables_have_targets() {
        assert_eq!(planned_partitions(0.1, |_| {}).await, 2, "one for each slot");
        let many = planned_partitions(10.0, |_| {}).await;
        assert!((20..200).contains(&many), "{many}");
        let half = |spec: &mut ShuffleQuerySpec| spec.shuffle.adaptive.target_bytes = ByteSize::from_mib(256);
        assert_eq!(planned_partitions(10.0, half).await, many.div_ceil(2));
        let given = |spec: &mut ShuffleQuerySpec| spec.shuffle.partitions = Some(3);
        assert_eq!(planned_partitions(10.0, given).await, 3);
        let off = |spec: &mut ShuffleQuerySpec| spec.shuffle.adaptive.mode = AdaptiveMode::Off;
        assert_eq!(planned_partitions(10.0, off).await, 2, "each is a task");
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
