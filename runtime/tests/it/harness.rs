//! Runs a query on plain DataFusion and on a fleet of workers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext, ident, lit};
use sluice::coordinator::{CoordinatorOptions, RunningQuery};
use sluice::local::workers::{WorkerShape, Workers};
use sluice::planner::explain;
use sluice::query::{LoadedQuery, PreparedQuery, WorkerCapacity, prepare};
use sluice::source::{InputManifest, register_tables};
use sluice_core::coordinator::Outcome;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::snapshot::QuerySnapshot;
use sluice_crds::shuffle_query::{
    AdaptiveJoins, AdaptiveMode, JoinOrderMode, RuntimeFilters, SpeculationMode, SpeculationSpec, TableSpec,
    TpchSpec, TpchTable,
};
use sluice_crds::{Millis, ShuffleQuery, ShuffleQuerySpec};
use sluice_proto::auth::Authorizer;
use tempfile::TempDir;

use crate::compare::{Order, Rows, differences};

/// A query that still runs after this time hangs.
const HANG: Duration = Duration::from_secs(120);

/// More memory than any test query needs, bytes.
pub const AMPLE_MEMORY: u64 = 2 << 30;

/// The tables of a query and the folder that their relative locations start from.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    pub specs: Vec<TableSpec>,
    pub base: PathBuf,
}

impl Tables {
    /// The eight TPC-H tables, generated while they are read.
    pub fn generated_tpch(scale_factor: f64) -> Self {
        let specs = TpchTable::ALL.into_iter().map(|table| TableSpec {
            name: table.name().to_owned(),
            tpch: Some(TpchSpec {
                scale_factor,
                table: None,
            }),
            ..TableSpec::default()
        });
        Self {
            specs: specs.collect(),
            base: PathBuf::new(),
        }
    }

    /// A query over them, with `partitions` partitions an exchange (none: one for each slot).
    pub fn query(&self, sql: &str, partitions: Option<u32>) -> LoadedQuery {
        let mut spec = ShuffleQuerySpec {
            sql: Some(sql.to_owned()),
            tables: self.specs.clone(),
            ..Default::default()
        };
        spec.shuffle.partitions = partitions;
        // No worker of a suite counts as lost, however busy the machine is.
        spec.retry.worker_liveness_timeout = Millis::from_millis(600_000);
        LoadedQuery {
            query: ShuffleQuery::new("test", spec),
            pool: None,
            base: self.base.clone(),
        }
    }
}

/// Workers, and where they may spill.
pub struct Fleet {
    workers: Workers,
    capacity: WorkerCapacity,
    _folder: Option<TempDir>,
}

impl Fleet {
    /// Starts `count` workers of `slots` slots in this process. `memory_bytes` is the memory of each.
    pub async fn start(count: u32, slots: u32, memory_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let shape = WorkerShape {
            count,
            slots,
            memory_bytes,
            spill_limit_bytes: 16 << 30,
        };
        let workers = Workers::start_in_process(shape, folder.path(), &Authorizer::default())
            .await
            .expect("workers start on loopback");
        Self {
            workers,
            capacity: WorkerCapacity {
                slots: count * slots,
                slot_memory_bytes: Some(memory_bytes / u64::from(slots)),
            },
            _folder: Some(folder),
        }
    }

    /// Workers that somebody else started, with `slots` slots in all.
    pub fn of_others(addresses: Vec<String>, slots: u32) -> Self {
        Self {
            workers: Workers::external(addresses),
            capacity: WorkerCapacity {
                slots,
                slot_memory_bytes: None,
            },
            _folder: None,
        }
    }

    /// The same workers, of whose memory the planner knows nothing.
    pub fn of_unknown_memory(mut self) -> Self {
        self.capacity.slot_memory_bytes = None;
        self
    }

    /// Stops what [`Fleet::start`] started.
    pub async fn stop(self) {
        self.workers.stop().await;
    }
}

/// The rows and the report of a query.
pub struct Ran {
    pub rows: Rows,
    /// The last snapshot.
    pub snapshot: QuerySnapshot,
    /// Whether the query orders its result.
    pub ordered: bool,
    /// What `sluice explain` says of it.
    pub explained: String,
}

impl Ran {
    /// Stages that had fewer tasks than were planned.
    pub fn coalesced_stages(&self) -> usize {
        let reduces = self
            .snapshot
            .stages
            .iter()
            .filter_map(|stage| stage.reduce.as_ref());
        let fewer = reduces.filter(|reduce| {
            reduce
                .adaptive_reduce_tasks
                .is_some_and(|tasks| tasks < reduce.planned_reduce_tasks)
        });
        fewer.count()
    }

    /// Rows that runtime filters left out.
    pub fn rows_filtered(&self) -> u64 {
        let stages = self.snapshot.stages.iter();
        stages.map(|stage| stage.metrics.rows_filtered).sum()
    }

    /// Tasks whose hash joins ran out of memory and that sorted instead.
    pub fn sorted_tasks(&self) -> u32 {
        let stages = self.snapshot.stages.iter();
        stages.map(|stage| stage.join_switches.sorted_tasks).sum()
    }

    /// Duplicates of slow attempts.
    pub fn duplicates(&self) -> u32 {
        let stages = self.snapshot.stages.iter();
        stages.map(|stage| stage.speculation.launched).sum()
    }

    /// Tasks that did not have to run.
    pub fn skipped(&self) -> u32 {
        self.snapshot.stages.iter().map(|stage| stage.skipped).sum()
    }

    /// Bytes that all winning attempts spilled.
    pub fn bytes_spilled(&self) -> u64 {
        self.snapshot
            .stages
            .iter()
            .map(|stage| stage.metrics.bytes_spilled)
            .sum()
    }
}

/// Why there are no rows.
#[derive(Debug)]
pub enum NoRows {
    /// Planning refused the query, with this message.
    Refused(String),
    /// The query ended without success.
    Ended { outcome: Outcome, explained: String },
    /// It ran longer than any query should.
    Hung {
        snapshot: Box<QuerySnapshot>,
        explained: String,
    },
}

impl fmt::Display for NoRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(message) => write!(f, "not planned: {message}"),
            Self::Ended {
                outcome: Outcome::Failed(failure),
                explained,
                ..
            } => {
                write!(
                    f,
                    "failed ({:?}, attempt {:?}): {}\n{explained}",
                    failure.reason, failure.attempt, failure.message
                )
            }
            Self::Ended {
                outcome, explained, ..
            } => write!(f, "ended: {outcome:?}\n{explained}"),
            Self::Hung { snapshot, explained } => write!(f, "hangs: {snapshot:#?}\n{explained}"),
        }
    }
}

/// Runs a query on a fleet, as `sluice run` does.
pub async fn run(fleet: &Fleet, query: &LoadedQuery) -> Result<Ran, NoRows> {
    let id = QueryId::new(uuid::Uuid::new_v4().to_string()).expect("a UUID is a legal query id");
    let prepared = prepare(query, &id, fleet.capacity).await;
    let prepared = prepared.map_err(|failure| NoRows::Refused(format!("{failure:?}")))?;
    run_prepared(fleet, prepared, HANG, |options| {
        // Scans get the keys of other stages, however busy the machine is.
        let filters = options.graph.filters.iter_mut();
        filters.for_each(|filter| filter.max_wait = HANG);
    })
    .await
}

/// Runs a prepared query with other coordinator options. A query that takes longer than `hang` hangs.
pub async fn run_prepared(
    fleet: &Fleet,
    prepared: PreparedQuery,
    hang: Duration,
    change: impl FnOnce(&mut CoordinatorOptions),
) -> Result<Ran, NoRows> {
    let (schema, ordered) = (prepared.planned.schema.clone(), prepared.planned.graph.ordered);
    let explained = explain(&prepared.planned);
    let options = prepared.into_options(CoordinatorEpoch(1), fleet.workers.addresses.clone());
    let mut options = options.expect("planned stages can be encoded");
    change(&mut options);
    let mut running = RunningQuery::start(options).expect("the planner's graph holds together");
    let snapshots = running.snapshots.clone();
    let mut rows = running.rows.take().expect("a query without a sink has rows");
    let taken = async {
        let mut batches: Vec<RecordBatch> = Vec::new();
        while let Some(batch) = rows.recv().await {
            batches.push(batch);
        }
        (batches, running.outcome().await)
    };
    let ended = tokio::time::timeout(hang, taken).await;
    let snapshot = snapshots.borrow().clone();
    match ended {
        Ok((batches, Outcome::Succeeded)) => Ok(Ran {
            rows: Rows { schema, batches },
            snapshot,
            ordered,
            explained,
        }),
        Ok((_, outcome)) => Err(NoRows::Ended { outcome, explained }),
        Err(_) => Err(NoRows::Hung {
            snapshot: Box::new(snapshot),
            explained,
        }),
    }
}

/// What plain DataFusion gives, in this process with two partitions.
pub struct Plain {
    pub rows: Rows,
    /// The columns by which the query orders its result.
    pub order: Order,
}

/// Runs a query on plain DataFusion over the same tables.
///
/// # Errors
/// DataFusion's message.
pub async fn plain(tables: &Tables, sql: &str) -> Result<Plain, String> {
    plain_in(&plain_session(tables).await?, sql).await
}

/// Runs a query on plain DataFusion in a session of [`plain_session`].
///
/// # Errors
/// DataFusion's message.
pub async fn plain_in(context: &SessionContext, sql: &str) -> Result<Plain, String> {
    let frame = context.sql(sql).await.map_err(|error| error.strip_backtrace())?;
    let order = Order::of(frame.logical_plan());
    let task = Arc::new(frame.task_ctx());
    let plan = frame
        .create_physical_plan()
        .await
        .map_err(|error| error.strip_backtrace())?;
    let schema = plan.schema();
    let collected = tokio::time::timeout(HANG, collect(plan, task)).await;
    let batches = collected
        .map_err(|_| "plain DataFusion hangs")?
        .map_err(|error| error.strip_backtrace())?;
    Ok(Plain {
        rows: Rows { schema, batches },
        order,
    })
}

/// A session of plain DataFusion over the tables.
///
/// # Errors
/// Why they cannot be read.
pub async fn plain_session(tables: &Tables) -> Result<SessionContext, String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let manifest = InputManifest::list(&tables.specs, &tables.base)
        .await
        .map_err(|error| text(&error))?;
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .build_arc()
        .map_err(|error| text(&error))?;
    let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(2), runtime);
    register_tables(&context, &tables.specs, &manifest)
        .await
        .map_err(|error| text(&error))?;
    for table in &tables.specs {
        let unsigned = zeros_without_sign(&context, &table.name).await;
        unsigned.map_err(|error| text(&error))?;
    }
    Ok(context)
}

/// Plain DataFusion distinguishes -0.0 from 0.0, which does not matter here.
async fn zeros_without_sign(context: &SessionContext, table: &str) -> datafusion::error::Result<()> {
    let rows = context.table(table).await?;
    let fields = rows.schema().fields().clone();
    if !fields.iter().any(|field| field.data_type().is_floating()) {
        return Ok(());
    }
    let columns = fields.iter().map(|field| match field.data_type() {
        DataType::Float64 => (ident(field.name()) + lit(0.0_f64)).alias(field.name()),
        DataType::Float32 => (ident(field.name()) + lit(0.0_f32)).alias(field.name()),
        _ => ident(field.name()),
    });
    let view = rows.select(columns.collect::<Vec<_>>())?.into_view();
    context.deregister_table(table)?;
    context.register_table(table, view)?;
    Ok(())
}

/// One query of a suite.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub sql: String,
    /// The SQL for plain DataFusion, where its rows for the query itself are wrong.
    pub plain: Option<String>,
}

impl Case {
    /// The cases of a table of names and texts.
    pub fn all(table: &[(&str, &str)]) -> Vec<Self> {
        table
            .iter()
            .map(|(name, sql)| Self {
                name: (*name).to_owned(),
                sql: (*sql).to_owned(),
                plain: None,
            })
            .collect()
    }

    /// The cases of a table of names, texts and SQL for plain DataFusion.
    pub fn rewritten(table: &[(&str, &str, &str)]) -> Vec<Self> {
        table
            .iter()
            .map(|(name, sql, plain)| Self {
                name: (*name).to_owned(),
                sql: (*sql).to_owned(),
                plain: Some((*plain).to_owned()),
            })
            .collect()
    }
}

/// How the rows of exchanges are divided among tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// As users get it, with so many partitions or one for each slot.
    Default(Option<u32>),
    /// A task for each of so many partitions, and joins as planned.
    Planned(u32),
    /// About a task for three of so many partitions, and two at least.
    Coalesced(u32),
    /// A partition for each slot, joins as they are written, and scans that leave out no rows.
    AsWritten,
    /// A task for each of so many partitions, and a duplicate for whatever runs longer than another task of its stage took.
    Speculative(u32),
}

impl Division {
    fn query(self, tables: &Tables, sql: &str) -> LoadedQuery {
        let partitions = match self {
            Self::Default(partitions) => partitions,
            Self::AsWritten => None,
            Self::Planned(partitions) | Self::Coalesced(partitions) | Self::Speculative(partitions) => {
                Some(partitions)
            }
        };
        let mut query = tables.query(sql, partitions);
        let shuffle = &mut query.query.spec.shuffle;
        match self {
            Self::Default(_) => {}
            Self::AsWritten => {
                shuffle.runtime_filters = RuntimeFilters::Off;
                shuffle.join_order = JoinOrderMode::AsWritten;
            }
            Self::Planned(_) => {
                shuffle.adaptive.mode = AdaptiveMode::Off;
                shuffle.adaptive.joins = AdaptiveJoins::Off;
            }
            Self::Speculative(_) => {
                shuffle.adaptive.mode = AdaptiveMode::Off;
                shuffle.speculation = SpeculationSpec {
                    mode: SpeculationMode::Auto,
                    min_completed_samples: 1,
                    p95_multiplier: 1.0,
                    min_runtime: Millis::from_millis(1),
                };
            }
            Self::Coalesced(partitions) => {
                let tasks = partitions.div_ceil(3).max(2);
                (
                    shuffle.adaptive.min_reduce_tasks,
                    shuffle.adaptive.max_reduce_tasks,
                ) = (tasks, tasks);
            }
        }
        query
    }
}

/// Runs each case on plain DataFusion once and on the fleet with each division, and panics with the differences of all
/// cases. Answers what the fleet's runs gave, in order.
pub async fn compare(fleet: &Fleet, tables: &Tables, cases: &[Case], divisions: &[Division]) -> Vec<Ran> {
    let mut wrong = Vec::new();
    let mut all = Vec::new();
    for case in cases {
        let expected = match plain(tables, case.plain.as_ref().unwrap_or(&case.sql)).await {
            Ok(expected) => expected,
            Err(message) => {
                wrong.push(format!(
                    "{}: plain DataFusion: {message}\n{}",
                    case.name, case.sql
                ));
                continue;
            }
        };
        for division in divisions {
            let told = match run(fleet, &division.query(tables, &case.sql)).await {
                Ok(ran) => {
                    let told = differences(&expected.rows, &expected.order, &ran.rows, ran.ordered)
                        .map(|difference| format!("{difference}\n{}", ran.explained));
                    all.push(ran);
                    told
                }
                Err(no_rows) => Some(no_rows.to_string()),
            };
            if let Some(told) = told {
                wrong.push(format!("{} ({division:?}): {told}\n{}", case.name, case.sql));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases\n\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n\n")
    );
    all
}

/// A folder of this test binary that is kept between runs. Creates it if necessary.
pub fn kept_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}
