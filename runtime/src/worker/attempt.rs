//! One attempt: decode the fragment, open its inputs, run partition 0, publish the rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use futures::FutureExt;
use sluice_core::failure::{AttemptFailure, BadInputKind, Resource};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::key_filter::KeyFilter;
use sluice_core::message::{Assignment, MapOutputPartitionMeta, ReaderUpdate};
use sluice_core::metrics::AttemptMetrics;
use sluice_core::plan::{FileRange, InputFile, Split};
use sluice_core::ranges::SortedRun;
use sluice_proto::LeafSplit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::inputs::Inputs;
use super::output_writer::{AttemptOutput, OutputWriter};
use super::path_policy::PathPolicy;
use super::session_filters::AttemptFilters;
use super::{Shared, WorkerOptions};
use crate::panic_text::panic_text;
use crate::planner::{
    InputProvider, PlanError, TASK_FILTERS, TaskSplits, decode_task, sort_joins, task_context,
};
use crate::shuffle::read::ReadFailed;
use crate::source::{InputRoots, classify_error, classify_task_error, pinned_stores, verify};
use crate::stage_template::StageTemplate;
use crate::transport::Peers;

/// How many spilled runs a sort merges at once if another sort is to find memory beside it, as the two of a join do. Without
/// a bound the first one takes all that is free.
const RUNS_MERGED_AT_ONCE: usize = 8;

/// What an attempt needs to run.
pub(super) struct AttemptJob {
    pub(super) shared: Arc<Shared>,
    /// Connections to the workers that the session has named.
    pub(super) peers: Peers,
    pub(super) query: QueryId,
    pub(super) coordinator_epoch: CoordinatorEpoch,
    pub(super) input_roots: Vec<String>,
    pub(super) paths: Arc<PathPolicy>,
    pub(super) stage: Arc<StageTemplate>,
    pub(super) assignment: Assignment,
    pub(super) splits: Vec<LeafSplit>,
    /// The runtime filters of its scans.
    pub(super) filters: AttemptFilters,
    pub(super) inputs: mpsc::UnboundedReceiver<ReaderUpdate>,
    pub(super) counters: Arc<Counters>,
    pub(super) cancel: CancellationToken,
}

/// How an attempt ended.
pub(super) enum AttemptEnd {
    Succeeded {
        outputs: Vec<MapOutputPartitionMeta>,
        run: Option<SortedRun>,
        /// The runtime filters that it made.
        filters: Vec<KeyFilter>,
        metrics: AttemptMetrics,
    },
    Failed(AttemptFailure),
}

/// Runs an attempt to its end. A panic of an operator fails the attempt, not the worker; the scan catches panics of
/// file decoders, because it knows the files. Drops the output of an attempt that did not succeed.
pub(super) async fn run(job: AttemptJob) -> AttemptEnd {
    let (store, query, attempt) = (
        job.shared.store.clone(),
        job.query.clone(),
        job.assignment.attempt,
    );
    let (cancel, counters) = (job.cancel.clone(), Arc::clone(&job.counters));
    let shared = Arc::clone(&job.shared);
    // Keeps the pool alive: the end of the attempt asks what it has seen.
    let _memory = shared.memory.query_pool(&query);
    let work = counters.activity.watch(execute(job));
    let work = AssertUnwindSafe(work).catch_unwind();
    let ended = tokio::select! {
        ended = work => ended.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
        () = cancel.cancelled() => Err(AttemptFailure::Cancelled),
    };
    match ended {
        Ok(AttemptOutput {
            outputs,
            run,
            filters,
        }) => AttemptEnd::Succeeded {
            outputs,
            run,
            filters,
            metrics: counters.read(),
        },
        Err(failure) => {
            let failure = classify_exhaustion(failure, &shared, &query);
            store.retire(query, attempt).await;
            AttemptEnd::Failed(failure)
        }
    }
}

/// Whether an attempt that ran out of memory or disk may find room later. Its own share is free by now.
fn classify_exhaustion(failure: AttemptFailure, shared: &Shared, query: &QueryId) -> AttemptFailure {
    let AttemptFailure::ResourcesExhausted { resource, message } = failure else {
        return failure;
    };
    let disk = shared.store.space().usage(query);
    let later = match resource {
        Resource::Memory => shared.memory.may_have_room(query),
        Resource::Disk => disk.is_contended(),
        Resource::Plans => false,
    };
    if !later {
        return AttemptFailure::ResourcesExhausted { resource, message };
    }
    AttemptFailure::ResourcesContended {
        resource,
        message: format!(
            "{message}; other attempts hold {} bytes of memory, and other queries {} of {} bytes of \
             spill space at this worker",
            shared.memory.reserved_by_operators(),
            disk.all.saturating_sub(disk.own),
            disk.limit
        ),
    }
}

async fn execute(job: AttemptJob) -> Result<AttemptOutput, AttemptFailure> {
    let ranges = file_ranges(&job.splits);
    let mut options = job.stage.fragment.options.clone();
    let reservation = sort_reservation(&job.shared.options).to_string();
    options.insert(
        "datafusion.execution.sort_spill_reservation_bytes".into(),
        reservation,
    );
    if job.assignment.sort_joins {
        // The joins that would fill them go.
        let off = TASK_FILTERS.map(|option| (option.to_owned(), "false".to_owned()));
        options.extend(off);
    }
    let mut files: Vec<_> = ranges.iter().map(|range| range.file.clone()).collect();
    files.dedup();
    job.shared.footers.invalidate_changed(&files);
    let roots = allowed_roots(&job).await?;
    let runtime = runtime(&job, &roots, &files)?;
    let context = task_context(
        &options,
        &job.assignment.attempt.to_string(),
        Arc::clone(&runtime),
    )
    .map_err(|error| undecodable(&error))?;
    let splits = TaskSplits {
        splits: job
            .splits
            .iter()
            .map(|split| (split.leaf, split.split.clone()))
            .collect(),
    };
    let inputs = Arc::new(Inputs::new(job.filters.clone()));
    let provider = Arc::clone(&inputs) as Arc<dyn InputProvider>;
    let plan = decode_task(
        &job.stage.fragment,
        &splits,
        &context,
        &provider,
        &job.assignment.swapped_joins,
    );
    let plan = if job.assignment.sort_joins {
        plan.and_then(sort_joins)
    } else {
        plan
    };
    let plan = plan.map_err(|error| undecodable(&error))?;
    job.counters.set_plan(Arc::clone(&plan));
    let writer = OutputWriter::new(&job, &context)?;
    inputs.start(&plan, job)?;
    let classify = |error: DataFusionError| match ReadFailed::find(&error) {
        Some(failed) => AttemptFailure::FetchFailed {
            map_attempt: failed.map_attempt,
            error: failed.error,
        },
        None => classify_task_error(&error, &ranges),
    };
    let rows = plan.execute(0, context).map_err(classify)?;
    let written = writer.run(rows, classify).await;
    check_unchanged(written, &runtime, &files).await
}

/// Replaces the end of an attempt whose input files have changed since planning. The store checks a file when a read
/// starts; a change during the read shows only here, after wrong rows or a decoder's error.
async fn check_unchanged<T>(
    ended: Result<T, AttemptFailure>,
    runtime: &RuntimeEnv,
    files: &[InputFile],
) -> Result<T, AttemptFailure> {
    match &ended {
        Ok(_)
        | Err(
            AttemptFailure::BadInput {
                kind: BadInputKind::InputCorrupt | BadInputKind::InvalidValue,
                ..
            }
            | AttemptFailure::Failed { .. },
        ) => match verify(runtime, files).await {
            Err(changed @ AttemptFailure::BadInput { .. }) => Err(changed),
            Err(unknown) => ended.and(Err(unknown)),
            Ok(()) => ended,
        },
        Err(_) => ended,
    }
}

/// Bytes that a sort reserves to merge what it has spilled: DataFusion's 10 MiB, or less where an attempt's share of
/// memory is small. A sort that cannot reserve them fails before its first row.
fn sort_reservation(options: &WorkerOptions) -> u64 {
    const MAX_BYTES: u64 = 10 << 20;
    const MIN_BYTES: u64 = 64 << 10;
    const SHARE: u64 = 16;
    (options.memory_bytes / u64::from(options.slots.max(1)) / SHARE).clamp(MIN_BYTES, MAX_BYTES)
}

/// The folders that the attempt may read: those that its coordinator names, as far as the session's policy allows them.
///
/// # Errors
/// The attempt would write to a forbidden place.
async fn allowed_roots(job: &AttemptJob) -> Result<InputRoots, AttemptFailure> {
    let (paths, asked) = (Arc::clone(&job.paths), job.input_roots.clone());
    let sink = job.stage.sink.clone();
    let look = move || {
        if let Some(sink) = &sink {
            paths.check_sink(sink.location())?;
        }
        Ok(paths.read_roots(&asked))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.unwrap_or_else(|error| {
        Err(AttemptFailure::Failed {
            message: error.to_string(),
        })
    })
}

/// The runtime of DataFusion: the query's memory, the worker's disk space and footers, and the task's files only.
fn runtime(
    job: &AttemptJob,
    roots: &InputRoots,
    files: &[InputFile],
) -> Result<Arc<RuntimeEnv>, AttemptFailure> {
    let mut environment = RuntimeEnvBuilder::new()
        .with_memory_pool(job.shared.memory.query_pool(&job.query))
        .with_cache_manager(job.shared.footers.caches())
        .with_object_store_registry(pinned_stores(roots, files));
    let disk = job.shared.store.space().operators(&job.query);
    let disk = disk.map_err(|error| classify_error(&error.into(), &[]))?;
    if job.assignment.sort_joins {
        // All sorts of the query, which has run short of memory at this worker.
        disk.set_max_spill_merge_fan_in(RUNS_MERGED_AT_ONCE);
    }
    environment.disk_manager = Some(disk);
    environment
        .build_arc()
        .map_err(|error| classify_error(&error, &[]))
}

fn file_ranges(splits: &[LeafSplit]) -> Vec<FileRange> {
    let of_files = splits.iter().filter_map(|split| match &split.split {
        Split::Files(ranges) => Some(ranges.clone()),
        Split::Tpch { .. } | Split::Whole => None,
    });
    of_files.flatten().collect()
}

fn undecodable(error: &PlanError) -> AttemptFailure {
    AttemptFailure::BadInput {
        kind: BadInputKind::UnsupportedPlan,
        message: error.to_string(),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> AttemptFailure {
    AttemptFailure::Failed {
        message: format!("the engine panicked: {}", panic_text(panic)),
    }
}
