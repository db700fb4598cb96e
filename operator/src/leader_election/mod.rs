//! Leader election by a Lease: one of several operators acts, the others stand by.
//!
//! Own code: the crates for this version of kube compare the holder's timestamp with their own wall clock, and two candidates
//! lead when a clock is wrong.

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

pub struct Lease {
    pub client: Client,
    /// The owners of the lease. Kubernetes deletes it with them.
    pub owners: Vec<OwnerReference>,
}

/// Waits until this operator leads, then runs `work`, which ends soon after `stop`. The lease is renewed meanwhile and released
/// afterwards, so that another operator can take it at once. If the lease is lost, `work` is dropped.
///
/// # Errors
/// The lease was lost, or `work` failed or ended on its own: in each case the process must end. Or the election's times in
/// `config` do not fit each other.
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
    // A new name for every start: what an earlier process of this pod wrote is not ours.
    let identity = format!("{}_{:016x}", config.identity, rand::random::<u64>());
    tracing::info!(identity, lease = config.lease_name, "standing for election");
    let lock = Lock::new(lease, &config.lease_namespace, &config.lease_name);
    let election = Election::new(identity, timing, rand::random());
    let done = CancellationToken::new();
    let (leading, mut led) = watch::channel(false);
    // A task of its own, since `work` may block this one.
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

/// Sets the metric of leading while it lives.
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

/// Executes the actions of `election` until it ends. `leading` shows whether it leads; `done` asks it to release the lease.
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
                // The arm above handles it.
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
