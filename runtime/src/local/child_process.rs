//! Attached processes: a parent starts this program again, reads its address or its termination message from the first
//! line of standard output, and stops it by closing its standard input.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use sluice_core::termination::Termination;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// How long a process that was told to stop may take to clean up.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A command that runs this program again in its own process group: Ctrl-C does not reach it, its parent stops it.
///
/// # Errors
/// The program's own file is unknown.
pub fn self_command() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program's own file")?);
    command.process_group(0);
    Ok(command)
}

/// Starts an attached process without waiting for its address.
///
/// # Errors
/// It cannot be started.
pub fn spawn_attached(mut command: Command) -> anyhow::Result<(Child, Announcement)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    Ok((child, Announcement(BufReader::new(stdout))))
}

/// Stops an attached process by closing its standard input. Kills it if it does not end in time.
pub async fn stop_attached(mut child: Child) {
    drop(child.stdin.take());
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// The first line of an attached process: its address, or a termination message if it cannot do its work.
pub struct Announcement(BufReader<ChildStdout>);

impl Announcement {
    /// Waits for the address.
    ///
    /// # Errors
    /// The process ended before it wrote its address.
    pub async fn address(mut self, child: &mut Child) -> anyhow::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let termination = Termination::decode(&line).ok().map(Box::new);
        let address = line.trim().to_owned();
        if termination.is_some() || address.is_empty() {
            let code = child.wait().await?.code();
            return Err(anyhow::Error::new(ExitedEarly { code, termination }));
        }
        Ok(address)
    }
}

/// A child process ended before it was ready. The reason is on its standard error.
#[derive(Debug, thiserror::Error)]
#[error("the process ended before it was ready")]
pub struct ExitedEarly {
    pub code: Option<i32>,
    /// The end of its query, if it reported one.
    pub termination: Option<Box<Termination>>,
}
