//! The input of a decision about a pool.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_crds::WorkerPool;
use sluice_proto::log::LogFormat;

use super::revision::Revision;
use super::worker::Worker;
use crate::demand::PoolDemand;
use crate::volume_claims::MountedClaim;

/// A pool and everything around it at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    pub pool: Arc<WorkerPool>,
    pub workers: Vec<Worker>,
    /// Names of all pods that carry the pool's label, whoever owns them.
    pub taken: BTreeSet<String>,
    pub claims: Vec<MountedClaim>,
    pub revision: Revision,
    pub settings: Settings,
    /// Workers that it should have: from its spec, or from autoscaling.
    pub replicas: u32,
    pub demand: PoolDemand,
    pub now: Timestamp,
}

/// The operator's configuration and keys that shape a pool's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of workers of pools that name none.
    pub default_image: String,
    /// The public keys that verify tokens, in PEM, if tokens are checked.
    pub public_key: Option<String>,
    pub log_format: LogFormat,
}

impl Observed {
    pub fn image(&self) -> &str {
        &self.revision.image
    }

    pub fn name(&self) -> String {
        self.pool.name_any()
    }
}
