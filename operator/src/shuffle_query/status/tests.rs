use serde_json::json;
use sluice_crds::shuffle_query::status::{QueryTotals, RecoveryCounts, SpeculationCounts};

use sluice_crds::ErrorReason;

use super::*;

fn query() -> ShuffleQuery {
    let object = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ShuffleQuery",
        "metadata": {"name": "q", "namespace": "n", "uid": "u", "generation": 4,
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"sql": "select 1", "workerPoolRef": {"name": "p"}},
    });
    serde_json::from_value(object).unwrap()
}

/// Three duplicates that run.
const LAUNCHED: SpeculationCounts = SpeculationCounts {
    launched: 3,
    won: 0,
    wasted: 0,
    wasted_ms: 0,
};

/// Four tasks that did not have to run again.
const RECOVERED: RecoveryCounts = RecoveryCounts {
    recovered_tasks: 4,
    discarded_outputs: 0,
};

/// A query in the middle of its work.
fn in_progress() -> ShuffleQueryStatus {
    ShuffleQueryStatus {
        phase: QueryPhase::Running,
        first_row_time: Some(Time("2026-01-01T00:00:02.5Z".parse().unwrap())),
        stages_done: Some("1/2".to_owned()),
        tasks_done: Some("13/40".to_owned()),
        local_attempts: Some("87%".to_owned()),
        speculation: Some(LAUNCHED),
        recovery: Some(RECOVERED),
        totals: QueryTotals {
            bytes_spilled: 9,
            ..QueryTotals::default()
        },
        stages: vec![
            serde_json::from_value(json!({"id": 0, "label": "scan", "state": "Running", "elapsedMillis": 7}))
                .unwrap(),
        ],
        ..ShuffleQueryStatus::default()
    }
}

#[test]
fn a_report_counts_from_the_submission_and_a_new_coordinator_starts_over() {
    let mut query = query();
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
    let mut record = QueryRecord::of(&query);
    (record.epoch, record.admitted) = (1, Some(now));
    let report = in_progress();
    record.phase = QueryPhase::Running;
    let status = compose(&query, &record, Some(&report), now);
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(status.time_to_first_row_millis, Some(2_500));
    assert_eq!(status.start_time, query.creation_timestamp());
    query.status = Some(status.clone());
    // The operator was started again and has no report yet.
    let same = compose(&query, &record, None, now);
    assert_eq!(same.stages, status.stages);
    record.epoch = 2;
    record.reason = ProgressReason::CoordinatorRestarting.into();
    let next = compose(&query, &record, None, now);
    assert_eq!(next.stages, []);
    let columns = |status: &ShuffleQueryStatus| {
        (
            status.stages_done.clone(),
            status.tasks_done.clone(),
            status.local_attempts.clone(),
            status.speculation,
            status.recovery,
            status.totals,
            status.time_to_first_row_millis,
        )
    };
    assert_eq!(
        columns(&next),
        columns(&status),
        "until the next one has something to tell"
    );
    query.status = Some(next);
    assert_eq!(columns(&compose(&query, &record, None, now)), columns(&status));
    // It may end before it has.
    let failed = record.clone().failed(ErrorReason::DeadlineExceeded, "late", now);
    assert_eq!(columns(&compose(&query, &failed, None, now)), columns(&status));
    let after = compose(&query, &failed, None, now);
    assert_eq!(after.duration_millis, Some(60_000));
    query.status = Some(after);
    // Read back, the end has no milliseconds any more.
    let end = now + jiff::SignedDuration::from_millis(700);
    let again = compose(&query, &failed, None, end);
    assert_eq!(again.duration_millis, Some(60_000));
    query.status = Some(status);
    let started = ShuffleQueryStatus {
        tasks_done: Some("0/4".to_owned()),
        ..ShuffleQueryStatus::default()
    };
    let next = compose(&query, &record, Some(&started), now);
    assert_eq!(
        columns(&next),
        (
            None,
            Some("0/4".to_owned()),
            None,
            None,
            None,
            Default::default(),
            None
        )
    );
}

#[test]
fn every_end_completes_a_query_and_says_how() {
    use ConditionStatus::{False, True, Unknown};
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    let completed: ConditionReason = ProgressReason::Completed.into();
    for (phase, reason, succeeded, complete) in [
        (
            QueryPhase::Pending,
            ProgressReason::Pending.into(),
            Unknown,
            False,
        ),
        (
            QueryPhase::Running,
            ProgressReason::Running.into(),
            Unknown,
            False,
        ),
        (
            QueryPhase::Suspended,
            ProgressReason::Suspended.into(),
            Unknown,
            False,
        ),
        (QueryPhase::Succeeded, completed, True, True),
        (QueryPhase::Failed, ErrorReason::TaskFailed.into(), False, True),
        (QueryPhase::Cancelled, ErrorReason::Cancelled.into(), False, True),
    ] {
        let mut record = QueryRecord::of(&query());
        (record.phase, record.reason) = (phase, reason);
        let status = compose(&query(), &record, None, now);
        let seen = |type_| {
            let mut all = status.conditions.iter();
            let seen = all.find(|seen| seen.type_ == type_).unwrap();
            (seen.status, seen.reason)
        };
        assert_eq!(seen(QueryConditionType::Succeeded), (succeeded, reason));
        assert_eq!(seen(QueryConditionType::Complete), (complete, reason));
    }
}

/// Else it would be written again and again: Kubernetes keeps whole seconds.
#[test]
fn a_status_that_was_read_back_says_the_same() {
    let mut query = query();
    let now: Timestamp = "2026-01-01T00:01:00.7Z".parse().unwrap();
    let mut record = QueryRecord::of(&query);
    (record.epoch, record.admitted, record.phase) = (1, Some(now), QueryPhase::Running);
    let report = ShuffleQueryStatus {
        phase: QueryPhase::Running,
        first_row_time: Some(Time("2026-01-01T00:00:02.5Z".parse().unwrap())),
        ..ShuffleQueryStatus::default()
    };
    let written = compose(&query, &record, Some(&report), now);
    let read: ShuffleQueryStatus = serde_json::from_value(serde_json::to_value(&written).unwrap()).unwrap();
    assert_eq!(read, written);
    query.status = Some(read);
    let later = now + jiff::SignedDuration::from_secs(9);
    let record = QueryRecord::of(&query);
    assert_eq!(compose(&query, &record, Some(&report), later), written);
    // The operator was started again and has no report yet.
    assert_eq!(compose(&query, &record, None, later), written);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut query = query();
    let times: [Timestamp; 3] = [
        "2026-01-01T00:00:01Z",
        "2026-01-01T00:00:02Z",
        "2026-01-01T00:00:03Z",
    ]
    .map(|time| time.parse().unwrap());
    let admitted = |status: &ShuffleQueryStatus| {
        let seen = status
            .conditions
            .iter()
            .find(|seen| seen.type_ == QueryConditionType::Admitted);
        seen.map(|seen| (seen.status, seen.last_transition_time.0))
            .unwrap()
    };
    let mut record = QueryRecord::of(&query).waiting(ProgressReason::PoolNotFound, "");
    query.status = Some(compose(&query, &record, None, times[0]));
    record = record.waiting(ProgressReason::WaitingForPool, "");
    query.status = Some(compose(&query, &record, None, times[1]));
    assert_eq!(
        admitted(query.status.as_ref().unwrap()),
        (ConditionStatus::False, times[0])
    );
    record.admitted = Some(times[2]);
    query.status = Some(compose(&query, &record, None, times[2]));
    assert_eq!(
        admitted(query.status.as_ref().unwrap()),
        (ConditionStatus::True, times[2])
    );
}
