//! The coordinator of one query: the state machine of `sluice-core`, driven by one task.

mod drive;
mod link;
mod resolve;
mod result;
mod service;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use sluice_core::coordinator::{Outcome, Policy};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::plan::StageGraph;
use sluice_core::snapshot::QuerySnapshot;
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_proto::{Hello, LeafSplit};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::sink::{Committed, Sink};

pub use resolve::{Resolve, SystemResolver};
pub use result::{ResultBatches, ResultReader};
pub use service::{CoordinatorService, serve};

/// How long a worker keeps a query's data when its coordinator is away.
const LEASE: Duration = Duration::from_secs(60);

/// Everything that running a query needs to know.
pub struct CoordinatorOptions {
    /// The query's unique id.
    pub query: QueryId,
    /// The term of this coordinator, from 1.
    pub epoch: CoordinatorEpoch,
    /// Where workers are, host:port. A host may stand for any number of workers, which come and go.
    pub workers: Vec<String>,
    /// What finds the addresses of those names.
    pub resolver: Arc<dyn Resolve>,
    /// The query, cut.
    pub graph: StageGraph,
    /// Per stage, in order, what its tasks share and what each reads.
    pub stages: Vec<StageOrders>,
    /// The schema of the result's rows.
    pub schema: SchemaRef,
    /// Retries, time-outs, windows.
    pub policy: Policy,
    /// Where the rows land; without one a client reads them.
    pub sink: Option<Sink>,
    /// Folders below which scans may read.
    pub input_roots: Vec<String>,
}

/// What workers are told of one stage.
pub struct StageOrders {
    /// The encoded template that all its tasks share.
    pub template: bytes::Bytes,
    /// Per task, what its scan leaves read.
    pub splits: Vec<Vec<LeafSplit>>,
}

impl CoordinatorOptions {
    fn hello(&self) -> Hello {
        Hello {
            query: self.query.clone(),
            coordinator_epoch: self.epoch,
            build_id: crate::worker::build_id(),
            lease: LEASE,
            liveness_timeout: self.policy.worker_liveness_timeout,
            input_roots: self.input_roots.clone(),
        }
    }
}

/// A query under way.
pub struct RunningQuery {
    /// Its state, whenever it changed.
    pub snapshots: watch::Receiver<QuerySnapshot>,
    /// Its rows, if it has no sink. Rows that nobody takes hold the query up: take or drop them.
    pub rows: Option<ResultBatches>,
    /// The first rows, as status shows them.
    pub preview: watch::Receiver<Option<ResultPreview>>,
    /// What the sink shows, once committed.
    pub committed: watch::Receiver<Option<Committed>>,
    cancel: CancellationToken,
    done: tokio::task::JoinHandle<Outcome>,
}

impl RunningQuery {
    /// Starts the query on the current runtime.
    ///
    /// # Errors
    /// The stage graph does not hold together.
    pub fn start(options: CoordinatorOptions) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let (committed, seen) = watch::channel(None);
        let (shown, preview) = watch::channel(None);
        let (rows, batches) = ResultReader::channel(&options, shown);
        let (drive, snapshots) = drive::Drive::new(Arc::new(options), rows, committed, cancel.clone())?;
        let done = tokio::spawn(drive.run());
        Ok(Self {
            snapshots,
            rows: batches,
            preview,
            committed: seen,
            cancel,
            done,
        })
    }

    /// Takes the rows and drops them, but for the preview.
    pub fn discard_rows(&mut self) {
        if let Some(mut rows) = self.rows.take() {
            tokio::spawn(async move { while rows.recv().await.is_some() {} });
        }
    }

    /// A token that ends the query as cancelled.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Waits for the query's end: sessions closed, and nothing of a failed query left in the sink.
    pub async fn outcome(self) -> Outcome {
        self.done.await.unwrap_or_else(|error| {
            Outcome::Failed(sluice_core::coordinator::QueryFailure {
                reason: sluice_crds::ErrorReason::Internal,
                message: format!("the coordinator stopped: {error}"),
                attempt: None,
            })
        })
    }
}

/// Receives events for the machine from tasks beside it.
type EventSender = mpsc::UnboundedSender<link::FromLink>;
