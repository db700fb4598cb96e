//! The configuration from the environment. Nothing else reads it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const KUBECONFIG: &str = "KUBECONFIG";
const REQUIRED: &str = "SLUICE_E2E_REQUIRED";
const KEEP: &str = "SLUICE_E2E_KEEP";
const IMAGE: &str = "SLUICE_E2E_IMAGE";
const NEXT_IMAGE: &str = "SLUICE_E2E_NEXT_IMAGE";
const SHARED: &str = "SLUICE_E2E_SHARED";
const CLUSTER: &str = "SLUICE_E2E_CLUSTER";
/// What `e2e/image/build` calls it.
const DEFAULT_IMAGE: &str = "localhost/sluice:dev";

/// What the environment says about this run.
pub enum Target {
    /// Test against this cluster.
    Cluster(ClusterConfig),
    /// No cluster is named: say why and pass.
    Skip(String),
    /// No cluster is named, and that is a failure.
    Refuse(String),
}

/// How a test reaches its cluster and what it leaves behind.
pub struct ClusterConfig {
    /// Whether the namespace of a failed test stays, to be looked at.
    pub keep_failed: bool,
    /// Folder of what is kept of the tests, one folder each.
    pub evidence: PathBuf,
    /// Image with both programs, which every node has or can pull.
    pub image: String,
    /// Another name of the same image, if it has one.
    pub next_image: Option<String>,
    /// Folder with the programs `node-kill` and `node-start`, if there is one.
    pub programs: Option<PathBuf>,
    /// Folder of this machine that all nodes have too, if there is one.
    pub shared: Option<PathBuf>,
    /// Whether a test that cannot run here fails instead of being skipped.
    pub required: bool,
}

/// Reads the environment. A cluster must be named: a kubeconfig in the home folder, or the cluster that this process
/// runs in, may be one that nobody meant to test on.
pub fn target() -> Target {
    if env::var_os(KUBECONFIG).is_some_and(|value| !value.is_empty()) {
        return Target::Cluster(ClusterConfig {
            keep_failed: is_on(KEEP),
            evidence: evidence(),
            image: env::var(IMAGE).unwrap_or_else(|_| DEFAULT_IMAGE.to_owned()),
            next_image: env::var(NEXT_IMAGE).ok(),
            programs: env::var_os(CLUSTER).map(PathBuf::from),
            shared: env::var_os(SHARED).map(PathBuf::from),
            required: required(),
        });
    }
    let why = format!("{KUBECONFIG} names no cluster to test on (see e2e/README.md)");
    if required() {
        Target::Refuse(format!("{why}, and {REQUIRED} forbids to skip"))
    } else {
        Target::Skip(why)
    }
}

/// Whether a test that cannot run here fails instead of being skipped.
pub fn required() -> bool {
    is_on(REQUIRED)
}

fn is_on(variable: &str) -> bool {
    env::var(variable).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// `e2e` in Cargo's target folder, wherever that is; Cargo names a folder in it.
fn evidence() -> PathBuf {
    let inside = Path::new(env!("CARGO_TARGET_TMPDIR"));
    inside.parent().unwrap_or(inside).join("e2e")
}

impl ClusterConfig {
    /// A client of the cluster, with time-outs: the default waits for ever.
    pub async fn client(&self) -> Result<Client> {
        Self::client_that(true).await
    }

    /// A client that takes the first answer. The usual one asks again where it is told to come back later (429), as
    /// evictions are.
    pub async fn client_without_retry(&self) -> Result<Client> {
        Self::client_that(false).await
    }

    async fn client_that(retries: bool) -> Result<Client> {
        let kubeconfig = Kubeconfig::read().context("KUBECONFIG cannot be read")?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("KUBECONFIG names no usable cluster")?;
        config.default_retry = retries;
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(Duration::from_secs(60));
        Client::try_from(config).context("KUBECONFIG names no usable cluster")
    }
}
