//! What a reconcile of a pool decides from.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_crds::WorkerPool;
use sluice_proto::log::LogFormat;

use super::claims::MountedClaim;
use super::revision::Revision;
use super::worker::Worker;
use crate::demand::PoolDemand;

/// A pool and all that is known around it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The pool.
    pub pool: Arc<WorkerPool>,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// Names of all pods that carry the pool's label, whoever owns them.
    pub taken: BTreeSet<String>,
    /// The claims that it mounts.
    pub claims: Vec<MountedClaim>,
    /// What pods of today's spec are made with.
    pub revision: Revision,
    /// What the operator was told.
    pub settings: Settings,
    /// Workers that it is to have: as its spec says, or as it chose.
    pub replicas: u32,
    /// What its queries want.
    pub demand: PoolDemand,
    /// The time.
    pub now: Timestamp,
}

/// What of the operator's configuration and keys shapes a pool's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of workers, where a pool names none.
    pub default_image: String,
    /// The keys that check tokens, in PEM, if tokens are checked.
    pub public_key: Option<String>,
    /// How workers write their logs.
    pub log_format: LogFormat,
}

impl Observed {
    /// The image that new pods get.
    pub fn image(&self) -> &str {
        &self.revision.image
    }

    /// The name of the pool.
    pub fn name(&self) -> String {
        self.pool.name_any()
    }
}
