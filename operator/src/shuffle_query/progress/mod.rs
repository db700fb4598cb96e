//! The reports of running coordinators. The leader keeps one stream per coordinator, to the IP of its pod, and wakes the
//! reconciler when a report should change the status.
//!
//! A transition wakes it at once. Progress wakes it at most every 5 s per query and rate-limited over all queries, so that
//! thousands of queries stay below the limit of writes and none starves.

mod urgency;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::controller_runtime::rate_limiter::RateLimiter;
use crate::rpc::coordinator::{CoordinatorRpc, CoordinatorTarget};

pub use urgency::Urgency;
pub use watch::UNREACHABLE_AFTER;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    pub address: String,
    pub since: Timestamp,
    /// The error of the last call.
    pub error: String,
}

/// The coordinators that are followed.
pub struct Progress {
    rpc: Arc<dyn CoordinatorRpc>,
    wake: mpsc::UnboundedSender<ObjectRef<ShuffleQuery>>,
    /// Shared by all queries.
    limiter: Arc<RateLimiter>,
    /// How long calls to a coordinator fail before it counts as unreachable.
    unreachable_after: Duration,
    /// By the unique id of the query.
    followed: Mutex<HashMap<String, Followed>>,
}

struct Followed {
    target: CoordinatorTarget,
    latest: Arc<Mutex<watch::Latest>>,
    cancelled: bool,
    _stops: DropGuard,
}

impl Progress {
    /// Follows nobody yet. Queries to reconcile are sent to `wake`.
    pub fn new(rpc: Arc<dyn CoordinatorRpc>, wake: mpsc::UnboundedSender<ObjectRef<ShuffleQuery>>) -> Self {
        Self {
            rpc,
            wake,
            // Below the limit of status writes, since transitions need some of it.
            limiter: Arc::new(RateLimiter::per_second(30)),
            unreachable_after: UNREACHABLE_AFTER,
            followed: Mutex::default(),
        }
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<String, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a coordinator, and no other of its query. Idempotent.
    pub fn follow(&self, target: CoordinatorTarget) {
        let mut followed = self.followed();
        if followed
            .get(&target.uid)
            .is_some_and(|known| known.target == target)
        {
            return;
        }
        let (stop, latest) = (CancellationToken::new(), Arc::default());
        let watcher = watch::ReportWatcher {
            rpc: self.rpc.clone(),
            wake: self.wake.clone(),
            limiter: self.limiter.clone(),
            target: target.clone(),
            latest: Arc::clone(&latest),
            unreachable_after: self.unreachable_after,
        };
        let renewer = watch::renew(self.rpc.clone(), target.clone(), watch::RENEWAL_PERIOD);
        let (watcher, span) = (watcher.run(), target.span());
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(watcher)
                .instrument(span.clone()),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(renewer).instrument(span));
        let known = Followed {
            target: target.clone(),
            latest,
            cancelled: false,
            _stops: stop.drop_guard(),
        };
        followed.insert(target.uid, known);
    }

    /// The last report of coordinator `epoch` of the query `uid`.
    pub fn latest(&self, uid: &str, epoch: u64) -> Option<Arc<ShuffleQueryStatus>> {
        let followed = self.followed();
        let known = followed.get(uid).filter(|known| known.target.epoch == epoch)?;
        known
            .latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .report
            .clone()
    }

    /// Set while coordinator `epoch` of the query `uid` counts as unreachable.
    pub fn unreachable(&self, uid: &str, epoch: u64) -> Option<Unreachable> {
        let followed = self.followed();
        let known = followed.get(uid).filter(|known| known.target.epoch == epoch)?;
        let latest = known.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = latest.failing.as_ref().filter(|failing| failing.notified)?;
        Some(Unreachable {
            address: known.target.address.clone(),
            since: failing.since.1,
            error: failing.error.clone(),
        })
    }

    /// Records that a status with `report` was written. Returns the time since its transition was reported, if it is the first
    /// status that shows it.
    pub fn status_written(&self, uid: &str, report: &Arc<ShuffleQueryStatus>) -> Option<Duration> {
        let followed = self.followed();
        let known = followed.get(uid)?;
        let mut latest = known.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer report came meanwhile. Its status is still to be written.
        let newest = latest
            .report
            .as_ref()
            .is_some_and(|newest| Arc::ptr_eq(newest, report));
        let since = latest.unwritten.take_if(|_| newest)?;
        Some(since.elapsed())
    }

    /// Stops following the query's coordinators.
    pub fn unfollow(&self, uid: &str) {
        self.followed().remove(uid);
    }

    /// Cancels the query at the coordinator that is followed, if there is one: once, and only if it can be reached.
    pub fn cancel(&self, uid: &str) {
        let mut followed = self.followed();
        let Some(known) = followed.get_mut(uid).filter(|known| !known.cancelled) else {
            return;
        };
        known.cancelled = true;
        let cancel = watch::cancel(self.rpc.clone(), known.target.clone());
        tokio::spawn(cancel.instrument(known.target.span()));
    }

    pub fn targets(&self) -> Vec<(String, ObjectRef<ShuffleQuery>)> {
        let followed = self.followed();
        let targets = followed.values().map(|known| &known.target);
        targets
            .map(|target| (target.uid.clone(), target.query.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
