//! One of several operators acts, the others stand by: leader election by a Lease.
//!
//! Own code, since no crate for this version of kube goes by its own clock alone: those that exist compare the time
//! which the holder wrote with their own wall clock, and two of them lead when a clock is wrong.

pub mod election;
mod lock;

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::metrics::Metrics;

use election::{Action, Election, Event, Now, Outcome, Timing};
use lock::Lock;

/// Where the lease is, and what it goes with.
pub struct Lease {
    /// The API server.
    pub client: Client,
    /// Its owners: when they are gone, Kubernetes removes it.
    pub owners: Vec<OwnerReference>,
}

/// Waits until this operator leads, then runs `work` until it ends, which it does soon after `stop`. The lease is
/// renewed all the while and given up afterwards, so that another need not wait for its end. If the lease is lost,
/// `work` is dropped where it stands.
///
/// # Errors
/// The lease was lost, or `work` failed or ended without being asked to: in each case the process has to end. Or the
/// election's times in `config` do not fit each other.
pub async fn lead<W>(
    lease: Lease,
    config: &Config,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    work: W,
) -> anyhow::Result<()>
where
    W: Future<Output = anyhow::Result<()>>,
{
    let timing = Timing::new(
        config.lease_seconds,
        config.lease_renewal_seconds,
        config.lease_retry_seconds,
    )?;
    // A name of its own for every start: what this pod's predecessor wrote is not ours.
    let identity = format!("{}_{:016x}", config.identity, rand::random::<u64>());
    tracing::info!(identity, lease = config.lease_name, "standing for election");
    let lock = Lock::new(lease, &config.lease_namespace, &config.lease_name);
    let election = Election::new(identity, timing, rand::random());
    let done = CancellationToken::new();
    let (leading, mut led) = watch::channel(false);
    // A task of its own: `work` may keep this one busy.
    let mut elected = AbortOnDropHandle::new(tokio::spawn(elect(election, lock, leading, done.clone())));
    tokio::select! {
        biased;
        outcome = &mut elected => return ended(config, outcome?),
        () = stop.cancelled() => {
            done.cancel();
            return ended(config, elected.await?);
        }
        _ = led.wait_for(|leads| *leads) => {}
    }
    let result = {
        let _leading_gauge = LeadingGauge::new(metrics);
        tokio::select! {
            biased;
            outcome = &mut elected => return ended(config, outcome?),
            result = work => result,
        }
    };
    done.cancel();
    let outcome = elected.await?;
    result.context("while leading")?;
    if !stop.is_cancelled() {
        bail!("the controllers ended though nobody asked them to");
    }
    ended(config, outcome)
}

fn ended(config: &Config, outcome: Outcome) -> anyhow::Result<()> {
    let lease = format!("{}/{}", config.lease_namespace, config.lease_name);
    match outcome {
        Outcome::Stopped => Ok(()),
        Outcome::NotRenewed => bail!(
            "the lease {lease} could not be renewed within {} s; another operator may lead now",
            config.lease_renewal_seconds
        ),
        Outcome::Deposed => bail!("the lease {lease} is held by another operator, or was given up by hand"),
    }
}

/// The metric shows that this operator leads for as long as this lives.
struct LeadingGauge(Arc<Metrics>);

impl LeadingGauge {
    fn new(metrics: Arc<Metrics>) -> Self {
        tracing::info!("leading");
        metrics.leads(true);
        Self(metrics)
    }
}

impl Drop for LeadingGauge {
    fn drop(&mut self) {
        tracing::info!("leading no more");
        self.0.leads(false);
    }
}

/// Does what `election` says until it ends; `leading` tells whether it leads, `done` that it shall give up.
async fn elect(
    mut election: Election,
    mut lock: Lock,
    leading: watch::Sender<bool>,
    done: CancellationToken,
) -> Outcome {
    let start = Instant::now();
    let now = || Now {
        elapsed: start.elapsed(),
        wall: Timestamp::now(),
    };
    let mut asked = false;
    let mut action = election.handle(now(), Event::Due);
    loop {
        let event = match action {
            Action::End(outcome) => return outcome,
            _ if !asked && done.is_cancelled() => {
                asked = true;
                Event::StopAsked
            }
            Action::Wait(time) => tokio::select! {
                () = tokio::time::sleep(time) => Event::Due,
                // Seen by the arm above.
                () = done.cancelled(), if !asked => continue,
            },
            Action::Read { within } => lock.read(within).await,
            Action::Write { record, over, within } => lock.write(record, over, within).await,
        };
        let now = now();
        action = election.handle(now, event);
        leading.send_replace(election.leads(now));
    }
}
