//! The operator of Sluice: turns ShuffleQueries and WorkerPools of a Kubernetes cluster into running pods and their
//! progress into status.
//!
//! Each kind has a folder that reads as observe, validate, desired (pure), apply, status; `objects` holds the pure
//! builders of what they create. What both share is the loop ([`reconcile`]), the watches ([`watch`]) and the verbs
//! that write ([`kube_api`]).

pub mod apply_pool;
pub mod config;
mod event;
pub mod http;
pub mod install_crds;
pub mod kube_api;
pub mod leader;
pub mod log;
pub mod metrics;
pub mod objects;
pub mod pod_wait;
pub mod progress;
pub mod reconcile;
pub mod shuffle_query;
pub mod signing;
pub mod try_query;
pub mod watch;
pub mod worker_pool;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use config::{Command, Config};
use http::Health;
use metrics::Metrics;
use progress::Budget;
use signing::SigningKeys;
use worker_pool::grpc::GrpcWorkers;

/// What every part of the operator uses.
pub struct Operator {
    /// Flags and environment.
    pub config: Config,
    /// The API server.
    pub client: Client,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Turns of writing a status, of either kind in all namespaces.
    pub status_writes: Budget,
}

/// Most writes of status in a second.
const STATUS_WRITES: u32 = 50;

/// Runs the operator of this process: until a signal asks it to stop, or another one leads.
///
/// # Errors
/// As [`run_with`], or the cluster's address is not known.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    run_with(config, client().await?, stop).await
}

/// Does one of the chores around an installation and ends.
///
/// # Errors
/// What the command says, or the cluster's address is not known.
pub async fn execute(command: Command) -> anyhow::Result<()> {
    let client = client().await?;
    match command {
        Command::InstallCrds => install_crds::run(&client).await,
        Command::ApplyPool(args) => apply_pool::run(&client, &args).await,
        Command::TryQuery(args) => try_query::run(&client, &args).await,
    }
}

/// Runs an operator on `client` until `stop`: stands by, and acts while it leads.
///
/// # Errors
/// It cannot start, as an address or a file of `config` is of no use; or it led and lost the lease. The process has
/// to end then: parts of it may not have noticed yet.
pub async fn run_with(config: Config, client: Client, stop: CancellationToken) -> anyhow::Result<()> {
    let key_file = &config.signing_key_file;
    let signer =
        SigningKeys::open(key_file).with_context(|| format!("--signing-key-file {}", key_file.display()))?;
    let signer = Arc::new(signer);
    let metrics = Arc::new(Metrics::default());
    let health = Health::default();
    let serving = stop.child_token();
    let server = http::serve(config.listen, health.clone(), metrics.clone(), serving.clone()).await?;
    let operator = Arc::new(Operator {
        config,
        client,
        metrics,
        status_writes: Budget::per_second(STATUS_WRITES),
    });
    tokio::select! {
        () = wait_for_api_server(&operator.client) => {}
        () = stop.cancelled() => return Ok(()),
    }
    // A standby is as ready as the leader.
    health.ready.store(true, Ordering::Relaxed);
    let work = controllers(operator.clone(), signer, stop.clone());
    let metrics = operator.metrics.clone();
    let led = leader::lead(operator.client.clone(), &operator.config, metrics, stop, work).await;
    serving.cancel();
    led?;
    server.await.context("the HTTP server")
}

/// What only the leader does: it ends soon after `stop`.
async fn controllers(
    operator: Arc<Operator>,
    signer: Arc<SigningKeys>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    for scope in operator.config.scopes() {
        let workers = GrpcWorkers::new(signer.clone());
        let keys = Some(signer.clone());
        let (operator, stop) = (operator.clone(), stop.clone());
        running.spawn(worker_pool::run(
            operator.clone(),
            scope.clone(),
            workers,
            keys,
            stop.clone(),
        ));
        running.spawn(shuffle_query::run(operator, signer.clone(), scope, stop));
    }
    // A controller that ends by a panic must not leave the others to lead without it.
    while let Some(ended) = running.join_next().await {
        ended.context("a controller")?;
    }
    Ok(())
}

/// A client whose requests end: without a limit a dead connection is waited for without end.
async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await.context("no cluster to talk to")?;
    config.connect_timeout = Some(Duration::from_secs(10));
    // Longer than the pause between bookmarks of a watch, which come once a minute.
    config.read_timeout = Some(Duration::from_secs(120));
    config.write_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).context("the client of the API server")
}

async fn wait_for_api_server(client: &Client) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(version = version.git_version, "the API server answers");
                return;
            }
            Err(error) => tracing::warn!(%error, "waiting for the API server"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn stop_signal() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}
