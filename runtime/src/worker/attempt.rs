//! One attempt: decode the fragment, open its inputs, run partition 0, publish the rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt};
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::message::{Assignment, InputUpdate, MapOutputPartitionMeta};
use sluice_core::metrics::AttemptMetrics;
use sluice_core::plan::{FileRange, Split};
use sluice_proto::LeafSplit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::counters::Counters;
use super::stage::StageTemplate;
use crate::planner::{PlanError, TaskSplits, decode_schema, decode_task, task_context};
use crate::source::{classify_error, verify};

/// Everything that an attempt needs.
pub(super) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) query: QueryId,
    pub(super) coordinator_epoch: CoordinatorEpoch,
    pub(super) input_roots: Vec<String>,
    pub(super) stage: Arc<StageTemplate>,
    pub(super) assignment: Assignment,
    pub(super) splits: Vec<LeafSplit>,
    pub(super) inputs: mpsc::UnboundedReceiver<InputUpdate>,
    pub(super) counters: Arc<Counters>,
    pub(super) cancel: CancellationToken,
}

/// How an attempt ended.
pub(super) enum AttemptEnd {
    Succeeded { outputs: Vec<MapOutputPartitionMeta>, metrics: AttemptMetrics },
    Failed(AttemptFailure),
}

impl AttemptEnd {
    pub(super) fn refused(message: &str) -> Self {
        Self::Failed(AttemptFailure::Refused { message: message.to_owned() })
    }
}

/// Runs an attempt to its end. A panic in a decoder or an operator ends the attempt, not the worker. Whatever an
/// attempt that did not succeed has published is dropped.
pub(super) async fn run(job: Job) -> AttemptEnd {
    let (store, query, attempt) = (job.shared.store.clone(), job.query.clone(), job.assignment.attempt);
    let (cancel, counters) = (job.cancel.clone(), Arc::clone(&job.counters));
    let work = AssertUnwindSafe(execute(job)).catch_unwind();
    let ended = tokio::select! {
        ended = work => ended.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
        () = cancel.cancelled() => Err(AttemptFailure::Cancelled),
    };
    match ended {
        Ok(outputs) => AttemptEnd::Succeeded { outputs, metrics: counters.read() },
        Err(failure) => {
            store.retire_attempt(&query, attempt).await;
            AttemptEnd::Failed(failure)
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> AttemptFailure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    AttemptFailure::Failed { message: format!("the engine panicked: {text}") }
}
