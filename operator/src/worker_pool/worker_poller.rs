//! Asks the workers of a pool what they do, beside the reconciles: one that does not answer delays nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{StreamExt, stream};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::WorkerPool;
use tokio::time::Instant;

use super::worker::PollResult;
use crate::rpc::worker::{WorkerAddress, WorkerRpc};

/// Time between two polls of a pool.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Questions of one poll under way at a time.
const MAX_CONCURRENT_CALLS: usize = 32;
/// After how long a pool that is not polled any more is forgotten.
const RETENTION: Duration = Duration::from_secs(600);

/// A worker to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub address: WorkerAddress,
    /// Whether it is to drain.
    pub drain: bool,
}

/// What workers told last, by pool.
pub struct WorkerPoller<R> {
    rpc: R,
    pools: Mutex<BTreeMap<String, Polled>>,
    /// Pools of whose workers something new is known.
    changed: UnboundedSender<ObjectRef<WorkerPool>>,
}

struct Polled {
    started: Instant,
    running: bool,
    /// The workers, by uid of the pod, that were asked to drain.
    draining: BTreeSet<String>,
    /// By uid of the pod.
    answers: BTreeMap<String, PollResult>,
}

impl<R: WorkerRpc> WorkerPoller<R> {
    /// Nothing known yet. The receiver yields the pools of whose workers something new was told.
    pub fn new(rpc: R) -> (Arc<Self>, UnboundedReceiver<ObjectRef<WorkerPool>>) {
        let (changed, changes) = unbounded();
        let poller = Self {
            rpc,
            pools: Mutex::default(),
            changed,
        };
        (Arc::new(poller), changes)
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<String, Polled>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the workers of the pool with this uid answered last, by uid of their pods. Those that were not asked then are not
    /// among them.
    pub fn answers(&self, pool: &str) -> BTreeMap<String, PollResult> {
        let pools = self.pools();
        pools
            .get(pool)
            .map(|polled| polled.answers.clone())
            .unwrap_or_default()
    }

    /// Begins to ask `targets`, unless the pool is being asked, or was less than [`PERIOD`] ago and no other worker is to
    /// drain since. Whether it began.
    pub fn poll(self: &Arc<Self>, pool: &str, object: ObjectRef<WorkerPool>, targets: Vec<Target>) -> bool {
        let draining = targets.iter().filter(|target| target.drain);
        let draining = draining.map(|target| target.address.uid.clone()).collect();
        if targets.is_empty() || !self.begin(pool, draining) {
            return false;
        }
        let (poller, pool) = (self.clone(), pool.to_owned());
        tokio::spawn(async move {
            let answers = poller.ask(targets).await;
            if poller.end(&pool, answers) {
                // The receiver is gone only when the operator stops.
                let _ = poller.changed.unbounded_send(object);
            }
        });
        true
    }

    fn begin(&self, pool: &str, draining: BTreeSet<String>) -> bool {
        let mut pools = self.pools();
        let now = Instant::now();
        pools.retain(|_, polled| polled.running || now.duration_since(polled.started) < RETENTION);
        let mut answers = BTreeMap::new();
        if let Some(polled) = pools.get_mut(pool) {
            let news = !draining.is_subset(&polled.draining);
            if polled.running || (!news && now.duration_since(polled.started) < PERIOD) {
                return false;
            }
            answers = std::mem::take(&mut polled.answers);
        }
        let polled = Polled {
            started: now,
            running: true,
            draining,
            answers,
        };
        pools.insert(pool.to_owned(), polled);
        true
    }

    /// Of a worker that does not answer nothing is known: what it last told may not be true any more.
    async fn ask(&self, targets: Vec<Target>) -> BTreeMap<String, PollResult> {
        let answers = stream::iter(targets).map(|target| async move {
            let worker = &target.address;
            let answer = if target.drain {
                self.rpc.drain(worker).await
            } else {
                self.rpc.get_status(worker).await
            };
            let answer = match answer {
                Ok(report) => PollResult::Reported(report),
                Err(error) => {
                    tracing::debug!(worker = %worker.socket, %error, "a worker does not answer");
                    PollResult::Unreachable
                }
            };
            (target.address.uid, answer)
        });
        answers.buffer_unordered(MAX_CONCURRENT_CALLS).collect().await
    }

    /// Keeps `answers`; whether they are news.
    fn end(&self, pool: &str, answers: BTreeMap<String, PollResult>) -> bool {
        let mut pools = self.pools();
        let Some(polled) = pools.get_mut(pool) else {
            return false;
        };
        polled.running = false;
        let news = polled.answers != answers;
        polled.answers = answers;
        news
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::rpc::RpcError;
    use crate::rpc::worker::WorkerReport;

    /// Workers that tell what they were asked.
    struct Asked(mpsc::UnboundedSender<(String, bool)>);

    impl WorkerRpc for Asked {
        async fn get_status(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcError> {
            self.0.send((worker.uid.clone(), false)).unwrap();
            Ok(WorkerReport::default())
        }

        async fn drain(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcError> {
            self.0.send((worker.uid.clone(), true)).unwrap();
            Ok(WorkerReport {
                draining: true,
                ..WorkerReport::default()
            })
        }
    }

    /// Workers that do not answer.
    struct Silent;

    impl WorkerRpc for Silent {
        async fn get_status(&self, _: &WorkerAddress) -> Result<WorkerReport, RpcError> {
            Err(RpcError::Refused("away".to_owned()))
        }

        async fn drain(&self, worker: &WorkerAddress) -> Result<WorkerReport, RpcError> {
            self.get_status(worker).await
        }
    }

    #[tokio::test]
    async fn that_a_worker_does_not_answer_is_news_too() {
        let (poller, mut changes) = WorkerPoller::new(Silent);
        assert!(poller.answers("u").is_empty());
        assert!(poller.poll("u", ObjectRef::new("p"), vec![target("a", false)]));
        changes.next().await.unwrap();
        assert_eq!(poller.answers("u")["a"], PollResult::Unreachable);
    }

    fn target(uid: &str, drain: bool) -> Target {
        let socket = "10.0.0.1:7400".parse().unwrap();
        let uid = uid.to_owned();
        Target {
            address: WorkerAddress {
                uid,
                pool: sluice_proto::auth::PoolId::default(),
                socket,
            },
            drain,
        }
    }

    #[tokio::test]
    async fn a_worker_that_is_to_drain_is_told_before_the_next_poll_is_due() {
        let (asked, mut questions) = mpsc::unbounded_channel();
        let (poller, mut changes) = WorkerPoller::new(Asked(asked));
        let poll = |targets| poller.poll("u", ObjectRef::new("p"), targets);
        assert!(poll(vec![target("a", false), target("b", false)]));
        changes.next().await.unwrap();
        assert!(!poll(vec![target("a", false), target("b", false)]), "too soon");
        assert!(poll(vec![target("a", true), target("b", false)]));
        assert_eq!(poller.answers("u").len(), 2, "what was told before still holds");
        changes.next().await.unwrap();
        let PollResult::Reported(report) = &poller.answers("u")["a"] else {
            panic!("it told nothing");
        };
        assert!(report.draining);
        assert!(!poll(vec![target("a", true), target("b", false)]), "it was told");
        let mut all = Vec::new();
        while let Ok(question) = questions.try_recv() {
            all.push(question);
        }
        let asked = |uid: &str, drain| (uid.to_owned(), drain);
        all.sort();
        assert_eq!(
            all,
            [
                asked("a", false),
                asked("a", true),
                asked("b", false),
                asked("b", false)
            ]
        );
    }
}
