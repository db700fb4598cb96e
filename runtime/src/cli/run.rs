//! `sluice run`.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use sluice_core::coordinator::Outcome;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::status::StatusContext;
use sluice_crds::ByteSize;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::cli::{CommandResult, QueryFile, cores, parse_size, parse_workers};
use crate::coordinator::{RunningQuery, serve};
use crate::local::client::{Client, Seen};
use crate::local::exit::{Failure, interrupts};
use crate::local::load::{Loaded, load};
use crate::local::memory::machine_memory;
use crate::local::output::OutputFormat;
use crate::local::prepare::{Capacity, Prepared, prepare};
use crate::local::progress::Progress;
use crate::local::status::StatusFile;
use crate::local::workers::{EndedEarly, WorkerShape, Workers, own_program, start_attached};

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
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(args: RunArgs) -> CommandResult {
    let loaded = load(&args.query.file)?;
    let shape = shape(&args, &loaded);
    let slots = match u32::try_from(args.workers.len()) {
        Ok(given @ 1..) => given.saturating_mul(shape.slots),
        Ok(0) | Err(_) => shape.count.saturating_mul(shape.slots),
    };
    let started_here = args.workers.is_empty();
    let capacity = Capacity {
        slots,
        slot_memory_bytes: started_here.then(|| shape.memory_bytes / u64::from(shape.slots.max(1))),
    };
    // A terminal that is still read from must stay interruptible, so not before the file is loaded.
    let interrupted = interrupts();
    let id = new_query_id();
    let prepared = tokio::select! {
        prepared = prepare(&loaded, &id, capacity) => prepared?,
        () = interrupted.cancelled() => return Err(Failure::Query(Outcome::Cancelled)),
    };
    let folder = spill_folder(args.spill_dir.as_deref())?;
    let workers = if !args.workers.is_empty() {
        Workers::of_others(args.workers.clone())
    } else if args.processes {
        Workers::start_processes(shape, folder.path()).await?
    } else {
        Workers::start_here(shape, folder.path()).await?
    };
    let ended = if interrupted.is_cancelled() {
        Err(Failure::Query(Outcome::Cancelled))
    } else if args.processes {
        through_process(&args, &prepared, capacity, &workers.addresses, &interrupted).await
    } else {
        through_task(&args, prepared, workers.addresses.clone(), &interrupted).await
    };
    workers.stop().await;
    ended
}

fn shape(args: &RunArgs, loaded: &Loaded) -> WorkerShape {
    const SPILL_LIMIT: u64 = 64 * 1024 * 1024 * 1024;
    let pool = loaded.pool.as_ref();
    let count = args
        .local_workers
        .or(pool.map(|pool| pool.replicas))
        .unwrap_or_else(cores)
        .max(1);
    let memory = args
        .memory
        .or(pool.and_then(|pool| pool.memory))
        .map(|memory| memory.bytes());
    let spill = pool
        .and_then(|pool| pool.spill.as_ref())
        .map(|spill| spill.limit.bytes());
    WorkerShape {
        count,
        slots: args.slots.or(pool.map(|pool| pool.slots_per_worker)).unwrap_or(1),
        memory_bytes: memory.unwrap_or_else(|| machine_memory() / 2 / u64::from(count)),
        spill_limit_bytes: spill.unwrap_or(SPILL_LIMIT),
    }
}

fn spill_folder(parent: Option<&Path>) -> Result<TempDir, Failure> {
    let mut builder = tempfile::Builder::new();
    let named = builder.prefix("sluice-run-");
    let made = match parent {
        Some(parent) => std::fs::create_dir_all(parent).and_then(|()| named.tempdir_in(parent)),
        None => named.tempdir(),
    };
    made.map_err(|error| Failure::BadInput(format!("--spill-dir: {error}")))
}

/// A query id that no other run has.
pub(super) fn new_query_id() -> QueryId {
    let id = QueryId::new(uuid::Uuid::new_v4().to_string());
    id.unwrap_or_else(|| unreachable!("a UUID is a legal query id"))
}

fn sink_folder(prepared: &Prepared) -> Option<PathBuf> {
    prepared.sink.as_ref().map(|sink| sink.location().to_owned())
}

async fn through_task(
    args: &RunArgs,
    prepared: Prepared,
    workers: Vec<String>,
    interrupted: &CancellationToken,
) -> CommandResult {
    let id = prepared.query.clone();
    let sink = sink_folder(&prepared);
    let context = StatusContext::new(&prepared.planned.graph, jiff::Timestamp::now());
    let schema = prepared.planned.schema.clone();
    let options = prepared.into_options(CoordinatorEpoch(1), workers)?;
    let mut running = RunningQuery::start(options)?;
    let stop = CancellationToken::new();
    let listen = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let served = serve(id.clone(), schema, &mut running, listen, stop.clone()).await?;
    let client = Client::connect(&served.address.to_string(), id).await?;
    let ended = follow(args, client, sink, context, interrupted).await;
    let outcome = running.outcome().await;
    stop.cancel();
    let _ = served.task.await;
    match ended {
        Ok(_) => Ok(()),
        // What the coordinator itself says is the better cause.
        Err(Failure::Other(_)) if outcome != Outcome::Succeeded => Err(Failure::Query(outcome)),
        Err(failure) => Err(failure),
    }
}

async fn through_process(
    args: &RunArgs,
    prepared: &Prepared,
    capacity: Capacity,
    workers: &[String],
    interrupted: &CancellationToken,
) -> CommandResult {
    if args.query.file.as_os_str() == "-" {
        return Err(Failure::BadInput(
            "--processes needs a file, standard input can be read only once".into(),
        ));
    }
    let id = prepared.query.clone();
    let context = StatusContext::new(&prepared.planned.graph, jiff::Timestamp::now());
    let mut command = own_program()?;
    command.args([
        "coordinator",
        "--attached",
        "--results",
        "client",
        "--listen",
        "127.0.0.1:0",
    ]);
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
    let (mut child, address) = start_attached(command)
        .await
        .map_err(|error| match error.downcast_ref() {
            Some(EndedEarly { code: Some(code) }) => Failure::Child(u8::try_from(*code).unwrap_or(1)),
            Some(EndedEarly { code: None }) | None => Failure::Other(error),
        })?;
    let ended = match Client::connect(&address, id).await {
        Ok(client) => follow(args, client, sink_folder(prepared), context, interrupted).await,
        Err(error) => Err(Failure::Other(error)),
    };
    drop(child.stdin.take());
    let patience = std::time::Duration::from_secs(10);
    let status = tokio::time::timeout(patience, child.wait()).await;
    if !matches!(status, Ok(Ok(ref status)) if ExitStatus::code(status).is_some()) {
        let _ = child.kill().await;
    }
    ended.map(|_| ())
}

/// Shows progress and prints rows until the query has ended; Ctrl-C cancels it.
async fn follow(
    args: &RunArgs,
    client: Client,
    sink: Option<PathBuf>,
    context: StatusContext,
    interrupted: &CancellationToken,
) -> Result<Seen, Failure> {
    let streams = args.output != OutputFormat::Table;
    let mut progress = Progress::new(args.quiet, streams);
    let mut status = args
        .status
        .as_deref()
        .map(|path| StatusFile::new(path, context, sink.clone()));
    let mut rows = sink.is_none().then(|| {
        let (mut client, format) = (client.clone(), args.output);
        tokio::spawn(async move { client.print_rows(format, std::io::stdout()).await })
    });
    let mut cancelling = client.clone();
    let interrupted = interrupted.clone();
    let interrupts = tokio::spawn(async move {
        interrupted.cancelled().await;
        let _ = cancelling.cancel().await;
    });
    let mut watching = client.clone();
    let watched = watching.watch(|seen| {
        progress.show(&seen.snapshot);
        if let Some(status) = &mut status {
            status.update(seen);
        }
    });
    let watched = stop_if_nobody_reads(watched, &mut rows, client).await;
    interrupts.abort();
    let (seen, outcome) = watched?;
    progress.finish(&seen.snapshot);
    if let Some(status) = &mut status {
        status.finish(&seen)?;
    }
    if outcome != Outcome::Succeeded {
        return Err(Failure::Query(outcome));
    }
    if let Some(rows) = rows {
        let printer = rows.await.map_err(anyhow::Error::from)??;
        printer.finish()?;
    }
    Ok(seen)
}

type Rows =
    Option<tokio::task::JoinHandle<anyhow::Result<crate::local::output::RowPrinter<std::io::Stdout>>>>;

/// Waits for the query; cancels it when printing its rows has failed (a closed pipe, say).
async fn stop_if_nobody_reads(
    watched: impl Future<Output = anyhow::Result<(Seen, Outcome)>>,
    rows: &mut Rows,
    mut client: Client,
) -> Result<(Seen, Outcome), Failure> {
    tokio::pin!(watched);
    let Some(reading) = rows.as_mut() else {
        return Ok(watched.await?);
    };
    tokio::select! {
        ended = &mut watched => return Ok(ended?),
        printed = reading => match printed.map_err(anyhow::Error::from).and_then(|printed| printed) {
            Ok(printer) => *rows = Some(tokio::spawn(async move { Ok(printer) })),
            Err(error) => {
                let _ = client.cancel().await;
                let ended = watched.await;
                // The rows may have stopped because the query failed: its own cause comes first.
                return match ended {
                    Ok((seen, outcome @ Outcome::Failed(_))) => {
                        *rows = None;
                        Ok((seen, outcome))
                    }
                    Ok(_) | Err(_) => Err(Failure::Other(error)),
                };
            }
        },
    }
    Ok(watched.await?)
}
