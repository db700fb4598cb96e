use sluice_crds::shuffle_query::TERMINAL_STATUS_BYTES;

use super::*;
use crate::ids::{AttemptId, StageEpoch, StageId};
use crate::locality::LocalityCounts;
use crate::query_outcome::QueryFailure;
use crate::snapshot::{JoinSwitches, RecoveryCounts, ReduceSnapshot, SpeculationCounts};

const STARTED: Instant = Instant(1_000);

fn stage(id: u32, state: StageState) -> StageSnapshot {
    let begun = state != StageState::Waiting;
    StageSnapshot {
        id: StageId(id),
        label: format!("stage {id}"),
        output: "hash".to_owned(),
        state,
        tasks: 4,
        running: u32::from(state == StageState::Running) * 2,
        done: match state {
            StageState::Waiting | StageState::Schedulable => 0,
            StageState::Running => 1,
            StageState::Done => 4,
        },
        skipped: 0,
        failed_attempts: u32::from(begun),
        lost_attempts: 0,
        cancelled_attempts: 0,
        attempts: u32::from(begun) * 5,
        locality: LocalityCounts {
            node: u32::from(begun),
            zone: u32::from(begun) * 2,
            worker: 0,
            no_worker_near: 0,
            near_workers_busy: u32::from(begun) * 2,
            same_files: 0,
        },
        reduce: (id > 0).then(|| ReduceSnapshot {
            planned_reduce_tasks: 4,
            adaptive_reduce_tasks: Some(3),
            adaptive_target_bytes: Some(1 << 20),
            layout_events: 3,
            skew_split_tasks: 2,
            layout_finalize_count: 2,
            reduce_fetch_window_partitions: 8,
            partition_bytes_histogram: vec![3, 0, 1],
            first_chunk_ms: Some(20),
            first_reduce_row_ms: Some(30),
        }),
        filters: None,
        join_switches: JoinSwitches {
            sorted_tasks: 2,
            swapped_joins: 0,
            broadcast_tasks: 4,
        },
        speculation: SpeculationCounts {
            launched: id * 3,
            won: id * 2,
            wasted: id,
            wasted_ms: u64::from(id) * 700,
        },
        metrics: AttemptMetrics {
            rows_read: 100,
            bytes_read: 1_000,
            rows_filtered: 0,
            shuffle_rows_in: 7,
            shuffle_bytes_in: 70,
            rows_out: 50,
            bytes_out: 500,
            bytes_spilled: 5,
            shuffle_bytes_spilled: 3,
            backpressure_events: 6,
            first_chunk_ms: None,
            first_reduce_row_ms: None,
            activity: 0,
        },
        started: begun.then_some(Instant(1_200)),
        ended: (state == StageState::Done).then_some(Instant(2_200)),
    }
}

fn snapshot(stages: Vec<StageSnapshot>) -> QuerySnapshot {
    QuerySnapshot {
        now: Instant(4_000),
        started: STARTED,
        first_row: None,
        ended: None,
        outcome: None,
        workers: 2,
        slots: 4,
        no_workers: None,
        recovery: RecoveryCounts {
            recovered_tasks: 5,
            discarded_outputs: 1,
        },
        stages,
    }
}

fn context() -> StatusContext {
    StatusContext {
        start_time: "2026-01-01T00:00:00Z".parse().expect("a time"),
        result_stages: vec![StageId(1)],
        sink: None,
    }
}

fn json_of(snapshot: &QuerySnapshot) -> serde_json::Value {
    serde_json::to_value(status(snapshot, &context(), None)).expect("a status is JSON")
}

#[test]
fn a_running_query_shows_its_progress() {
    let snapshot = snapshot(vec![stage(0, StageState::Done), stage(1, StageState::Running)]);
    insta::assert_yaml_snapshot!("running", json_of(&snapshot));
}

#[test]
fn totals_of_impossible_numbers_end_at_the_largest() {
    let mut stages = vec![stage(0, StageState::Running), stage(1, StageState::Running)];
    for stage in &mut stages {
        stage.metrics.rows_read = u64::MAX;
        stage.metrics.bytes_spilled = u64::MAX;
    }
    let totals = status(&snapshot(stages), &context(), None).totals;
    assert_eq!((totals.rows_read, totals.bytes_spilled), (u64::MAX, u64::MAX));
}

#[test]
fn a_snapshot_of_an_older_coordinator_can_be_read() {
    let running = snapshot(vec![stage(1, StageState::Running)]);
    let mut json = serde_json::to_value(&running).expect("a snapshot is JSON");
    let old = json["stages"][0].as_object_mut().expect("a stage");
    old.remove("reduce");
    let metrics = old["metrics"].as_object_mut().expect("counters");
    for name in [
        "shuffle_bytes_spilled",
        "backpressure_events",
        "first_chunk_ms",
        "first_reduce_row_ms",
    ] {
        metrics.remove(name).expect("a new field");
    }
    let read: QuerySnapshot = serde_json::from_value(json).expect("it reads without them");
    assert_eq!(read.stages[0].metrics.bytes_spilled, 5);
}

#[test]
fn a_failed_query_shows_its_cause() {
    let mut snapshot = snapshot(vec![stage(0, StageState::Running), stage(1, StageState::Waiting)]);
    snapshot.ended = Some(Instant(3_500));
    snapshot.outcome = Some(Outcome::Failed(QueryFailure {
        reason: ErrorReason::TaskFailed,
        message: "boom".to_owned(),
        attempt: Some(AttemptId {
            stage: StageId(0),
            stage_epoch: StageEpoch(0),
            task: 2,
            attempt: 1,
        }),
    }));
    insta::assert_yaml_snapshot!("failed", json_of(&snapshot));
}

#[test]
fn the_phase_follows_assignments_and_outcome() {
    let mut pending = snapshot(vec![stage(0, StageState::Waiting)]);
    assert_eq!(status(&pending, &context(), None).phase, QueryPhase::Pending);
    pending.stages = vec![stage(0, StageState::Running)];
    assert_eq!(status(&pending, &context(), None).phase, QueryPhase::Running);
    pending.outcome = Some(Outcome::Cancelled);
    let cancelled = status(&pending, &context(), None);
    assert_eq!(cancelled.phase, QueryPhase::Cancelled);
    assert_eq!(
        cancelled.error.map(|error| error.reason),
        Some(ErrorReason::Cancelled)
    );
}

#[test]
fn a_succeeded_query_shows_its_sink_and_times() {
    let mut done = snapshot(vec![stage(0, StageState::Done), stage(1, StageState::Done)]);
    let mut context = context();
    context.sink = Some(SinkFiles {
        location: "file:///out".to_owned(),
        files: 4,
        rows: 30,
        bytes: 3_000,
    });
    assert_eq!(status(&done, &context, None).sink, None, "nothing is visible yet");
    done.outcome = Some(Outcome::Succeeded);
    done.first_row = Some(Instant(2_500));
    done.ended = Some(Instant(3_000));
    let shown = status(&done, &context, None);
    let sink = shown.sink.expect("a sink");
    assert_eq!(
        (sink.files, sink.rows, sink.bytes),
        (4, 30, 3_000),
        "as the record says"
    );
    assert_eq!(shown.time_to_first_row_millis, Some(1_500));
    assert_eq!(shown.duration_millis, Some(2_000));
    let end = shown.end_time.expect("an end").0.to_string();
    assert_eq!(end, "2026-01-01T00:00:02Z");
}

#[test]
fn a_finished_query_of_many_stages_stays_small() {
    let stages = (0..500).map(|id| stage(id, StageState::Done)).collect();
    let mut done = snapshot(stages);
    done.outcome = Some(Outcome::Succeeded);
    done.ended = Some(Instant(3_000));
    let shown = status(&done, &context(), None);
    let bytes = serde_json::to_vec(&shown).expect("a status is JSON").len();
    assert!(bytes <= TERMINAL_STATUS_BYTES, "{bytes} bytes");
    assert_eq!(shown.stages.len() + shown.stages_omitted as usize, 500);
    assert_eq!(shown.stages_done.as_deref(), Some("500/500"));
}

#[test]
fn a_query_without_workers_says_what_its_coordinator_hears_of_them() {
    let snapshot = QuerySnapshot {
        outcome: None,
        ended: None,
        no_workers: Some("10.0.0.7:7400: the session was refused".to_owned()),
        ..QuerySnapshot::committed_before()
    };
    let mut seen = conditions(&snapshot, &context()).into_iter();
    let workers = seen
        .find(|seen| seen.type_ == QueryConditionType::WorkersReady)
        .unwrap();
    assert_eq!(
        (workers.status, workers.message.as_str()),
        (ConditionStatus::False, "10.0.0.7:7400: the session was refused")
    );
}
