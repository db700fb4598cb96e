//! The operator of Sluice: turns ShuffleQueries and WorkerPools of a Kubernetes cluster into running pods and their
//! progress into status.
//!
//! Each kind has a folder that reads as observe, validate, desired (pure), apply, status; `objects` holds the pure
//! builders of what they create. What both share is the loop ([`reconcile`]), the watches ([`watch`]) and the verbs
//! that write ([`kube_api`]).

pub mod config;
pub mod http;
pub mod kube_api;
pub mod log;
pub mod metrics;
pub mod objects;
pub mod progress;
pub mod reconcile;
pub mod shuffle_query;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use config::Config;
use http::Health;
use metrics::Metrics;
use sluice_proto::auth::TokenSigner;

/// What every part of the operator uses.
pub struct Operator {
    /// Flags and environment.
    pub config: Config,
    /// The API server.
    pub client: Client,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Runs the operator until it is asked to stop or another one leads.
///
/// # Errors
/// It cannot start: the cluster's address is not known, or an address or a file of `config` is of no use.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let client = client().await?;
    let metrics = Arc::new(Metrics::default());
    let health = Health::default();
    let server = http::serve(config.listen, health.clone(), metrics.clone(), stop.clone()).await?;
    let operator = Arc::new(Operator {
        config,
        client,
        metrics,
    });
    let signer = TokenSigner::from_file(&operator.config.signing_key_file)?;
    tokio::select! {
        () = wait_for_api_server(&operator.client) => {}
        () = stop.cancelled() => return Ok(()),
    }
    health.ready.store(true, Ordering::Relaxed);
    let shared = Arc::new(shuffle_query::Shared::new(Arc::new(signer)));
    let scopes = operator.config.scopes().into_iter();
    let queries =
        scopes.map(|scope| shuffle_query::run(operator.clone(), shared.clone(), scope, stop.clone()));
    futures::future::join_all(queries).await;
    stop.cancelled().await;
    server.await.context("the HTTP server")
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
