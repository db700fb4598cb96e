//! `sluice run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_crds::worker_pool::DEFAULT_SLOTS_PER_WORKER;
use sluice_crds::{ByteSize, ErrorReason, WorkerPoolSpec};
use tokio_util::sync::CancellationToken;

use crate::cli::exit::Failure;
use crate::cli::machine::{cores, machine_memory};
use crate::cli::signals::{ExitHooks, cancel_on_signal};
use crate::cli::{CommandResult, QueryFile, parse_size, parse_workers};
use crate::coordinator::{RunningQuery, serve};
use crate::forbidden::RUN_PREFIX;
use crate::local::child_process::{ExitedEarly, self_command, spawn_attached, stop_attached};
use crate::local::client::Client;
use crate::local::follow::{View, follow};
use crate::local::key::{KeyFiles, RunKey};
use crate::local::row_printer::OutputFormat;
use crate::local::status::StatusFile;
use crate::local::workers::{WorkerShape, Workers};
use crate::owned_dir::OwnedDir;
use crate::planner::{analyzed_query, explain_parts};
use crate::query::{Deadline, LoadedQuery, PreparedQuery, WorkerCapacity, load, prepare};
use crate::sink::Sink;

/// The coordinator epoch of every local run.
const EPOCH: CoordinatorEpoch = CoordinatorEpoch(1);
/// How long the coordinator's service waits for its clients after the query has ended.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to try to remove what a lost coordinator wrote: its file system may not answer.
const SINK_CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a query on this machine: a coordinator and workers that shuffle over gRPC, as in a cluster.
///
/// Progress goes to standard error, rows to standard output. The number of workers, their slots, memory and spill
/// limit come from the file's `workers` (or the WorkerPool that it names) unless given here.
#[derive(clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    query: QueryFile,
    /// How rows are printed.
    #[arg(long, value_enum, default_value = "table")]
    output: OutputFormat,
    /// Write the query's status, as the custom resource carries it, to this file (JSON).
    #[arg(long)]
    status: Option<PathBuf>,
    /// How many workers to start; default: the file's, else the machine's cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    local_workers: Option<u32>,
    /// Slots of each worker: attempts that it runs at once; default: the file's, else 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,
    /// Memory of each worker, for example 512MiB; default: the file's, else half of the machine's, shared.
    #[arg(long, value_parser = parse_size)]
    memory: Option<ByteSize>,
    /// Start the coordinator and each worker as a process of its own.
    #[arg(long, conflicts_with = "workers")]
    processes: bool,
    /// Use workers that run already (host:port, separated by commas) instead of starting some.
    #[arg(long, value_delimiter = ',', value_parser = parse_workers, value_name = "HOST:PORT")]
    workers: Vec<String>,
    /// The folder for what does not fit in memory; default: below the system's temporary folder.
    #[arg(long)]
    spill_dir: Option<PathBuf>,
    /// When the query has ended, print to standard error its plan and how each stage ran: time, tasks, rows, bytes, the layout of its
    /// inputs and its runtime filters. EXPLAIN ANALYZE before the SQL text does the same.
    #[arg(long)]
    explain_analyze: bool,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(args: RunArgs) -> CommandResult {
    let status = args.status.as_deref().map(StatusFile::create).transpose();
    let mut status = status.map_err(Failure::bad_input)?;
    let ended = run_query(&args, status.as_mut()).await;
    if let (Some(status), Err(failure)) = (&mut status, &ended)
        && let Err(error) = status.fail(failure.final_termination())
    {
        tracing::error!(error = format!("{error:#}"), "the last status is not written");
    }
    ended
}

async fn run_query(args: &RunArgs, status: Option<&mut StatusFile>) -> CommandResult {
    let mut loaded = load(&args.query.file)?;
    let analyzed = loaded.query.spec.sql.as_deref().and_then(analyzed_query);
    if analyzed.is_some() && args.processes {
        // The coordinator's process reads the file too.
        let message = "with --processes, write --explain-analyze instead of EXPLAIN ANALYZE in the query";
        return Err(Failure::BadInput(message.to_owned()));
    }
    let explain_analyze = args.explain_analyze || analyzed.is_some();
    loaded.query.spec.sql = analyzed.or(loaded.query.spec.sql);
    let shape = shape(args, &loaded);
    let slots = match u32::try_from(args.workers.len()) {
        Ok(given @ 1..) => given.saturating_mul(shape.slots),
        Ok(0) | Err(_) => shape.count.saturating_mul(shape.slots),
    };
    let started_here = args.workers.is_empty();
    let capacity = WorkerCapacity {
        slots,
        slot_memory_bytes: started_here.then(|| shape.memory_bytes / u64::from(shape.slots.max(1))),
    };
    let exit_hooks = ExitHooks::default();
    // Not before the file is loaded: reading it from a terminal must stay interruptible.
    let interrupted = cancel_on_signal(&exit_hooks);
    let id = new_query_id();
    let key = RunKey::new(&id, EPOCH)?;
    let prepared = tokio::select! {
        prepared = prepare_in_time(&loaded, &id, capacity) => prepared?,
        () = interrupted.cancelled() => return Err(Failure::Query(Outcome::Cancelled)),
    };
    let folder = spill_folder(args.spill_dir.as_deref(), &id)?;
    exit_hooks.add(folder.removal());
    let files = key.write(folder.path());
    let files = files.map_err(|error| Failure::BadInput(format!("--spill-dir: {error}")))?;
    let mut workers = Workers::external(args.workers.clone());
    let started = tokio::select! {
        started = start(args, shape, folder.path(), (&key, &files), &mut workers) => started,
        () = interrupted.cancelled() => Err(Failure::Query(Outcome::Cancelled)),
    };
    exit_hooks.add(workers.killer());
    exit_hooks.add(folder.removal());
    let sink = prepared.sink.clone();
    let view = View {
        rows: sink.is_none().then_some(args.output),
        quiet: args.quiet,
        status,
        analyze: explain_analyze.then(|| explain_parts(&prepared.planned)),
    };
    let ended = match started {
        Err(failure) => Err(failure),
        Ok(()) if args.processes => {
            let cluster = (capacity, workers.addresses.as_slice());
            run_in_processes(args, &prepared, cluster, (&key, &files), view, &interrupted).await
        }
        Ok(()) => {
            if let Some(sink) = sink.clone() {
                let id = id.clone();
                exit_hooks.add(move || clear_sink(&sink, &id));
            }
            let addresses = workers.addresses.clone();
            run_in_process(prepared, addresses, (&key, started_here), view, &interrupted).await
        }
    };
    workers.stop().await;
    if let (Some(sink), Err(failure)) = (sink, &ended)
        && is_coordinator_lost(failure)
    {
        // The coordinator is gone and cannot do it.
        let cleared = tokio::task::spawn_blocking(move || clear_sink(&sink, &id));
        let _ = tokio::time::timeout(SINK_CLEANUP_TIMEOUT, cleared).await;
    }
    ended
}

/// Starts the run's workers, unless it uses external ones.
async fn start(
    args: &RunArgs,
    shape: WorkerShape,
    folder: &Path,
    (key, files): (&RunKey, &KeyFiles),
    workers: &mut Workers,
) -> Result<(), Failure> {
    if !args.workers.is_empty() {
        return Ok(());
    }
    if args.processes {
        return Ok(workers.start_processes(shape, folder, &files.public).await?);
    }
    *workers = Workers::start_in_process(shape, folder, &key.worker_authorizer).await?;
    Ok(())
}

/// Prepares the query, by its deadline.
async fn prepare_in_time(
    loaded: &LoadedQuery,
    id: &QueryId,
    capacity: WorkerCapacity,
) -> Result<PreparedQuery, Failure> {
    let (deadline, loaded, id) = (Deadline::of(&loaded.query.spec), loaded.clone(), id.clone());
    let work = move || async move { prepare(&loaded, &id, capacity).await };
    let mut prepared = deadline.run(work).await?;
    prepared.began = deadline.began;
    Ok(prepared)
}

/// Removes the staging files of a query whose coordinator is gone.
fn clear_sink(sink: &Sink, query: &QueryId) {
    if let Err(error) = sink.abort(query, EPOCH) {
        tracing::warn!(%error, "the sink's staging folder could not be removed");
    }
}

fn is_coordinator_lost(failure: &Failure) -> bool {
    let lost = |failure: &QueryFailure| failure.reason == ErrorReason::CoordinatorLost;
    matches!(failure, Failure::Query(Outcome::Failed(failure)) if lost(failure))
}

fn shape(args: &RunArgs, loaded: &LoadedQuery) -> WorkerShape {
    const SPILL_LIMIT: u64 = 64 * 1024 * 1024 * 1024;
    let pool = loaded.pool.as_ref();
    let count = args.local_workers.unwrap_or_else(|| default_count(pool));
    let memory = args.memory.map(|memory| memory.bytes());
    let spill = pool
        .and_then(|pool| pool.spill.as_ref())
        .map(|spill| spill.limit.bytes());
    WorkerShape {
        count,
        slots: args.slots.unwrap_or_else(|| default_slots_each(pool)),
        memory_bytes: memory.unwrap_or_else(|| default_memory_each(pool, count)),
        spill_limit_bytes: spill.unwrap_or(SPILL_LIMIT),
    }
}

/// Workers by default.
fn default_count(pool: Option<&WorkerPoolSpec>) -> u32 {
    pool.map_or_else(cores, |pool| pool.replicas).max(1)
}

/// Slots of each worker by default.
fn default_slots_each(pool: Option<&WorkerPoolSpec>) -> u32 {
    pool.map_or(1, |pool| {
        pool.slots_per_worker.unwrap_or(DEFAULT_SLOTS_PER_WORKER)
    })
}

/// Memory of each of `count` workers by default, bytes.
fn default_memory_each(pool: Option<&WorkerPoolSpec>, count: u32) -> u64 {
    let said = pool.and_then(|pool| pool.memory).map(|memory| memory.bytes());
    said.unwrap_or_else(|| machine_memory() / 2 / u64::from(count))
}

/// The capacity of the workers that a run of the file starts by default.
pub(super) fn default_capacity(loaded: &LoadedQuery) -> WorkerCapacity {
    let pool = loaded.pool.as_ref();
    let (count, each) = (default_count(pool), default_slots_each(pool));
    WorkerCapacity {
        slots: count.saturating_mul(each),
        slot_memory_bytes: Some(default_memory_each(pool, count) / u64::from(each.max(1))),
    }
}

/// A spill folder for this run alone. Removes the folders of runs that were killed.
fn spill_folder(parent: Option<&Path>, id: &QueryId) -> Result<OwnedDir, Failure> {
    let default = std::env::temp_dir();
    let name = format!("{RUN_PREFIX}{id}");
    let made = OwnedDir::create(parent.unwrap_or(&default), &name, |name| {
        name.starts_with(RUN_PREFIX)
    });
    made.map_err(|error| Failure::BadInput(format!("--spill-dir: {error}")))
}

/// A unique query id.
pub(super) fn new_query_id() -> QueryId {
    let id = QueryId::new(uuid::Uuid::new_v4().to_string());
    id.unwrap_or_else(|| unreachable!("a UUID is a legal query id"))
}

async fn run_in_process(
    prepared: PreparedQuery,
    workers: Vec<String>,
    (key, started_here): (&RunKey, bool),
    view: View<'_>,
    interrupted: &CancellationToken,
) -> CommandResult {
    let id = prepared.query.clone();
    let schema = prepared.planned.schema.clone();
    let mut options = prepared.into_options(EPOCH, workers)?;
    options.authorizer = key.coordinator_authorizer.clone();
    // Not for external workers: with the token they could call this coordinator.
    options.token = started_here.then(|| key.token.clone());
    // Workers in this process log about the same query.
    let span = tracing::error_span!("query", query = options.query_name, uid = %options.query);
    let mut running = span.in_scope(|| RunningQuery::start(options))?;
    let stop = CancellationToken::new();
    let listen = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let served = serve(id.clone(), schema, &mut running, listen, stop.clone()).await?;
    let ended = follow_at(&served.address.to_string(), (id, key), view, interrupted).await;
    if ended.is_err() {
        // The client has stopped: nobody would read the result.
        running.cancel_token().cancel();
    }
    let outcome = running.outcome().await;
    stop.cancel();
    let _ = tokio::time::timeout(SERVICE_TIMEOUT, served.task).await;
    match (ended, outcome) {
        // The coordinator's own failure is the better cause.
        (Err(Failure::Other(_)), outcome @ Outcome::Failed(_)) => Err(Failure::Query(outcome)),
        (Err(failure), outcome @ Outcome::Failed(_)) if is_coordinator_lost(&failure) => {
            Err(Failure::Query(outcome))
        }
        (ended, _) => ended,
    }
}

async fn run_in_processes(
    args: &RunArgs,
    prepared: &PreparedQuery,
    (capacity, workers): (WorkerCapacity, &[String]),
    (key, files): (&RunKey, &KeyFiles),
    view: View<'_>,
    interrupted: &CancellationToken,
) -> CommandResult {
    if args.query.file.as_os_str() == "-" {
        return Err(Failure::BadInput(
            "--processes needs a file, standard input can be read only once".into(),
        ));
    }
    let id = &prepared.query;
    // The coordinator process reuses the listing, and removes the file even if this process is killed.
    let manifest = tempfile::Builder::new().prefix("sluice-inputs-").tempfile();
    let manifest = manifest.map_err(anyhow::Error::from)?;
    serde_json::to_writer(manifest.as_file(), &prepared.manifest).map_err(anyhow::Error::from)?;
    let mut command = self_command()?;
    command.arg("coordinator").arg("--manifest").arg(manifest.path());
    command.args(["--attached", "--results", "client", "--listen", "127.0.0.1:0"]);
    command.arg("--verify-key-file").arg(&files.public);
    command.arg("--token-file").arg(&files.token);
    command
        .arg("--query-id")
        .arg(id.as_str())
        .arg("--total-slots")
        .arg(capacity.slots.to_string());
    if let Some(memory) = capacity.slot_memory_bytes {
        command.arg("--slot-memory").arg(memory.to_string());
    }
    command
        .arg("--workers")
        .arg(workers.join(","))
        .arg(&args.query.file);
    let (mut child, announcement) = spawn_attached(command)?;
    let address = tokio::select! {
        address = announcement.address(&mut child) => address.map_err(not_started),
        () = interrupted.cancelled() => Err(Failure::Query(Outcome::Cancelled)),
    };
    let ended = match address {
        Ok(address) => follow_at(&address, (id.clone(), key), view, interrupted).await,
        Err(failure) => Err(failure),
    };
    stop_attached(child).await;
    ended
}

fn not_started(error: anyhow::Error) -> Failure {
    match error.downcast::<ExitedEarly>() {
        Ok(ExitedEarly {
            code: Some(code),
            termination,
        }) => Failure::Child {
            code: u8::try_from(code).unwrap_or(1),
            termination,
        },
        Ok(ended) => Failure::Other(ended.into()),
        Err(error) => Failure::Other(error),
    }
}

/// Follows the query of the coordinator at this address to its end.
async fn follow_at(
    address: &str,
    (id, key): (QueryId, &RunKey),
    mut view: View<'_>,
    interrupted: &CancellationToken,
) -> CommandResult {
    let client = Client::connect(address, id, key.client_token.clone()).await?;
    Ok(follow(&client, &mut view, interrupted).await?)
}
