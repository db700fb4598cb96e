//! One coordinator's stream, opened again for as long as it is followed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;
use tokio::time::{Instant, sleep, sleep_until};

use crate::controller_runtime::work_queue::Priority;

use super::{CoordinatorRpc, CoordinatorTarget, RateLimiter, Urgency};
use crate::rpc::RpcError;
use crate::rpc::coordinator::Reports;

/// First and longest wait before a stream is opened again. A coordinator serves once it has planned, and many a query ends
/// within a second of that: whoever then waited for five would tell of its end as late.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often the token of a coordinator is renewed. Each renewal holds for [`QUERY_TOKEN_LIFETIME`], so that a query outlives
/// an absence of the operator by the difference of the two, at the least.
///
/// [`QUERY_TOKEN_LIFETIME`]: sluice_proto::auth::QUERY_TOKEN_LIFETIME
pub(super) const RENEWAL_PERIOD: Duration = Duration::from_secs(600);
/// How long calls to a coordinator fail before it counts as out of reach: most plan within this time, before which they do not
/// answer.
pub(super) const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
/// How often a coordinator is notified to cancel before it is given up.
const CANCEL_ATTEMPTS: u32 = 3;

/// A coordinator that is followed.
pub(super) struct ReportWatcher {
    pub rpc: Arc<dyn CoordinatorRpc>,
    pub wake: mpsc::UnboundedSender<ObjectRef<ShuffleQuery>>,
    pub limiter: Arc<RateLimiter>,
    pub target: CoordinatorTarget,
    pub latest: Arc<Mutex<Latest>>,
    /// How long calls fail before the coordinator counts as out of reach.
    pub unreachable_after: Duration,
}

/// What a coordinator reported last.
#[derive(Default)]
pub(super) struct Latest {
    pub report: Option<Arc<ShuffleQueryStatus>>,
    /// Since when a transition has been reported that no status shows.
    pub unwritten: Option<Instant>,
    /// While calls fail.
    pub failing: Option<Failing>,
}

/// Calls that failed, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    /// Since when, on both clocks.
    pub since: (Instant, Timestamp),
    /// What the last one came to.
    pub error: String,
    /// Whether it was notified that they have failed for long.
    pub notified: bool,
}

/// What the reconciler has been woken for, and when.
struct Notified {
    report: ShuffleQueryStatus,
    at: Instant,
}

impl ReportWatcher {
    /// Follows until the query's end, or until it is dropped.
    pub async fn run(self) {
        let (mut delay, longest) = BACKOFF;
        let mut notified = None;
        loop {
            match self.rpc.watch(&self.target).await {
                Ok(reports) => {
                    delay = BACKOFF.0;
                    match self.follow(reports, &mut notified).await {
                        Ok(true) => return,
                        Ok(false) => {}
                        Err(error) => self.on_error(&error),
                    }
                }
                Err(error) => self.on_error(&error),
            }
            sleep(delay.mul_f64(rand::random_range(0.5..1.0))).await;
            delay = delay.saturating_mul(2).min(longest);
        }
    }

    /// A coordinator that starts does not answer yet: no cause for alarm. One that does not for long is out of reach.
    fn on_error(&self, error: &RpcError) {
        let CoordinatorTarget { epoch, address, .. } = &self.target;
        tracing::debug!(epoch, address, %error, "the coordinator is not followed");
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = latest.failing.take();
        let notified = before.as_ref().is_some_and(|failing| failing.notified);
        let since = before.map_or_else(|| (Instant::now(), Timestamp::now()), |failing| failing.since);
        let long = since.0.elapsed() >= self.unreachable_after;
        latest.failing = Some(Failing {
            since,
            error: error.to_string(),
            notified: long,
        });
        let lost = long && !notified;
        drop(latest);
        if lost {
            tracing::warn!(epoch, address, %error, "the coordinator is out of reach");
            self.wake();
        }
    }

    /// A report came.
    fn on_report(&self) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let back = latest.failing.take().is_some_and(|failing| failing.notified);
        drop(latest);
        if back {
            self.wake();
        }
    }

    fn wake(&self) {
        // Nobody listens any more when the operator stops.
        let _ = self.wake.unbounded_send(self.target.query.clone());
    }

    /// Whether the query has ended.
    async fn follow(&self, mut reports: Reports, notified: &mut Option<Notified>) -> Result<bool, RpcError> {
        // A report that is not urgent waits for its time and its turn; a newer one takes its place in the queue.
        let mut due: Option<(Instant, BoxFuture<'static, ()>)> = None;
        loop {
            let permit = async {
                match &mut due {
                    Some((_, permit)) => permit.await,
                    None => std::future::pending().await,
                }
            };
            let report = tokio::select! {
                report = reports.next() => report,
                () = permit => {
                    due = None;
                    self.notify(notified);
                    continue;
                }
            };
            let Some(report) = report.transpose()? else {
                return Ok(false);
            };
            let ended = report.phase.is_terminal();
            let urgency = match &*notified {
                None => Urgency::Transition,
                Some(notified) => Urgency::between(&notified.report, &report),
            };
            self.store_report(report, urgency);
            self.on_report();
            match (urgency, &*notified) {
                (Urgency::Transition, _) | (_, None) => {
                    due = None;
                    self.notify(notified);
                }
                (Urgency::Same, Some(_)) => {}
                (Urgency::Step | Urgency::Stage | Urgency::Progress, Some(notified)) => {
                    let at = notified.at + urgency.period();
                    if due.as_ref().is_none_or(|(other, _)| at < *other) {
                        due = Some((at, self.permit(at)));
                    }
                }
            }
            if ended {
                return Ok(true);
            }
        }
    }

    fn store_report(&self, report: ShuffleQueryStatus, urgency: Urgency) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if urgency >= Urgency::Step && latest.unwritten.is_none() {
            latest.unwritten = Some(Instant::now());
        }
        latest.report = Some(Arc::new(report));
    }

    fn permit(&self, at: Instant) -> BoxFuture<'static, ()> {
        let limiter = self.limiter.clone();
        Box::pin(async move {
            sleep_until(at).await;
            limiter.acquire(Priority::High).await;
        })
    }

    fn notify(&self, notified: &mut Option<Notified>) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = &latest.report {
            *notified = Some(Notified {
                report: ShuffleQueryStatus::clone(report),
                at: Instant::now(),
            });
        }
        drop(latest);
        self.wake();
    }
}

/// Renews the token of a coordinator once each period, for as long as it is followed.
pub(super) async fn renew(rpc: Arc<dyn CoordinatorRpc>, target: CoordinatorTarget, period: Duration) {
    let (first, longest) = BACKOFF;
    let mut delay = first;
    loop {
        match rpc.renew(&target).await {
            Ok(()) => {
                delay = first;
                sleep(period).await;
            }
            Err(error) => {
                tracing::debug!(epoch = target.epoch, %error, "the token is not renewed");
                sleep(delay.mul_f64(rand::random_range(0.5..1.0))).await;
                delay = delay.saturating_mul(2).min(longest);
            }
        }
    }
}

/// Tells a coordinator to cancel, as far as it can be reached.
pub(super) async fn cancel(rpc: Arc<dyn CoordinatorRpc>, target: CoordinatorTarget) {
    for attempt in 1..=CANCEL_ATTEMPTS {
        match rpc.cancel(&target).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(epoch = target.epoch, attempt, %error, "not cancelled");
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}
