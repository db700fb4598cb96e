//! The controller of one kind: a work queue, a timeout of each reconcile, back-off per object, and a resync for changes that no
//! event reports.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Debug;
use std::future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures::{Future, FutureExt, StreamExt};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};
use tracing::Instrument;

use super::work_queue::{Priority, WorkQueue};
use crate::metrics::Metrics;

/// Longest time of one reconcile.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest delay after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// Longest time between two reconciles of an object.
pub const RESYNC_PERIOD: Duration = Duration::from_secs(240);

/// Why a reconcile failed. Every failure is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a call or was not reached.
    #[error("{doing}: {source}")]
    Api {
        /// The call, such as `creating the pod`.
        doing: String,
        /// The failure.
        source: Box<kube::Error>,
    },
    /// The reconcile took too long.
    #[error("no end after {} s", RECONCILE_TIMEOUT.as_secs())]
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

    /// Whether the write met a newer version of the object. The next event brings that version.
    fn is_conflict(&self) -> bool {
        match self {
            Self::Api { source, .. } => matches!(&**source, kube::Error::Api(status) if status.is_conflict()),
            Self::TimedOut => false,
        }
    }
}

/// A running reconcile. It yields the time until the next one at the latest.
pub type ReconcileFuture = Pin<Box<dyn Future<Output = Result<Duration, Error>> + Send>>;

/// Reconciles the objects of one kind in one scope.
pub trait Reconciler: Send + Sync + 'static {
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static;

    /// Brings the cluster closer to what `object` wants, and its status closer to the truth.
    fn reconcile(self: Arc<Self>, object: Arc<Self::Object>) -> ReconcileFuture;

    /// The priority of `object` in the work queue and at the rate limiter.
    fn priority(object: &Self::Object) -> Priority {
        let _ = object;
        Priority::Normal
    }
}

/// Runs `reconciler` on every object that `controller` yields, until `stop`. At most `concurrency` objects are reconciled at a
/// time, high priority first, then first in, first out. Running reconciles end before this function returns.
///
/// The controller of kube only reports what changed. Its own queue is a set without order, in which an object can starve under
/// constant load.
pub async fn run<R: Reconciler>(
    controller: Controller<R::Object>,
    reconciler: Arc<R>,
    concurrency: u16,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) where
    R::Object: Keyed,
{
    let context = Arc::new(ReconcileContext {
        reconciler,
        failures: Mutex::default(),
        metrics,
    });
    let objects = controller.store();
    let dispatcher = Dispatcher::new(context, objects.clone(), concurrency.into());
    let (trigger_tx, trigger_rx) = mpsc::unbounded();
    let stopped_before_it_began = async {
        stop.cancelled().await;
        if objects.wait_until_ready().now_or_never().is_none() {
            return;
        }
        future::pending::<()>().await;
    };
    let watch_loop = controller
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(
            enqueue,
            |_, error: &Infallible, _| match *error {},
            Arc::new(trigger_tx),
        )
        .for_each(|_| async {});
    // The watch loop ends first. It holds the only sender, so the dispatcher ends next.
    let watch_loop = async move {
        tokio::select! {
            () = watch_loop => {}
            // A controller of kube 5 does not stop before its first list has ended, as when the CRD is not installed.
            () = stopped_before_it_began => {}
        }
    };
    futures::join!(watch_loop, dispatcher.run(trigger_rx));
}

async fn enqueue<K: Keyed + Resource<DynamicType: Default>>(
    object: Arc<K>,
    trigger_tx: Arc<UnboundedSender<ObjectRef<K>>>,
) -> Result<Action, Infallible> {
    let mut reference = ObjectRef::from_obj(&*object);
    // Idle objects are kept by name alone: there may be thousands.
    reference.extra = Default::default();
    // The receiver is gone when the operator stops.
    let _ = trigger_tx.unbounded_send(reference);
    Ok(Action::await_change())
}

/// Starts reconciles from the work queue, and queues objects again when their resync or back-off is due.
struct Dispatcher<R: Reconciler>
where
    R::Object: Keyed,
{
    context: Arc<ReconcileContext<R>>,
    objects: Store<R::Object>,
    queue: WorkQueue<ObjectRef<R::Object>>,
    in_flight: JoinSet<(ObjectRef<R::Object>, Duration)>,
    delayed: DelayQueue<ObjectRef<R::Object>>,
    /// The keys of `delayed`.
    timers: HashMap<ObjectRef<R::Object>, delay_queue::Key>,
}

impl<R: Reconciler> Dispatcher<R>
where
    R::Object: Keyed,
{
    fn new(context: Arc<ReconcileContext<R>>, objects: Store<R::Object>, concurrency: usize) -> Self {
        Self {
            context,
            objects,
            queue: WorkQueue::new(concurrency),
            in_flight: JoinSet::new(),
            delayed: DelayQueue::new(),
            timers: HashMap::new(),
        }
    }

    /// Reconciles the objects that `trigger_rx` yields, until it is closed and all running reconciles have ended.
    async fn run(mut self, mut trigger_rx: UnboundedReceiver<ObjectRef<R::Object>>) {
        loop {
            while let Some(object) = self.queue.take() {
                self.start(object);
            }
            tokio::select! {
                object = trigger_rx.next() => match object {
                    Some(object) => self.add(object),
                    None => break,
                },
                Some(ended) = self.in_flight.join_next() => self.finish(ended),
                Some(due) = self.delayed.next() => {
                    let object = due.into_inner();
                    self.timers.remove(&object);
                    self.add(object);
                }
            }
        }
        while let Some(ended) = self.in_flight.join_next().await {
            self.finish(ended);
        }
    }

    fn add(&mut self, reference: ObjectRef<R::Object>) {
        let priority = self.priority(&reference);
        self.queue.add(reference, priority);
    }

    fn priority(&self, reference: &ObjectRef<R::Object>) -> Priority {
        let object = self.objects.get(reference);
        object.map_or(Priority::Normal, |object| R::priority(&object))
    }

    fn start(&mut self, reference: ObjectRef<R::Object>) {
        if let Some(timer) = self.timers.remove(&reference) {
            self.delayed.remove(&timer);
        }
        // The current version, not the one of the event.
        let Some(object) = self.objects.get(&reference) else {
            self.context.forget(&reference);
            self.queue.done(&reference, Priority::Normal);
            return;
        };
        let span = span(&*object);
        let reconciling = reconcile(object, self.context.clone());
        let reconciling = async move { (reference, reconciling.await) };
        self.in_flight.spawn(reconciling.instrument(span));
    }

    fn finish(&mut self, ended: Result<(ObjectRef<R::Object>, Duration), JoinError>) {
        let (object, again) = match ended {
            Ok(ended) => ended,
            // No reconcile is aborted: it panicked, and the operator panics too.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return,
            },
        };
        self.queue.done(&object, self.priority(&object));
        let timer = self.delayed.insert(object.clone(), again);
        if let Some(before) = self.timers.insert(object, timer) {
            self.delayed.remove(&before);
        }
    }
}

/// The span of a reconcile's log lines.
fn span<K: Resource<DynamicType = ()>>(object: &K) -> tracing::Span {
    let (kind, name, uid) = (K::kind(&()), object.name_any(), object.uid().unwrap_or_default());
    let namespace = object.namespace().unwrap_or_default();
    // A query's span has the fields that its coordinator and workers use too.
    match &*kind {
        "ShuffleQuery" => tracing::error_span!("query", query = name, namespace, uid),
        _ => tracing::error_span!("object", %kind, name, namespace, uid),
    }
}

/// A kind that kube's stores can hold.
pub trait Keyed: Resource<DynamicType: Eq + Hash + Clone + Debug> {}

impl<K: Resource<DynamicType: Eq + Hash + Clone + Debug>> Keyed for K {}

struct ReconcileContext<R: Reconciler> {
    reconciler: Arc<R>,
    /// Consecutive failures, by namespace and name.
    failures: Mutex<BTreeMap<(String, String), u32>>,
    metrics: Arc<Metrics>,
}

impl<R: Reconciler> ReconcileContext<R> {
    fn failures(&self) -> MutexGuard<'_, BTreeMap<(String, String), u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, object: &R::Object) -> u32 {
        let mut failures = self.failures();
        let count = failures.entry(key(object)).or_default();
        *count = count.saturating_add(1);
        *count
    }

    fn succeeded(&self, object: &R::Object) {
        self.failures().remove(&key(object));
    }

    /// The object is gone.
    fn forget(&self, object: &ObjectRef<R::Object>) {
        let namespace = object.namespace.clone().unwrap_or_default();
        self.failures().remove(&(namespace, object.name.clone()));
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Reconciles `object` once, and returns the time until the next reconcile at the latest.
async fn reconcile<R: Reconciler>(object: Arc<R::Object>, context: Arc<ReconcileContext<R>>) -> Duration {
    let kind = R::Object::kind(&());
    let started = tokio::time::Instant::now();
    let reconciling = context.reconciler.clone().reconcile(object.clone());
    let ended = tokio::time::timeout(RECONCILE_TIMEOUT, reconciling)
        .await
        .unwrap_or(Err(Error::TimedOut));
    context
        .metrics
        .reconciled(&kind, started.elapsed(), ended.is_ok());
    match ended {
        Ok(again) => {
            context.succeeded(&object);
            again.min(RESYNC_PERIOD)
        }
        Err(error) => after_failure::<R>(&object, &error, &context),
    }
}

fn after_failure<R: Reconciler>(
    object: &R::Object,
    error: &Error,
    context: &ReconcileContext<R>,
) -> Duration {
    let count = context.failed(object);
    if error.is_conflict() && count == 1 {
        tracing::debug!(%error, "a newer version exists");
    } else {
        tracing::warn!(%error, count, "reconcile failed");
    }
    delay(count, rand::rng().random_range(0.5..1.0))
}

/// The delay after this many consecutive failures: doubled each time, up to a minute, times `jitter` (0 to 1).
fn delay(failures: u32, jitter: f64) -> Duration {
    let (first, longest) = BACKOFF;
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use kube::runtime::{reflector, watcher};
    use sluice_crds::WorkerPool;

    use super::*;

    struct Nothing;

    impl Reconciler for Nothing {
        type Object = WorkerPool;

        fn reconcile(self: Arc<Self>, _: Arc<WorkerPool>) -> ReconcileFuture {
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

    /// Sends the name of each reconciled object. Objects named `busy` ask for the next reconcile at once.
    struct Ordered(mpsc::UnboundedSender<String>);

    impl Reconciler for Ordered {
        type Object = WorkerPool;

        fn reconcile(self: Arc<Self>, pool: Arc<WorkerPool>) -> ReconcileFuture {
            let name = pool.name_any();
            let busy = name.starts_with("busy");
            self.0.unbounded_send(name).unwrap();
            async move { Ok(if busy { Duration::ZERO } else { RESYNC_PERIOD }) }.boxed()
        }
    }

    #[tokio::test]
    async fn objects_are_reconciled_first_in_first_out() {
        let (objects, mut writer) = reflector::store();
        let names = (0..50).map(|number| match number % 2 {
            0 => format!("busy-{number}"),
            _ => format!("calm-{number}"),
        });
        let names: Vec<_> = names.collect();
        for name in &names {
            let mut pool = WorkerPool::new(name, Default::default());
            pool.metadata.namespace = Some("n".to_owned());
            writer.apply_watcher_event(&watcher::Event::Apply(pool));
        }
        let (done, mut order) = mpsc::unbounded();
        let context = Arc::new(ReconcileContext {
            reconciler: Arc::new(Ordered(done)),
            failures: Mutex::default(),
            metrics: Arc::default(),
        });
        let (trigger_tx, trigger_rx) = mpsc::unbounded();
        let reference = |name: &String| ObjectRef::new(name).within("n");
        // An object that is gone blocks no other.
        trigger_tx.unbounded_send(reference(&"gone".to_owned())).unwrap();
        for name in &names {
            trigger_tx.unbounded_send(reference(name)).unwrap();
        }
        let dispatcher = tokio::spawn(Dispatcher::new(context, objects, 1).run(trigger_rx));
        let mut firsts = Vec::new();
        while firsts.len() < names.len() {
            let name = order.next().await.unwrap();
            if !firsts.contains(&name) {
                firsts.push(name);
            }
        }
        assert_eq!(firsts, names, "in the order of their events");
        // A busy object is reconciled again.
        while order.next().await.unwrap() != "busy-0" {}
        drop(trigger_tx);
        dispatcher.await.unwrap();
    }

    #[test]
    fn backoff_doubles_up_to_a_limit() {
        let delays: Vec<_> = [1, 2, 5, 9, 100, u32::MAX]
            .into_iter()
            .map(|failures| delay(failures, 1.0).as_millis())
            .collect();
        assert_eq!(delays, [250, 500, 4_000, 60_000, 60_000, 60_000]);
        assert_eq!(delay(1, 0.5), Duration::from_millis(125));
    }
}
