//! Decides what to do next about a query. Pure.

mod messages;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ErrorReason, ProgressReason, QueryConditionType};

use self::messages::{few_workers, no_worker, out_of_reach};
use super::admission::Admission;
use super::coordinator_outcome::{self, CoordinatorOutcome};
use super::coordinator_pod::{CoordinatorPod, PodState};
use super::observed::{Action, Decision, Observed, ObservedPool, ObservedSql};
use super::progress::UNREACHABLE_AFTER;
use super::query_record::{Coordinator, QueryRecord};
use crate::objects::names;

/// Time between two reconciles of an idle query.
const IDLE: Duration = Duration::from_secs(240);
/// Time between two reconciles that wait for what no watch reports.
const POLL: Duration = Duration::from_secs(15);
/// How long a cancelled coordinator may take before its pod is deleted.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(15);
/// How long a coordinator whose query has ended may take to exit. It serves its last state for up to 10 s.
const END_GRACE: Duration = Duration::from_secs(15);
/// First and longest wait before a successor starts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The message of a query that has a place in its pool, and waits to start. It does not count, so that it is written once.
const STARTS_LATER: &str = "it is one of the next to start: other coordinators start before it";

/// Decides what to do about a query.
///
/// ```text
///                 (a pool, a place)         (pod posted)            (report)
/// Pending, waiting ------------> Pending, admitted -----> starting ---------> Running
///    ^    |                          ^  ^                    |                  | |
///    |    |                          |  `-- next epoch ------+------------------' |
///    |    v                          |      (pod lost, out of memory, no workers) |
///    |  Suspended <------------------+--------------------------------------------'
///    |    |         (suspend: cancel, unless data is kept; then delete the pod)
///    `----'
///   (resumed)          from all: Succeeded, Failed, Cancelled; then tidy up; then, with a TTL, deleted
/// ```
///
/// Epoch, admission, suspension and end are persisted before the operator acts on them: a [`Decision::Persist`] does nothing
/// else.
pub fn decide(seen: &Observed, now: Timestamp) -> Decision {
    let stored = QueryRecord::of(&seen.query);
    if seen.query.metadata.deletion_timestamp.is_some() {
        // Kubernetes deletes the objects of the query.
        return act(vec![Action::Cancel], stored, IDLE);
    }
    if stored.phase.is_terminal() {
        return after_the_end(seen, stored, now);
    }
    let decided = decide_unended(seen, stored.clone(), now);
    match decided {
        Decision::Act { ref record, .. } if record.must_persist_before_acting(&stored) => {
            Decision::Persist(record.clone())
        }
        Decision::Act { .. } | Decision::Persist(_) => decided,
    }
}

/// The time from `since` to `now`. It is zero if `since` lies ahead: it came from another machine's clock, or from this one
/// before it was set.
pub(super) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

fn act(actions: Vec<Action>, record: QueryRecord, again: Duration) -> Decision {
    Decision::Act {
        actions,
        record,
        again,
    }
}

fn decide_unended(seen: &Observed, mut record: QueryRecord, now: Timestamp) -> Decision {
    if let Some(status) = coordinator_outcome::success(seen) {
        return Decision::Persist(coordinator_outcome::succeeded(seen, record, status));
    }
    if !seen.problems.is_empty() {
        let message = seen.problems.join("; ");
        return Decision::Persist(record.failed(ErrorReason::InvalidSpec, message, now));
    }
    let overdue = overdue(seen, &record, now);
    if overdue.is_some()
        && record.admitted.is_some()
        && let CoordinatorOutcome::Ended(status) = coordinator_outcome::outcome(seen, &record)
        && status.phase != QueryPhase::Cancelled
    {
        return Decision::Persist(record.ended(*status));
    }
    if let Some(overdue) = overdue
        && !(may_be_told(seen, &record) && overdue < CANCEL_GRACE)
    {
        let seconds = seen.deadline_seconds.unwrap_or_default();
        let message = format!("the query ran longer than its deadline of {seconds} s");
        return Decision::Persist(record.failed(ErrorReason::DeadlineExceeded, message, now));
    }
    if overdue.is_some() {
        // The query may commit meanwhile. The coordinator's answer decides.
        return act(
            vec![follow(seen, &record), Some(Action::Cancel)]
                .into_iter()
                .flatten()
                .collect(),
            record,
            POLL,
        );
    }
    if seen.query.spec.suspend {
        return suspended(seen, record, now);
    }
    if let Some(since) = record.suspended.take() {
        let rested = u64::try_from(elapsed(since, now).as_millis()).unwrap_or(u64::MAX);
        record.suspended_millis = record.suspended_millis.saturating_add(rested);
        return Decision::Persist(record.waiting(ProgressReason::Queued, "resumed"));
    }
    if record.admitted.is_some() {
        return admitted(seen, record, now);
    }
    waiting(seen, record, now)
}

/// How long ago the deadline passed, if it did.
fn overdue(seen: &Observed, record: &QueryRecord, now: Timestamp) -> Option<Duration> {
    let deadline = SignedDuration::from_secs(seen.deadline_seconds?.into());
    // The deadline stands still while the query is suspended.
    let until = record.suspended.unwrap_or(now);
    let rested = SignedDuration::from_millis(i64::try_from(record.suspended_millis).unwrap_or(i64::MAX));
    let used = until
        .duration_since(seen.query.creation_timestamp()?.0)
        .saturating_sub(rested);
    Duration::try_from(used.saturating_sub(deadline)).ok()
}

/// The time until the deadline, if there is one.
fn left(seen: &Observed, record: &QueryRecord, now: Timestamp) -> Option<Duration> {
    let deadline = SignedDuration::from_secs(seen.deadline_seconds?.into());
    let rested = SignedDuration::from_millis(i64::try_from(record.suspended_millis).unwrap_or(i64::MAX));
    let used = now
        .duration_since(seen.query.creation_timestamp()?.0)
        .saturating_sub(rested);
    Duration::try_from(deadline.saturating_sub(used)).ok()
}

/// Whether the newest coordinator runs and its query has not ended.
fn may_be_told(seen: &Observed, record: &QueryRecord) -> bool {
    let ended = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    record.admitted.is_some() && !ended && newest(seen, record).is_some_and(|pod| pod.address().is_some())
}

fn newest<'a>(seen: &'a Observed, record: &QueryRecord) -> Option<&'a CoordinatorPod> {
    seen.pods.iter().find(|pod| pod.epoch == record.epoch)
}

fn follow(seen: &Observed, record: &QueryRecord) -> Option<Action> {
    let address = newest(seen, record)?.service_address()?.to_owned();
    Some(Action::Follow {
        epoch: record.epoch,
        address,
    })
}

/// Suspends: running coordinators are cancelled, so that workers drop the data, and then deleted. If the data is to be kept, they
/// are stopped instead, and workers that are the query's own stay as long.
fn suspended(seen: &Observed, mut record: QueryRecord, now: Timestamp) -> Decision {
    let Some(since) = record.suspended else {
        record.phase = QueryPhase::Suspended;
        record.reason = ProgressReason::Suspended.into();
        record.message = String::new();
        record.suspended = Some(now);
        record.admitted = None;
        return Decision::Persist(record);
    };
    let said = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    let keep = Duration::from(seen.query.spec.shuffle.keep_while_suspended);
    let patient = !said && keep.is_zero() && elapsed(since, now) < CANCEL_GRACE;
    let running = seen.pods.iter().filter(|pod| pod.may_run());
    let cancellable = running
        .clone()
        .find(|pod| pod.epoch == record.epoch && pod.address().is_some());
    if let (true, Some(address)) = (patient, cancellable.and_then(CoordinatorPod::address)) {
        let follow = Action::Follow {
            epoch: record.epoch,
            address: address.to_owned(),
        };
        return act(vec![follow, Action::Cancel], record, CANCEL_GRACE);
    }
    let mut actions = vec![Action::Unfollow];
    actions.extend(delete(seen.pods.iter()));
    let kept = keep.saturating_sub(elapsed(since, now));
    if kept.is_zero() {
        actions.extend(delete_pool(seen));
        return act(actions, record, IDLE);
    }
    act(actions, record, kept.min(IDLE))
}

/// Waits for the pool, its workers, the SQL text, and admission.
fn waiting(seen: &Observed, mut record: QueryRecord, now: Timestamp) -> Decision {
    let spec = &seen.query.spec;
    let name = match (&spec.workers, &spec.worker_pool_ref) {
        (None, Some(pool)) => pool.name.clone(),
        (Some(_), _) => names::inline_pool(&seen.query.name_any()),
        (None, None) => {
            let message = "the query names no workers: set workerPoolRef, or workers";
            return Decision::Persist(record.failed(ErrorReason::InvalidSpec, message, now));
        }
    };
    record.pool = Some(name.clone());
    let again = left(seen, &record, now).map_or(IDLE, |left| left.min(IDLE));
    // A coordinator from before the suspension must not block the next.
    let mut tidy: Vec<Action> = delete(seen.pods.iter()).collect();
    if let Some(message) = &seen.quota {
        let waits = record.waiting(ProgressReason::NamespaceQuotaReached, message.as_str());
        return act(tidy, waits, again.min(POLL));
    }
    let (reason, message, poll) = match (&seen.pool, seen.admission, &seen.sql) {
        (ObservedPool::Absent, ..) if spec.workers.is_some() => {
            tidy.extend(create_pool(seen));
            (
                ProgressReason::WaitingForPool,
                format!("pool {name} starts"),
                IDLE,
            )
        }
        (ObservedPool::Absent, ..) => {
            let message = format!("create a WorkerPool {name} in this namespace, or name another");
            (ProgressReason::PoolNotFound, message, IDLE)
        }
        (ObservedPool::Deleting, ..) => (
            ProgressReason::WaitingForPool,
            format!("pool {name} is being deleted"),
            POLL,
        ),
        (ObservedPool::NameTaken, ..) => {
            let message = format!("WorkerPool {name} exists and is not this query's: delete it");
            (ProgressReason::NameTaken, message, POLL)
        }
        (
            ObservedPool::Found {
                compatible, needed, ..
            },
            ..,
        ) if compatible < needed => {
            let message = few_workers(&seen.pool, &name, *needed);
            (ProgressReason::WaitingForPool, message, IDLE)
        }
        (ObservedPool::Found { .. }, Admission::Queued { ahead, running }, _) => {
            let message = format!("{running} queries run in pool {name}, and {ahead} wait before this one");
            (ProgressReason::Queued, message, position_stays_true(ahead))
        }
        (ObservedPool::Found { .. }, Admission::Delayed(after), _) => {
            (ProgressReason::Queued, STARTS_LATER.to_owned(), after)
        }
        (ObservedPool::Found { .. }, Admission::Granted, ObservedSql::Missing(what)) => {
            (ProgressReason::SqlNotFound, what.clone(), POLL)
        }
        (ObservedPool::Found { .. }, Admission::Granted, ObservedSql::Available) => {
            record.admitted = Some(now);
            record.epoch = next_epoch(seen, &record);
            record.coordinator = Coordinator::Wanted { since: None };
            return Decision::Persist(record.waiting(ProgressReason::Admitted, String::new()));
        }
    };
    act(tidy, record.waiting(reason, message), again.min(poll))
}

/// How long the position in the message may stay unchanged. Queries at the front update it sooner, as no event reports that they
/// have moved.
fn position_stays_true(ahead: usize) -> Duration {
    // A thousand waiting queries then write six statuses a second, which leaves most of the writes to those that run.
    let periods = u32::try_from(ahead / 25).unwrap_or(u32::MAX);
    POLL.saturating_mul(periods.saturating_add(1)).min(IDLE)
}

/// Above every earlier epoch, even if somebody removed the status.
fn next_epoch(seen: &Observed, record: &QueryRecord) -> u64 {
    let pods = seen.pods.iter().map(|pod| pod.epoch).max().unwrap_or(0);
    record.epoch.max(pods).saturating_add(1)
}

/// Admitted: a coordinator runs, or the next one is about to start.
fn admitted(seen: &Observed, record: QueryRecord, now: Timestamp) -> Decision {
    match coordinator_outcome::outcome(seen, &record) {
        CoordinatorOutcome::Ended(status) => Decision::Persist(record.ended(*status)),
        CoordinatorOutcome::Retry { why, counted } => {
            let epoch = next_epoch(seen, &record);
            let memory_factor = coordinator_outcome::memory_factor(seen, &record);
            let mut next = record.waiting(ProgressReason::CoordinatorRestarting, why);
            next.memory_factor = memory_factor;
            next.epoch = epoch;
            next.pod_retries = next.pod_retries.saturating_add(1);
            next.coordinator_failures = next.coordinator_failures.saturating_add(counted.into());
            next.coordinator = Coordinator::Wanted { since: Some(now) };
            Decision::Persist(next)
        }
        CoordinatorOutcome::Failed { reason, message } => {
            Decision::Persist(record.failed(reason, message, now))
        }
        CoordinatorOutcome::Absent => launch(seen, record, now),
        CoordinatorOutcome::Runs(pod) => running(seen, record, pod, now),
    }
}

/// Creates the pod of the newest coordinator, after its back-off and once the pool has a compatible worker.
fn launch(seen: &Observed, mut record: QueryRecord, now: Timestamp) -> Decision {
    if let Coordinator::Wanted { since: Some(since) } = record.coordinator
        && record.reason == ProgressReason::CoordinatorRestarting.into()
    {
        let waited = elapsed(since, now);
        let delay = backoff(record.pod_retries);
        if waited < delay {
            return act(vec![Action::Unfollow], record, delay.saturating_sub(waited));
        }
    }
    if let ObservedPool::Found { compatible: 0, .. } = seen.pool {
        // It would wait until it gives up, and workers of another build would refuse it.
        let message = few_workers(&seen.pool, record.pool.as_deref().unwrap_or_default(), 1);
        let waits = record.waiting(ProgressReason::WaitingForPool, message);
        return act(vec![Action::Unfollow], waits, POLL);
    }
    let epoch = record.epoch;
    let memory_factor = record.memory_factor;
    let mut actions = vec![Action::Unfollow];
    actions.extend(create_pool(seen));
    actions.extend([
        Action::CreateInput,
        Action::CreateToken { epoch },
        Action::CreatePod { epoch, memory_factor },
    ]);
    record.coordinator = Coordinator::Starting;
    act(
        actions,
        record.waiting(ProgressReason::CoordinatorStarting, String::new()),
        POLL,
    )
}

/// The wait before the successor number `retries`.
fn backoff(retries: u32) -> Duration {
    let (first, longest) = BACKOFF;
    first
        .saturating_mul(1 << retries.saturating_sub(1).min(16))
        .min(longest)
}

/// Handles a coordinator that starts or runs.
fn running(seen: &Observed, mut record: QueryRecord, pod: &CoordinatorPod, now: Timestamp) -> Decision {
    let mut actions: Vec<Action> = follow(seen, &record).into_iter().collect();
    // The successor has read its predecessors' termination messages.
    actions.extend(delete(
        seen.pods.iter().filter(|other| other.epoch < record.epoch),
    ));
    actions.extend(create_pool(seen));
    let idle = match pod.state {
        // No watch reports that it has waited for long.
        PodState::Waiting(_) => POLL,
        PodState::Running(_) | PodState::Ended(_) => IDLE,
    };
    let again = left(seen, &record, now).map_or(idle, |left| left.min(idle));
    if !matches!(record.coordinator, Coordinator::Serving) {
        record.coordinator = Coordinator::Starting;
    }
    record = match (&pod.state, &seen.report) {
        // It may report before the kubelet says that its container runs.
        (_, Some(report)) => {
            record.coordinator = Coordinator::Serving;
            reported(record, report, &seen.pool)
        }
        (PodState::Waiting(wait), None) => record.waiting(wait.reason, wait.message.clone()),
        (PodState::Running(_) | PodState::Ended(_), None) => unreported(record),
    };
    let again = match (&pod.state, &seen.unreachable) {
        (PodState::Running(_), Some(unreachable)) => {
            // It was called before its container ran.
            let runs_for = pod
                .started
                .map_or(UNREACHABLE_AFTER, |started| elapsed(started, now));
            match UNREACHABLE_AFTER.checked_sub(runs_for) {
                Some(rest) if !rest.is_zero() => again.min(rest),
                Some(_) | None => {
                    record.coordinator = Coordinator::Starting;
                    record.reason = ProgressReason::CoordinatorUnreachable.into();
                    record.message = out_of_reach(unreachable);
                    again
                }
            }
        }
        _ => again,
    };
    act(actions, record, again)
}

fn reported(mut record: QueryRecord, report: &ShuffleQueryStatus, pool: &ObservedPool) -> QueryRecord {
    record.phase = report.phase;
    record.message = String::new();
    let workers = report
        .conditions
        .iter()
        .find(|seen| seen.type_ == QueryConditionType::WorkersReady);
    let waits = workers.is_some_and(|seen| seen.reason == ProgressReason::WaitingForWorkers.into());
    record.reason = match report.phase {
        QueryPhase::Pending if waits => {
            record.message = workers.map(|seen| seen.message.clone()).unwrap_or_default();
            ProgressReason::WaitingForWorkers.into()
        }
        QueryPhase::Running if waits => {
            record.message = no_worker(pool, workers.map_or("", |seen| &seen.message));
            ProgressReason::WaitingForWorkers.into()
        }
        _ => report.reason.unwrap_or(ProgressReason::Running.into()),
    };
    record
}

/// No report was received yet: the coordinator starts, or the operator has just started.
fn unreported(record: QueryRecord) -> QueryRecord {
    if record.phase == QueryPhase::Running {
        return record;
    }
    record.waiting(ProgressReason::CoordinatorStarting, String::new())
}

/// Cleans up, and deletes the query after its time to live.
fn after_the_end(seen: &Observed, record: QueryRecord, now: Timestamp) -> Decision {
    let status = seen.query.status.as_ref();
    let ended = status
        .and_then(|status| status.end_time.as_ref())
        .map_or(now, |time| time.0);
    let since = elapsed(ended, now);
    let mut again = IDLE;
    let mut actions = vec![Action::Unfollow];
    if let Some(seconds) = seen.ttl_seconds {
        let ttl = Duration::from_secs(seconds.into());
        if since >= ttl {
            return act(vec![Action::Unfollow, Action::DeleteQuery], record, IDLE);
        }
        again = again.min(ttl.saturating_sub(since));
    }
    let own_decision = record.reason == ErrorReason::DeadlineExceeded.into();
    let patient = since < END_GRACE && !own_decision;
    for pod in &seen.pods {
        if pod.may_run() && patient {
            again = again.min(END_GRACE.saturating_sub(since));
        } else if pod.may_run() || record.phase != QueryPhase::Failed {
            // The pod of a failed query stays, since its log may say more.
            actions.extend(delete([pod].into_iter()));
        }
    }
    if seen.input && !seen.pods.iter().any(CoordinatorPod::may_run) {
        actions.push(Action::DeleteInput);
    }
    actions.extend(delete_pool(seen));
    act(actions, record, again)
}

fn delete<'a>(pods: impl Iterator<Item = &'a CoordinatorPod>) -> impl Iterator<Item = Action> {
    let pods = pods.filter(|pod| !pod.leaving);
    pods.map(|pod| Action::DeletePod {
        name: pod.name.clone(),
    })
}

fn create_pool(seen: &Observed) -> Option<Action> {
    let own = seen.query.spec.workers.is_some();
    (own && seen.pool == ObservedPool::Absent).then_some(Action::CreatePool)
}

fn delete_pool(seen: &Observed) -> Option<Action> {
    let own = seen.query.spec.workers.is_some();
    (own && matches!(seen.pool, ObservedPool::Found { .. })).then_some(Action::DeletePool)
}

#[cfg(test)]
mod tests;
