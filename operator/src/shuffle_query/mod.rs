//! ShuffleQueries: observe, validate, decide ([`step`]), act, status.

pub mod admission;
mod apply;
mod controller;
mod coordinator_outcome;
pub mod coordinator_pod;
mod decide;
mod event;
mod mutation_cache;
mod observe;
pub mod observed;
pub mod query_record;
mod status;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use sluice_crds::{ProgressReason, ShuffleQuery, WorkerPool};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::Operator;
use crate::config::Scope;
use crate::objects::labels::{self, Component};
use crate::progress::{CoordinatorRpc, GrpcCoordinators, Progress};
use crate::signing::SigningKeys;
use crate::unreadable::Unreadable;
use crate::{reconcile, watch};

use mutation_cache::MutationCache;

pub use decide::decide;
pub use status::compose;

/// The reconciler of the queries of one scope.
pub struct QueryReconciler {
    operator: Arc<Operator>,
    signer: Arc<SigningKeys>,
    queries: Store<ShuffleQuery>,
    pools: Store<WorkerPool>,
    pods: Store<Pod>,
    /// The inputs of coordinators, by name alone.
    inputs: Store<ConfigMap>,
    /// The unique ids of those that this operator made or met, by that of their query.
    input_uids: Mutex<HashMap<String, String>>,
    progress: Progress,
    wake: mpsc::UnboundedSender<ObjectRef<ShuffleQuery>>,
    recorder: Recorder,
    /// Set once pools and pods are in the cache. A store wakes only the last of several that wait for it; this wakes all.
    synced: OnceCell<()>,
    /// Unique ids of queries that were given a place which the cache may not show yet.
    assumed_admissions: Mutex<HashSet<String>>,
    /// Unique ids of queries that give a place or a turn away as soon as the cache shows it.
    released_admissions: Mutex<HashSet<String>>,
    /// What was written of a query last.
    mutation_caches: Mutex<HashMap<String, MutationCache>>,
    /// Held while it is decided whether a query may have a place.
    admitting: Mutex<()>,
    /// Coordinators, by the unique id of their query, whose pods were posted and which the cache may not show yet.
    expected_pods: Mutex<HashMap<String, u64>>,
}

impl QueryReconciler {
    fn assumed_admissions(&self) -> MutexGuard<'_, HashSet<String>> {
        self.assumed_admissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn mutation_caches(&self) -> MutexGuard<'_, HashMap<String, MutationCache>> {
        self.mutation_caches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn released_admissions(&self) -> MutexGuard<'_, HashSet<String>> {
        self.released_admissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn expected_pods(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.expected_pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a query that a watch has told of, once the cache has it: whether it is gone, or has made room.
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
        if !is_admitted && self.released_admissions().remove(&uid) {
            self.enqueue_next(query);
        }
    }

    /// The queries that a change of `pool` may concern: those that wait for it, be it for the next coordinator. Of those that
    /// wait for a place, as many as there are places.
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

    fn next_admissible(&self, pool: &WorkerPool) -> Vec<ObjectRef<ShuffleQuery>> {
        let namespace = pool.namespace().unwrap_or_default();
        let all = self.candidates(&namespace, &pool.name_any());
        let next = admission::next(&all, pool.spec.max_concurrent_queries);
        let names = next
            .into_iter()
            .map(|query| ObjectRef::new(&query.name).within(&namespace));
        names.collect()
    }

    /// Wakes the queries whose turn it is in the pool of `query`.
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
            // Nobody listens any more when the operator stops.
            let _ = self.wake.unbounded_send(next);
        }
    }

    /// Forgets a query that is gone; its coordinator is told, as far as it can be reached, so that workers drop its data.
    fn forget(&self, uid: &str) {
        self.progress.cancel(uid);
        self.progress.unfollow(uid);
        self.operator.demand.forget(uid);
        self.assumed_admissions().remove(uid);
        self.released_admissions().remove(uid);
        self.mutation_caches().remove(uid);
        self.expected_pods().remove(uid);
        let mut inputs = self.input_uids.lock().unwrap_or_else(PoisonError::into_inner);
        inputs.remove(uid);
    }
}

/// Reconciles the queries of `scope` until `stop`.
pub async fn run(operator: Arc<Operator>, signer: Arc<SigningKeys>, scope: Scope, stop: CancellationToken) {
    let rpc = Arc::new(GrpcCoordinators::new(signer.clone()));
    run_with(operator, signer, scope, stop, rpc).await;
}

/// The same with another way to coordinators.
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
    // The reconciler of pools tells of those that cannot be read.
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
        input_uids: Mutex::default(),
        progress: Progress::new(rpc, wake.clone()),
        wake,
        recorder: operator.recorder(),
        synced: OnceCell::new(),
        assumed_admissions: Mutex::default(),
        released_admissions: Mutex::default(),
        mutation_caches: Mutex::default(),
        admitting: Mutex::default(),
        expected_pods: Mutex::default(),
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
    reconcile::run(controller, reconciler, concurrency, metrics, stop).await;
}

/// Of a query that has ended, what is still needed: there may be many more of them than of others.
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
