//! The controller of pools: what it watches, and one reconcile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::Controller;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use sluice_crds::process::port;
use sluice_crds::{WorkerPool, WorkerPoolStatus};
use sluice_proto::auth::PoolId;
use tokio_util::sync::CancellationToken;

use super::apply::{self, Applied};
use super::autoscaling::DemandHistory;
use super::decide::decide;
use super::event;
use super::observed::Observed;
use super::status::status;
use super::stores::Stores;
use super::worker::{Worker, WorkerState};
use super::worker_poller::{PERIOD, Target, WorkerPoller};
use crate::Operator;
use crate::config::Scope;
use crate::controller_runtime::controller::{self, Error, RESYNC_PERIOD, ReconcileFuture, Reconciler};
use crate::controller_runtime::work_queue::Priority;
use crate::controller_runtime::{api, events};
use crate::metrics::PoolState;
use crate::rpc::worker::{WorkerAddress, WorkerRpc};
use crate::signing::SigningKeys;

/// How long a drain is assumed that the watch cache does not show yet.
const ASSUMED_FOR: SignedDuration = SignedDuration::from_secs(60);

/// Reconciles the pools of `scope` until `stop`. `rpc` reaches workers; `keys` sign tokens, if tokens are checked.
pub async fn run<R: WorkerRpc>(
    operator: Arc<Operator>,
    scope: Scope,
    rpc: R,
    keys: Option<Arc<SigningKeys>>,
    stop: CancellationToken,
) {
    let unreadable = operator.unreadable::<WorkerPool>(&scope);
    let histories = Arc::<Histories>::default();
    let (metrics, kept) = (operator.metrics.clone(), histories.clone());
    let gone = move |pool: &ObjectRef<WorkerPool>| {
        let namespace = pool.namespace.clone().unwrap_or_default();
        metrics.pool(&namespace, &pool.name, None);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(&(namespace, pool.name.clone()));
    };
    let (stores, controller) = Stores::watch(&operator.client, &scope, unreadable, gone);
    let (poller, changes) = WorkerPoller::new(rpc);
    let controller = on_changes(on_changes(controller, changes), operator.demand.changes());
    let pools = Arc::new(PoolReconciler {
        keys,
        operator: operator.clone(),
        stores,
        poller,
        recorder: operator.recorder(),
        histories,
        assumed_draining: Mutex::default(),
    });
    let concurrency = operator.config.concurrency;
    controller::run(controller, pools, concurrency, operator.metrics.clone(), stop).await;
}

/// Also reconciles a pool when a report of its workers or the demand of its queries changes.
fn on_changes(
    controller: Controller<WorkerPool>,
    changes: UnboundedReceiver<ObjectRef<WorkerPool>>,
) -> Controller<WorkerPool> {
    controller.reconcile_on(changes)
}

/// When rejected calls are tried again: no event reports that a quota has room.
const REJECTED_RETRY: Duration = Duration::from_secs(10);

type Histories = Mutex<BTreeMap<(String, String), DemandHistory>>;

pub(super) struct PoolReconciler<R> {
    pub(super) operator: Arc<Operator>,
    pub(super) keys: Option<Arc<SigningKeys>>,
    pub(super) stores: Arc<Stores>,
    pub(super) poller: Arc<WorkerPoller<R>>,
    pub(super) recorder: Recorder,
    /// Recent demand of pools with autoscaling, by namespace and name.
    pub(super) histories: Arc<Histories>,
    /// Pods, by uid, that were patched to drain and that the watch cache may not show yet. Without it another pod might be
    /// drained instead.
    pub(super) assumed_draining: Mutex<BTreeMap<String, Timestamp>>,
}

impl<R: WorkerRpc> Reconciler for PoolReconciler<R> {
    type Object = WorkerPool;

    fn reconcile(self: Arc<Self>, pool: Arc<WorkerPool>) -> ReconcileFuture {
        Box::pin(async move { self.reconcile_pool(pool).await })
    }
}

impl<R: WorkerRpc> PoolReconciler<R> {
    async fn reconcile_pool(&self, pool: Arc<WorkerPool>) -> Result<Duration, Error> {
        if pool.metadata.deletion_timestamp.is_some() {
            // Kubernetes deletes what it owns.
            return Ok(RESYNC_PERIOD);
        }
        if self.stores.wait().await.is_err() {
            return Ok(RESYNC_PERIOD);
        }
        let seen = self.observe(pool);
        let wanted = decide(&seen);
        let applied = apply::apply(&self.operator.client, &self.stores, &wanted).await;
        self.assume_draining(&applied, seen.now);
        let uid = seen.pool.uid().unwrap_or_default();
        self.poller.poll(
            &uid,
            ObjectRef::from_obj(&*seen.pool),
            targets(&seen.pool, &seen.workers),
        );
        let status = status(&seen, &wanted, &applied.rejected);
        self.update_metrics(&seen, &status);
        if seen.pool.status.as_ref() != Some(&status) {
            self.operator.status_writes.acquire(Priority::Normal).await;
            let written = api::apply_status(&self.operator.client, &*seen.pool, &status).await;
            written.map_err(Error::api("writing the status"))?;
            self.operator.metrics.status_writes.inc();
            self.publish_event(&seen.pool, &status);
        }
        match applied.failed {
            Some(error) => Err(error),
            None if seen.workers.is_empty() && applied.rejected.is_empty() => Ok(RESYNC_PERIOD),
            None if seen.workers.is_empty() => Ok(REJECTED_RETRY),
            None => Ok(PERIOD),
        }
    }

    /// Publishes the event of a transition.
    fn publish_event(&self, pool: &WorkerPool, new: &WorkerPoolStatus) {
        let none = WorkerPoolStatus::default();
        let Some(event) = event::between(pool.status.as_ref().unwrap_or(&none), new) else {
            return;
        };
        events::publish(&self.recorder, event, pool.object_ref(&()));
    }

    pub(super) fn histories(&self) -> MutexGuard<'_, BTreeMap<(String, String), DemandHistory>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update_metrics(&self, seen: &Observed, status: &WorkerPoolStatus) {
        let namespace = seen.pool.namespace().unwrap_or_default();
        let state = PoolState {
            demand: seen.demand,
            slots: status.slots,
            workers: seen.replicas,
        };
        self.operator.metrics.pool(&namespace, &seen.name(), Some(state));
    }

    pub(super) fn assumed_draining(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.assumed_draining
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn assume_draining(&self, applied: &Applied, now: Timestamp) {
        let mut marked = self.assumed_draining();
        marked.retain(|_, since| now.duration_since(*since) < ASSUMED_FOR);
        for (uid, since) in &applied.draining {
            if now.duration_since(*since) < ASSUMED_FOR {
                marked.insert(uid.clone(), *since);
            }
        }
    }
}

/// The workers to poll: those that run where they can be reached.
fn targets(pool: &WorkerPool, workers: &[Worker]) -> Vec<Target> {
    let pool = PoolId {
        namespace: pool.namespace().unwrap_or_default(),
        name: pool.name_any(),
    };
    let targets = workers.iter().filter_map(|worker| {
        let address = worker.address()?;
        Some(Target {
            address: WorkerAddress {
                uid: worker.pod.uid()?,
                pool: pool.clone(),
                socket: SocketAddr::new(address, port::WORKER),
            },
            drain: worker.state == WorkerState::Draining,
        })
    });
    targets.collect()
}
