//! `sluice worker`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_crds::ByteSize;
use tokio_util::sync::CancellationToken;

use crate::cli::{CommandResult, cores, parse_size};
use crate::local::exit::{Failure, interrupts};
use crate::local::memory::machine_memory;
use crate::worker::{RunningWorker, WorkerOptions};

/// Runs a worker until it is told to stop. Coordinators find it by its address; several can share it.
#[derive(clap::Args)]
pub(super) struct WorkerArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = "SLUICE_LISTEN", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// The worker's stable name; default: its address.
    #[arg(long, env = "SLUICE_WORKER_NAME")]
    name: Option<String>,
    /// Attempts that run at once; default: the machine's cores.
    #[arg(long, env = "SLUICE_SLOTS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: Option<u32>,
    /// Memory for operators and shuffle data, for example 2GiB; more goes to disk. Default: half the machine's.
    #[arg(long, env = "SLUICE_MEMORY", value_parser = parse_size)]
    memory: Option<ByteSize>,
    /// The folder for what does not fit in memory; default: below the system's temporary folder.
    #[arg(long, env = "SLUICE_SPILL_DIR")]
    spill_dir: Option<PathBuf>,
    /// The most bytes to write there.
    #[arg(long, env = "SLUICE_SPILL_LIMIT", value_parser = parse_size, default_value = "64GiB")]
    spill_limit: ByteSize,
    /// Print the address as one line on standard output once ready, and stop when standard input closes: for
    /// programs that start workers.
    #[arg(long)]
    attached: bool,
}

pub(super) async fn run(args: WorkerArgs) -> CommandResult {
    let options = WorkerOptions {
        name: args
            .name
            .unwrap_or_else(|| format!("worker-{}", args.listen.port())),
        listen: args.listen,
        slots: args.slots.unwrap_or_else(cores),
        memory_bytes: args
            .memory
            .map_or_else(|| machine_memory() / 2, |memory| memory.bytes()),
        spill_dir: args
            .spill_dir
            .unwrap_or_else(|| std::env::temp_dir().join("sluice")),
        spill_limit_bytes: args.spill_limit.bytes(),
    };
    let interrupted = interrupts();
    let worker = RunningWorker::start(options).await.map_err(Failure::bad_input)?;
    let parent_gone = CancellationToken::new();
    if args.attached {
        announce(worker.address);
        watch_stdin(parent_gone.clone());
    } else {
        eprintln!("worker {} listens on {}", worker.id.name, worker.address);
    }
    tokio::select! {
        () = interrupted.cancelled() => {}
        () = parent_gone.cancelled() => {}
    }
    worker.stop().await;
    Ok(())
}

/// Tells the program that started this one where it listens.
pub(super) fn announce(address: SocketAddr) {
    println!("{address}");
    // A parent that closed its end is seen through standard input.
    let _ = std::io::stdout().flush();
}

/// Cancels `gone` when standard input closes.
pub(super) fn watch_stdin(gone: CancellationToken) {
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut sink), Ok(1..)) {}
        gone.cancel();
    });
}
