//! A query's status as the custom resource has it, computed from a snapshot and nothing else that changes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sluice_crds::shuffle_query::bound;
use sluice_crds::shuffle_query::status::{
    QueryError, QueryPhase, QueryTotals, RecoveryCounts as ShownRecovery, ResultPreview, ShuffleQueryStatus,
    SinkStatus, SpeculationCounts as ShownSpeculation, StageFilters, StageJoinSwitches, StageLocality,
    StageState as ShownState, StageStatus, TaskCounts,
};
use sluice_crds::{
    Condition, ConditionReason, ConditionStatus, ErrorReason, ProgressReason, QueryConditionType,
};

use serde::{Deserialize, Serialize};

use crate::ids::QueryId;
use crate::locality::LocalityCounts;
use crate::metrics::AttemptMetrics;
use crate::plan::StageGraph;
use crate::query_outcome::Outcome;
use crate::snapshot::{
    JoinSwitches, QuerySnapshot, RecoveryCounts, SpeculationCounts, StageSnapshot, StageState,
};
use crate::time::Instant;

/// What a snapshot does not know: wall time, the resource, the sink, and what the result exchange is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusContext {
    /// The wall time of the snapshot's `started`.
    pub start_time: Timestamp,
    /// The stages that write the result; all others write to exchanges.
    pub result_stages: Vec<crate::ids::StageId>,
    /// Location and files of the sink, if there is one. It is shown once the query has succeeded.
    pub sink: Option<SinkFiles>,
}

/// The commit record: what one query has published in its sink. It is part of the published folder and becomes visible with
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The query.
    pub query: QueryId,
    /// Files, this record not counted.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// What the sink has made visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkFiles {
    /// The folder.
    pub location: String,
    /// The number of files in it.
    pub files: u32,
    /// Rows in all files.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl SinkFiles {
    /// What a commit record says of the folder.
    pub fn new(location: String, committed: &Committed) -> Self {
        Self {
            location,
            files: u32::try_from(committed.files).unwrap_or(u32::MAX),
            rows: committed.rows,
            bytes: committed.bytes,
        }
    }
}

impl StatusContext {
    /// The context of a query that runs this graph.
    pub fn new(graph: &StageGraph, start_time: Timestamp) -> Self {
        let result = graph.exchanges.get(graph.result.0 as usize);
        Self {
            start_time,
            result_stages: result
                .map(|exchange| exchange.writers.clone())
                .unwrap_or_default(),
            sink: None,
        }
    }

    /// The wall time of a point on the snapshot's clock.
    fn wall(&self, snapshot: &QuerySnapshot, at: Instant) -> Time {
        let millis = i64::try_from(at.0.saturating_sub(snapshot.started.0)).unwrap_or(i64::MAX);
        let wall = self.start_time.checked_add(SignedDuration::from_millis(millis));
        Time(wall.unwrap_or(Timestamp::MAX))
    }
}

/// The status of a query, within its size bounds.
pub fn status(
    snapshot: &QuerySnapshot,
    context: &StatusContext,
    preview: Option<ResultPreview>,
) -> ShuffleQueryStatus {
    let done = snapshot
        .stages
        .iter()
        .filter(|stage| stage.state == StageState::Done)
        .count();
    let tasks = TaskCounts {
        planned: sum(snapshot, |stage| stage.tasks),
        running: sum(snapshot, |stage| stage.running),
        done: sum(snapshot, |stage| stage.done),
        skipped: sum(snapshot, |stage| stage.skipped),
        failed_attempts: sum(snapshot, |stage| stage.failed_attempts),
    };
    let totals = totals(snapshot, context);
    let phase = phase(snapshot);
    let sink = context.sink.as_ref().filter(|_| phase == QueryPhase::Succeeded);
    let error = snapshot.outcome.as_ref().and_then(error);
    bound(ShuffleQueryStatus {
        phase,
        reason: Some(succeeded(snapshot).2),
        message: error.as_ref().map(|error| error.message.clone()),
        conditions: conditions(snapshot, context),
        start_time: Some(context.wall(snapshot, snapshot.started)),
        first_row_time: snapshot.first_row.map(|at| context.wall(snapshot, at)),
        end_time: snapshot.ended.map(|at| context.wall(snapshot, at)),
        time_to_first_row_millis: snapshot
            .first_row
            .map(|at| at.0.saturating_sub(snapshot.started.0)),
        duration_millis: snapshot.ended.map(|at| at.0.saturating_sub(snapshot.started.0)),
        stages_done: Some(format!("{done}/{}", snapshot.stages.len())),
        tasks_done: Some(format!(
            "{}/{}",
            tasks.done,
            tasks.planned.saturating_sub(tasks.skipped)
        )),
        totals,
        tasks,
        stages: snapshot
            .stages
            .iter()
            .map(|stage| stage_status(snapshot, stage))
            .collect(),
        stages_omitted: 0,
        local_attempts: local_attempts(snapshot),
        speculation: query_speculation(snapshot),
        recovery: recovery(snapshot.recovery),
        error,
        preview,
        sink: sink.map(|sink| SinkStatus {
            location: sink.location.clone(),
            files: sink.files,
            rows: sink.rows,
            bytes: sink.bytes,
        }),
        // What the operator knows and a coordinator does not: generation, pool, epochs, suspension.
        ..ShuffleQueryStatus::default()
    })
}

fn sum(snapshot: &QuerySnapshot, count: impl Fn(&StageSnapshot) -> u32) -> u32 {
    snapshot.stages.iter().map(count).fold(0, u32::saturating_add)
}

fn totals(snapshot: &QuerySnapshot, context: &StatusContext) -> QueryTotals {
    let mut totals = QueryTotals::default();
    for stage in &snapshot.stages {
        let AttemptMetrics {
            rows_read,
            bytes_read,
            rows_filtered: _,
            shuffle_rows_in: _,
            shuffle_bytes_in: _,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled: _,
            backpressure_events: _,
            first_chunk_ms: _,
            first_reduce_row_ms: _,
            activity: _,
        } = stage.metrics;
        add(&mut totals.rows_read, rows_read);
        add(&mut totals.bytes_read, bytes_read);
        add(&mut totals.bytes_spilled, bytes_spilled);
        if context.result_stages.contains(&stage.id) {
            add(&mut totals.rows_written, rows_out);
            add(&mut totals.bytes_written, bytes_out);
        } else {
            add(&mut totals.rows_shuffled, rows_out);
            add(&mut totals.bytes_shuffled, bytes_out);
        }
    }
    totals
}

/// Workers may report any number, so sums saturate.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn phase(snapshot: &QuerySnapshot) -> QueryPhase {
    match &snapshot.outcome {
        None if first_assignment(snapshot).is_none() => QueryPhase::Pending,
        None => QueryPhase::Running,
        Some(Outcome::Succeeded) => QueryPhase::Succeeded,
        Some(Outcome::Failed(_)) => QueryPhase::Failed,
        Some(Outcome::Cancelled) => QueryPhase::Cancelled,
    }
}

fn first_assignment(snapshot: &QuerySnapshot) -> Option<Instant> {
    snapshot.stages.iter().filter_map(|stage| stage.started).min()
}

fn error(outcome: &Outcome) -> Option<QueryError> {
    match outcome {
        Outcome::Succeeded => None,
        Outcome::Failed(failure) => Some(QueryError {
            reason: failure.reason,
            message: failure.message.clone(),
            stage: failure.attempt.map(|attempt| attempt.stage.0),
            task: failure.attempt.map(|attempt| attempt.task),
        }),
        Outcome::Cancelled => Some(QueryError {
            reason: ErrorReason::Cancelled,
            message: "the query was cancelled".to_owned(),
            stage: None,
            task: None,
        }),
    }
}

/// One observation: type, status, reason, message, and since when on the snapshot's clock.
type Observation = (
    QueryConditionType,
    ConditionStatus,
    ConditionReason,
    String,
    Instant,
);

fn conditions(snapshot: &QuerySnapshot, context: &StatusContext) -> Vec<Condition<QueryConditionType>> {
    let accepted: Observation = (
        QueryConditionType::Accepted,
        ConditionStatus::True,
        ProgressReason::Planned.into(),
        String::new(),
        snapshot.started,
    );
    let succeeded = succeeded(snapshot);
    let complete = complete(&succeeded);
    let all = [accepted, workers_ready(snapshot), succeeded, complete];
    let condition = |(type_, status, reason, message, since): Observation| Condition {
        type_,
        status,
        reason,
        message,
        observed_generation: None,
        last_transition_time: context.wall(snapshot, since),
    };
    all.into_iter().map(condition).collect()
}

/// Workers come and go. The only time that a snapshot knows of them is the first assignment, which needed one.
fn workers_ready(snapshot: &QuerySnapshot) -> Observation {
    let ready = snapshot.workers > 0;
    let since = first_assignment(snapshot)
        .filter(|_| ready)
        .unwrap_or(snapshot.started);
    let (status, reason) = if ready {
        (ConditionStatus::True, ProgressReason::WorkersRegistered)
    } else {
        (ConditionStatus::False, ProgressReason::WaitingForWorkers)
    };
    let message = match ready {
        true => format!("{} workers, {} slots", snapshot.workers, snapshot.slots),
        false => snapshot.no_workers.clone().unwrap_or_default(),
    };
    (
        QueryConditionType::WorkersReady,
        status,
        reason.into(),
        message,
        since,
    )
}

fn succeeded(snapshot: &QuerySnapshot) -> Observation {
    let at = snapshot.ended.unwrap_or(snapshot.started);
    let (status, reason): (_, ConditionReason) = match &snapshot.outcome {
        None if first_assignment(snapshot).is_none() => {
            (ConditionStatus::Unknown, ProgressReason::Pending.into())
        }
        None => (ConditionStatus::Unknown, ProgressReason::Running.into()),
        Some(Outcome::Succeeded) => (ConditionStatus::True, ProgressReason::Completed.into()),
        Some(Outcome::Failed(failure)) => (ConditionStatus::False, failure.reason.into()),
        Some(Outcome::Cancelled) => (ConditionStatus::False, ErrorReason::Cancelled.into()),
    };
    (QueryConditionType::Succeeded, status, reason, String::new(), at)
}

/// True once the query has ended in any way, for `kubectl wait`.
fn complete(succeeded: &Observation) -> Observation {
    let (_, status, reason, message, at) = succeeded.clone();
    let status = match status {
        ConditionStatus::Unknown => ConditionStatus::False,
        ConditionStatus::True | ConditionStatus::False => ConditionStatus::True,
    };
    (QueryConditionType::Complete, status, reason, message, at)
}

/// The share of attempts that ran near their data; `None` if it is known of none where that is.
fn local_attempts(snapshot: &QuerySnapshot) -> Option<String> {
    let mut counts = LocalityCounts::default();
    for stage in &snapshot.stages {
        counts += stage.locality;
    }
    let (near, asked) = (u64::from(counts.near()), u64::from(counts.asked()));
    (asked > 0).then(|| format!("{}%", near * 100 / asked))
}

fn locality(counts: LocalityCounts) -> Option<StageLocality> {
    (counts.asked() > 0 || counts.same_files > 0).then(|| StageLocality {
        asked: counts.asked(),
        worker: counts.worker,
        node: counts.node,
        zone: counts.zone,
        no_worker_near: counts.no_worker_near,
        near_workers_busy: counts.near_workers_busy,
        same_files: counts.same_files,
    })
}

fn stage_status(snapshot: &QuerySnapshot, stage: &StageSnapshot) -> StageStatus {
    let until = stage.ended.or(snapshot.ended).unwrap_or(snapshot.now);
    let elapsed = stage
        .started
        .map_or(0, |started| until.0.saturating_sub(started.0));
    let reduce = stage.reduce.clone().unwrap_or_default();
    StageStatus {
        id: stage.id.0,
        label: stage.label.clone(),
        state: match stage.state {
            StageState::Waiting | StageState::Schedulable if stage.started.is_none() => ShownState::Waiting,
            StageState::Waiting | StageState::Schedulable | StageState::Running => ShownState::Running,
            StageState::Done => ShownState::Done,
        },
        tasks_planned: stage.tasks,
        tasks_running: stage.running,
        tasks_done: stage.done,
        tasks_skipped: stage.skipped,
        attempts_failed: stage.failed_attempts,
        rows_read: stage
            .metrics
            .rows_read
            .saturating_add(stage.metrics.shuffle_rows_in),
        bytes_read: stage
            .metrics
            .bytes_read
            .saturating_add(stage.metrics.shuffle_bytes_in),
        rows_out: stage.metrics.rows_out,
        bytes_out: stage.metrics.bytes_out,
        bytes_spilled: stage.metrics.bytes_spilled,
        backpressure_events: stage.metrics.backpressure_events,
        elapsed_millis: elapsed,
        planned_reduce_tasks: reduce.planned_reduce_tasks,
        adaptive_reduce_tasks: reduce.adaptive_reduce_tasks.unwrap_or_default(),
        adaptive_target_bytes: reduce.adaptive_target_bytes.unwrap_or_default(),
        layout_events: more_than_once(reduce.layout_events),
        layout_finalize_count: more_than_once(reduce.layout_finalize_count),
        skew_split_tasks: reduce.skew_split_tasks,
        reduce_fetch_window_partitions: reduce.reduce_fetch_window_partitions,
        partition_bytes_histogram: reduce.partition_bytes_histogram,
        first_chunk_ms: reduce.first_chunk_ms,
        first_reduce_row_ms: reduce.first_reduce_row_ms,
        locality: locality(stage.locality),
        filters: stage.filters.map(|filters| StageFilters {
            made: filters.made,
            used: filters.used,
            missed: filters.missed,
            waited_ms: filters.waited_ms,
            rows_filtered: stage.metrics.rows_filtered,
        }),
        join_switches: join_switches(stage.join_switches),
        speculation: speculation(stage.speculation),
    }
}

fn join_switches(switches: JoinSwitches) -> Option<StageJoinSwitches> {
    let JoinSwitches {
        sorted_tasks,
        swapped_joins,
        broadcast_tasks,
    } = switches;
    (switches != JoinSwitches::default()).then_some(StageJoinSwitches {
        sorted_tasks,
        swapped_joins,
        broadcast_tasks,
    })
}

fn speculation(counts: SpeculationCounts) -> Option<ShownSpeculation> {
    let SpeculationCounts {
        launched,
        won,
        wasted,
        wasted_ms,
    } = counts;
    (launched > 0).then_some(ShownSpeculation {
        launched,
        won,
        wasted,
        wasted_ms,
    })
}

fn recovery(counts: RecoveryCounts) -> Option<ShownRecovery> {
    let RecoveryCounts {
        recovered_tasks,
        discarded_outputs,
    } = counts;
    (counts != RecoveryCounts::default()).then_some(ShownRecovery {
        recovered_tasks,
        discarded_outputs,
    })
}

/// The duplicates of all stages.
fn query_speculation(snapshot: &QuerySnapshot) -> Option<ShownSpeculation> {
    let wasted_ms = snapshot.stages.iter().map(|stage| stage.speculation.wasted_ms);
    speculation(SpeculationCounts {
        launched: sum(snapshot, |stage| stage.speculation.launched),
        won: sum(snapshot, |stage| stage.speculation.won),
        wasted: sum(snapshot, |stage| stage.speculation.wasted),
        wasted_ms: wasted_ms.fold(0, u64::saturating_add),
    })
}

/// What nearly every stage shows once is left out: a status has little room.
fn more_than_once(count: u32) -> u32 {
    if count > 1 { count } else { 0 }
}

#[cfg(test)]
mod tests;
