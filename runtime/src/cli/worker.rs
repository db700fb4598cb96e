//! `sluice worker`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use sluice_crds::ByteSize;
use sluice_crds::process::{env, port};
use sluice_proto::auth::{Authorizer, PoolId, TrustedKeys};
use tokio_util::sync::CancellationToken;

use crate::cli::attached::{announce, watch_stdin};
use crate::cli::exit::Failure;
use crate::cli::machine::{cores, machine_memory};
use crate::cli::signals::{Signals, listen};
use crate::cli::{CommandResult, parse_size};
use crate::owned_dir;
use crate::stderr::print_stderr;
use crate::worker::{RunningWorker, WorkerOptions};

/// Runs a worker until it is told to stop. Coordinators find it by its address; several can share it.
#[derive(clap::Args)]
pub(super) struct WorkerArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = env::LISTEN, default_value_t = SocketAddr::from(([127, 0, 0, 1], port::WORKER)))]
    listen: SocketAddr,
    /// The worker's stable name; default: its address.
    #[arg(long, env = env::WORKER_NAME)]
    name: Option<String>,
    /// Attempts that run at once; default: the machine's cores.
    #[arg(long, env = env::SLOTS, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: Option<u32>,
    /// Memory for operators and shuffle data, for example 2GiB; more goes to disk. Default: half the machine's.
    #[arg(long, env = env::MEMORY, value_parser = parse_size)]
    memory: Option<ByteSize>,
    /// The folders for what does not fit in memory, separated by commas; several for several volumes. Default: one
    /// of this user below the system's temporary folder.
    #[arg(long, env = env::SPILL_DIRS, value_delimiter = ',', value_name = "DIR")]
    spill_dir: Vec<PathBuf>,
    /// The most bytes to write there.
    #[arg(long, env = env::SPILL_LIMIT, value_parser = parse_size, default_value = "64GiB")]
    spill_limit: ByteSize,
    /// How long a termination signal lets attempts end and readers fetch before the worker stops. A second signal stops
    /// it at once.
    #[arg(long, env = "SLUICE_DRAIN_GRACE", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_grace: Duration,
    /// A PEM file with the public keys (Ed25519) whose tokens may use the worker; default: everybody may.
    #[arg(long, env = env::VERIFY_KEY_FILE, value_name = "FILE")]
    verify_key_file: Option<PathBuf>,
    #[command(flatten)]
    pool: PoolArgs,
    /// The worker's unique id, for which the operator's tokens must be: that of its pod. Default: its name.
    #[arg(long, env = env::POD_UID, value_name = "ID")]
    pod_uid: Option<String>,
    /// The folders that tables lie in, separated by commas: no query reads a file elsewhere, whatever its coordinator says.
    /// Empty: no query reads files. Default: coordinators say what is read, within their tokens.
    #[arg(long, env = env::DATA_DIRS, value_name = "DIRS")]
    data_dirs: Option<String>,
    /// The folders that sinks lie in, separated by commas: no query writes a result elsewhere. Empty: no query writes one.
    /// Default: coordinators say what is written, within their tokens.
    #[arg(long, env = env::SINK_DIRS, value_name = "DIRS")]
    sink_dirs: Option<String>,
    /// The node that the worker runs on, for placement and status.
    #[arg(long, env = env::NODE)]
    node: Option<String>,
    /// A file that holds, or will hold, the zone of that node.
    #[arg(long, env = env::ZONE_FILE, value_name = "FILE")]
    zone_file: Option<PathBuf>,
    /// Print the address as one line on standard output once ready, and stop when standard input closes: for
    /// programs that start workers.
    #[arg(long)]
    attached: bool,
}

impl WorkerArgs {
    fn options(&self) -> Result<WorkerOptions, Failure> {
        let mut spill_dirs = self.spill_dir.clone();
        if spill_dirs.is_empty() {
            let default = owned_dir::of_user(&std::env::temp_dir(), "sluice");
            spill_dirs.push(default.map_err(|error| Failure::BadInput(format!("--spill-dir: {error}")))?);
        }
        let default_name = || format!("worker-{}", self.listen.port());
        let name = self.name.clone().unwrap_or_else(default_name);
        let keys = trusted_keys(self.verify_key_file.as_deref())?;
        let id = self.pod_uid.clone().unwrap_or_else(|| name.clone());
        let authorizer = keys.map(|keys| Authorizer::for_worker(keys, self.pool.id(), id));
        Ok(WorkerOptions {
            name,
            listen: self.listen,
            slots: self.slots.unwrap_or_else(cores),
            memory_bytes: self
                .memory
                .map_or_else(|| machine_memory() / 2, |memory| memory.bytes()),
            spill_dirs,
            spill_limit_bytes: self.spill_limit.bytes(),
            authorizer: authorizer.unwrap_or_default(),
            data_dirs: folders("--data-dirs", self.data_dirs.as_deref())?,
            sink_dirs: folders("--sink-dirs", self.sink_dirs.as_deref())?,
            node: self.node.clone().filter(|node| !node.is_empty()),
            zone_file: self.zone_file.clone(),
        })
    }
}

/// The pool that a process belongs to.
#[derive(clap::Args)]
pub(super) struct PoolArgs {
    /// The pool that tokens must be of. Default: tokens must name none.
    #[arg(long, env = env::POOL, default_value = "")]
    pool: String,
    /// The namespace of that pool.
    #[arg(long, env = env::NAMESPACE, default_value = "")]
    namespace: String,
}

impl PoolArgs {
    pub(super) fn id(&self) -> PoolId {
        PoolId {
            namespace: self.namespace.clone(),
            name: self.pool.clone(),
        }
    }
}

/// The keys of this file, if there is one.
pub(super) fn trusted_keys(verify_key_file: Option<&Path>) -> Result<Option<TrustedKeys>, Failure> {
    let keys = verify_key_file.map(TrustedKeys::open).transpose();
    keys.map_err(|error| Failure::Other(anyhow!("--verify-key-file: {error}")))
}

/// The folders of a list, which may be empty.
fn folders(flag: &str, list: Option<&str>) -> Result<Option<Vec<PathBuf>>, Failure> {
    let Some(list) = list else { return Ok(None) };
    let folders = list.split(',').map(str::trim).filter(|folder| !folder.is_empty());
    let folders: Vec<_> = folders.map(PathBuf::from).collect();
    match folders.iter().find(|folder| !folder.is_absolute()) {
        Some(relative) => Err(Failure::BadInput(format!(
            "{flag}: {} is relative: write the absolute path of the folder",
            relative.display()
        ))),
        None => Ok(Some(folders)),
    }
}

pub(super) async fn run(args: WorkerArgs) -> CommandResult {
    let options = args.options()?;
    let Signals {
        interrupt,
        terminate,
        terminate_again,
    } = listen();
    let worker = RunningWorker::start(options).await.map_err(Failure::bad_input)?;
    let parent_gone = CancellationToken::new();
    if args.attached {
        announce(worker.address);
        watch_stdin(parent_gone.clone());
    } else {
        print_stderr(format!("worker {} listens on {}", worker.id.name, worker.address));
    }
    let drained = async {
        terminate.cancelled().await;
        worker.drain().await;
        tokio::select! {
            () = worker.drained(args.drain_grace) => {}
            () = terminate_again.cancelled() => {}
        }
    };
    tokio::select! {
        () = drained => {}
        () = interrupt.cancelled() => {}
        () = parent_gone.cancelled() => {}
    }
    worker.stop().await;
    Ok(())
}
