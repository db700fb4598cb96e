//! Composes the status of a query from its record and the report of its coordinator. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_crds::shuffle_query::bound;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{
    Condition, ConditionReason, ConditionStatus, ProgressReason, QueryConditionType, ShuffleQuery, Time,
};

use super::decide::elapsed;
use super::query_record::{Coordinator, QueryRecord};

/// The status of `query` with this record and the last report of its newest coordinator.
pub fn compose(
    query: &ShuffleQuery,
    record: &QueryRecord,
    report: Option<&ShuffleQueryStatus>,
    now: Timestamp,
) -> ShuffleQueryStatus {
    let old = query.status.clone().unwrap_or_default();
    let ended = record.phase.is_terminal();
    let body = body(&old, record, report);
    let created = query.creation_timestamp();
    let submitted = created.as_ref().map_or(now, |time| time.0);
    let first_row = body.first_row_time.clone();
    // The status keeps seconds. Once the first row is in it, only the coordinator knows the milliseconds.
    let told = first_row.is_some() && first_row.as_ref().map(whole_second) == old.first_row_time;
    let since = |time| u64::try_from(elapsed(submitted, time).as_millis()).ok();
    let waited = first_row.as_ref().and_then(|time| since(time.0));
    // The coordinator's clock may be ahead of this one, or behind.
    let first = record
        .admitted
        .map_or(submitted, |admitted| admitted.max(submitted));
    let end = body
        .end_time
        .as_ref()
        .map_or(now, |time| time.0.max(first).min(now));
    let error = body.error.clone().filter(|_| ended);
    let conditions = conditions(query, &old, record, report, now);
    in_seconds(bound(ShuffleQueryStatus {
        observed_generation: query.metadata.generation,
        phase: record.phase,
        reason: Some(record.reason),
        message: Some(record.message.clone()).filter(|message| !message.is_empty()),
        conditions,
        pool_name: record.pool.clone(),
        coordinator_epoch: record.epoch,
        pod_retries: record.pod_retries,
        coordinator_failures: record.coordinator_failures,
        coordinator_memory_factor: if record.memory_factor > 1 {
            record.memory_factor
        } else {
            0
        },
        start_time: Some(Time(submitted)),
        admitted_time: record.admitted.map(Time),
        suspended_time: record.suspended.map(Time),
        suspended_millis: record.suspended_millis,
        time_to_first_row_millis: old.time_to_first_row_millis.filter(|_| told).or(waited),
        first_row_time: first_row,
        end_time: ended.then_some(Time(end)),
        duration_millis: ended.then(|| old.duration_millis.or(since(end))).flatten(),
        error,
        ..body
    }))
}

/// Rounds times to whole seconds, as Kubernetes stores them. Otherwise the status would always differ from the stored one.
fn in_seconds(mut status: ShuffleQueryStatus) -> ShuffleQueryStatus {
    let times = [
        &mut status.start_time,
        &mut status.admitted_time,
        &mut status.suspended_time,
        &mut status.first_row_time,
        &mut status.end_time,
    ];
    let times = times.into_iter().flatten();
    let conditions = status.conditions.iter_mut();
    for time in times.chain(conditions.map(|condition| &mut condition.last_transition_time)) {
        *time = whole_second(time);
    }
    status
}

fn whole_second(time: &Time) -> Time {
    Time(Timestamp::from_second(time.0.as_second()).unwrap_or(time.0))
}

/// The part of the status that comes from reports. A new coordinator starts over.
fn body(
    old: &ShuffleQueryStatus,
    record: &QueryRecord,
    report: Option<&ShuffleQueryStatus>,
) -> ShuffleQueryStatus {
    let same = record.epoch == old.coordinator_epoch && record.suspended.is_none();
    let successor = record.epoch > old.coordinator_epoch && old.coordinator_epoch > 0;
    let told = match successor {
        // The progress of the predecessor stays until its successor reports.
        true => Some(columns(old)),
        false => Some(old.clone()).filter(|_| same),
    };
    let last = report.cloned().or(told);
    let last = last.as_ref();
    match (&record.ended, last) {
        // A report that ended the query is complete, and so is a coordinator's termination message. Where the operator ended the
        // query, the earlier reports are all there is.
        (Some(end), last) => match last {
            Some(last) if has_only_an_end(end) => ShuffleQueryStatus {
                error: end.error.clone(),
                end_time: end.end_time.clone(),
                first_row_time: end.first_row_time.clone().or(last.first_row_time.clone()),
                sink: end.sink.clone(),
                ..last.clone()
            },
            Some(_) | None => ShuffleQueryStatus::clone(end),
        },
        (None, Some(last)) => last.clone(),
        (None, None) => ShuffleQueryStatus::default(),
    }
}

/// The progress columns of `kubectl get`.
fn columns(old: &ShuffleQueryStatus) -> ShuffleQueryStatus {
    ShuffleQueryStatus {
        stages_done: old.stages_done.clone(),
        tasks_done: old.tasks_done.clone(),
        local_attempts: old.local_attempts.clone(),
        speculation: old.speculation,
        recovery: old.recovery,
        totals: old.totals,
        first_row_time: old.first_row_time.clone(),
        ..ShuffleQueryStatus::default()
    }
}

/// Whether `end` has no progress: the operator ended the query, or its coordinator never ran it.
fn has_only_an_end(end: &ShuffleQueryStatus) -> bool {
    end.stages.is_empty() && end.preview.is_none() && end.totals == Default::default()
}

/// Status, reason and message of a condition.
type Observation = (ConditionStatus, ConditionReason, String);

fn conditions(
    query: &ShuffleQuery,
    old: &ShuffleQueryStatus,
    record: &QueryRecord,
    report: Option<&ShuffleQueryStatus>,
    now: Timestamp,
) -> Vec<Condition<QueryConditionType>> {
    let before = |type_| old.conditions.iter().find(|seen| seen.type_ == type_);
    let reported = report.into_iter().flat_map(|report| &report.conditions);
    let workers = reported
        .clone()
        .find(|seen| seen.type_ == QueryConditionType::WorkersReady);
    let planned = reported
        .clone()
        .any(|seen| seen.reason == ProgressReason::Planned.into());
    let was_planned = before(QueryConditionType::Accepted)
        .is_some_and(|seen| seen.reason == ProgressReason::Planned.into());
    let all: [(_, Option<Observation>); 6] = [
        (
            QueryConditionType::Accepted,
            Some(accepted(record, planned || was_planned)),
        ),
        (QueryConditionType::Admitted, Some(admitted(record))),
        (QueryConditionType::CoordinatorReady, coordinator_ready(record)),
        (
            QueryConditionType::WorkersReady,
            workers.map(|seen| (seen.status, seen.reason, seen.message.clone())),
        ),
        (QueryConditionType::Succeeded, Some(succeeded(record))),
        (QueryConditionType::Complete, Some(complete(record))),
    ];
    let conditions = all.into_iter().filter_map(|(type_, observation)| {
        let before = before(type_);
        // A condition that is no longer observed keeps its value until the next coordinator starts.
        let Some((status, reason, message)) = observation else {
            return before
                .cloned()
                .filter(|_| record.epoch == old.coordinator_epoch && record.suspended.is_none());
        };
        let since = before.filter(|seen| seen.status == status);
        let since = since.map(|seen| seen.last_transition_time.clone());
        let started = match record.coordinator {
            Coordinator::Wanted { since } if type_ == QueryConditionType::CoordinatorReady => since,
            Coordinator::Wanted { .. } | Coordinator::Starting | Coordinator::Serving => None,
        };
        Some(Condition {
            type_,
            status,
            reason,
            message,
            observed_generation: query.metadata.generation,
            last_transition_time: started.map(Time).or(since).unwrap_or(Time(now)),
        })
    });
    conditions.collect()
}

fn accepted(record: &QueryRecord, planned: bool) -> Observation {
    let refused = match record.reason {
        ConditionReason::Error(reason) => Some(reason).filter(|reason| reason.is_rejection()),
        ConditionReason::Progress(_) => None,
    };
    match refused {
        Some(reason) if !planned => (ConditionStatus::False, reason.into(), record.message.clone()),
        _ if planned => (
            ConditionStatus::True,
            ProgressReason::Planned.into(),
            String::new(),
        ),
        _ => (ConditionStatus::True, ProgressReason::Valid.into(), String::new()),
    }
}

fn admitted(record: &QueryRecord) -> Observation {
    if record.admitted.is_some() {
        return (
            ConditionStatus::True,
            ProgressReason::Admitted.into(),
            String::new(),
        );
    }
    (ConditionStatus::False, record.reason, record.message.clone())
}

/// `None` keeps the condition as it is.
fn coordinator_ready(record: &QueryRecord) -> Option<Observation> {
    if record.phase.is_terminal() || record.admitted.is_none() {
        let no_coordinator = record.epoch == 0;
        return (!no_coordinator).then(|| (ConditionStatus::False, record.reason, String::new()));
    }
    let message = record.message.clone();
    Some(match record.coordinator {
        Coordinator::Wanted { .. } => (ConditionStatus::Unknown, record.reason, message),
        Coordinator::Starting => (ConditionStatus::False, record.reason, message),
        Coordinator::Serving => {
            let serving = ProgressReason::CoordinatorServing.into();
            (ConditionStatus::True, serving, String::new())
        }
    })
}

fn succeeded(record: &QueryRecord) -> Observation {
    match record.phase {
        QueryPhase::Pending | QueryPhase::Running | QueryPhase::Suspended => {
            let reason = match record.phase {
                QueryPhase::Running => ProgressReason::Running,
                QueryPhase::Suspended => ProgressReason::Suspended,
                _ => ProgressReason::Pending,
            };
            (ConditionStatus::Unknown, reason.into(), String::new())
        }
        QueryPhase::Succeeded => (ConditionStatus::True, record.reason, String::new()),
        QueryPhase::Failed | QueryPhase::Cancelled => (ConditionStatus::False, record.reason, String::new()),
    }
}

/// True once the query has ended.
fn complete(record: &QueryRecord) -> Observation {
    let (succeeded, reason, message) = succeeded(record);
    let status = match succeeded {
        ConditionStatus::Unknown => ConditionStatus::False,
        ConditionStatus::True | ConditionStatus::False => ConditionStatus::True,
    };
    (status, reason, message)
}

#[cfg(test)]
mod tests;
