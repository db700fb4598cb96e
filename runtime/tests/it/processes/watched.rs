//! A query whose coordinator runs in the test, so that the test sees each state and can act at the right moment.

use std::sync::Arc;

use arrow::array::RecordBatch;
use sluice::coordinator::{Resolve, ResultBatches, RunningQuery, SystemResolver};
use sluice::query::{WorkerCapacity, load, prepare};
use sluice_core::coordinator::Outcome;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::snapshot::{QuerySnapshot, StageSnapshot};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::program::{Folder, TIMEOUT, Worker};

/// A query under way on workers that the test owns.
pub(super) struct Watched {
    pub(super) id: QueryId,
    snapshots: watch::Receiver<QuerySnapshot>,
    rows: Option<JoinHandle<Vec<RecordBatch>>>,
    running: RunningQuery,
}

/// How a watched query ended.
pub(super) struct Over {
    pub(super) outcome: Outcome,
    pub(super) last: QuerySnapshot,
    pub(super) rows: Vec<RecordBatch>,
}

impl Watched {
    /// Starts the query of this YAML.
    pub(super) async fn start(folder: &Folder, yaml: &str, workers: &[Worker]) -> Self {
        let addresses = workers.iter().map(|worker| worker.address.clone()).collect();
        let slots = u32::try_from(workers.len()).expect("few workers");
        Self::start_found(folder, yaml, addresses, slots, Arc::new(SystemResolver)).await
    }

    /// Starts the query of this YAML and leaves its rows to [`Self::take`].
    pub(super) async fn start_untaken(
        folder: &Folder,
        yaml: &str,
        workers: &[Worker],
    ) -> (Self, ResultBatches) {
        let addresses = workers.iter().map(|worker| worker.address.clone()).collect();
        let slots = u32::try_from(workers.len()).expect("few workers");
        let mut query = Self::begin(folder, yaml, addresses, slots, Arc::new(SystemResolver)).await;
        let rows = query.running.rows.take().expect("it has no sink");
        (query, rows)
    }

    /// Takes the query's rows after those that were taken before.
    pub(super) fn take(&mut self, before: Vec<RecordBatch>, mut rows: ResultBatches) {
        self.rows = Some(tokio::spawn(async move {
            let mut batches = before;
            while let Some(batch) = rows.recv().await {
                batches.push(batch);
            }
            batches
        }));
    }

    /// Starts the query on the workers that these names stand for.
    pub(super) async fn start_found(
        folder: &Folder,
        yaml: &str,
        names: Vec<String>,
        slots: u32,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let mut query = Self::begin(folder, yaml, names, slots, resolver).await;
        if let Some(rows) = query.running.rows.take() {
            query.take(Vec::new(), rows);
        }
        query
    }

    async fn begin(
        folder: &Folder,
        yaml: &str,
        names: Vec<String>,
        slots: u32,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let loaded = load(&folder.write("query.yaml", yaml)).expect("the query is valid");
        let id = QueryId::new(uuid::Uuid::new_v4().to_string()).expect("a UUID is a legal id");
        let capacity = WorkerCapacity {
            slots,
            slot_memory_bytes: None,
        };
        let prepared = prepare(&loaded, &id, capacity)
            .await
            .expect("the query can be planned");
        let mut options = prepared
            .into_options(CoordinatorEpoch(1), names)
            .expect("it can be encoded");
        options.resolver = resolver;
        let running = RunningQuery::start(options).expect("the graph holds together");
        Self {
            id,
            snapshots: running.snapshots.clone(),
            rows: None,
            running,
        }
    }

    /// The state now.
    pub(super) fn now(&self) -> QuerySnapshot {
        self.snapshots.borrow().clone()
    }

    /// Waits for a state; the query must not end before.
    pub(super) async fn until(
        &mut self,
        what: &str,
        is_so: impl Fn(&QuerySnapshot) -> bool,
    ) -> QuerySnapshot {
        let seen = self.until_or_end(what, &is_so).await;
        assert!(is_so(&seen), "it ended before: {what}: {seen:#?}");
        seen
    }

    /// Waits for a state or for the end of the query, whichever comes first.
    pub(super) async fn until_or_end(
        &mut self,
        what: &str,
        is_so: impl Fn(&QuerySnapshot) -> bool,
    ) -> QuerySnapshot {
        let seen = timeout(
            TIMEOUT,
            self.snapshots
                .wait_for(|seen| is_so(seen) || seen.outcome.is_some()),
        )
        .await;
        seen.unwrap_or_else(|_| panic!("waited in vain: {what}"))
            .expect("the query is there")
            .clone()
    }

    /// Cancels it.
    pub(super) fn cancel(&self) {
        self.running.cancel_token().cancel();
    }

    /// Waits for its end.
    pub(super) async fn end(self) -> Over {
        let outcome = timeout(TIMEOUT, self.running.outcome()).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("it does not end: {:#?}", self.snapshots.borrow()));
        let rows = match self.rows {
            Some(rows) => timeout(TIMEOUT, rows)
                .await
                .expect("rows end")
                .expect("rows can be read"),
            None => Vec::new(),
        };
        let last = self.snapshots.borrow().clone();
        Over { outcome, last, rows }
    }
}

impl Over {
    /// Asserts that the query succeeded, that no attempt failed, and that attempts ran again only because of a loss or
    /// because they gave up their slot. Does not say how many were lost.
    pub(super) fn assert_no_failures(&self) {
        assert_eq!(self.outcome, Outcome::Succeeded, "{:#?}", self.last);
        for stage in &self.last.stages {
            assert_eq!(stage.done + stage.skipped, stage.tasks, "{stage:#?}");
            assert_eq!(stage.failed_attempts, 0, "{stage:#?}");
            let again = stage.lost_attempts + stage.cancelled_attempts;
            assert_eq!(stage.attempts, stage.done + again, "{stage:#?}");
        }
    }

    /// Asserts also that nothing was lost and no slot was given up.
    pub(super) fn assert_nothing_ran_again(&self) {
        self.assert_no_failures();
        for stage in &self.last.stages {
            assert_eq!(stage.attempts, stage.tasks, "{stage:#?}");
        }
    }
}

/// The stage that scans, of a query with one.
pub(super) fn first(snapshot: &QuerySnapshot) -> &StageSnapshot {
    snapshot.stages.first().expect("a query has stages")
}

/// The stage that reads the first one's output.
pub(super) fn second(snapshot: &QuerySnapshot) -> &StageSnapshot {
    snapshot.stages.get(1).expect("the query has two stages")
}
