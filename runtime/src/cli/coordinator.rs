//! `sluice coordinator`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use arrow::datatypes::{Schema, SchemaRef};
use sluice_core::coordinator::Outcome;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::termination::Termination;
use sluice_crds::ByteSize;
use sluice_crds::process::{env, port};
use sluice_proto::auth::{Authorizer, Token};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::cli::attached::{announce, watch_stdin};
use crate::cli::exit::Failure;
use crate::cli::signals::{Signals, listen};
use crate::cli::worker::{PoolArgs, trusted_keys};
use crate::cli::{CommandResult, QueryFile, parse_size, parse_workers};
use crate::coordinator::{Handover, RunningQuery, serve};
use crate::query::{
    Deadline, LoadedQuery, PrepareError, PreparedQuery, WorkerCapacity, load, prepare, prepare_with_manifest,
    sink_of,
};
use crate::sink::{Committed, Sink};
use crate::source::InputManifest;
use crate::stderr::print_stderr;

/// How long a coordinator with a termination log serves the last state to clients that have not seen it.
const LINGER: Duration = Duration::from_secs(10);

/// Runs one query on workers that run already, and serves its status, its rows and its cancellation over gRPC.
#[derive(clap::Args)]
pub(super) struct CoordinatorArgs {
    #[command(flatten)]
    query: QueryFile,
    /// The workers, host:port, separated by commas. A host may stand for several workers; it is looked up again and
    /// again while the query runs.
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = parse_workers,
        required = true,
        env = env::WORKERS,
        value_name = "HOST:PORT"
    )]
    workers: Vec<String>,
    /// Where to serve; port 0 takes a free one.
    #[arg(long, env = env::LISTEN, default_value_t = SocketAddr::from(([127, 0, 0, 1], port::COORDINATOR)))]
    listen: SocketAddr,
    /// The query's unique id; default: a new one.
    #[arg(long)]
    query_id: Option<String>,
    /// The epoch of this coordinator: a successor of a lost one has a higher number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    epoch: u64,
    /// The workers' slots in all, for the number of partitions where the file does not say; default: one a worker.
    #[arg(long)]
    total_slots: Option<u32>,
    /// A file with the query's files as they were listed already (JSON), for programs that list them and start
    /// coordinators; it is removed once it is read. Default: they are listed now.
    #[arg(long, value_name = "FILE", hide = true)]
    manifest: Option<PathBuf>,
    /// The workers' memory for each of their slots, which bounds what joins send to every task, and from which build
    /// sides on they sort instead of hashing; default: not known.
    #[arg(long, value_parser = parse_size)]
    slot_memory: Option<ByteSize>,
    /// Who takes the rows of a query without a sink: a client that reads them, or nobody, so that only the preview
    /// in status remains, if the query wants one (spec.preview).
    #[arg(long, value_enum, default_value = "preview")]
    results: Results,
    /// A file with the token that opens sessions and fetches at workers that check tokens.
    #[arg(long, env = env::TOKEN_FILE, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A PEM file with the public keys (Ed25519) whose tokens may ask this coordinator; default: everybody may.
    #[arg(long, env = env::VERIFY_KEY_FILE, value_name = "FILE")]
    verify_key_file: Option<PathBuf>,
    #[command(flatten)]
    pool: PoolArgs,
    /// A file for the outcome as JSON of at most 4 KiB, written once the query has ended. The last state is then served
    /// for up to ten seconds, until somebody has taken it.
    #[arg(long, env = env::TERMINATION_LOG, value_name = "FILE")]
    termination_log: Option<PathBuf>,
    /// Print the address as one line on standard output once ready, and cancel when standard input closes: for
    /// programs that start coordinators.
    #[arg(long)]
    attached: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Results {
    Client,
    Preview,
}

/// Every log line names the query as soon as it is known.
pub(super) async fn run(args: CoordinatorArgs) -> CommandResult {
    let query = tracing::error_span!("query", query = Empty, uid = args.query_id);
    run_coordinator(args).instrument(query).await
}

async fn run_coordinator(args: CoordinatorArgs) -> CommandResult {
    let signals = listen();
    let parent_gone = CancellationToken::new();
    if args.attached {
        watch_stdin(parent_gone.clone());
    }
    let started = tokio::select! {
        started = start_query(&args) => started,
        () = signals.interrupt.cancelled() => Err(Failure::Query(Outcome::Cancelled)),
        () = parent_gone.cancelled() => Err(Failure::Query(Outcome::Cancelled)),
        () = signals.terminate.cancelled() => Err(Failure::HandedOver(Handover::Stopped)),
    };
    match started {
        Ok(query) => serve_query(&args, query, signals, parent_gone).await,
        Err(failure) => {
            let termination = failure.termination();
            write_termination(args.termination_log.as_deref(), termination.as_ref());
            if let Some(Ok(line)) = termination
                .filter(|_| args.attached)
                .map(|termination| termination.encode())
            {
                announce(line);
            }
            Err(failure)
        }
    }
}

/// A started query, and what serving it needs.
struct StartedQuery {
    id: QueryId,
    schema: SchemaRef,
    running: RunningQuery,
}

async fn start_query(args: &CoordinatorArgs) -> Result<StartedQuery, Failure> {
    let keys = trusted_keys(args.verify_key_file.as_deref())?;
    let token = args.token_file.as_deref().map(Token::from_file).transpose();
    let token = token.map_err(|error| Failure::Other(anyhow!("--token-file: {error}")))?;
    let loaded = load(&args.query.file)?;
    let id = match &args.query_id {
        None => super::run::new_query_id(),
        Some(text) => QueryId::new(text.clone()).ok_or_else(|| {
            Failure::BadInput(format!("--query-id {text}: use at most 64 of a-z, 0-9 and -"))
        })?,
    };
    let span = tracing::Span::current();
    span.record("query", loaded.query.metadata.name.as_deref());
    span.record("uid", id.as_str());
    let authorizer = keys.map(|keys| Authorizer::for_coordinator(keys, args.pool.id(), id.clone()));
    let authorizer = authorizer.unwrap_or_default();
    let workers = u32::try_from(args.workers.len()).unwrap_or(u32::MAX);
    let capacity = WorkerCapacity {
        slots: args.total_slots.unwrap_or(workers),
        slot_memory_bytes: args.slot_memory.map(|memory| memory.bytes()),
    };
    let deadline = Deadline::of(&loaded.query.spec);
    let (listed, query) = (args.manifest.clone(), id.clone());
    let plan =
        move || async move { plan_unless_committed(&loaded, &query, capacity, listed.as_deref()).await };
    let mut prepared = match deadline.run(plan).await? {
        Lookup::Planned(prepared) => *prepared,
        Lookup::Committed(committed, sink) => {
            tracing::info!(query = %id, "a predecessor has committed the result");
            return Ok(StartedQuery {
                id,
                schema: Arc::new(Schema::empty()),
                running: RunningQuery::committed_before(committed, &sink, authorizer),
            });
        }
    };
    prepared.began = deadline.began;
    let schema = prepared.planned.schema.clone();
    let mut options = prepared.into_options(CoordinatorEpoch(args.epoch), args.workers.clone())?;
    options.token = token;
    options.authorizer = authorizer;
    let mut running = RunningQuery::start(options)?;
    if args.results == Results::Preview {
        running.discard_rows();
    }
    Ok(StartedQuery { id, schema, running })
}

/// What a coordinator finds when it starts.
enum Lookup {
    /// A predecessor has committed the result.
    Committed(Committed, Sink),
    /// The query is to be run.
    Planned(Box<PreparedQuery>),
}

/// Plans the query, unless its result is committed already.
async fn plan_unless_committed(
    loaded: &LoadedQuery,
    query: &QueryId,
    capacity: WorkerCapacity,
    listed: Option<&Path>,
) -> Result<Lookup, PrepareError> {
    if let Some(sink) = sink_of(loaded)? {
        let committed = sink.committed(query);
        let committed = committed.map_err(|error| PrepareError::rejected(error.reason(), error))?;
        if let Some(committed) = committed {
            return Ok(Lookup::Committed(committed, sink));
        }
    }
    let prepared = match listed {
        None => prepare(loaded, query, capacity).await?,
        Some(path) => prepare_with_manifest(loaded, query, capacity, manifest(path)?).await?,
    };
    Ok(Lookup::Planned(Box::new(prepared)))
}

/// Reads and removes the manifest file, which is for this coordinator alone.
fn manifest(path: &Path) -> Result<InputManifest, PrepareError> {
    let text = std::fs::read(path).and_then(|text| std::fs::remove_file(path).map(|()| text));
    let text = text.map_err(anyhow::Error::from);
    let manifest = text.and_then(|text| Ok(serde_json::from_slice(&text)?));
    manifest.map_err(|error| PrepareError::Other(anyhow!("--manifest {}: {error}", path.display())))
}

/// Serves the query to its end, writes the termination message, and lets clients read the last state.
async fn serve_query(
    args: &CoordinatorArgs,
    query: StartedQuery,
    signals: Signals,
    parent_gone: CancellationToken,
) -> CommandResult {
    let StartedQuery {
        id,
        schema,
        mut running,
    } = query;
    let stop = CancellationToken::new();
    let served = serve(id.clone(), schema, &mut running, args.listen, stop.clone()).await?;
    if args.attached {
        announce(served.address);
    } else {
        print_stderr(format!("coordinator of query {id} serves on {}", served.address));
    }
    let (cancel, leave) = (running.cancel_token(), running.stop_token());
    let (terminate, parent_ended) = (signals.terminate.clone(), parent_gone.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = signals.interrupt.cancelled() => cancel.cancel(),
            () = parent_ended.cancelled() => cancel.cancel(),
            () = signals.terminate.cancelled() => leave.cancel(),
        }
    });
    let reporter = running.reporter();
    let outcome = running.ended().await.map_err(Failure::HandedOver)?;
    if let Some(log) = args.termination_log.as_deref() {
        write_termination(Some(log), Some(&Termination::from(&reporter.now().status())));
        tokio::select! {
            () = served.end_reported.cancelled() => {}
            () = terminate.cancelled() => {}
            () = tokio::time::sleep(LINGER) => {}
        }
    }
    stop.cancel();
    // Clients read the last state before they disconnect; do not wait long for one that does not. A parent reads the
    // rows as slowly as its own reader.
    let disconnected = async {
        if args.attached {
            parent_gone.cancelled().await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    tokio::select! {
        _ = served.task => {}
        () = disconnected => {}
    }
    match outcome {
        Outcome::Succeeded => Ok(()),
        Outcome::Failed(_) | Outcome::Cancelled => Err(Failure::Query(outcome)),
    }
}

/// Writes the termination message, if there is one and a file was named for it.
fn write_termination(log: Option<&Path>, termination: Option<&Termination>) {
    let (Some(log), Some(termination)) = (log, termination) else {
        return;
    };
    let text = termination.encode().map_err(anyhow::Error::from);
    let written = text.and_then(|text| Ok(std::fs::write(log, text)?));
    if let Err(error) = written {
        tracing::error!(%error, "--termination-log {}", log.display());
    }
}
