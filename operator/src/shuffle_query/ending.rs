//! How a coordinator ended, and what that means for its query.

use jiff::Timestamp;
use sluice_core::termination::Termination;
use sluice_crds::shuffle_query::PreviewMode;
use sluice_crds::shuffle_query::status::{QueryError, QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ErrorReason, ProgressReason};

use super::lifecycle::{Coordinator, Lifecycle};
use super::observed::Observed;
use super::pods::{CoordinatorPod, PodEnd, PodState};
use crate::objects::coordinator::MAX_MEMORY_FACTOR;

/// What became of the newest coordinator.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate<'a> {
    /// Its pod was not posted yet.
    Absent,
    /// It is starting, or it runs.
    Runs(&'a CoordinatorPod),
    /// The query has ended.
    Ended(Box<ShuffleQueryStatus>),
    /// The next one may do better.
    Again {
        /// What happened.
        why: String,
        /// Whether that may happen a few times only.
        counted: bool,
    },
    /// The query has failed, and not by its coordinator's word.
    Failed {
        /// In a word.
        reason: ErrorReason,
        /// For people.
        message: String,
    },
}

/// The end of a query that ended well, whichever of its coordinators says so: its result is there.
pub(super) fn success(seen: &Observed) -> Option<ShuffleQueryStatus> {
    if let Some(report) = &seen.report
        && report.phase == QueryPhase::Succeeded
    {
        return Some(ShuffleQueryStatus::clone(report));
    }
    seen.pods.iter().find_map(|pod| match &pod.state {
        PodState::Ended(PodEnd::Said(words)) if words.phase == QueryPhase::Succeeded => {
            Some(last_words(words))
        }
        PodState::Ended(_) | PodState::Waiting(_) | PodState::Running(_) => None,
    })
}

/// The end of a query that ended well. Where nobody heard its coordinator and that left no rows behind, it says so; also
/// where nobody was to keep them.
pub(super) fn succeeded(seen: &Observed, life: Lifecycle, words: ShuffleQueryStatus) -> Lifecycle {
    let heard = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    let spec = &seen.query.spec;
    let shown = match spec.preview {
        PreviewMode::FirstRows => spec.sink.is_none(),
        PreviewMode::None => false,
    };
    let lost = !heard && words.preview.is_none() && shown;
    let rows = words.totals.rows_written;
    let mut ended = life.ended(words);
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

/// When the query ended, as last words alone tell: no report of its end was heard.
pub(super) fn unheard_end(seen: &Observed, life: &Lifecycle) -> Option<Timestamp> {
    let end = life.ended.as_ref()?.end_time.as_ref()?;
    let heard = seen
        .report
        .as_ref()
        .is_some_and(|report| report.phase.is_terminal());
    let said = seen.pods.iter().any(|pod| match &pod.state {
        PodState::Ended(PodEnd::Said(words)) => words.end_time.as_ref() == Some(end),
        PodState::Ended(_) | PodState::Waiting(_) | PodState::Running(_) => false,
    });
    (said && !heard).then_some(end.0)
}

/// What became of the newest coordinator. What it said counts more than what became of its pod.
pub(super) fn fate<'a>(seen: &'a Observed, life: &Lifecycle) -> Fate<'a> {
    let pod = seen.pods.iter().find(|pod| pod.epoch == life.epoch);
    if let Some(report) = &seen.report
        && report.phase.is_terminal()
    {
        return judge(seen, life, ShuffleQueryStatus::clone(report));
    }
    let lost = |why: &str| Fate::Again {
        why: why.to_owned(),
        counted: false,
    };
    let Some(pod) = pod else {
        return match life.coordinator {
            Coordinator::Wanted { .. } => Fate::Absent,
            Coordinator::Starting | Coordinator::Serving => lost("the coordinator's pod was deleted"),
        };
    };
    match &pod.state {
        PodState::Ended(end) => ended(seen, life, end),
        // Its node may be out of reach: nobody waits for it to vanish.
        _ if pod.leaving => lost("the coordinator's pod was told to go"),
        PodState::Waiting(_) | PodState::Running(_) => Fate::Runs(pod),
    }
}

fn ended(seen: &Observed, life: &Lifecycle, end: &PodEnd) -> Fate<'static> {
    match end {
        PodEnd::Said(words) => judge(seen, life, last_words(words)),
        PodEnd::Cancelled => {
            let words = error(
                QueryPhase::Cancelled,
                ErrorReason::Cancelled,
                "the query was cancelled",
            );
            judge(seen, life, words)
        }
        PodEnd::NoWorkers => {
            let words = error(QueryPhase::Failed, ErrorReason::WorkersLost, "no worker was left");
            judge(seen, life, words)
        }
        PodEnd::Refused(log) => Fate::Failed {
            reason: ErrorReason::InvalidSpec,
            message: format!("the coordinator refused its input: {log}"),
        },
        PodEnd::Lost(why) => Fate::Again {
            why: format!("the coordinator was lost: {why}"),
            counted: false,
        },
        PodEnd::OutOfMemory if memory_factor(seen, life) > MAX_MEMORY_FACTOR => Fate::Failed {
            reason: ErrorReason::OutOfMemory,
            message: format!(
                "the coordinator ran out of memory with {MAX_MEMORY_FACTOR} times what its pool gives it: \
                 raise coordinator.resources of the pool"
            ),
        },
        PodEnd::OutOfMemory => Fate::Again {
            why: "the coordinator ran out of memory: the next one gets twice as much".to_owned(),
            counted: true,
        },
        PodEnd::Crashed(how) if may_retry(seen, life) => Fate::Again {
            why: format!("the coordinator crashed: {how}"),
            counted: true,
        },
        PodEnd::Crashed(how) => Fate::Failed {
            reason: ErrorReason::CoordinatorLost,
            message: format!("the coordinator crashed too often, last with: {how}"),
        },
    }
}

/// What the end of a query as its coordinator saw it means: some ends, another coordinator may prevent.
fn judge(seen: &Observed, life: &Lifecycle, words: ShuffleQueryStatus) -> Fate<'static> {
    let again = words.error.as_ref().filter(|error| worth_another(error.reason));
    match again {
        Some(error) if may_retry(seen, life) => Fate::Again {
            why: error.message.clone(),
            counted: true,
        },
        Some(_) | None => Fate::Ended(Box::new(words)),
    }
}

/// Whether a failure may be gone when the query starts over. Bad input and defects are not, and a task that failed on
/// every attempt was tried on several workers already. Where all workers are of another build, the image of the pool was
/// changed, and the next coordinator has theirs.
const fn worth_another(reason: ErrorReason) -> bool {
    match reason {
        ErrorReason::WorkersLost | ErrorReason::SinkFailed | ErrorReason::BuildMismatch => true,
        ErrorReason::InvalidSpec
        | ErrorReason::InvalidSql
        | ErrorReason::TableNotFound
        | ErrorReason::InputChanged
        | ErrorReason::InputCorrupt
        | ErrorReason::ForbiddenPath
        | ErrorReason::UnsupportedPlan
        | ErrorReason::SinkExists
        | ErrorReason::ResourcesExhausted
        | ErrorReason::TaskFailed
        | ErrorReason::PoisonTask
        | ErrorReason::FetchFailed
        | ErrorReason::OutOfMemory
        | ErrorReason::CoordinatorLost
        | ErrorReason::DeadlineExceeded
        | ErrorReason::Cancelled
        | ErrorReason::ResultPartiallyRead
        | ErrorReason::Internal => false,
    }
}

/// As many coordinators as a task has attempts.
fn may_retry(seen: &Observed, life: &Lifecycle) -> bool {
    life.coordinator_failures.saturating_add(1) < seen.query.spec.retry.max_task_attempts
}

/// How many times the usual memory the next coordinator needs: twice what one had that ran out of it.
pub(super) fn memory_factor(seen: &Observed, life: &Lifecycle) -> u32 {
    let factors = seen.pods.iter().map(|pod| match pod.state {
        PodState::Ended(PodEnd::OutOfMemory) => pod.memory_factor.saturating_mul(2),
        PodState::Ended(_) | PodState::Waiting(_) | PodState::Running(_) => pod.memory_factor,
    });
    factors.chain([life.memory_factor]).max().unwrap_or(1)
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

/// What is left of a status in a pod's termination message.
fn last_words(words: &Termination) -> ShuffleQueryStatus {
    let error = words.reason.map(|reason| QueryError {
        reason,
        message: words.message.clone().unwrap_or_default(),
        stage: words.stage,
        task: words.task,
    });
    ShuffleQueryStatus {
        phase: words.phase,
        error,
        totals: words.totals,
        sink: words.sink.clone(),
        first_row_time: words.first_row_time.clone(),
        end_time: words.end_time.clone(),
        stages_done: words.stages_done.clone(),
        tasks_done: words.tasks_done.clone(),
        local_attempts: words.local_attempts.clone(),
        tasks: words.tasks,
        stages: words.stages.clone(),
        stages_omitted: words.stages_omitted,
        preview: words.preview.clone(),
        ..ShuffleQueryStatus::default()
    }
}
