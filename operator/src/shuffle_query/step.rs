//! What to do next about a query: a pure function of what is seen.

mod messages;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ErrorReason, ProgressReason, QueryConditionType};

use self::messages::{few_workers, no_worker, out_of_reach};
use super::admission::Place;
use super::ending::{self, Fate};
use super::lifecycle::{Coordinator, Lifecycle};
use super::observed::{Action, Observed, PoolSeen, SqlSeen, Step};
use super::pods::{CoordinatorPod, PodState};
use crate::objects::names;

/// Between two looks at a query about which nothing is to be done.
const IDLE: Duration = Duration::from_secs(240);
/// Between two looks at what no watch tells of.
const POLL: Duration = Duration::from_secs(15);
/// How long a coordinator that was told to cancel its query may take before its pod is deleted.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(15);
/// How long a coordinator whose query has ended may take to end: it waits 10 s for who wants to see its last state.
const END_GRACE: Duration = Duration::from_secs(15);
/// First and longest wait before a successor starts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Decides what to do about a query.
///
/// ```text
///                 (a pool, a place)         (pod posted)            (report)
/// Pending, waiting ------------> Pending, admitted -----> starting ---------> Running
///    ^    |                          ^  ^                    |                  | |
///    |    |                          |  `-- next epoch ------+------------------' |
///    |    v                          |      (pod lost, out of memory, no workers) |
///    |  Suspended <------------------+--------------------------------------------'
///    |    |         (suspend: cancel, then delete the pod)
///    `----'
///   (resumed)          from all: Succeeded, Failed, Cancelled; then tidy up; then, with a TTL, deleted
/// ```
///
/// What binds (epoch, place, suspension, the end) is written before it is acted on: a [`Step::Commit`] does nothing else.
pub fn step(seen: &Observed, now: Timestamp) -> Step {
    let stored = Lifecycle::of(&seen.query);
    if seen.query.metadata.deletion_timestamp.is_some() {
        // Kubernetes removes what the query owns.
        return act(vec![Action::Cancel], stored, IDLE);
    }
    if stored.phase.is_terminal() {
        return after_the_end(seen, stored, now);
    }
    let decided = decide(seen, stored.clone(), now);
    match decided {
        Step::Act { ref life, .. } if life.commits_to_more_than(&stored) => Step::Commit(life.clone()),
        Step::Act { .. } | Step::Commit(_) => decided,
    }
}

/// The time from `since` to `now`. None has passed since what lies ahead: another machine's clock, or this one's before it was
/// set, told of it.
pub(super) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

fn act(actions: Vec<Action>, life: Lifecycle, again: Duration) -> Step {
    Step::Act { actions, life, again }
}

fn decide(seen: &Observed, mut life: Lifecycle, now: Timestamp) -> Step {
    if let Some(words) = ending::success(seen) {
        return Step::Commit(ending::succeeded(seen, life, words));
    }
    if !seen.problems.is_empty() {
        let message = seen.problems.join("; ");
        return Step::Commit(life.failed(ErrorReason::InvalidSpec, message, now));
    }
    let overdue = overdue(seen, &life, now);
    if overdue.is_some()
        && life.admitted.is_some()
        && let Fate::Ended(words) = ending::fate(seen, &life)
        && words.phase != QueryPhase::Cancelled
    {
        return Step::Commit(life.ended(*words));
    }
    if let Some(overdue) = overdue
        && !(may_be_told(seen, &life) && overdue < CANCEL_GRACE)
    {
        let seconds = seen.deadline_seconds.unwrap_or_default();
        let message = format!("the query ran longer than its deadline of {seconds} s");
        return Step::Commit(life.failed(ErrorReason::DeadlineExceeded, message, now));
    }
    if overdue.is_some() {
        // What is committed meanwhile counts; the coordinator's answer tells.
        return act(
            vec![follow(seen, &life), Some(Action::Cancel)]
                .into_iter()
                .flatten()
                .collect(),
            life,
            POLL,
        );
    }
    if seen.query.spec.suspend {
        return suspended(seen, life, now);
    }
    if let Some(since) = life.suspended.take() {
        let rested = u64::try_from(elapsed(since, now).as_millis()).unwrap_or(u64::MAX);
        life.suspended_millis = life.suspended_millis.saturating_add(rested);
        return Step::Commit(life.waiting(ProgressReason::Queued, "resumed"));
    }
    if life.admitted.is_some() {
        return admitted(seen, life, now);
    }
    waiting(seen, life, now)
}

/// How long the deadline is over, if it is.
fn overdue(seen: &Observed, life: &Lifecycle, now: Timestamp) -> Option<Duration> {
    let deadline = SignedDuration::from_secs(seen.deadline_seconds?.into());
    // The deadline does not pass while a query rests.
    let until = life.suspended.unwrap_or(now);
    let rested = SignedDuration::from_millis(i64::try_from(life.suspended_millis).unwrap_or(i64::MAX));
    let used = until
        .duration_since(seen.query.creation_timestamp()?.0)
        .saturating_sub(rested);
    Duration::try_from(used.saturating_sub(deadline)).ok()
}

/// How long until the deadline, if there is one.
fn left(seen: &Observed, life: &Lifecycle, now: Timestamp) -> Option<Duration> {
    let deadline = SignedDuration::from_secs(seen.deadline_seconds?.into());
    let rested = SignedDuration::from_millis(i64::try_from(life.suspended_millis).unwrap_or(i64::MAX));
    let used = now
        .duration_since(seen.query.creation_timestamp()?.0)
        .saturating_sub(rested);
    Duration::try_from(deadline.saturating_sub(used)).ok()
}

/// Whether the newest coordinator runs and has not ended its query.
fn may_be_told(seen: &Observed, life: &Lifecycle) -> bool {
    let ended = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    life.admitted.is_some() && !ended && newest(seen, life).is_some_and(|pod| pod.address().is_some())
}

fn newest<'a>(seen: &'a Observed, life: &Lifecycle) -> Option<&'a CoordinatorPod> {
    seen.pods.iter().find(|pod| pod.epoch == life.epoch)
}

fn follow(seen: &Observed, life: &Lifecycle) -> Option<Action> {
    let address = newest(seen, life)?.address()?.to_owned();
    Some(Action::Follow {
        epoch: life.epoch,
        address,
    })
}

/// Rests: whatever runs is told to cancel, so that workers drop its data, and then deleted.
fn suspended(seen: &Observed, mut life: Lifecycle, now: Timestamp) -> Step {
    let Some(since) = life.suspended else {
        life.phase = QueryPhase::Suspended;
        life.reason = ProgressReason::Suspended.into();
        life.message = String::new();
        life.suspended = Some(now);
        life.admitted = None;
        return Step::Commit(life);
    };
    let said = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    let patient = !said && elapsed(since, now) < CANCEL_GRACE;
    let running = seen.pods.iter().filter(|pod| pod.may_run());
    let told = running
        .clone()
        .find(|pod| pod.epoch == life.epoch && pod.address().is_some());
    if let (true, Some(address)) = (patient, told.and_then(CoordinatorPod::address)) {
        let follow = Action::Follow {
            epoch: life.epoch,
            address: address.to_owned(),
        };
        return act(vec![follow, Action::Cancel], life, CANCEL_GRACE);
    }
    let mut actions = vec![Action::Unfollow];
    actions.extend(delete(seen.pods.iter()));
    actions.extend(delete_pool(seen));
    act(actions, life, IDLE)
}

/// Waits for a pool, its workers, the SQL text, a place.
fn waiting(seen: &Observed, mut life: Lifecycle, now: Timestamp) -> Step {
    let spec = &seen.query.spec;
    let name = match (&spec.workers, &spec.worker_pool_ref) {
        (None, Some(pool)) => pool.name.clone(),
        (Some(_), _) => names::inline_pool(&seen.query.name_any()),
        (None, None) => {
            let message = "the query names no workers: set workerPoolRef, or workers";
            return Step::Commit(life.failed(ErrorReason::InvalidSpec, message, now));
        }
    };
    life.pool = Some(name.clone());
    let again = left(seen, &life, now).map_or(IDLE, |left| left.min(IDLE));
    // A coordinator from before a rest must not be in the way of the next.
    let mut tidy: Vec<Action> = delete(seen.pods.iter()).collect();
    if let Some(message) = &seen.quota {
        let waits = life.waiting(ProgressReason::NamespaceQuotaReached, message.as_str());
        return act(tidy, waits, again.min(POLL));
    }
    let (reason, message, poll) = match (&seen.pool, seen.place, &seen.sql) {
        (PoolSeen::Absent, ..) if spec.workers.is_some() => {
            tidy.extend(create_pool(seen));
            (
                ProgressReason::WaitingForPool,
                format!("pool {name} starts"),
                IDLE,
            )
        }
        (PoolSeen::Absent, ..) => {
            let message = format!("create a WorkerPool {name} in this namespace, or name another");
            (ProgressReason::PoolNotFound, message, IDLE)
        }
        (PoolSeen::Leaving, ..) => (
            ProgressReason::WaitingForPool,
            format!("pool {name} is being deleted"),
            POLL,
        ),
        (PoolSeen::Taken, ..) => {
            let message = format!("WorkerPool {name} exists and is not this query's: delete it");
            (ProgressReason::NameTaken, message, POLL)
        }
        (
            PoolSeen::Found {
                compatible, needed, ..
            },
            ..,
        ) if compatible < needed => {
            let message = few_workers(&seen.pool, &name, *needed);
            (ProgressReason::WaitingForPool, message, IDLE)
        }
        (PoolSeen::Found { .. }, Place::Waiting { ahead, running }, _) => {
            let message = format!("{running} queries run in pool {name}, and {ahead} wait before this one");
            (ProgressReason::Queued, message, position_stays_true(ahead))
        }
        (PoolSeen::Found { .. }, Place::Free, SqlSeen::Missing(what)) => {
            (ProgressReason::SqlNotFound, what.clone(), POLL)
        }
        (PoolSeen::Found { .. }, Place::Free, SqlSeen::There) => {
            life.admitted = Some(now);
            life.epoch = next_epoch(seen, &life);
            life.coordinator = Coordinator::Wanted { since: None };
            return Step::Commit(life.waiting(ProgressReason::Admitted, String::new()));
        }
    };
    act(tidy, life.waiting(reason, message), again.min(poll))
}

/// How long a query may say how many are before it: those at the front hear sooner that they have moved, as nothing else
/// tells them.
fn position_stays_true(ahead: usize) -> Duration {
    let hundreds = u32::try_from(ahead / 100).unwrap_or(u32::MAX);
    POLL.saturating_mul(hundreds.saturating_add(1)).min(IDLE)
}

/// Above every coordinator that there ever was, even where somebody took the status away.
fn next_epoch(seen: &Observed, life: &Lifecycle) -> u64 {
    let pods = seen.pods.iter().map(|pod| pod.epoch).max().unwrap_or(0);
    life.epoch.max(pods).saturating_add(1)
}

/// Has its place: one coordinator runs, or the next is on its way.
fn admitted(seen: &Observed, life: Lifecycle, now: Timestamp) -> Step {
    match ending::fate(seen, &life) {
        Fate::Ended(words) => Step::Commit(life.ended(*words)),
        Fate::Again { why, counted } => {
            let epoch = next_epoch(seen, &life);
            let memory_factor = ending::memory_factor(seen, &life);
            let mut next = life.waiting(ProgressReason::CoordinatorRestarting, why);
            next.memory_factor = memory_factor;
            next.epoch = epoch;
            next.pod_retries = next.pod_retries.saturating_add(1);
            next.coordinator_failures = next.coordinator_failures.saturating_add(counted.into());
            next.coordinator = Coordinator::Wanted { since: Some(now) };
            Step::Commit(next)
        }
        Fate::Failed { reason, message } => Step::Commit(life.failed(reason, message, now)),
        Fate::Absent => launch(seen, life, now),
        Fate::Runs(pod) => running(seen, life, pod, now),
    }
}

/// Posts the pod of the newest coordinator, in its turn, and once the pool has a worker that it can use.
fn launch(seen: &Observed, mut life: Lifecycle, now: Timestamp) -> Step {
    if let Coordinator::Wanted { since: Some(since) } = life.coordinator
        && life.reason == ProgressReason::CoordinatorRestarting.into()
    {
        let waited = elapsed(since, now);
        let delay = backoff(life.pod_retries);
        if waited < delay {
            return act(vec![Action::Unfollow], life, delay.saturating_sub(waited));
        }
    }
    if let PoolSeen::Found { compatible: 0, .. } = seen.pool {
        // It would wait for workers until it gives up, and old ones would refuse it.
        let message = few_workers(&seen.pool, life.pool.as_deref().unwrap_or_default(), 1);
        let waits = life.waiting(ProgressReason::WaitingForPool, message);
        return act(vec![Action::Unfollow], waits, POLL);
    }
    let epoch = life.epoch;
    let memory_factor = life.memory_factor;
    let mut actions = vec![Action::Unfollow];
    actions.extend(create_pool(seen));
    actions.extend([
        Action::CreateInput,
        Action::CreateToken { epoch },
        Action::CreatePod { epoch, memory_factor },
    ]);
    life.coordinator = Coordinator::Starting;
    act(
        actions,
        life.waiting(ProgressReason::CoordinatorStarting, String::new()),
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

/// A coordinator is there.
fn running(seen: &Observed, mut life: Lifecycle, pod: &CoordinatorPod, now: Timestamp) -> Step {
    let mut actions: Vec<Action> = follow(seen, &life).into_iter().collect();
    // The successor has taken over what its predecessors' pods told.
    actions.extend(delete(seen.pods.iter().filter(|other| other.epoch < life.epoch)));
    actions.extend(create_pool(seen));
    let idle = match pod.state {
        // No watch tells that it has waited for long.
        PodState::Waiting(_) => POLL,
        PodState::Running(_) | PodState::Ended(_) => IDLE,
    };
    let again = left(seen, &life, now).map_or(idle, |left| left.min(idle));
    if !matches!(life.coordinator, Coordinator::Serving) {
        life.coordinator = Coordinator::Starting;
    }
    life = match (&pod.state, &seen.report) {
        (PodState::Waiting(wait), _) => life.waiting(wait.reason, wait.message.clone()),
        (_, Some(report)) => {
            life.coordinator = Coordinator::Serving;
            reported(life, report, &seen.pool)
        }
        (PodState::Running(_) | PodState::Ended(_), None) => unreported(life),
    };
    if let (PodState::Running(_), Some(unreachable)) = (&pod.state, &seen.unreachable) {
        life.coordinator = Coordinator::Starting;
        life.reason = ProgressReason::CoordinatorUnreachable.into();
        life.message = out_of_reach(unreachable);
    }
    act(actions, life, again)
}

fn reported(mut life: Lifecycle, report: &ShuffleQueryStatus, pool: &PoolSeen) -> Lifecycle {
    life.phase = report.phase;
    life.message = String::new();
    let workers = report
        .conditions
        .iter()
        .find(|seen| seen.type_ == QueryConditionType::WorkersReady);
    let waits = workers.is_some_and(|seen| seen.reason == ProgressReason::WaitingForWorkers.into());
    life.reason = match report.phase {
        QueryPhase::Pending if waits => {
            life.message = workers.map(|seen| seen.message.clone()).unwrap_or_default();
            ProgressReason::WaitingForWorkers.into()
        }
        QueryPhase::Running if waits => {
            life.message = no_worker(pool, workers.map_or("", |seen| &seen.message));
            ProgressReason::WaitingForWorkers.into()
        }
        _ => report.reason.unwrap_or(ProgressReason::Running.into()),
    };
    life
}

/// Nothing was reported yet: by a coordinator that starts, or to an operator that has just started.
fn unreported(life: Lifecycle) -> Lifecycle {
    if life.phase == QueryPhase::Running {
        return life;
    }
    life.waiting(ProgressReason::CoordinatorStarting, String::new())
}

/// Tidies up, and deletes the query when its time has come.
fn after_the_end(seen: &Observed, life: Lifecycle, now: Timestamp) -> Step {
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
            return act(vec![Action::Unfollow, Action::DeleteQuery], life, IDLE);
        }
        again = again.min(ttl.saturating_sub(since));
    }
    let own_decision = life.reason == ErrorReason::DeadlineExceeded.into();
    let patient = since < END_GRACE && !own_decision;
    for pod in &seen.pods {
        if pod.may_run() && patient {
            again = again.min(END_GRACE.saturating_sub(since));
        } else if pod.may_run() || life.phase != QueryPhase::Failed {
            // The pod of a failed query stays: its log may say more.
            actions.extend(delete([pod].into_iter()));
        }
    }
    if seen.input && !seen.pods.iter().any(CoordinatorPod::may_run) {
        actions.push(Action::DeleteInput);
    }
    actions.extend(delete_pool(seen));
    act(actions, life, again)
}

fn delete<'a>(pods: impl Iterator<Item = &'a CoordinatorPod>) -> impl Iterator<Item = Action> {
    let pods = pods.filter(|pod| !pod.leaving);
    pods.map(|pod| Action::DeletePod {
        name: pod.name.clone(),
    })
}

fn create_pool(seen: &Observed) -> Option<Action> {
    let own = seen.query.spec.workers.is_some();
    (own && seen.pool == PoolSeen::Absent).then_some(Action::CreatePool)
}

fn delete_pool(seen: &Observed) -> Option<Action> {
    let own = seen.query.spec.workers.is_some();
    (own && matches!(seen.pool, PoolSeen::Found { .. })).then_some(Action::DeletePool)
}

#[cfg(test)]
mod tests;
