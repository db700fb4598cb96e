//! A worker: answers sessions and fetches on one runtime, runs attempts on another, so that a busy query cannot
//! starve its heartbeats.

mod attempt;
mod counters;
mod inputs;
mod publish;
mod queries;
mod service;
mod session;
mod slots;
mod stage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use sluice_core::ids::{Incarnation, WorkerId};
use sluice_proto::{MAX_SESSION_MESSAGE_BYTES, wire::worker_server::WorkerServer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::memory::WorkerMemory;
use crate::shuffle::store::{StoreConfig, StoreHandle};
use crate::transport::Peers;

pub use stage::StageTemplate;

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Its stable name.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Attempts that run at once, at least 1.
    pub slots: u32,
    /// Memory for operators and shuffle buffers, bytes.
    pub memory_bytes: u64,
    /// The folder for everything that it writes.
    pub spill_dir: PathBuf,
    /// The most that it may write there, bytes.
    pub spill_limit_bytes: u64,
}

/// What the worker's tasks share.
struct Shared {
    id: WorkerId,
    options: WorkerOptions,
    memory: Arc<WorkerMemory>,
    store: StoreHandle,
    peers: Peers,
    slots: slots::Slots,
    queries: queries::Queries,
    /// Runs attempts.
    cpu: tokio::runtime::Handle,
    /// Runs everything else.
    control: tokio::runtime::Handle,
    /// Cancelled when no new attempts are taken.
    draining: CancellationToken,
    /// Cancelled when the worker goes.
    stopping: CancellationToken,
}

/// A running worker. Dropping it stops it without waiting.
pub struct RunningWorker {
    /// Who it is.
    pub id: WorkerId,
    /// Where it listens.
    pub address: SocketAddr,
    draining: CancellationToken,
    stopping: CancellationToken,
    server: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    store: StoreHandle,
    cpu: Option<Runtime>,
}

impl RunningWorker {
    /// Starts a worker on the current runtime, and its runtime for attempts beside it.
    ///
    /// # Errors
    /// The address cannot be bound, or the spill folder cannot be made.
    pub async fn start(options: WorkerOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("--listen: cannot listen on {}", options.listen))?;
        let address = listener.local_addr()?;
        let id = WorkerId {
            name: options.name.clone(),
            incarnation: new_incarnation(),
        };
        let memory = WorkerMemory::new(usize::try_from(options.memory_bytes).unwrap_or(usize::MAX));
        let store = StoreHandle::start(StoreConfig {
            incarnation: id.incarnation,
            spill_dir: options.spill_dir.clone(),
            spill_limit: Some(options.spill_limit_bytes),
            memory_bytes: u64::try_from(memory.store_bytes()).unwrap_or(u64::MAX),
            pool: memory.store_pool(),
            pressure: memory.pressure(),
        })
        .with_context(|| format!("--spill-dir: cannot use {}", options.spill_dir.display()))?;
        let cpu = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(usize::try_from(options.slots).unwrap_or(1).max(1))
            .thread_name("sluice-cpu")
            .thread_stack_size(crate::planner::TASK_STACK_BYTES)
            .enable_all()
            .build()?;
        let stopping = CancellationToken::new();
        let shared = Arc::new(Shared {
            id: id.clone(),
            memory,
            store: store.clone(),
            peers: Peers::default(),
            slots: slots::Slots::start(options.slots),
            queries: queries::Queries::default(),
            cpu: cpu.handle().clone(),
            control: tokio::runtime::Handle::current(),
            draining: CancellationToken::new(),
            stopping: stopping.clone(),
            options,
        });
        let draining = shared.draining.clone();
        let service = WorkerServer::new(service::Service::new(shared))
            .max_decoding_message_size(MAX_SESSION_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_SESSION_MESSAGE_BYTES);
        let serve = tonic::transport::Server::builder()
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(5)))
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stopping.clone().cancelled_owned(),
            );
        let server = Some(tokio::spawn(serve));
        Ok(Self {
            id,
            address,
            draining,
            stopping,
            server,
            store,
            cpu: Some(cpu),
        })
    }

    /// Takes no new attempts; what runs may end and what is held is served.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Stops: sessions end, attempts are cancelled, and everything that it wrote is deleted.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        if let Some(server) = self.server.take() {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), server).await;
        }
        // The process may end, or its folder be removed, right after this.
        self.store.close().await;
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.stopping.cancel();
        if let Some(cpu) = self.cpu.take() {
            cpu.shutdown_background();
        }
    }
}

/// A number that no earlier start of any worker had: random, but increasing with the clock, so that logs sort.
fn new_incarnation() -> Incarnation {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs() << 24;
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    Incarnation(seconds | (random & 0xff_ffff))
}

/// The build of this program. Plan encoding and hash functions are not stable across builds, so sessions between
/// different ones are refused.
pub fn build_id() -> String {
    format!("{}+{}", env!("CARGO_PKG_VERSION"), env!("SLUICE_BUILD"))
}
