//! The report stream of one coordinator. It is opened again for as long as the coordinator is followed.

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

/// First and longest back-off of calls.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The longest back-off of the stream of a coordinator that may be starting. It serves once it has planned, and many queries
/// end within a second of that: each back-off delays the report of their end.
const MAX_BACKOFF_WHILE_STARTING: Duration = Duration::from_millis(250);
/// How long calls may fail before a coordinator is no longer thought to be starting.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the token of a coordinator is renewed. Each renewal is valid for [`QUERY_TOKEN_LIFETIME`], so a query survives an
/// absence of the operator of at least the difference.
///
/// [`QUERY_TOKEN_LIFETIME`]: sluice_proto::auth::QUERY_TOKEN_LIFETIME
pub(super) const RENEWAL_PERIOD: Duration = Duration::from_secs(600);
/// How long calls fail before a coordinator counts as unreachable. Coordinators do not answer while they plan; most plan within
/// this time.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
/// Most attempts to cancel a coordinator.
const CANCEL_ATTEMPTS: u32 = 3;

pub(super) struct ReportWatcher {
    pub rpc: Arc<dyn CoordinatorRpc>,
    pub wake: mpsc::UnboundedSender<ObjectRef<ShuffleQuery>>,
    pub limiter: Arc<RateLimiter>,
    pub target: CoordinatorTarget,
    pub latest: Arc<Mutex<Latest>>,
    pub unreachable_after: Duration,
}

/// The state of a followed coordinator.
#[derive(Default)]
pub(super) struct Latest {
    pub report: Option<Arc<ShuffleQueryStatus>>,
    /// When the oldest transition was reported that no status shows.
    pub unwritten: Option<Instant>,
    /// Set while calls fail.
    pub failing: Option<Failing>,
}

/// Consecutive failed calls.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    /// When they began, on both clocks.
    pub since: (Instant, Timestamp),
    /// The last error.
    pub error: String,
    /// Whether the reconciler was notified of them.
    pub notified: bool,
}

/// The report that the reconciler was last woken for.
struct Notified {
    report: ShuffleQueryStatus,
    at: Instant,
}

impl ReportWatcher {
    /// Follows until the query ends, or until the future is dropped.
    pub async fn run(self) {
        let mut delay = BACKOFF.0;
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
            delay = delay.saturating_mul(2).min(max_backoff(self.failing_for()));
        }
    }

    /// How long calls have failed.
    fn failing_for(&self) -> Duration {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = latest.failing.as_ref();
        failing.map_or(Duration::ZERO, |failing| failing.since.0.elapsed())
    }

    /// A coordinator that starts does not answer yet. One that does not answer for long is unreachable.
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

    fn on_report(&self) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let back = latest.failing.take().is_some_and(|failing| failing.notified);
        drop(latest);
        if back {
            self.wake();
        }
    }

    fn wake(&self) {
        // The receiver is gone when the operator stops.
        let _ = self.wake.unbounded_send(self.target.query.clone());
    }

    /// Follows one stream. Returns whether the query has ended.
    async fn follow(&self, mut reports: Reports, notified: &mut Option<Notified>) -> Result<bool, RpcError> {
        // A report that is not urgent waits until it is due and has a permit. A newer report replaces it.
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

/// The longest back-off of a stream whose calls have failed for so long.
fn max_backoff(failing_for: Duration) -> Duration {
    if failing_for < STARTUP_TIMEOUT {
        MAX_BACKOFF_WHILE_STARTING
    } else {
        BACKOFF.1
    }
}

/// Renews the token of a coordinator every `period`.
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

/// Cancels the query at a coordinator, if it can be reached.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_that_may_be_starting_is_called_often_and_a_lost_one_seldom() {
        let seconds = Duration::from_secs;
        for (failing_for, millis) in [(0, 250), (19, 250), (20, 1_000), (3_600, 1_000)] {
            let longest = max_backoff(seconds(failing_for));
            assert_eq!(longest, Duration::from_millis(millis), "{failing_for} s");
        }
    }
}
