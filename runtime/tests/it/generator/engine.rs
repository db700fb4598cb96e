//! Sluice under test: the real planner, coordinator and workers, in several shapes that must not change an answer.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionContext;
use sluice::planner::{
    BroadcastLimit, HashJoinLimit, SharedMerge, SplitTarget, plan, session_options, session_state,
};
use sluice::query::{LoadedQuery, WorkerCapacity, prepare_with_manifest};
use sluice::source::{InputManifest, register_tables};
use sluice_core::coordinator::Outcome;
use sluice_core::ids::QueryId;
use sluice_core::joins::JoinPolicy;
use sluice_core::layout::AdaptivePolicy;
use tempfile::TempDir;

use super::judge::{self, Row};
use super::tables::Database;
use crate::compare::{Rows, differences};
use crate::harness::{AMPLE_MEMORY, Fleet, NoRows, Plain, Tables, plain_in, plain_session, run_prepared};

/// Few queries over these tables take longer.
pub const SLOW: Duration = Duration::from_secs(20);

/// None takes longer, on a busy machine either.
pub const HANG: Duration = Duration::from_secs(180);

/// Memory of each worker in the shape with little memory, bytes.
const LITTLE_MEMORY: u64 = 6 << 20;

/// A shape in which queries run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    partitions: usize,
    /// The largest build side that is broadcast, bytes.
    broadcast: u64,
    /// The largest build side of a hash join, bytes.
    hash_join: u64,
    /// Sorted rows of at least this many bytes are merged by several tasks.
    shared_merge: u64,
    /// Rows of a batch.
    batch: usize,
    little_memory: bool,
    layout: LayoutShape,
}

/// How the tasks of a stage divide the partitions of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayoutShape {
    /// One task for each.
    Fixed,
    /// So many tasks.
    Coalesced(u32),
    /// One task for each, and several for those that have more rows than others.
    Split,
    /// As `Split`; besides, tasks read all inputs of a join but one whole, and its sides change places, wherever that cannot change
    /// rows.
    Switched,
}

impl LayoutShape {
    /// Joins that run in another way than planned wherever they can, or only where that pays.
    fn joins(self) -> JoinPolicy {
        match self {
            Self::Fixed | Self::Coalesced(_) | Self::Split => JoinPolicy::new(0),
            Self::Switched => JoinPolicy {
                max_broadcast_bytes: u64::MAX,
                max_broadcast_percent: u32::MAX,
                max_swap_percent: u32::MAX,
            },
        }
    }

    fn policy(self) -> Option<AdaptivePolicy> {
        let (target_bytes, tasks) = match self {
            Self::Fixed => return None,
            Self::Coalesced(tasks) => (u64::MAX, tasks),
            Self::Split | Self::Switched => (1, 0),
        };
        Some(AdaptivePolicy {
            target_bytes,
            min_tasks: tasks,
            max_tasks: tasks,
            max_partitions_per_task: 0,
            min_task_bytes: 1,
        })
    }
}

pub const SHAPES: [Shape; 7] = [
    Shape {
        name: "1 partition",
        partitions: 1,
        broadcast: 32 << 20,
        hash_join: u64::MAX,
        shared_merge: 16 << 20,
        batch: 8192,
        little_memory: false,
        layout: LayoutShape::Fixed,
    },
    Shape {
        name: "3 partitions, split, hashed joins, 3 rows a batch",
        partitions: 3,
        broadcast: 0,
        hash_join: u64::MAX,
        shared_merge: 16 << 20,
        batch: 3,
        little_memory: false,
        layout: LayoutShape::Split,
    },
    Shape {
        name: "13 partitions, merged by ranges",
        partitions: 13,
        broadcast: 32 << 20,
        hash_join: u64::MAX,
        shared_merge: 0,
        batch: 8192,
        little_memory: false,
        layout: LayoutShape::Fixed,
    },
    Shape {
        name: "3 partitions, sorted joins, little memory",
        partitions: 3,
        broadcast: 0,
        hash_join: 0,
        shared_merge: 0,
        batch: 8192,
        little_memory: true,
        layout: LayoutShape::Fixed,
    },
    Shape {
        name: "3 partitions in 2 tasks, sorted joins",
        partitions: 3,
        broadcast: 0,
        hash_join: 0,
        shared_merge: 16 << 20,
        batch: 8192,
        little_memory: false,
        layout: LayoutShape::Coalesced(2),
    },
    Shape {
        name: "13 partitions in 4 tasks, hashed joins",
        partitions: 13,
        broadcast: 0,
        hash_join: u64::MAX,
        shared_merge: 0,
        batch: 3,
        little_memory: false,
        layout: LayoutShape::Coalesced(4),
    },
    Shape {
        name: "5 partitions, joins switched",
        partitions: 5,
        broadcast: 0,
        hash_join: u64::MAX,
        shared_merge: 16 << 20,
        batch: 8192,
        little_memory: false,
        layout: LayoutShape::Switched,
    },
];

/// The workers of all queries.
pub struct Fleets {
    ample: Fleet,
    little: Fleet,
}

impl Fleets {
    pub async fn start() -> Self {
        Self {
            ample: Self::ample().await,
            little: Self::little().await,
        }
    }

    async fn ample() -> Fleet {
        Fleet::start(2, 3, AMPLE_MEMORY).await
    }

    async fn little() -> Fleet {
        Fleet::start(2, 2, LITTLE_MEMORY).await
    }

    fn of(&self, shape: &Shape) -> &Fleet {
        if shape.little_memory {
            &self.little
        } else {
            &self.ample
        }
    }

    /// Puts new workers in the place of those that a shape runs on: what still runs there keeps no other query waiting.
    pub async fn replace(&mut self, shape: usize) {
        let old = match SHAPES.get(shape) {
            Some(shape) if shape.little_memory => std::mem::replace(&mut self.little, Self::little().await),
            Some(_) | None => std::mem::replace(&mut self.ample, Self::ample().await),
        };
        // A task that never ends keeps its worker, too.
        let _stopped = tokio::time::timeout(SLOW, old.stop()).await;
    }

    pub async fn stop(self) {
        self.ample.stop().await;
        self.little.stop().await;
    }
}

/// The tables of some queries in every engine but DuckDB.
pub struct Bench {
    pub tables: Tables,
    manifest: InputManifest,
    plain: SessionContext,
    sessions: Vec<Option<SessionContext>>,
    /// A query over any tables. Its plan is replaced.
    stand_in: LoadedQuery,
    _folder: Option<TempDir>,
}

/// What a shape gave.
pub enum Answer {
    Rows(Box<RanRows>),
    /// No plan.
    Refused(String),
    /// It was planned, and ended with an error.
    Failed(String),
    /// A panic.
    Broken(String),
    /// It was still running when its time was over.
    Hung(String),
}

/// The rows of a shape.
pub struct RanRows {
    pub raw: Rows,
    pub ordered: bool,
    pub explained: String,
}

impl Bench {
    pub async fn of(database: &Database, shapes: &[usize]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let tables = database.write(folder.path());
        Self {
            _folder: Some(folder),
            ..Self::over(tables, shapes).await
        }
    }

    /// A bench over tables that are there.
    pub async fn over(tables: Tables, shapes: &[usize]) -> Self {
        let manifest = InputManifest::list(&tables.specs, &tables.base)
            .await
            .expect("the tables can be read");
        let plain = plain_session(&tables).await.expect("the tables can be read");
        let mut sessions = Vec::new();
        for (place, shape) in SHAPES.iter().enumerate() {
            sessions.push(match shapes.contains(&place) {
                true => Some(session(shape, &tables, &manifest).await),
                false => None,
            });
        }
        let stand_in = tables.query("SELECT 1", Some(1));
        Self {
            tables,
            manifest,
            plain,
            sessions,
            stand_in,
            _folder: None,
        }
    }

    /// The answer of plain DataFusion.
    pub async fn plain(&self, sql: &str) -> Result<Plain, String> {
        let sql = sql.to_owned();
        let context = self.plain.clone();
        let ran = tokio::spawn(async move { plain_in(&context, &sql).await });
        ran.await.unwrap_or_else(|panic| Err(format!("panic: {panic}")))
    }

    /// The answer of Sluice in a shape, within some time.
    pub async fn ours(&self, fleets: &Fleets, sql: &str, shape: usize, limit: Duration) -> Answer {
        let sql = sql.to_owned();
        let (Some(Some(session)), Some(shape)) = (self.sessions.get(shape), SHAPES.get(shape)) else {
            return Answer::Broken("no such shape".to_owned());
        };
        let state = session.state();
        let planned = tokio::spawn(async move { plan(&state, &sql).await }).await;
        let planned = match planned {
            Err(panic) => return Answer::Broken(format!("planning: {panic}")),
            Ok(Err(error)) => return Answer::Refused(error.to_string()),
            Ok(Ok(planned)) => planned,
        };
        let id = QueryId::new(uuid::Uuid::new_v4().to_string()).expect("a UUID is a legal query id");
        let capacity = WorkerCapacity {
            slots: 1,
            slot_memory_bytes: None,
        };
        let prepared = prepare_with_manifest(&self.stand_in, &id, capacity, self.manifest.clone()).await;
        let mut prepared = prepared.expect("the stand-in is planned");
        prepared.planned = planned;
        let fleet = fleets.of(shape);
        let shared = shape.shared_merge == 0;
        let ran = run_prepared(fleet, prepared, limit, |options| {
            if shared {
                options.policy.min_range_bytes = 1;
            }
            options.policy.adaptive = shape.layout.policy();
            options.policy.joins = Some(shape.layout.joins());
        });
        match ran.await {
            Ok(ran) => Answer::Rows(Box::new(RanRows {
                raw: ran.rows,
                ordered: ran.ordered,
                explained: ran.explained,
            })),
            Err(NoRows::Refused(message)) => Answer::Refused(message),
            Err(NoRows::Ended {
                outcome: Outcome::Failed(failure),
                explained,
            }) => {
                let told = format!("{}\n{explained}", failure.message);
                if failure.message.contains("panic") {
                    Answer::Broken(told)
                } else {
                    Answer::Failed(told)
                }
            }
            Err(NoRows::Ended { outcome, .. }) => Answer::Broken(format!("{outcome:?}")),
            Err(NoRows::Hung { explained, snapshot }) => Answer::Hung(format!(
                "hangs
{explained}
{snapshot:#?}"
            )),
        }
    }
}

/// Tells how rows of Sluice differ from those of plain DataFusion, types included.
pub fn against_plain(plain: &Plain, ours: &RanRows) -> Option<String> {
    differences(&plain.rows, &plain.order, &ours.raw, ours.ordered)
}

pub fn plain_rows(plain: &Plain) -> Vec<Row> {
    judge::rows(&plain.rows.batches)
}

/// Whether batches hold more rows than are worth comparing.
pub fn many(batches: &[RecordBatch]) -> bool {
    batches.iter().map(RecordBatch::num_rows).sum::<usize>() > 3_000
}

async fn session(shape: &Shape, tables: &Tables, manifest: &InputManifest) -> SessionContext {
    let target = SplitTarget {
        tasks: shape.partitions,
        min_bytes: 1,
        max_bytes: 1 << 40,
    };
    let mut config = session_options(shape.partitions)
        .with_extension(Arc::new(target))
        .with_extension(Arc::new(BroadcastLimit {
            bytes: shape.broadcast,
        }))
        .with_extension(Arc::new(HashJoinLimit {
            bytes: shape.hash_join,
        }))
        .with_extension(Arc::new(SharedMerge {
            min_bytes: shape.shared_merge,
        }));
    config = config.with_batch_size(shape.batch);
    let options = config.options_mut();
    if shape.broadcast == 0 {
        options.optimizer.hash_join_single_partition_threshold = 0;
        options.optimizer.hash_join_single_partition_threshold_rows = 0;
    }
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(manifest.stores());
    let runtime = runtime.build_arc().expect("a runtime can be made");
    let session = SessionContext::new_with_state(session_state(config, runtime));
    register_tables(&session, &tables.specs, manifest)
        .await
        .expect("the tables can be read");
    session
}
