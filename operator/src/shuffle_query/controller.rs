//! The controller of queries: what it watches, and one reconcile.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use sluice_crds::{ProgressReason, ShuffleQuery, WorkerPool};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::decide::decide;
use super::observed::Decision;
use super::progress::Progress;
use super::query_memo::{QueryMemo, QueryMemos};
use super::query_record::QueryRecord;
use super::start_limit::StartLimit;
use super::{admission, observe};
use crate::Operator;
use crate::config::Scope;
use crate::controller_runtime::controller::{self, Error, ReconcileFuture, Reconciler};
use crate::controller_runtime::unreadable::Unreadable;
use crate::controller_runtime::watch;
use crate::controller_runtime::work_queue::Priority;
use crate::objects::labels::{self, Component};
use crate::rpc::coordinator::{CoordinatorRpc, GrpcCoordinators};
use crate::signing::SigningKeys;

/// Most decisions in one reconcile. A query that is resumed, admitted and started takes four.
const MAX_DECISIONS: usize = 8;

/// Reconciles the queries of one scope.
pub struct QueryReconciler {
    pub(super) operator: Arc<Operator>,
    pub(super) signer: Arc<SigningKeys>,
    pub(super) queries: Store<ShuffleQuery>,
    pub(super) pools: Store<WorkerPool>,
    pub(super) pods: Store<Pod>,
    /// The inputs of coordinators, without their data.
    pub(super) inputs: Store<ConfigMap>,
    pub(super) progress: Progress,
    pub(super) wake: mpsc::UnboundedSender<ObjectRef<ShuffleQuery>>,
    pub(super) recorder: Recorder,
    /// Set once pools and pods are in the cache. A store of kube 5 wakes only the last of several waiters; this wakes all.
    pub(super) synced: OnceCell<()>,
    pub(super) memos: QueryMemos,
    /// Held while the admission of one query is decided.
    pub(super) admitting: Mutex<()>,
    pub(super) starts: Mutex<StartLimit>,
}

impl QueryReconciler {
    /// Handles a watch event of a query, once the cache shows it: the query may be gone, or may have released its admission.
    fn on_query_event(&self, query: &Result<ShuffleQuery, watcher::Error>) {
        let Ok(query) = query else { return };
        let uid = query.uid().unwrap_or_default();
        let here = self.queries.get(&ObjectRef::from_obj(query));
        if here.is_none_or(|here| here.metadata.uid != query.metadata.uid) {
            self.forget(&uid);
            self.enqueue_next(query);
            return;
        }
        let status = query.status.as_ref();
        let is_admitted =
            status.is_some_and(|status| !status.phase.is_terminal() && status.admitted_time.is_some());
        if !is_admitted
            && self
                .memos
                .with(&uid, |memo| mem::take(&mut memo.released_admission))
                == Some(true)
        {
            self.enqueue_next(query);
        }
    }

    /// The queries that a change of `pool` may concern: those that wait for the pool, including those that wait to start the next
    /// coordinator, and as many of the queued ones as the pool has room for.
    fn queries_waiting_for(&self, pool: &WorkerPool) -> Vec<ObjectRef<ShuffleQuery>> {
        let (name, namespace) = (pool.name_any(), pool.namespace().unwrap_or_default());
        let queries = self.queries.state();
        let waits = |query: &&Arc<ShuffleQuery>| {
            let status = query.status.as_ref();
            let waits = status.is_none_or(|status| {
                let is = |reason: ProgressReason| status.reason == Some(reason.into());
                let admitted = status.admitted_time.is_some();
                !status.phase.is_terminal()
                    && match admitted {
                        true => {
                            is(ProgressReason::WaitingForPool)
                                || is(ProgressReason::PoolNotFound)
                                || is(ProgressReason::WaitingForWorkers)
                        }
                        false => !is(ProgressReason::Queued),
                    }
            });
            waits
                && query.namespace().as_deref() == Some(&namespace)
                && observe::pool_of(query).as_deref() == Some(&name)
        };
        let waiting = queries
            .iter()
            .filter(waits)
            .map(|query| ObjectRef::from_obj(&**query));
        waiting.chain(self.next_admissible(pool)).collect()
    }

    /// The queries that the pool has room for, but for those that know it and wait for their start.
    fn next_admissible(&self, pool: &WorkerPool) -> Vec<ObjectRef<ShuffleQuery>> {
        let namespace = pool.namespace().unwrap_or_default();
        let all = self.candidates(&namespace, &pool.name_any());
        let next = admission::next(&all, pool.spec.max_concurrent_queries);
        let starts = self.starts();
        let unaware = next.into_iter().filter(|query| !starts.is_waiting(&query.uid));
        unaware
            .map(|query| ObjectRef::new(&query.name).within(&namespace))
            .collect()
    }

    /// Enqueues the next queries of the pool and of the namespace of `query`.
    fn enqueue_next(&self, query: &ShuffleQuery) {
        let pool = self.pool(query);
        let namespace = query.namespace().unwrap_or_default();
        let of_quota = self.next_waiting_for_quota(&namespace);
        let of_quota = of_quota
            .iter()
            .map(|name| ObjectRef::new(name).within(&namespace));
        for next in pool
            .iter()
            .flat_map(|pool| self.next_admissible(pool))
            .chain(of_quota)
        {
            // The receiver is gone when the operator stops.
            let _ = self.wake.unbounded_send(next);
        }
    }

    pub(super) fn starts(&self) -> MutexGuard<'_, StartLimit> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues the queries that may start now.
    pub(super) fn enqueue_next_starts(&self) {
        let starts = self.starts();
        for ((namespace, _), name) in starts.next() {
            // The receiver is gone when the operator stops.
            let _ = self.wake.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    }

    /// Forgets a query that is gone. Its coordinator is told to cancel, if it can be reached, so that workers drop its data.
    fn forget(&self, uid: &str) {
        self.progress.cancel(uid);
        self.progress.unfollow(uid);
        self.operator.demand.forget(uid);
        self.memos.forget(uid);
        if self.starts().forget(uid) {
            self.enqueue_next_starts();
        }
    }
}

impl Reconciler for QueryReconciler {
    type Object = ShuffleQuery;

    fn reconcile(self: Arc<Self>, query: Arc<ShuffleQuery>) -> ReconcileFuture {
        Box::pin(async move { self.reconcile_query(query).await })
    }

    /// Admitted queries are reconciled first: users wait for their start and end. Others wait for admission anyway, or have
    /// ended.
    fn priority(query: &ShuffleQuery) -> Priority {
        let record = QueryRecord::of(query);
        if record.admitted.is_some() && !record.phase.is_terminal() {
            Priority::High
        } else {
            Priority::Normal
        }
    }
}

impl QueryReconciler {
    async fn reconcile_query(&self, mut query: Arc<ShuffleQuery>) -> Result<Duration, Error> {
        // Objects that are missing in an empty cache would count as gone. The streams that fill it end with the operator only.
        let synced = async {
            let _ = self.pools.wait_until_ready().await;
            let _ = self.pods.wait_until_ready().await;
        };
        self.synced.get_or_init(|| synced).await;
        let uid = query.uid().unwrap_or_default();
        let cached = query.clone();
        let newest = |memo: &mut QueryMemo| memo.last_write.as_mut().map(|write| write.newest(cached));
        if let Some(newest) = self.memos.with(&uid, newest).flatten() {
            query = newest;
        }
        for _ in 0..MAX_DECISIONS {
            let now = Timestamp::now();
            let seen = self.observe(&query, now).await?;
            match decide(&seen, now) {
                Decision::Persist(record) => query = self.persist(&seen, &record, now).await?,
                Decision::Act {
                    actions,
                    mut record,
                    again,
                } => {
                    let stored = QueryRecord::of(&query);
                    for action in actions {
                        if let Some(rejection) = self.apply(&query, action).await? {
                            record = stored.waiting(rejection.reason, rejection.message);
                            break;
                        }
                    }
                    return self.update_status_if_due(&seen, &record, now, again).await;
                }
            }
        }
        Ok(Duration::from_secs(1))
    }
}

/// Reconciles the queries of `scope` until `stop`.
pub async fn run(operator: Arc<Operator>, signer: Arc<SigningKeys>, scope: Scope, stop: CancellationToken) {
    let rpc = Arc::new(GrpcCoordinators::new(signer.clone()));
    run_with(operator, signer, scope, stop, rpc).await;
}

/// Like [`run`], with other calls to coordinators.
pub async fn run_with(
    operator: Arc<Operator>,
    signer: Arc<SigningKeys>,
    scope: Scope,
    stop: CancellationToken,
    rpc: Arc<dyn CoordinatorRpc>,
) {
    let client = &operator.client;
    let unreadable = operator.unreadable::<ShuffleQuery>(&scope);
    let (queries, changed) =
        watch::resources_slimmed::<ShuffleQuery>(client, &scope, unreadable, strip_ended);
    // The pool reconciler reports pools that cannot be read.
    let (pools, pools_changed) = watch::resources::<WorkerPool>(client, &scope, Unreadable::unreported());
    let coordinators = labels::watched(Component::Coordinator);
    let (pods, pods_changed) = watch::labelled::<Pod>(client, &scope, &coordinators);
    let (inputs, inputs_changed) = watch::stripped::<ConfigMap>(scope.api(client), &coordinators, |input| {
        input.data = None;
    });
    let (wake, woken) = mpsc::unbounded();
    let reconciler = Arc::new(QueryReconciler {
        signer,
        queries: queries.clone(),
        pools,
        pods,
        inputs,
        progress: Progress::new(rpc, wake.clone()),
        wake,
        recorder: operator.recorder(),
        synced: OnceCell::new(),
        memos: QueryMemos::default(),
        admitting: Mutex::default(),
        starts: Mutex::default(),
        operator: operator.clone(),
    });
    let (watched, by_pool) = (reconciler.clone(), reconciler.clone());
    let changed = changed.inspect(move |query| watched.on_query_event(query));
    let controller = Controller::for_stream(changed, queries)
        .owns_stream(pods_changed)
        .owns_stream(inputs_changed)
        .watches_stream(pools_changed, move |pool| by_pool.queries_waiting_for(&pool))
        .reconcile_on(woken);
    let (concurrency, metrics) = (operator.config.concurrency, operator.metrics.clone());
    controller::run(controller, reconciler, concurrency, metrics, stop).await;
}

/// Drops what is not needed of a query that has ended: there may be many more of them than of others.
fn strip_ended(query: &mut ShuffleQuery) {
    let Some(status) = query.status.as_mut().filter(|status| status.phase.is_terminal()) else {
        return;
    };
    status.stages = Vec::new();
    status.preview = None;
    status.conditions = Vec::new();
    status.sink = None;
    query.spec.sql = None;
    query.spec.tables = Vec::new();
    query.metadata.annotations = None;
}
