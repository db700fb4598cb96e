//! The operator of Sluice: turns ShuffleQueries and WorkerPools of a Kubernetes cluster into running pods and their
//! progress into status.
//!
//! Each kind has a folder with the same files: `controller` watches and reconciles, `observe` gathers, `decide` is pure, `apply`
//! writes objects, `status` composes the status. `objects` holds pure builders of Kubernetes objects, `rpc` the calls to
//! coordinators and workers, [`controller_runtime`] the generic controller code.

#![allow(
    missing_docs,
    reason = "no other crate imports these items: modules, invariants and what a name does not say are documented"
)]

pub mod commands;
pub mod config;
pub mod controller_runtime;
pub mod demand;
pub mod http;
pub mod leader_election;
pub mod log;
pub mod metrics;
pub mod objects;
pub mod own_pod;
pub mod pod_diagnosis;
pub mod rpc;
pub mod shuffle_query;
pub mod signing;
pub mod volume_claims;
pub mod worker_pool;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Resource};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use config::{Command, Config, Scope};
use controller_runtime::api::FIELD_MANAGER;
use controller_runtime::rate_limiter::RateLimiter;
use controller_runtime::unreadable::Unreadable;
use demand::DemandTracker;
use http::Health;
use metrics::Metrics;
use own_pod::OwnPod;
use rpc::worker::GrpcWorkers;
use signing::SigningKeys;

/// What every part of the operator uses.
pub struct Operator {
    pub config: Config,
    /// The image of workers and coordinators of pools that name none.
    pub image: String,
    pub client: Client,
    pub metrics: Arc<Metrics>,
    pub demand: Arc<DemandTracker>,
    /// Bounds the status writes of both kinds in all namespaces.
    pub status_writes: RateLimiter,
}

impl Operator {
    pub fn recorder(&self) -> Recorder {
        let reporter = Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(self.config.identity.clone()),
        };
        Recorder::new(self.client.clone(), reporter)
    }

    /// Records the objects of kind `K` in `scope` that cannot be read.
    pub fn unreadable<K: Resource<DynamicType = ()>>(&self, scope: &Scope) -> Unreadable {
        Unreadable::new(
            self.metrics.unreadable(&K::kind(&()), scope),
            Some(self.recorder()),
        )
    }
}

/// Most status writes in a second.
const STATUS_WRITES: u32 = 50;

/// Runs the operator until a signal stops it or another operator leads.
///
/// # Errors
/// Those of [`run_with`], or the address of the cluster is not known.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    run_with(config, client().await?, stop).await
}

/// Runs one command of an installation.
///
/// # Errors
/// Those of the command, or the address of the cluster is not known.
pub async fn execute(command: Command) -> anyhow::Result<()> {
    let client = client().await?;
    match command {
        Command::InstallCrds => commands::install_crds::run(&client).await,
        Command::ApplyPool(args) => commands::apply_pool::run(&client, &args).await,
        Command::TryQuery(args) => commands::try_query::run(&client, &args).await,
    }
}

/// Runs an operator on `client` until `stop`. It stands by, and acts while it leads.
///
/// # Errors
/// It cannot start with this `config`, or it lost the lease after it led. The process must end then: parts of it may not have
/// noticed yet.
pub async fn run_with(config: Config, client: Client, stop: CancellationToken) -> anyhow::Result<()> {
    let key_file = &config.signing_key_file;
    let signer =
        SigningKeys::open(key_file).with_context(|| format!("--signing-key-file {}", key_file.display()))?;
    let signer = Arc::new(signer);
    let metrics = Arc::new(Metrics::default());
    let health = Health::default();
    let serving = stop.child_token();
    let server = http::serve(config.listen, health.clone(), metrics.clone(), serving.clone()).await?;
    let own = tokio::select! {
        own = own_pod(&client, &config) => own?,
        () = stop.cancelled() => return Ok(()),
    };
    let image = config.image.clone().or(own.image).with_context(|| {
        let (namespace, name) = (&config.lease_namespace, &config.identity);
        format!("--image is missing, and pod {name} of namespace {namespace}, whose image it would be, is not there")
    })?;
    let operator = Arc::new(Operator {
        config,
        image,
        client,
        metrics,
        demand: Arc::default(),
        status_writes: RateLimiter::per_second(STATUS_WRITES),
    });
    // A standby is as ready as the leader.
    health.ready.store(true, Ordering::Relaxed);
    let work = controllers(operator.clone(), signer, stop.clone());
    let metrics = operator.metrics.clone();
    let lease = leader_election::Lease {
        client: operator.client.clone(),
        owners: own.owners,
    };
    let led = leader_election::lead(lease, &operator.config, metrics, stop, work).await;
    serving.cancel();
    led?;
    server.await.context("the HTTP server")
}

/// Runs the controllers, which only the leader does. It ends soon after `stop`.
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
    // When a controller panics, the others must not go on leading without it.
    while let Some(ended) = running.join_next().await {
        ended.context("a controller")?;
    }
    Ok(())
}

/// A client whose requests have timeouts: a dead connection would block forever.
async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await.context("no cluster to talk to")?;
    config.connect_timeout = Some(Duration::from_secs(10));
    // Longer than the time between two bookmarks of a watch, about a minute.
    config.read_timeout = Some(Duration::from_secs(120));
    config.write_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).context("the client of the API server")
}

/// Reads the operator's own pod, once the API server answers.
async fn own_pod(client: &Client, config: &Config) -> anyhow::Result<OwnPod> {
    wait_for_api_server(client).await;
    let (namespace, name) = (&config.lease_namespace, &config.identity);
    let own = OwnPod::read(client, namespace, name).await;
    own.with_context(|| format!("reading the operator's own pod {name} of namespace {namespace}"))
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
