use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use sluice_crds::shuffle_query::status::QueryPhase;

use super::*;
use crate::rpc::RpcError;
use crate::rpc::coordinator::Reports;
use sluice_proto::auth::PoolId;

/// Coordinators that break the first stream after one report and end the query in the second.
#[derive(Default)]
struct Scripted {
    streams: AtomicU32,
    cancelled: AtomicU32,
    renewed: tokio::sync::watch::Sender<u32>,
}

impl CoordinatorRpc for Scripted {
    fn watch(&self, _: &CoordinatorTarget) -> BoxFuture<'static, Result<Reports, RpcError>> {
        let report = |phase| ShuffleQueryStatus {
            phase,
            ..ShuffleQueryStatus::default()
        };
        let reports = match self.streams.fetch_add(1, Ordering::Relaxed) {
            0 => vec![
                Ok(report(QueryPhase::Running)),
                Err(RpcError::Refused("broken".to_owned())),
            ],
            1 => return async { Err(RpcError::Refused("away".to_owned())) }.boxed(),
            _ => vec![Ok(report(QueryPhase::Running)), Ok(report(QueryPhase::Succeeded))],
        };
        async move { Ok(stream::iter(reports).boxed()) }.boxed()
    }

    fn renew(&self, _: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>> {
        self.renewed.send_modify(|count| *count += 1);
        let count = *self.renewed.borrow();
        async move {
            match count {
                1 => Err(RpcError::Refused("it starts".to_owned())),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn cancel(&self, _: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>> {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }.boxed()
    }
}

fn target(epoch: u64) -> CoordinatorTarget {
    CoordinatorTarget {
        query: ObjectRef::new("q").within("n"),
        uid: "u".to_owned(),
        epoch,
        pool: PoolId::default(),
        address: "10.0.0.1".to_owned(),
    }
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_transitions_wake() {
    let (wake, mut woken) = mpsc::unbounded();
    let scripted = Arc::new(Scripted::default());
    let progress = Progress::new(scripted.clone(), wake);
    progress.follow(target(1));
    progress.follow(target(1));
    assert_eq!(woken.next().await.unwrap().name, "q");
    // The second transition: the end.
    assert_eq!(woken.next().await.unwrap().name, "q");
    let latest = progress.latest("u", 1).unwrap();
    assert_eq!(latest.phase, QueryPhase::Succeeded);
    assert_eq!(scripted.streams.load(Ordering::Relaxed), 3);
    assert!(
        progress.latest("u", 2).is_none(),
        "a report of an older coordinator"
    );
    progress.follow(target(2));
    assert!(progress.latest("u", 1).is_none());
    progress.unfollow("u");
    assert!(progress.latest("u", 2).is_none());
}

#[tokio::test]
async fn the_lag_of_a_transition_is_told_once_and_by_the_status_that_shows_it() {
    let (wake, mut woken) = mpsc::unbounded();
    let progress = Progress::new(Arc::new(Scripted::default()), wake);
    progress.follow(target(1));
    woken.next().await.unwrap();
    let older = Arc::new(ShuffleQueryStatus::default());
    assert!(progress.status_written("u", &older).is_none(), "another report");
    woken.next().await.unwrap();
    let latest = progress.latest("u", 1).unwrap();
    assert!(progress.status_written("u", &latest).is_some());
    assert!(progress.status_written("u", &latest).is_none(), "it was reported");
}

#[tokio::test]
async fn a_coordinator_is_told_to_cancel_once() {
    let (wake, _woken) = mpsc::unbounded();
    let scripted = Arc::new(Scripted::default());
    let progress = Progress::new(scripted.clone(), wake);
    progress.cancel("u");
    progress.follow(target(1));
    progress.cancel("u");
    progress.cancel("u");
    while scripted.cancelled.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scripted.cancelled.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_token_of_a_coordinator_is_renewed_long_before_it_ends_and_a_refusal_is_tried_again() {
    let (wake, _woken) = mpsc::unbounded();
    let scripted = Arc::new(Scripted::default());
    let mut renewed = scripted.renewed.subscribe();
    let progress = Progress::new(scripted.clone(), wake);
    progress.follow(target(1));
    renewed.wait_for(|count| *count == 2).await.unwrap();
    // While it is followed, period after period.
    let renewing = watch::renew(scripted.clone(), target(1), Duration::ZERO);
    let renewing = tokio::spawn(renewing);
    renewed.wait_for(|count| *count >= 5).await.unwrap();
    renewing.abort();
    assert!(watch::RENEWAL_PERIOD * 6 <= sluice_proto::auth::QUERY_TOKEN_LIFETIME);
}

/// A coordinator that nobody reaches until it answers.
#[derive(Default)]
struct Away {
    answers: tokio::sync::watch::Sender<bool>,
    called: tokio::sync::watch::Sender<u32>,
}

impl CoordinatorRpc for Away {
    fn watch(&self, _: &CoordinatorTarget) -> BoxFuture<'static, Result<Reports, RpcError>> {
        let report = ShuffleQueryStatus {
            phase: QueryPhase::Running,
            ..ShuffleQueryStatus::default()
        };
        let answers = *self.answers.borrow();
        self.called.send_modify(|calls| *calls += 1);
        async move {
            match answers {
                true => Ok(stream::iter([Ok(report)]).chain(stream::pending()).boxed()),
                false => Err(RpcError::Refused("connection timed out".to_owned())),
            }
        }
        .boxed()
    }

    fn renew(&self, _: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>> {
        async { Ok(()) }.boxed()
    }

    fn cancel(&self, _: &CoordinatorTarget) -> BoxFuture<'static, Result<(), RpcError>> {
        async { Ok(()) }.boxed()
    }
}

#[tokio::test]
async fn a_coordinator_counts_as_out_of_reach_when_calls_have_failed_for_long_and_until_it_reports() {
    let (wake, mut woken) = mpsc::unbounded();
    let away = Arc::new(Away::default());
    let mut progress = Progress::new(away.clone(), wake);
    // Some calls fail before it has passed.
    progress.unreachable_after = Duration::from_millis(300);
    progress.follow(target(1));
    assert_eq!(woken.next().await.unwrap().name, "q", "that is news");
    let unreachable = progress.unreachable("u", 1).unwrap();
    assert_eq!(
        (unreachable.address.as_str(), unreachable.error.as_str()),
        ("10.0.0.1", "connection timed out")
    );
    assert_eq!(progress.unreachable("u", 2), None, "another coordinator");
    away.answers.send_replace(true);
    while progress.latest("u", 1).is_none() {
        woken.next().await.unwrap();
    }
    assert_eq!(progress.unreachable("u", 1), None);
}

#[tokio::test]
async fn a_coordinator_that_may_plan_is_not_out_of_reach() {
    let (wake, mut woken) = mpsc::unbounded();
    let away = Arc::new(Away::default());
    let mut progress = Progress::new(away.clone(), wake);
    progress.unreachable_after = Duration::from_secs(3_600);
    progress.follow(target(1));
    away.called
        .subscribe()
        .wait_for(|calls| *calls >= 3)
        .await
        .unwrap();
    assert!(woken.next().now_or_never().is_none());
    assert_eq!(progress.unreachable("u", 1), None);
}
