//! The coordinator of one query: the state machine of `sluice-core`, driven by one task.

mod link;
mod panics;
mod query_driver;
mod resolve;
mod result;
mod service;
mod worker_connection;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use sluice_core::coordinator::{Outcome, Policy};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::plan::StageGraph;
use sluice_core::snapshot::QuerySnapshot;
use sluice_core::status::{SinkFiles, StatusContext};
use sluice_crds::shuffle_query::PreviewMode;
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_proto::auth::{Authorizer, Token};
use sluice_proto::{Hello, LeafSplit, QueryReport};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::sink::{Committed, Sink};

pub use resolve::{Resolve, SystemResolver};
pub use result::{ResultBatches, ResultReader};
pub use service::{CoordinatorService, ServiceHandle, serve};

/// How long a worker keeps a query's data at least when its coordinator is away.
const MIN_LEASE: Duration = Duration::from_secs(60);

/// What a coordinator needs to run a query.
pub struct CoordinatorOptions {
    pub query: QueryId,
    /// The query's name, for logs.
    pub query_name: String,
    /// When planning began: the query's clock starts here.
    pub began: Instant,
    /// From 1.
    pub epoch: CoordinatorEpoch,
    /// Worker names, host:port. A host may resolve to any number of workers, which come and go.
    pub workers: Vec<String>,
    /// Resolves those names.
    pub resolver: Arc<dyn Resolve>,
    /// The stages and exchanges.
    pub graph: StageGraph,
    /// One per stage, in order.
    pub stages: Vec<StageAssignment>,
    /// The schema of the result's rows.
    pub schema: SchemaRef,
    /// Retries, time-outs, windows.
    pub policy: Policy,
    /// The token for sessions with workers that check tokens.
    pub token: Option<Token>,
    /// Who may call the coordinator's service.
    pub authorizer: Authorizer,
    /// Where the rows land; without one a client reads them.
    pub sink: Option<Sink>,
    /// What the status shows of rows without a sink.
    pub preview: PreviewMode,
    /// Folders below which scans may read.
    pub input_roots: Vec<String>,
    /// How long workers keep the query's data while it is suspended.
    pub keep_while_suspended: Duration,
}

/// What workers need to run the tasks of one stage.
pub struct StageAssignment {
    /// The encoded template that all its tasks share.
    pub template: bytes::Bytes,
    /// Per task, the splits of its scans.
    pub splits: Vec<Vec<LeafSplit>>,
}

impl CoordinatorOptions {
    /// `plan_fingerprint`: see [`Self::plan_fingerprint`].
    fn hello(&self, plan_fingerprint: u64) -> Hello {
        Hello {
            query: self.query.clone(),
            coordinator_epoch: self.epoch,
            build_id: crate::build_id::build_id(),
            lease: self.keep_while_suspended.max(MIN_LEASE),
            liveness_timeout: self.policy.worker_liveness_timeout,
            input_roots: self.input_roots.clone(),
            query_name: self.query_name.clone(),
            plan_fingerprint,
        }
    }

    /// A hash of all that decides which rows an attempt writes: stages, exchanges, plans, and the files that they read. It is the
    /// same in each process of this build.
    fn plan_fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.graph).hash(&mut hasher);
        for stage in &self.stages {
            stage.template.hash(&mut hasher);
            for split in stage.splits.iter().flatten() {
                format!("{split:?}").hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

/// Why a coordinator handed its query over to a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Handover {
    /// It was told to stop.
    #[error("stopped: what workers hold is left to a successor")]
    Stopped,
    /// A worker has a session of a later coordinator epoch.
    #[error("superseded: a coordinator of a later epoch runs this query")]
    Superseded,
}

/// Reports on a query, during its run and after its end. Clones report the same.
#[derive(Clone)]
pub struct Reporter {
    snapshots: watch::Receiver<QuerySnapshot>,
    preview: watch::Receiver<Option<ResultPreview>>,
    committed: watch::Receiver<Option<Committed>>,
    context: StatusContext,
    /// The folder that receives the rows.
    location: Option<String>,
}

impl Reporter {
    pub fn now(&self) -> QueryReport {
        self.at(self.snapshots.borrow().clone())
    }

    fn at(&self, snapshot: QuerySnapshot) -> QueryReport {
        let committed = self.committed.borrow();
        let mut context = self.context.clone();
        context.sink = committed
            .as_ref()
            .zip(self.location.clone())
            .map(|(committed, location)| SinkFiles::new(location, committed));
        QueryReport {
            snapshot,
            context,
            preview: self.preview.borrow().clone(),
        }
    }
}

/// A query under way.
pub struct RunningQuery {
    pub snapshots: watch::Receiver<QuerySnapshot>,
    /// Its rows, if it has no sink. Unread rows block the query: read or drop them.
    pub rows: Option<ResultBatches>,
    reporter: Reporter,
    authorizer: Authorizer,
    renewals: watch::Sender<Option<Token>>,
    cancel: CancellationToken,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Result<Outcome, Handover>>,
}

impl RunningQuery {
    /// Starts the query on the current runtime.
    ///
    /// # Errors
    /// The stage graph is invalid.
    pub fn start(options: CoordinatorOptions) -> anyhow::Result<Self> {
        let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
        let (committed, seen) = watch::channel(None);
        let (shown, preview) = watch::channel(None);
        let planning = jiff::SignedDuration::try_from(options.began.elapsed()).unwrap_or_default();
        let context = StatusContext::new(&options.graph, jiff::Timestamp::now() - planning);
        let location = options.sink.as_ref().map(shown_location);
        let authorizer = options.authorizer.clone();
        let (rows, batches) = ResultReader::channel(&options, shown);
        let signals = (cancel.clone(), stop.clone());
        let renewals = watch::Sender::new(None);
        let renewed = renewals.subscribe();
        let (driver, snapshots) =
            query_driver::QueryDriver::new(Arc::new(options), rows, committed, signals, renewed)?;
        let done = tokio::spawn(driver.run().in_current_span());
        Ok(Self {
            snapshots: snapshots.clone(),
            rows: batches,
            reporter: Reporter {
                snapshots,
                preview,
                committed: seen,
                context,
                location,
            },
            authorizer,
            renewals,
            cancel,
            stop,
            done,
        })
    }

    /// A query whose result an earlier coordinator has committed: nothing runs.
    pub fn committed_before(committed: Committed, sink: &Sink, authorizer: Authorizer) -> Self {
        let snapshot = QuerySnapshot::committed_before();
        let (_, snapshots) = watch::channel(snapshot);
        let (_, preview) = watch::channel(None);
        let (_, committed) = watch::channel(Some(committed));
        Self {
            snapshots: snapshots.clone(),
            rows: None,
            reporter: Reporter {
                snapshots,
                preview,
                committed,
                context: StatusContext {
                    start_time: jiff::Timestamp::now(),
                    result_stages: Vec::new(),
                    sink: None,
                },
                location: Some(shown_location(sink)),
            },
            authorizer,
            renewals: watch::Sender::new(None),
            cancel: CancellationToken::new(),
            stop: CancellationToken::new(),
            done: tokio::spawn(async { Ok(Outcome::Succeeded) }),
        }
    }

    /// Drops all rows except the preview.
    pub fn discard_rows(&mut self) {
        if let Some(mut rows) = self.rows.take() {
            tokio::spawn(async move { while rows.recv().await.is_some() {} });
        }
    }

    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// Cancels the query.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Stops the coordinator but not the query: workers keep what they hold for a successor.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until the query has ended, its sessions are closed, and a failed query's files are removed from the sink.
    ///
    /// # Errors
    /// The coordinator stopped before the query ended.
    pub async fn ended(self) -> Result<Outcome, Handover> {
        self.done.await.unwrap_or_else(|error| {
            Ok(Outcome::Failed(sluice_core::coordinator::QueryFailure {
                reason: sluice_crds::ErrorReason::Internal,
                message: format!("the coordinator stopped: {error}"),
                attempt: None,
            }))
        })
    }

    /// Like [`Self::ended`], for coordinators that nobody stops.
    pub async fn outcome(self) -> Outcome {
        self.ended().await.unwrap_or(Outcome::Cancelled)
    }
}

fn shown_location(sink: &Sink) -> String {
    sink.location().display().to_string()
}

/// Sends events to the query driver.
type EventSender = mpsc::UnboundedSender<link::LinkEvent>;
