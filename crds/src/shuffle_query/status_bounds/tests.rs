//! Bounds of a status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    HARD_STATUS_BYTES, MAX_STAGES, PREVIEW_MAX_BYTES, PREVIEW_MAX_ROWS, TERMINAL_STATUS_BYTES,
    TYPICAL_STATUS_BYTES, bound, json_bytes,
};
use crate::conditions::{Condition, ConditionStatus, ErrorReason, QueryConditionType};
use crate::shuffle_query::status::{
    QueryError, QueryPhase, ResultPreview, ShuffleQueryStatus, SinkStatus, SpeculationCounts, StageFilters,
    StageJoinSwitches, StageLocality, StageState, StageStatus,
};
use crate::validate::schema::{QUERY, check};

fn stage(id: u32, state: StageState, label: &str) -> StageStatus {
    // Of the stages of a query, half scan at most, as a join has two inputs; the others read exchanges.
    let scans = id.is_multiple_of(2);
    StageStatus {
        id,
        label: label.to_owned(),
        state,
        tasks_planned: 40,
        tasks_running: 2,
        tasks_done: 38,
        tasks_skipped: 0,
        attempts_failed: u32::from(id.is_multiple_of(4)),
        rows_read: 123_456_789_012,
        bytes_read: 12_345_678_901_234,
        rows_out: 123_456_789,
        bytes_out: 1_234_567_890_123,
        // Few stages of a query spill.
        bytes_spilled: if scans { 0 } else { 1_234_567_890 },
        backpressure_events: if scans { 0 } else { 1_234 },
        elapsed_millis: 1_000 + u64::from(id),
        planned_reduce_tasks: if scans { 0 } else { 40 },
        adaptive_reduce_tasks: if scans { 0 } else { 12 },
        adaptive_target_bytes: if scans { 0 } else { 134_217_728 },
        layout_events: 0,
        layout_finalize_count: 0,
        skew_split_tasks: 0,
        reduce_fetch_window_partitions: if scans { 0 } else { 4 },
        partition_bytes_histogram: if scans { Vec::new() } else { vec![0, 0, 3, 36, 1] },
        first_chunk_ms: (!scans).then_some(1_234),
        first_reduce_row_ms: (!scans).then_some(12_345),
        filters: id.is_multiple_of(8).then_some(StageFilters {
            used: 2,
            waited_ms: 1_234,
            rows_filtered: 123_456_789,
            ..StageFilters::default()
        }),
        join_switches: id.is_multiple_of(8).then_some(StageJoinSwitches {
            swapped_joins: 1,
            broadcast_tasks: 16,
            ..StageJoinSwitches::default()
        }),
        speculation: id.is_multiple_of(8).then_some(SpeculationCounts {
            launched: 4,
            won: 3,
            wasted: 1,
            wasted_ms: 1_234,
        }),
        locality: scans.then_some(StageLocality {
            asked: 1_234,
            node: 1_000,
            zone: 200,
            worker: 12,
            no_worker_near: 30,
            near_workers_busy: 4,
            same_files: 4,
        }),
    }
}

fn condition(type_: QueryConditionType, message: &str) -> Condition<QueryConditionType> {
    Condition {
        type_,
        status: ConditionStatus::False,
        reason: ErrorReason::TaskFailed.into(),
        message: message.to_owned(),
        observed_generation: Some(3),
        last_transition_time: Time(Default::default()),
    }
}

/// A status of `stages` stages in which every text has `text` characters that JSON cannot shorten.
fn status(phase: QueryPhase, stages: u32, text: usize) -> ShuffleQueryStatus {
    let long = "\u{1}é".repeat(text / 2);
    let types = [
        QueryConditionType::Accepted,
        QueryConditionType::Admitted,
        QueryConditionType::CoordinatorReady,
        QueryConditionType::WorkersReady,
        QueryConditionType::Succeeded,
    ];
    ShuffleQueryStatus {
        phase,
        reason: Some(ErrorReason::TaskFailed.into()),
        message: Some(long.clone()),
        pool_name: Some("pool".repeat(12)),
        coordinator_epoch: u64::MAX / 4,
        pod_retries: u32::MAX,
        coordinator_failures: u32::MAX,
        coordinator_memory_factor: u32::MAX,
        conditions: types.into_iter().map(|type_| condition(type_, &long)).collect(),
        stages: (0..stages).map(|id| stage(id, StageState::Done, &long)).collect(),
        error: Some(QueryError {
            reason: ErrorReason::TaskFailed,
            message: long.clone(),
            stage: Some(1),
            task: None,
        }),
        preview: Some(ResultPreview {
            columns: (0..text).map(|column| format!("c{column}")).collect(),
            rows: vec![vec![long.clone(); text]; 30],
            truncated: false,
        }),
        sink: Some(SinkStatus {
            location: long,
            files: 1,
            rows: 1,
            bytes: 1,
        }),
        ..Default::default()
    }
}

/// As the API server would see it.
fn assert_fits_the_schema(status: &ShuffleQueryStatus) {
    let mut problems = Vec::new();
    let schema = &QUERY.properties.as_ref().unwrap()["status"];
    check(
        &serde_json::to_value(status).unwrap(),
        schema,
        "status",
        &mut problems,
    );
    assert_eq!(problems, []);
}

#[test]
fn a_huge_status_becomes_small_and_stays_useful() {
    let running = bound(status(QueryPhase::Running, 5_000, 300));
    assert!(json_bytes(&running) <= HARD_STATUS_BYTES);
    assert_eq!(running.stages.len() + running.stages_omitted as usize, 5_000);
    assert!(running.stages.len() <= MAX_STAGES && running.stages.len() > 50);
    assert_fits_the_schema(&running);

    let failed = bound(status(QueryPhase::Failed, 5_000, 300));
    assert!(json_bytes(&failed) <= TERMINAL_STATUS_BYTES);
    assert_eq!(failed.stages.len() + failed.stages_omitted as usize, 5_000);
    assert!(!failed.error.as_ref().unwrap().message.is_empty());
    assert_fits_the_schema(&failed);
}

#[test]
fn texts_longer_than_any_bound_end() {
    for phase in [
        QueryPhase::Pending,
        QueryPhase::Running,
        QueryPhase::Succeeded,
        QueryPhase::Failed,
    ] {
        let mut huge = status(phase, 3, 3_000);
        huge.conditions = vec![huge.conditions[0].clone(); 50];
        let small = bound(huge);
        let limit = if phase.is_terminal() {
            TERMINAL_STATUS_BYTES
        } else {
            HARD_STATUS_BYTES
        };
        assert!(json_bytes(&small) <= limit, "{phase:?}: {}", json_bytes(&small));
        assert_eq!(bound(small.clone()), small, "bounding twice changes nothing more");
    }
}

#[test]
fn a_small_status_stays_as_it_is() {
    let mut small = status(QueryPhase::Succeeded, 3, 4);
    small.preview = Some(ResultPreview {
        columns: vec!["a".to_owned()],
        rows: vec![vec!["1".to_owned()]; PREVIEW_MAX_ROWS],
        truncated: false,
    });
    assert_eq!(bound(small.clone()), small);
    assert_fits_the_schema(&small);
}

#[test]
fn a_typical_status_fits_its_budget() {
    // As JSON, 12 such characters are as long as a label of 48.
    let mut typical = status(QueryPhase::Running, 32, 12);
    typical.preview = None;
    assert_eq!(bound(typical.clone()), typical);
    assert!(
        json_bytes(&typical) <= TYPICAL_STATUS_BYTES,
        "{}",
        json_bytes(&typical)
    );
}

#[test]
fn running_stages_stay_and_waiting_ones_go_first() {
    let mut many = status(QueryPhase::Running, 0, 2);
    let states = |id: u32| match id {
        0..100 => StageState::Done,
        100..150 => StageState::Running,
        _ => StageState::Waiting,
    };
    many.stages = (0..300).map(|id| stage(id, states(id), "scan")).collect();
    let bounded = bound(many);
    assert_eq!(bounded.stages_omitted, 300 - u32::try_from(MAX_STAGES).unwrap());
    let count = |state: StageState| bounded.stages.iter().filter(|stage| stage.state == state).count();
    assert_eq!(
        (
            count(StageState::Running),
            count(StageState::Done),
            count(StageState::Waiting)
        ),
        (50, 78, 0)
    );
    assert!(bounded.stages.is_sorted_by_key(|stage| stage.id));
    assert_eq!(
        bounded.stages.first().map(|stage| stage.id),
        Some(22),
        "the quickest finished stages went"
    );
}

#[test]
fn a_preview_is_bounded_by_rows_and_bytes() {
    let preview = |columns: usize, rows: usize, text: &str| {
        let status = ShuffleQueryStatus {
            preview: Some(ResultPreview {
                columns: vec!["c".to_owned(); columns],
                rows: vec![vec![text.to_owned(); columns]; rows],
                truncated: false,
            }),
            ..Default::default()
        };
        let preview = bound(status).preview.unwrap();
        assert!(json_bytes(&preview) <= PREVIEW_MAX_BYTES);
        (preview.columns.len(), preview.rows.len(), preview.truncated)
    };
    assert_eq!(preview(2, 20, "x"), (2, 20, false));
    assert_eq!(preview(2, 21, "x"), (2, 20, true));
    assert_eq!(preview(1, 1, &"x".repeat(10_000)), (1, 1, true));
    // Values give way before rows do.
    assert_eq!(preview(10, 20, &"x".repeat(200)), (10, 5, true));
    let (columns, rows, truncated) = preview(82, 20, &"é".repeat(20_000));
    assert!(columns > 40 && rows == 1 && truncated, "{columns} {rows}");
    let (columns, rows, truncated) = preview(1_000, 5, "value");
    assert!(columns > 20 && rows >= 1 && truncated);
    assert_eq!(preview(0, 0, ""), (0, 0, false));
}
