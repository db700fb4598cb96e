//! WorkerPools: observe, validate, [`desired`](decide::decide) (pure), apply, [`status`](status::status) (pure).
//!
//! A pool owns its pods itself: it chooses which one goes, and does not wait for those of nodes that do not answer.

pub mod apply;
pub mod claims;
pub mod decide;
mod event;
pub mod grpc;
pub mod hash;
pub mod observe;
pub mod pod_problem;
pub mod revision;
pub mod rpc;
pub mod scaling;
pub mod status;
pub mod stores;
pub mod worker;
pub mod worker_poller;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::Controller;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use sluice_crds::{WorkerPool, WorkerPoolStatus};
use sluice_proto::auth::PoolId;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::apply::Applied;
use self::observe::{Observed, Settings};
use self::revision::Revision;
use self::rpc::{WorkerAddress, WorkerRpc};
use self::scaling::DemandHistory;
use self::stores::Stores;
use self::worker::{PollResult, Worker, WorkerState};
use self::worker_poller::{PERIOD, Target, WorkerPoller};
use crate::Operator;
use crate::config::Scope;
use crate::demand::PoolDemand;
use crate::kube_api;
use crate::metrics::PoolState;
use crate::objects::worker::PORT;
use crate::objects::{labels, names};
use crate::reconcile::{self, Error, Priority, RESYNC_PERIOD, ReconcileFuture, Reconciler};
use crate::signing::SigningKeys;

/// How long a mark is remembered that the watch has not shown yet.
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
    reconcile::run(controller, pools, concurrency, operator.metrics.clone(), stop).await;
}

/// Reconciles a pool also when its workers told something new, or its queries want something else.
fn on_changes(
    controller: Controller<WorkerPool>,
    changes: UnboundedReceiver<ObjectRef<WorkerPool>>,
) -> Controller<WorkerPool> {
    controller.reconcile_on(changes)
}

/// Longest time of publishing an event.
const EVENT_LIMIT: Duration = Duration::from_secs(10);
/// When what was refused is tried again: nothing tells when a quota has room.
const AGAIN: Duration = Duration::from_secs(10);

type Histories = Mutex<BTreeMap<(String, String), DemandHistory>>;

/// The reconciler of pools.
struct PoolReconciler<R> {
    operator: Arc<Operator>,
    keys: Option<Arc<SigningKeys>>,
    stores: Arc<Stores>,
    poller: Arc<WorkerPoller<R>>,
    recorder: Recorder,
    /// What pools that scale themselves wanted lately, by namespace and name.
    histories: Arc<Histories>,
    /// Pods, by uid, that were marked to drain, until the watch shows it: else another might be chosen in their place.
    assumed_draining: Mutex<BTreeMap<String, Timestamp>>,
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
            // What it owns goes with it.
            return Ok(RESYNC_PERIOD);
        }
        if self.stores.wait().await.is_err() {
            // The operator stops.
            return Ok(RESYNC_PERIOD);
        }
        let seen = self.observe(pool);
        let wanted = decide::decide(&seen);
        let applied = apply::apply(&self.operator.client, &self.stores, &wanted).await;
        self.assume_draining(&applied, seen.now);
        let uid = seen.pool.uid().unwrap_or_default();
        self.poller.poll(
            &uid,
            ObjectRef::from_obj(&*seen.pool),
            targets(&seen.pool, &seen.workers),
        );
        let status = status::status(&seen, &wanted, &applied.refused);
        self.update_metrics(&seen, &status);
        if seen.pool.status.as_ref() != Some(&status) {
            self.operator.status_writes.acquire(Priority::Normal).await;
            let written = kube_api::apply_status(&self.operator.client, &*seen.pool, &status).await;
            written.map_err(Error::api("writing the status"))?;
            self.operator.metrics.status_writes.inc();
            self.publish_event(&seen.pool, &status);
        }
        match applied.failed {
            Some(error) => Err(error),
            None if seen.workers.is_empty() && applied.refused.is_empty() => Ok(RESYNC_PERIOD),
            None if seen.workers.is_empty() => Ok(AGAIN),
            None => Ok(PERIOD),
        }
    }

    /// Publishes an event, on the side: nothing depends on it.
    fn publish_event(&self, pool: &WorkerPool, new: &WorkerPoolStatus) {
        let none = WorkerPoolStatus::default();
        let Some(event) = event::between(pool.status.as_ref().unwrap_or(&none), new) else {
            return;
        };
        let (recorder, reference) = (self.recorder.clone(), pool.object_ref(&()));
        let publish = async move {
            let published = tokio::time::timeout(EVENT_LIMIT, recorder.publish(&event, &reference));
            if let Ok(Err(error)) = published.await {
                tracing::debug!(%error, "no event");
            }
        };
        tokio::spawn(publish.in_current_span());
    }

    fn observe(&self, pool: Arc<WorkerPool>) -> Observed {
        let now = Timestamp::now();
        let name = pool.name_any();
        let namespace = pool.namespace().unwrap_or_default();
        let of_pool = |pod: &Pod| {
            pod.namespace().as_deref() == Some(&*namespace) && pod.labels().get(labels::POOL) == Some(&name)
        };
        let mut pods = self.stores.pods.state();
        pods.retain(|pod| of_pool(pod));
        pods.sort_by_key(|pod| (pod.name_any().len(), pod.name_any()));
        let taken = pods.iter().map(|pod| pod.name_any()).collect();
        pods.retain(|pod| is_controlled_by(pod, &pool));
        let settings = Settings {
            default_image: self.operator.image.clone(),
            public_key: self.keys.as_ref().map(|keys| keys.public_pem()),
            log_format: self.operator.config.log_format,
        };
        let (replicas, demand) = self.replicas(&pool, now);
        let answers = self.poller.answers(&pool.uid().unwrap_or_default());
        let revision = Revision::of(&pool, &pods, &settings.default_image);
        let workers = pods.into_iter();
        let workers = workers.map(|pod| self.worker(pod, &answers, &revision)).collect();
        let claim = |claim: &str| self.stores.claims.get(&ObjectRef::new(claim).within(&namespace));
        let volume = |volume: &str| self.stores.volumes.get(&ObjectRef::new(volume));
        Observed {
            workers,
            taken,
            claims: claims::mounted(&pool.spec, claim, volume),
            revision,
            settings,
            replicas,
            demand,
            now,
            pool,
        }
    }

    fn worker(&self, pod: Arc<Pod>, answers: &BTreeMap<String, PollResult>, revision: &Revision) -> Worker {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = node.and_then(|node| self.stores.nodes.get(&ObjectRef::new(node)));
        let uid = pod.uid().unwrap_or_default();
        let marked = self.assumed_draining().get(&uid).copied();
        let answer = answers.get(&uid).cloned().unwrap_or_default();
        Worker::observe(pod, node.as_deref(), answer, marked, revision)
    }

    fn histories(&self) -> MutexGuard<'_, BTreeMap<(String, String), DemandHistory>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many workers the pool is to have, and what its queries want.
    fn replicas(&self, pool: &WorkerPool, now: Timestamp) -> (u32, PoolDemand) {
        let spec = &pool.spec;
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let max_queries = spec.max_concurrent_queries;
        let demand = self
            .operator
            .demand
            .of((&namespace, &name), max_queries, spec.slots());
        let Some(scaling) = &spec.autoscaling else {
            return (spec.replicas, demand);
        };
        let wanted = scaling::wanted(spec, scaling, demand);
        let status = pool.status.as_ref();
        let has = status.map(|status| status.desired_replicas.unwrap_or(status.replicas));
        let mut histories = self.histories();
        let history = histories.entry((namespace, name)).or_default();
        (history.settle(now, wanted, has, scaling), demand)
    }

    /// Shows how the pool stands.
    fn update_metrics(&self, seen: &Observed, status: &WorkerPoolStatus) {
        let namespace = seen.pool.namespace().unwrap_or_default();
        let state = PoolState {
            demand: seen.demand,
            slots: status.slots,
            workers: seen.replicas,
        };
        self.operator.metrics.pool(&namespace, &seen.name(), Some(state));
    }

    fn assumed_draining(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
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

fn is_controlled_by(pod: &Pod, pool: &WorkerPool) -> bool {
    let wanted = Pod {
        metadata: kube::core::ObjectMeta {
            owner_references: names::owned_by(pool),
            ..kube::core::ObjectMeta::default()
        },
        ..Pod::default()
    };
    kube_api::same_owner(pod, &wanted)
}

/// The workers to ask: those that run where they can be reached.
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
                socket: SocketAddr::new(address, PORT),
            },
            drain: worker.state == WorkerState::Draining,
        })
    });
    targets.collect()
}

#[cfg(test)]
mod tests;
