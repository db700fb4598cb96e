//! Time, memory and output of a child process.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

/// How often the memory of a child is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// One run of a child process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Run {
    /// From its start to the end of its output.
    pub seconds: f64,
    /// The lines that it printed.
    pub rows: u64,
    /// The most resident memory, bytes.
    pub peak_bytes: u64,
}

/// Runs a command to its end.
pub(super) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<Run> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("the child has no output");
    };
    let rows = std::thread::spawn(move || (count_lines(stdout), started.elapsed()));
    let said = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr
            .read_to_end(&mut text)
            .map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let (success, peak_bytes) = watch(&mut child, started, limit)?;
    let (rows, elapsed) = rows.join().map_err(|_| anyhow!("the reader of rows panicked"))?;
    let said = said
        .join()
        .map_err(|_| anyhow!("the reader of messages panicked"))??;
    if !success {
        bail!("{}", said.trim());
    }
    Ok(Run {
        seconds: elapsed.as_secs_f64(),
        rows: rows?,
        peak_bytes,
    })
}

/// Waits for the end; answers whether it was a success, and the peak of memory.
fn watch(child: &mut Child, started: Instant, limit: Duration) -> anyhow::Result<(bool, u64)> {
    let mut peak = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status.success(), peak));
        }
        peak = peak.max(peak_bytes(child.id()));
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("no end after {} s", limit.as_secs());
        }
        std::thread::sleep(PERIOD);
    }
}

/// The most memory that a process has had resident so far, bytes; 0 once it is gone.
pub(super) fn peak_bytes(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

fn count_lines(mut input: impl Read) -> std::io::Result<u64> {
    struct Lines(u64);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut lines = Lines(0);
    std::io::copy(&mut input, &mut lines)?;
    Ok(lines.0)
}
