//! The loop around both reconcilers: time limits, back-off per object, and a last requeue for what no event tells.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Future, FutureExt, StreamExt};
use kube::runtime::Controller;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Longest time of one reconcile.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// First and longest delay after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Longest time between two reconciles of an object.
pub const REQUEUE: Duration = Duration::from_secs(240);

/// Why a reconcile did not end well. Every kind is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or was not reached.
    #[error("{doing}: {source}")]
    Api {
        /// What was tried.
        doing: String,
        /// What came of it.
        source: Box<kube::Error>,
    },
    /// It took too long.
    #[error("no end after {} s", TIME_LIMIT.as_secs())]
    TimedOut,
}

impl Error {
    /// Wraps a client error: `.map_err(Error::api("creating the pod"))`.
    pub fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        |source| Self::Api {
            doing,
            source: Box::new(source),
        }
    }

    /// Whether a newer version of the object exists, or another writer was first: the next event brings it.
    fn is_conflict(&self) -> bool {
        match self {
            Self::Api { source, .. } => matches!(&**source, kube::Error::Api(status) if status.is_conflict()),
            Self::TimedOut => false,
        }
    }
}

/// A reconcile under way: when to look again at the latest.
pub type Reconciling = Pin<Box<dyn Future<Output = Result<Duration, Error>> + Send>>;

/// What reconciles the objects of one kind in one scope.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static;

    /// Brings the cluster closer to what `object` wants, and its status closer to the truth.
    fn reconcile(self: Arc<Self>, object: Arc<Self::Object>) -> Reconciling;
}

/// Runs `reconciler` on everything that `controller` yields, until `stop`; reconciles under way end first.
pub async fn run<R: Reconciler>(
    controller: Controller<R::Object>,
    reconciler: Arc<R>,
    concurrency: u16,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) where
    R::Object: Keyed,
{
    let around = Arc::new(Around {
        reconciler,
        failures: Mutex::default(),
        metrics,
    });
    let objects = controller.store();
    let stopped_before_it_began = async {
        stop.cancelled().await;
        if objects.wait_until_ready().now_or_never().is_none() {
            return;
        }
        future::pending::<()>().await;
    };
    let running = controller
        .with_config(controller::Config::default().concurrency(concurrency))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(
            reconcile,
            |object, error, around| after_failure::<R>(&object, error, &around),
            around,
        )
        .for_each(|_| async {});
    tokio::select! {
        () = running => {}
        // A controller of kube 5 does not end while its objects were never listed, as when their kind is not installed.
        () = stopped_before_it_began => {}
    }
}

/// What the controller's stores need of a kind.
pub trait Keyed: Resource<DynamicType: Eq + Hash + Clone + Debug> {}

impl<K: Resource<DynamicType: Eq + Hash + Clone + Debug>> Keyed for K {}

struct Around<R: Reconciler> {
    reconciler: Arc<R>,
    /// Failures in a row, per object.
    failures: Mutex<BTreeMap<(String, String), u32>>,
    metrics: Arc<Metrics>,
}

impl<R: Reconciler> Around<R> {
    fn failed(&self, object: &R::Object) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key(object)).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn succeeded(&self, object: &R::Object) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&key(object));
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

async fn reconcile<R: Reconciler>(object: Arc<R::Object>, around: Arc<Around<R>>) -> Result<Action, Error> {
    let kind = R::Object::kind(&());
    let started = tokio::time::Instant::now();
    let reconciling = around.reconciler.clone().reconcile(object.clone());
    let ended = tokio::time::timeout(TIME_LIMIT, reconciling)
        .await
        .unwrap_or(Err(Error::TimedOut));
    around.metrics.reconciled(&kind, started.elapsed(), ended.is_ok());
    let again = ended?;
    around.succeeded(&object);
    Ok(Action::requeue(again.min(REQUEUE)))
}

fn after_failure<R: Reconciler>(object: &R::Object, error: &Error, around: &Around<R>) -> Action {
    let count = around.failed(object);
    let object = ObjectRef::from_obj(object);
    if error.is_conflict() && count == 1 {
        tracing::debug!(%object, %error, "a newer version exists");
    } else {
        tracing::warn!(%object, %error, count, "reconcile failed");
    }
    Action::requeue(delay(count, rand::rng().random_range(0.5..1.0)))
}

/// The delay after `failures` in a row: doubled each time, up to a minute, times `jitter` (0 to 1).
fn delay(failures: u32, jitter: f64) -> Duration {
    let (first, longest) = BACKOFF;
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use kube::runtime::reflector;
    use sluice_crds::WorkerPool;

    use super::*;

    struct Nothing;

    impl Reconciler for Nothing {
        type Object = WorkerPool;

        fn reconcile(self: Arc<Self>, _: Arc<WorkerPool>) -> Reconciling {
            unreachable!("there is no object")
        }
    }

    #[tokio::test]
    async fn a_controller_stops_whose_objects_were_never_listed() {
        let (objects, _writer) = reflector::store();
        let controller = Controller::for_stream(stream::pending(), objects);
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(
            controller,
            Arc::new(Nothing),
            1,
            Arc::default(),
            stop.clone(),
        ));
        tokio::task::yield_now().await;
        assert!(!running.is_finished());
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), running).await;
        ended.expect("it ends").expect("without a panic");
    }

    #[test]
    fn failures_are_spaced_out_and_bounded() {
        let delays: Vec<_> = [1, 2, 5, 9, 100, u32::MAX]
            .into_iter()
            .map(|failures| delay(failures, 1.0).as_millis())
            .collect();
        assert_eq!(delays, [250, 500, 4_000, 60_000, 60_000, 60_000]);
        assert_eq!(delay(1, 0.5), Duration::from_millis(125));
    }
}
