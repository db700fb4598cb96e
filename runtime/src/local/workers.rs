//! The workers of a local run: in this process, in their own, or somebody else's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use sluice_proto::auth::Guard;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::worker::{RunningWorker, WorkerOptions};

/// The shape of workers that a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerShape {
    /// How many.
    pub count: u32,
    /// Slots of each.
    pub slots: u32,
    /// Memory of each, bytes.
    pub memory_bytes: u64,
    /// What each may spill, bytes.
    pub spill_limit_bytes: u64,
}

/// Workers that can be reached, and what must be kept to keep them alive.
pub struct Workers {
    /// Where they listen, host:port.
    pub addresses: Vec<String>,
    here: Vec<RunningWorker>,
    children: Vec<Child>,
}

impl Workers {
    /// Workers that somebody else started.
    pub fn of_others(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            here: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Starts workers in this process.
    ///
    /// # Errors
    /// No port or no spill folder is to be had.
    pub async fn start_here(shape: WorkerShape, spill_dir: &Path) -> anyhow::Result<Self> {
        let mut workers = Self::of_others(Vec::new());
        for number in 0..shape.count {
            let worker = RunningWorker::start(WorkerOptions {
                name: format!("worker-{number}"),
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                slots: shape.slots,
                memory_bytes: shape.memory_bytes,
                spill_dirs: vec![spill_dir.join(format!("worker-{number}"))],
                spill_limit_bytes: shape.spill_limit_bytes,
                guard: Guard::default(),
                node: None,
                zone_file: None,
            })
            .await?;
            workers.addresses.push(worker.address.to_string());
            workers.here.push(worker);
        }
        Ok(workers)
    }

    /// Starts workers as processes of this program.
    ///
    /// # Errors
    /// A process cannot be started or does not come up.
    pub async fn start_processes(shape: WorkerShape, spill_dir: &Path) -> anyhow::Result<Self> {
        let mut workers = Self::of_others(Vec::new());
        for number in 0..shape.count {
            let mut command = own_program()?;
            command.args(["worker", "--attached", "--listen", "127.0.0.1:0"]);
            command.arg("--name").arg(format!("worker-{number}"));
            command.arg("--slots").arg(shape.slots.to_string());
            command.arg("--memory").arg(shape.memory_bytes.to_string());
            command
                .arg("--spill-limit")
                .arg(shape.spill_limit_bytes.to_string());
            command
                .arg("--spill-dir")
                .arg(spill_dir.join(format!("worker-{number}")));
            let (child, address) = start_attached(command)
                .await
                .with_context(|| format!("worker {number}"))?;
            workers.addresses.push(address);
            workers.children.push(child);
        }
        Ok(workers)
    }

    /// Stops the workers that this run started and waits until they have cleaned up.
    pub async fn stop(self) {
        for worker in self.here {
            worker.stop().await;
        }
        for mut child in self.children {
            drop(child.stdin.take());
            let patience = std::time::Duration::from_secs(10);
            if tokio::time::timeout(patience, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
    }
}

/// A command that runs this program again, out of reach of the terminal's Ctrl-C: its parent stops it.
///
/// # Errors
/// The program's own file is unknown.
pub fn own_program() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program's own file")?);
    command.process_group(0);
    Ok(command)
}

/// Starts a command that announces its address on its first line and stops when its standard input closes.
///
/// # Errors
/// It cannot be started, or ends before it says its address.
pub async fn start_attached(mut command: Command) -> anyhow::Result<(Child, String)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    let address = line.trim().to_owned();
    if address.is_empty() {
        let status = child.wait().await?;
        return Err(anyhow::Error::new(EndedEarly { code: status.code() }));
    }
    Ok((child, address))
}

/// A child process ended before it was ready; it has said why on standard error.
#[derive(Debug, thiserror::Error)]
#[error("the process ended before it was ready")]
pub struct EndedEarly {
    /// Its exit code.
    pub code: Option<i32>,
}
