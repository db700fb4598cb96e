//! Nodes that a test takes from the cluster. They are returned when it ends, also if it fails.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::space::Space;
use super::wait::wait_until;

/// A worker has a minute to end, and a budget may let one go at a time.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(180);
/// `kubectl drain` waits 5 s.
const PAUSE: Duration = Duration::from_millis(500);
/// A machine that starts.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// The nodes of a cluster, as far as tests take them away.
#[derive(Clone)]
pub struct Nodes {
    /// Folder of the programs `node-kill` and `node-start`, where there are any.
    programs: Option<PathBuf>,
    /// Takes the first answer to an eviction.
    evictor: Client,
    changes: Arc<Mutex<BTreeSet<NodeChange>>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum NodeChange {
    Killed(String),
    Cordoned(String),
}

/// What an eviction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EvictionOutcome {
    /// The pod ends, or is gone.
    Accepted,
    /// Its budget allows none for now.
    Blocked,
}

impl Nodes {
    /// None is changed.
    pub fn new(programs: Option<PathBuf>, evictor: Client) -> Self {
        Self {
            programs,
            evictor,
            changes: Arc::default(),
        }
    }

    fn record(&self, what: NodeChange) {
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(what);
    }

    async fn run(&self, program: &str, node: &str) -> Result<()> {
        let folder = self
            .programs
            .as_ref()
            .context("no programs that kill and start nodes")?;
        let done = Command::new(folder.join(program)).arg(node).output().await;
        let done = done.with_context(|| format!("{}/{program}", folder.display()))?;
        if !done.status.success() {
            bail!("{program} {node}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

impl Space {
    /// Ends a node as a power cut does. It is started again when the test ends.
    ///
    /// # Errors
    ///
    /// There is no way to do that.
    pub async fn kill_node(&self, node: &str) -> Result<()> {
        self.nodes.record(NodeChange::Killed(node.to_owned()));
        self.nodes.run("node-kill", node).await
    }

    /// Starts a node that was killed and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn start_node(&self, node: &str) -> Result<()> {
        self.nodes.run("node-start", node).await?;
        self.nodes
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&NodeChange::Killed(node.to_owned()));
        let nodes = Api::<Node>::all(self.client.clone());
        wait_until(&format!("{node} is ready"), START_TIMEOUT, || async {
            let status = nodes.get(node).await?.status.unwrap_or_default();
            let mut conditions = status.conditions.iter().flatten();
            let ready = conditions.any(|seen| seen.type_ == "Ready" && seen.status == "True");
            Ok(if ready {
                Ok(())
            } else {
                Err("it is not".to_owned())
            })
        })
        .await
    }

    /// Does what `kubectl drain` does, to the pods of this namespace: no pod comes to the node any more, and those there
    /// are evicted, as fast as their budgets allow. Returns how often a budget said not yet. The node takes pods again
    /// when the test ends.
    ///
    /// # Errors
    ///
    /// An eviction fails, or takes too long.
    pub async fn drain_node(&self, node: &str) -> Result<u32> {
        self.nodes.record(NodeChange::Cordoned(node.to_owned()));
        self.cordon(node, true).await?;
        let pods = Api::<Pod>::namespaced(self.nodes.evictor.clone(), &self.namespace);
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let (end, mut refusals) = (Instant::now() + DRAIN_TIMEOUT, 0);
        loop {
            let left = pods.list(&there).await?.items;
            if left.is_empty() {
                return Ok(refusals);
            }
            for pod in left
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            {
                match evict(&pods, &pod.name_any()).await? {
                    EvictionOutcome::Accepted => {}
                    EvictionOutcome::Blocked => refusals += 1,
                }
            }
            if Instant::now() >= end {
                let left: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
                bail!("{node} is not drained after {DRAIN_TIMEOUT:?}: {left:?} are there");
            }
            sleep(PAUSE).await;
        }
    }

    async fn cordon(&self, node: &str, unschedulable: bool) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let change = Patch::Merge(json!({"spec": {"unschedulable": unschedulable}}));
        nodes.patch(node, &PatchParams::default(), &change).await?;
        Ok(())
    }
}

async fn evict(pods: &Api<Pod>, name: &str) -> Result<EvictionOutcome> {
    match pods.evict(name, &EvictParams::default()).await {
        Ok(_) => Ok(EvictionOutcome::Accepted),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(EvictionOutcome::Accepted),
        Err(kube::Error::Api(status)) if status.code == 429 => Ok(EvictionOutcome::Blocked),
        Err(error) => Err(error).with_context(|| format!("evicting {name}")),
    }
}

/// Gives back every node that the test took and has not given back itself.
///
/// # Errors
///
/// A node does not come back.
pub async fn restore(space: &Space) -> Result<()> {
    let changes = std::mem::take(&mut *space.nodes.changes.lock().unwrap_or_else(PoisonError::into_inner));
    for node in changes {
        match node {
            NodeChange::Killed(node) => space.start_node(&node).await?,
            NodeChange::Cordoned(node) => space.cordon(&node, false).await?,
        }
    }
    Ok(())
}
