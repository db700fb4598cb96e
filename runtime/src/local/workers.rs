//! The workers of a local run: in this process, in their own processes, or external.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sluice_proto::auth::Authorizer;
use tokio::process::Child;

use super::child_process::{self_command, spawn_attached, stop_attached};
use crate::worker::{RunningWorker, WorkerOptions};

/// The shape of workers that a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerShape {
    pub count: u32,
    pub slots: u32,
    /// Memory of each, bytes.
    pub memory_bytes: u64,
    /// What each may spill, bytes.
    pub spill_limit_bytes: u64,
}

/// Addresses of workers, and the handles that keep them alive.
#[derive(Default)]
pub struct Workers {
    /// Where they listen, host:port.
    pub addresses: Vec<String>,
    in_process: Vec<RunningWorker>,
    children: Vec<Child>,
}

impl Workers {
    /// Workers that run already.
    pub fn external(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            in_process: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Starts workers in this process; `authorizer` decides who may use them.
    ///
    /// # Errors
    /// A worker cannot bind a port or create its spill folder.
    pub async fn start_in_process(
        shape: WorkerShape,
        spill_dir: &Path,
        authorizer: &Authorizer,
    ) -> anyhow::Result<Self> {
        let mut workers = Self::external(Vec::new());
        for number in 0..shape.count {
            let worker = RunningWorker::start(WorkerOptions {
                name: format!("worker-{number}"),
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                slots: shape.slots,
                memory_bytes: shape.memory_bytes,
                spill_dirs: vec![spill_dir.join(format!("worker-{number}"))],
                spill_limit_bytes: shape.spill_limit_bytes,
                authorizer: authorizer.clone(),
                data_dirs: None,
                sink_dirs: None,
                node: None,
                zone_file: None,
            })
            .await?;
            workers.addresses.push(worker.address.to_string());
            workers.in_process.push(worker);
        }
        Ok(workers)
    }

    /// Starts worker processes that spill below a folder and trust tokens of this key. If this fails or is dropped,
    /// [`Self::stop`] stops those that were started.
    ///
    /// # Errors
    /// A process cannot be started or ends before it is ready.
    pub async fn start_processes(
        &mut self,
        shape: WorkerShape,
        spill_dir: &Path,
        verify_key_file: &Path,
    ) -> anyhow::Result<()> {
        let mut announcements = Vec::new();
        for number in 0..shape.count {
            let mut command = self_command()?;
            command.args(["worker", "--attached", "--listen", "127.0.0.1:0"]);
            command.arg("--name").arg(format!("worker-{number}"));
            command.arg("--verify-key-file").arg(verify_key_file);
            command.arg("--slots").arg(shape.slots.to_string());
            command.arg("--memory").arg(shape.memory_bytes.to_string());
            command
                .arg("--spill-limit")
                .arg(shape.spill_limit_bytes.to_string());
            command
                .arg("--spill-dir")
                .arg(spill_dir.join(format!("worker-{number}")));
            let (child, announcement) =
                spawn_attached(command).with_context(|| format!("worker {number}"))?;
            self.children.push(child);
            announcements.push(announcement);
        }
        for ((number, child), announcement) in self.children.iter_mut().enumerate().zip(announcements) {
            let address = announcement.address(child).await;
            self.addresses
                .push(address.with_context(|| format!("worker {number}"))?);
        }
        Ok(())
    }

    /// A hook that kills the processes of this run.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let ids = self.children.iter().filter_map(Child::id);
        let ids = ids.filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?));
        // A pidfd never refers to a later process with the same id.
        let handles: Vec<_> = ids
            .filter_map(|id| pidfd_open(id, PidfdFlags::empty()).ok())
            .collect();
        move || {
            for handle in handles {
                // It may have ended.
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
    }

    /// Stops the workers that this run started and waits until they have cleaned up.
    pub async fn stop(self) {
        for worker in self.in_process {
            worker.stop().await;
        }
        // All at once: one that hangs must not delay the others.
        let stopping = self.children.into_iter().map(stop_attached);
        futures::future::join_all(stopping).await;
    }
}
