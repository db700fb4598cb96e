//! `sluice coordinator`.

use std::net::SocketAddr;

use sluice_core::coordinator::Outcome;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use tokio_util::sync::CancellationToken;

use crate::cli::worker::{announce, watch_stdin};
use crate::cli::{CommandResult, QueryFile};
use crate::coordinator::{RunningQuery, serve};
use crate::local::exit::{Failure, interrupts};
use crate::local::load::load;
use crate::local::prepare::prepare;

/// Runs one query on workers that run already, and serves its status, its rows and its cancellation over gRPC.
#[derive(clap::Args)]
pub(super) struct CoordinatorArgs {
    #[command(flatten)]
    query: QueryFile,
    /// The workers, host:port, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        required = true,
        env = "SLUICE_WORKERS",
        value_name = "HOST:PORT"
    )]
    workers: Vec<String>,
    /// Where to serve; port 0 takes a free one.
    #[arg(long, env = "SLUICE_LISTEN", default_value = "127.0.0.1:7401")]
    listen: SocketAddr,
    /// The query's unique id; default: a new one.
    #[arg(long)]
    query_id: Option<String>,
    /// The term of this coordinator: a successor of a lost one has a higher number.
    #[arg(long, default_value_t = 1)]
    epoch: u64,
    /// The workers' slots in all, for the number of partitions where the file does not say; default: one a worker.
    #[arg(long)]
    total_slots: Option<u32>,
    /// Who takes the rows of a query without a sink: a client that reads them, or nobody, so that only the preview
    /// in status remains.
    #[arg(long, value_enum, default_value = "preview")]
    results: Results,
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

pub(super) async fn run(args: CoordinatorArgs) -> CommandResult {
    let interrupted = interrupts();
    let loaded = load(&args.query.file)?;
    let id = match args.query_id {
        None => super::run::new_query_id(),
        Some(text) => QueryId::new(text.clone()).ok_or_else(|| {
            Failure::BadInput(format!("--query-id {text}: use at most 64 of a-z, 0-9 and -"))
        })?,
    };
    let workers = u32::try_from(args.workers.len()).unwrap_or(u32::MAX);
    let prepared = tokio::select! {
        prepared = prepare(&loaded, &id, args.total_slots.unwrap_or(workers)) => prepared?,
        () = interrupted.cancelled() => return Err(Failure::Query(Outcome::Cancelled)),
    };
    let schema = prepared.planned.schema.clone();
    let options = prepared.into_options(CoordinatorEpoch(args.epoch), args.workers)?;
    let mut running = RunningQuery::start(options)?;
    if args.results == Results::Preview {
        running.discard_rows();
    }
    let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
    let (address, server) = serve(id.clone(), schema, &mut running, args.listen, stop.clone()).await?;
    if args.attached {
        announce(address);
        watch_stdin(gone.clone());
    } else {
        eprintln!("coordinator of query {id} serves on {address}");
    }
    let cancel = running.cancel_token();
    tokio::spawn(async move {
        tokio::select! {
            () = interrupted.cancelled() => {}
            () = gone.cancelled() => {}
        }
        cancel.cancel();
    });
    let outcome = running.outcome().await;
    stop.cancel();
    // Clients take the last state before they go; one that does not is not waited for.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), server).await;
    match outcome {
        Outcome::Succeeded => Ok(()),
        Outcome::Failed(_) | Outcome::Cancelled => Err(Failure::Query(outcome)),
    }
}
