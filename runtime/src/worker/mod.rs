//! A worker: it serves sessions and fetches on one runtime and runs attempts on another, so that a busy query cannot
//! starve heartbeats.

mod activity;
mod attempt;
mod counters;
mod footer_cache;
mod inputs;
mod output_writer;
mod path_policy;
mod recovery_records;
mod service;
mod session;
mod session_filters;
mod session_outputs;
mod session_registry;
mod slots;
mod stages;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sluice_core::ids::{Incarnation, WorkerId};
use sluice_core::limits::worker_fragment_bytes;
use sluice_proto::auth::Authorizer;
use sluice_proto::wire::worker_server::WorkerServer;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::memory::WorkerMemory;
use crate::net::{self, Listener};
use crate::shuffle::store::{StoreConfig, StoreHandle};

/// How often a draining worker checks whether it is still needed.
const IDLE_PERIOD: Duration = Duration::from_millis(100);

/// The configuration of a worker.
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
    /// Folders for everything that the worker writes, at least one; one per volume.
    pub spill_dirs: Vec<PathBuf>,
    /// The most bytes in those folders.
    pub spill_limit_bytes: u64,
    /// Who may call it.
    pub authorizer: Authorizer,
    /// Folders that contain tables; `None` leaves that to coordinators.
    pub data_dirs: Option<Vec<PathBuf>>,
    /// Folders that contain sinks; `None` leaves that to coordinators.
    pub sink_dirs: Option<Vec<PathBuf>>,
    /// The Kubernetes node of the worker, if known.
    pub node: Option<String>,
    /// A file that has, or will have, the zone of that node. It is read at every use.
    pub zone_file: Option<PathBuf>,
}

/// State that the worker's tasks share.
struct Shared {
    id: WorkerId,
    options: WorkerOptions,
    memory: Arc<WorkerMemory>,
    store: StoreHandle,
    footers: footer_cache::FooterCache,
    slots: slots::Slots,
    sessions: session_registry::SessionRegistry,
    fragments: stages::FragmentBudget,
    records: recovery_records::RecoveryRecords,
    /// Runs attempts.
    cpu: tokio::runtime::Handle,
    /// Runs everything else.
    control: tokio::runtime::Handle,
    health: HealthReporter,
    /// Cancelled when the worker drains: it accepts no new attempts.
    draining: CancellationToken,
    /// Cancelled when the worker stops.
    stopping: CancellationToken,
}

impl Shared {
    /// Accepts no new attempts, tells the sessions, and is no longer ready. Running attempts may end, and outputs are
    /// served.
    async fn drain(&self) {
        self.draining.cancel();
        self.slots.drain();
        for service in ["", WorkerServer::<service::Service>::NAME] {
            self.health
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
    }

    /// Whether no attempt runs and no output is held.
    async fn is_idle(&self) -> bool {
        self.slots.in_use().await == 0 && self.store.stats().await.attempts == 0
    }
}

/// A running worker. Dropping it stops it without waiting.
pub struct RunningWorker {
    /// Its name and incarnation.
    pub id: WorkerId,
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
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
        let listener = Listener::bind(options.listen).await?;
        let address = listener.address();
        let id = WorkerId {
            name: options.name.clone(),
            incarnation: new_incarnation(),
        };
        let memory = WorkerMemory::new(usize::try_from(options.memory_bytes).unwrap_or(usize::MAX));
        let store = StoreHandle::start(StoreConfig {
            incarnation: id.incarnation,
            spill_dirs: options.spill_dirs.clone(),
            spill_limit: Some(options.spill_limit_bytes),
            memory_bytes: u64::try_from(memory.store_bytes()).unwrap_or(u64::MAX),
            pool: memory.store_pool(),
            pressure: memory.pressure(),
        })
        .context("--spill-dir")?;
        let cpu = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(usize::try_from(options.slots).unwrap_or(1).max(1))
            .thread_name("sluice-cpu")
            .thread_stack_size(crate::planner::TASK_STACK_BYTES)
            .enable_all()
            .build()?;
        let stopping = CancellationToken::new();
        let (health, health_service) = net::health::<WorkerServer<service::Service>>().await;
        let shared = Arc::new(Shared {
            id: id.clone(),
            memory,
            store: store.clone(),
            footers: footer_cache::FooterCache::new(options.memory_bytes),
            slots: slots::Slots::start(options.slots),
            sessions: session_registry::SessionRegistry::default(),
            fragments: stages::FragmentBudget::new(worker_fragment_bytes(options.memory_bytes)),
            records: recovery_records::RecoveryRecords::new(options.memory_bytes),
            cpu: cpu.handle().clone(),
            control: tokio::runtime::Handle::current(),
            health,
            draining: CancellationToken::new(),
            stopping: stopping.clone(),
            options,
        });
        let service = service::Service::new(Arc::clone(&shared));
        let serve = net::serve_worker(listener, health_service, service, stopping.clone());
        let server = Some(tokio::spawn(serve));
        Ok(Self {
            id,
            address,
            shared,
            stopping,
            server,
            store,
            cpu: Some(cpu),
        })
    }

    /// Accepts no new attempts. Running attempts may end, and outputs are served.
    pub async fn drain(&self) {
        self.shared.drain().await;
    }

    /// Waits until the worker is idle, at most for `grace`.
    pub async fn drained(&self, grace: Duration) {
        let idle = async {
            while !self.shared.is_idle().await {
                tokio::time::sleep(IDLE_PERIOD).await;
            }
        };
        if tokio::time::timeout(grace, idle).await.is_err() {
            tracing::warn!(
                ?grace,
                "the worker stops though a query uses it: the time to drain is over"
            );
        }
    }

    /// Stops the worker: ends sessions, cancels attempts, deletes everything that it wrote.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        if let Some(server) = self.server.take() {
            let _ = tokio::time::timeout(Duration::from_secs(5), server).await;
        }
        // The process may end, or the folder be removed, right after this.
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

/// A number that no earlier start of any worker had: the clock in milliseconds, then random bits. A coordinator takes
/// the higher of two incarnations of one worker for the later one, and a process may restart within a second.
fn new_incarnation() -> Incarnation {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    // 44 bits are enough until the year 2527.
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX) << 20;
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    Incarnation(millis | (random & 0xf_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_has_a_higher_number_even_within_a_second() {
        let mut last = new_incarnation();
        for _ in 0..30 {
            std::thread::sleep(Duration::from_millis(2));
            let next = new_incarnation();
            assert!(next > last, "{next:?} after {last:?}");
            last = next;
        }
    }
}
