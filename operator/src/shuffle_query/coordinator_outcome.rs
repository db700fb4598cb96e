//! How a coordinator ended, and what that means for its query.

use jiff::Timestamp;
use sluice_crds::shuffle_query::PreviewMode;
use sluice_crds::shuffle_query::status::{QueryError, QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ErrorReason, ProgressReason};

use super::coordinator_pod::{CoordinatorPod, PodEnd, PodState};
use super::observed::Observed;
use super::query_record::{Coordinator, QueryRecord};
use crate::objects::coordinator::MAX_MEMORY_FACTOR;

/// The outcome of the newest coordinator.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CoordinatorOutcome<'a> {
    /// Its pod was not created yet.
    Absent,
    /// It starts or runs.
    Runs(&'a CoordinatorPod),
    Ended(Box<ShuffleQueryStatus>),
    /// Another coordinator may succeed.
    Retry {
        why: String,
        /// Whether it counts toward `retry.maxTaskAttempts`.
        counted: bool,
    },
    /// The query failed, and its coordinator did not report it.
    Failed {
        reason: ErrorReason,
        message: String,
    },
}

/// The status of a query that succeeded, from any of its coordinators.
pub(super) fn success(seen: &Observed) -> Option<ShuffleQueryStatus> {
    if let Some(report) = &seen.report
        && report.phase == QueryPhase::Succeeded
    {
        return Some(ShuffleQueryStatus::clone(report));
    }
    seen.pods.iter().find_map(|pod| match &pod.state {
        PodState::Ended(PodEnd::Reported(termination)) if termination.phase == QueryPhase::Succeeded => {
            Some(termination.status())
        }
        PodState::Ended(_) | PodState::Waiting(_) | PodState::Running(_) => None,
    })
}

/// Ends a query that succeeded. The message says so where its rows were lost, because no report was received and the termination
/// message has none, and where none were to be kept.
pub(super) fn succeeded(seen: &Observed, record: QueryRecord, status: ShuffleQueryStatus) -> QueryRecord {
    let heard = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    let spec = &seen.query.spec;
    let shown = match spec.preview {
        PreviewMode::FirstRows => spec.sink.is_none(),
        PreviewMode::None => false,
    };
    let lost = !heard && status.preview.is_none() && shown;
    let rows = status.totals.rows_written;
    let mut ended = record.ended(status);
    if !shown && spec.sink.is_none() {
        ended.message =
            format!("rows of the result: {rows}; spec.preview is None and there is no sink, so none is kept");
    }
    if lost {
        ended.reason = ProgressReason::ResultLost.into();
        ended.message =
            "the query succeeded, but its first rows are lost: its coordinator ended before the operator \
                         heard of them. Submit it again, or give it a sink"
                .to_owned();
    }
    ended
}

/// When the query ended, if only a termination message says so and no report was received.
pub(super) fn unreported_end(seen: &Observed, record: &QueryRecord) -> Option<Timestamp> {
    let end = record.ended.as_ref()?.end_time.as_ref()?;
    let heard = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    let said = seen.pods.iter().any(|pod| match &pod.state {
        PodState::Ended(PodEnd::Reported(status)) => status.end_time.as_ref() == Some(end),
        PodState::Ended(_) | PodState::Waiting(_) | PodState::Running(_) => false,
    });
    (said && !heard).then_some(end.0)
}

/// The outcome of the newest coordinator. Its report counts more than the state of its pod.
pub(super) fn outcome<'a>(seen: &'a Observed, record: &QueryRecord) -> CoordinatorOutcome<'a> {
    let pod = seen.pods.iter().find(|pod| pod.epoch == record.epoch);
    if let Some(report) = &seen.report
        && report.phase.is_terminal()
    {
        return classify(seen, record, ShuffleQueryStatus::clone(report));
    }
    let lost = |why: &str| CoordinatorOutcome::Retry {
        why: why.to_owned(),
        counted: false,
    };
    let Some(pod) = pod else {
        return match record.coordinator {
            Coordinator::Wanted { .. } => CoordinatorOutcome::Absent,
            Coordinator::Starting | Coordinator::Serving => lost("the coordinator's pod was deleted"),
        };
    };
    match &pod.state {
        PodState::Ended(end) => ended(seen, record, end),
        // Its node may be unreachable: the successor does not wait until the pod is gone.
        _ if pod.leaving => lost("the coordinator's pod was told to go"),
        PodState::Waiting(_) | PodState::Running(_) => CoordinatorOutcome::Runs(pod),
    }
}

fn ended(seen: &Observed, record: &QueryRecord, end: &PodEnd) -> CoordinatorOutcome<'static> {
    match end {
        PodEnd::Reported(termination) => classify(seen, record, termination.status()),
        PodEnd::Cancelled => {
            let status = error(
                QueryPhase::Cancelled,
                ErrorReason::Cancelled,
                "the query was cancelled",
            );
            classify(seen, record, status)
        }
        PodEnd::NoWorkers => {
            let status = error(QueryPhase::Failed, ErrorReason::WorkersLost, "no worker was left");
            classify(seen, record, status)
        }
        PodEnd::Refused(log) => CoordinatorOutcome::Failed {
            reason: ErrorReason::InvalidSpec,
            message: format!("the coordinator refused its input: {log}"),
        },
        PodEnd::Lost(why) => CoordinatorOutcome::Retry {
            why: format!("the coordinator was lost: {why}"),
            counted: false,
        },
        PodEnd::OutOfMemory if memory_factor(seen, record) > MAX_MEMORY_FACTOR => {
            CoordinatorOutcome::Failed {
                reason: ErrorReason::OutOfMemory,
                message: format!(
                    "the coordinator ran out of memory with {MAX_MEMORY_FACTOR} times what its pool gives it: \
                 raise coordinator.resources of the pool"
                ),
            }
        }
        PodEnd::OutOfMemory => CoordinatorOutcome::Retry {
            why: "the coordinator ran out of memory: the next one gets twice as much".to_owned(),
            counted: true,
        },
        PodEnd::Crashed(how) if may_retry(seen, record) => CoordinatorOutcome::Retry {
            why: format!("the coordinator crashed: {how}"),
            counted: true,
        },
        PodEnd::Crashed(how) => CoordinatorOutcome::Failed {
            reason: ErrorReason::CoordinatorLost,
            message: format!("the coordinator crashed too often, last with: {how}"),
        },
    }
}

/// Classifies the end that a coordinator reported: another coordinator may prevent some of them.
fn classify(
    seen: &Observed,
    record: &QueryRecord,
    status: ShuffleQueryStatus,
) -> CoordinatorOutcome<'static> {
    let again = status.error.as_ref().filter(|error| error.reason.is_retryable());
    match again {
        Some(error) if may_retry(seen, record) => CoordinatorOutcome::Retry {
            why: error.message.clone(),
            counted: true,
        },
        Some(_) | None => CoordinatorOutcome::Ended(Box::new(status)),
    }
}

/// A query has as many coordinators as a task has attempts.
fn may_retry(seen: &Observed, record: &QueryRecord) -> bool {
    record.coordinator_failures.saturating_add(1) < seen.query.spec.retry.max_task_attempts
}

/// The memory factor of the next coordinator: twice that of one that ran out of memory.
pub(super) fn memory_factor(seen: &Observed, record: &QueryRecord) -> u32 {
    let factors = seen.pods.iter().map(|pod| match pod.state {
        PodState::Ended(PodEnd::OutOfMemory) => pod.memory_factor.saturating_mul(2),
        PodState::Ended(_) | PodState::Waiting(_) | PodState::Running(_) => pod.memory_factor,
    });
    factors.chain([record.memory_factor]).max().unwrap_or(1)
}

fn error(phase: QueryPhase, reason: ErrorReason, message: &str) -> ShuffleQueryStatus {
    ShuffleQueryStatus {
        phase,
        error: Some(QueryError {
            reason,
            message: message.to_owned(),
            stage: None,
            task: None,
        }),
        ..ShuffleQueryStatus::default()
    }
}
