//! Worker processes of one slot each.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Pid;

/// How long workers may take to clean up.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Workers; dropping it stops them.
pub(super) struct Pool {
    workers: Vec<Child>,
    addresses: Vec<String>,
}

impl Pool {
    /// Starts `count` workers and waits until they listen.
    pub(super) fn start(count: u32, memory: Option<&str>, scratch: &Path) -> anyhow::Result<Self> {
        let mut pool = Self {
            workers: Vec::new(),
            addresses: Vec::new(),
        };
        for number in 0..count {
            let name = format!("worker-{number}");
            let mut command = super::sluice();
            command.args([
                "worker",
                "--attached",
                "--listen",
                "127.0.0.1:0",
                "--slots",
                "1",
                "--name",
                &name,
            ]);
            command.arg("--spill-dir").arg(scratch.join(&name));
            if let Some(memory) = memory {
                command.args(["--memory", memory]);
            }
            let mut worker = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let stdout = worker.stdout.take();
            pool.workers.push(worker);
            let mut line = String::new();
            BufReader::new(stdout.context("the worker has no output")?).read_line(&mut line)?;
            ensure!(!line.trim().is_empty(), "{name} did not start");
            pool.addresses.push(line.trim().to_owned());
        }
        Ok(pool)
    }

    /// Where they listen, as `sluice run --workers` takes it.
    pub(super) fn addresses(&self) -> String {
        self.addresses.join(",")
    }

    /// The process of the first one.
    pub(super) fn first(&self) -> Option<Pid> {
        self.workers.first().map(Pid::from_child)
    }

    /// The sum of the most memory that each had resident so far, bytes.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.workers
            .iter()
            .map(|worker| super::measure::peak_bytes(worker.id()))
            .sum()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            drop(worker.stdin.take());
        }
        let asked = Instant::now();
        for worker in &mut self.workers {
            while matches!(worker.try_wait(), Ok(None)) && asked.elapsed() < STOP_TIMEOUT {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Fails if it has ended already, which is fine.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
