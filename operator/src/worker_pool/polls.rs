//! Asks the workers of a pool what they do, beside the reconciles: one that does not answer delays nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{StreamExt, stream};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::WorkerPool;
use tokio::time::Instant;

use super::rpc::{WorkerAddress, WorkerReport, WorkerRpc};

/// Time between two polls of a pool.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Questions of one poll under way at a time.
const AT_ONCE: usize = 32;
/// After how long a pool that is not polled any more is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// A worker to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub address: WorkerAddress,
    /// Whether it is to drain.
    pub drain: bool,
}

/// What workers told last, by pool.
pub struct Polls<R> {
    rpc: R,
    pools: Mutex<BTreeMap<String, Polled>>,
    /// Pools of whose workers something new is known.
    changed: UnboundedSender<ObjectRef<WorkerPool>>,
}

struct Polled {
    started: Instant,
    running: bool,
    /// By uid of the pod.
    reports: BTreeMap<String, WorkerReport>,
}

impl<R: WorkerRpc> Polls<R> {
    /// Nothing known yet. The receiver yields the pools of whose workers something new was told.
    pub fn new(rpc: R) -> (Arc<Self>, UnboundedReceiver<ObjectRef<WorkerPool>>) {
        let (changed, changes) = unbounded();
        let polls = Self {
            rpc,
            pools: Mutex::default(),
            changed,
        };
        (Arc::new(polls), changes)
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<String, Polled>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the workers of the pool with this uid told last, by uid of their pods.
    pub fn reports(&self, pool: &str) -> BTreeMap<String, WorkerReport> {
        let pools = self.pools();
        pools
            .get(pool)
            .map(|polled| polled.reports.clone())
            .unwrap_or_default()
    }

    /// Begins to ask `targets`, unless the pool was asked less than [`PERIOD`] ago or is being asked. Whether it began.
    pub fn poll(self: &Arc<Self>, pool: &str, object: ObjectRef<WorkerPool>, targets: Vec<Target>) -> bool {
        if targets.is_empty() || !self.begin(pool) {
            return false;
        }
        let (polls, pool) = (self.clone(), pool.to_owned());
        tokio::spawn(async move {
            let reports = polls.ask(targets).await;
            if polls.end(&pool, reports) {
                // The receiver is gone only when the operator stops.
                let _ = polls.changed.unbounded_send(object);
            }
        });
        true
    }

    fn begin(&self, pool: &str) -> bool {
        let mut pools = self.pools();
        let now = Instant::now();
        pools.retain(|_, polled| polled.running || now.duration_since(polled.started) < FORGET);
        match pools.get_mut(pool) {
            Some(polled) if polled.running || now.duration_since(polled.started) < PERIOD => false,
            Some(polled) => {
                polled.started = now;
                polled.running = true;
                true
            }
            None => {
                let polled = Polled {
                    started: now,
                    running: true,
                    reports: BTreeMap::new(),
                };
                pools.insert(pool.to_owned(), polled);
                true
            }
        }
    }

    /// A worker that does not answer has no report: what it last told may not be true any more.
    async fn ask(&self, targets: Vec<Target>) -> BTreeMap<String, WorkerReport> {
        let answers = stream::iter(targets).map(|target| async move {
            let worker = &target.address;
            let answer = if target.drain {
                self.rpc.drain(worker).await
            } else {
                self.rpc.get_status(worker).await
            };
            match answer {
                Ok(report) => Some((target.address.uid, report)),
                Err(error) => {
                    tracing::debug!(worker = %worker.socket, %error, "a worker does not answer");
                    None
                }
            }
        });
        let answers = answers.buffer_unordered(AT_ONCE);
        answers.filter_map(std::future::ready).collect().await
    }

    /// Keeps `reports`; whether they are news.
    fn end(&self, pool: &str, reports: BTreeMap<String, WorkerReport>) -> bool {
        let mut pools = self.pools();
        let Some(polled) = pools.get_mut(pool) else {
            return false;
        };
        polled.running = false;
        let news = polled.reports != reports;
        polled.reports = reports;
        news
    }
}
