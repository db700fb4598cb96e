//! The loop around both reconcilers: whose turn it is, time limits, back-off per object, and a last requeue for what no event
//! tells.

mod line;

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

use crate::metrics::Metrics;
pub use line::Lane;
use line::Line;

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

    /// Where `object` waits.
    fn lane(object: &Self::Object) -> Lane {
        let _ = object;
        Lane::Ordinary
    }
}

/// Runs `reconciler` on everything that `controller` yields, until `stop`, at most `concurrency` objects at a time and who
/// waits longest first, the pressing ones before others; reconciles under way end before this does.
///
/// The controller of kube says only what changed: it takes what waits from a set, in no order, so that under a load that
/// does not end an object may wait without end.
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
    let serving = Serving::new(around, objects.clone(), concurrency.into());
    let (tell, told) = mpsc::unbounded();
    let stopped_before_it_began = async {
        stop.cancelled().await;
        if objects.wait_until_ready().now_or_never().is_none() {
            return;
        }
        future::pending::<()>().await;
    };
    let telling = controller
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(
            pass_on,
            |_, error: &Infallible, _| match *error {},
            Arc::new(tell),
        )
        .for_each(|_| async {});
    // What tells ends first, and with it the objects that are told of.
    let telling = async move {
        tokio::select! {
            () = telling => {}
            // A controller of kube 5 does not end while its objects were never listed, as when their kind is not installed.
            () = stopped_before_it_began => {}
        }
    };
    futures::join!(telling, serving.run(told));
}

async fn pass_on<K: Keyed + Resource<DynamicType: Default>>(
    object: Arc<K>,
    tell: Arc<UnboundedSender<ObjectRef<K>>>,
) -> Result<Action, Infallible> {
    let mut reference = ObjectRef::from_obj(&*object);
    // Of thousands that rest, nothing is kept but their names.
    reference.extra = Default::default();
    // Nobody listens any more when the operator stops.
    let _ = tell.unbounded_send(reference);
    Ok(Action::await_change())
}

/// Objects in line, those that are reconciled, and those whose time has not come.
struct Serving<R: Reconciler>
where
    R::Object: Keyed,
{
    around: Arc<Around<R>>,
    objects: Store<R::Object>,
    line: Line<ObjectRef<R::Object>>,
    running: JoinSet<(ObjectRef<R::Object>, Duration)>,
    later: DelayQueue<ObjectRef<R::Object>>,
    /// Of those in `later`.
    timers: HashMap<ObjectRef<R::Object>, delay_queue::Key>,
}

impl<R: Reconciler> Serving<R>
where
    R::Object: Keyed,
{
    fn new(around: Arc<Around<R>>, objects: Store<R::Object>, concurrency: usize) -> Self {
        Self {
            around,
            objects,
            line: Line::new(concurrency),
            running: JoinSet::new(),
            later: DelayQueue::new(),
            timers: HashMap::new(),
        }
    }

    /// Reconciles what is `told` of until nobody tells any more.
    async fn run(mut self, mut told: UnboundedReceiver<ObjectRef<R::Object>>) {
        loop {
            while let Some(object) = self.line.take() {
                self.begin(object);
            }
            tokio::select! {
                object = told.next() => match object {
                    Some(object) => self.push(object),
                    None => break,
                },
                Some(ended) = self.running.join_next() => self.end(ended),
                Some(due) = self.later.next() => {
                    let object = due.into_inner();
                    self.timers.remove(&object);
                    self.push(object);
                }
            }
        }
        while let Some(ended) = self.running.join_next().await {
            self.end(ended);
        }
    }

    fn push(&mut self, reference: ObjectRef<R::Object>) {
        let lane = self.lane(&reference);
        self.line.push(reference, lane);
    }

    fn lane(&self, reference: &ObjectRef<R::Object>) -> Lane {
        let object = self.objects.get(reference);
        object.map_or(Lane::Ordinary, |object| R::lane(&object))
    }

    fn begin(&mut self, reference: ObjectRef<R::Object>) {
        if let Some(timer) = self.timers.remove(&reference) {
            self.later.remove(&timer);
        }
        // As it is now, not as it was when it came into the line.
        let Some(object) = self.objects.get(&reference) else {
            self.around.forget(&reference);
            self.line.done(&reference, Lane::Ordinary);
            return;
        };
        let span = span(&*object);
        let reconciling = reconcile(object, self.around.clone());
        let reconciling = async move { (reference, reconciling.await) };
        self.running.spawn(reconciling.instrument(span));
    }

    fn end(&mut self, ended: Result<(ObjectRef<R::Object>, Duration), JoinError>) {
        let (object, again) = match ended {
            Ok(ended) => ended,
            // Nobody aborts a reconcile: it has panicked, and so does the operator.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return,
            },
        };
        self.line.done(&object, self.lane(&object));
        let timer = self.later.insert(object.clone(), again);
        if let Some(before) = self.timers.insert(object, timer) {
            self.later.remove(&before);
        }
    }
}

/// What lines of the log are about that a reconcile tells.
fn span<K: Resource<DynamicType = ()>>(object: &K) -> tracing::Span {
    let (kind, name, uid) = (K::kind(&()), object.name_any(), object.uid().unwrap_or_default());
    let namespace = object.namespace().unwrap_or_default();
    // Of a pool, its own words; of a query, those that its coordinator and its workers have too.
    match &*kind {
        "ShuffleQuery" => tracing::error_span!("query", query = name, namespace, uid),
        _ => tracing::error_span!("object", %kind, name, namespace, uid),
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

/// Reconciles `object` once; when to look again at the latest.
async fn reconcile<R: Reconciler>(object: Arc<R::Object>, around: Arc<Around<R>>) -> Duration {
    let kind = R::Object::kind(&());
    let started = tokio::time::Instant::now();
    let reconciling = around.reconciler.clone().reconcile(object.clone());
    let ended = tokio::time::timeout(TIME_LIMIT, reconciling)
        .await
        .unwrap_or(Err(Error::TimedOut));
    around.metrics.reconciled(&kind, started.elapsed(), ended.is_ok());
    match ended {
        Ok(again) => {
            around.succeeded(&object);
            again.min(REQUEUE)
        }
        Err(error) => after_failure::<R>(&object, &error, &around),
    }
}

fn after_failure<R: Reconciler>(object: &R::Object, error: &Error, around: &Around<R>) -> Duration {
    let count = around.failed(object);
    if error.is_conflict() && count == 1 {
        tracing::debug!(%error, "a newer version exists");
    } else {
        tracing::warn!(%error, count, "reconcile failed");
    }
    delay(count, rand::rng().random_range(0.5..1.0))
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
    use kube::runtime::{reflector, watcher};
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

    /// Tells the order of reconciles. What is named `busy` wants the next one at once.
    struct Ordered(mpsc::UnboundedSender<String>);

    impl Reconciler for Ordered {
        type Object = WorkerPool;

        fn reconcile(self: Arc<Self>, pool: Arc<WorkerPool>) -> Reconciling {
            let name = pool.name_any();
            let busy = name.starts_with("busy");
            self.0.unbounded_send(name).unwrap();
            async move { Ok(if busy { Duration::ZERO } else { REQUEUE }) }.boxed()
        }
    }

    #[tokio::test]
    async fn who_waits_longest_is_reconciled_first() {
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
        let around = Arc::new(Around {
            reconciler: Arc::new(Ordered(done)),
            failures: Mutex::default(),
            metrics: Arc::default(),
        });
        let (tell, told) = mpsc::unbounded();
        let told_of = |name: &String| ObjectRef::new(name).within("n");
        // One that is gone is in nobody's way.
        tell.unbounded_send(told_of(&"gone".to_owned())).unwrap();
        for name in &names {
            tell.unbounded_send(told_of(name)).unwrap();
        }
        let serving = tokio::spawn(Serving::new(around, objects, 1).run(told));
        let mut firsts = Vec::new();
        while firsts.len() < names.len() {
            let name = order.next().await.unwrap();
            if !firsts.contains(&name) {
                firsts.push(name);
            }
        }
        assert_eq!(firsts, names, "in the order in which they were told of");
        // Again, as it wishes.
        while order.next().await.unwrap() != "busy-0" {}
        drop(tell);
        serving.await.unwrap();
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
