//! The reading side of an exchange, for one attempt or for the client of a result: it executes the decisions of the
//! `Reader` of `sluice-core` and gives streams of batches to the operators.
//!
//! Fetched bytes are queued encoded; operators decode them on their own thread when they ask for rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::StreamExt;
use futures::stream::BoxStream;
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId, TaskId, WorkerId};
use sluice_core::message::{AssignedInput, ChunkHead, FetchRequest, ReaderUpdate, Writer};
use sluice_core::reader::{Config, Delivery, Reader};
use sluice_crds::shuffle_query::Compression;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::driver::{QueueSenders, ReadDriver};
pub use self::queue::Part;
use self::queue::{Queue, decoded, parts};
use super::frame::FrameFormat;
use super::store::StoreHandle;

mod driver;
mod queue;
#[cfg(test)]
mod tests;

/// Fetches bytes of streams.
pub trait FetchTransport: Send + Sync {
    /// Chunks of the stream, in order, while the worker has more and `max_bytes` is not reached. Dropping the response
    /// cancels the call.
    fn fetch(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>>;
}

/// Fetches from stores in this process; other workers are unreachable.
#[derive(Debug, Clone, Default)]
pub struct InProcessTransport {
    /// The stores by worker.
    pub stores: BTreeMap<WorkerId, StoreHandle>,
}

impl FetchTransport for InProcessTransport {
    fn fetch(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>> {
        match self.stores.get(worker) {
            Some(store) => store.fetch(request),
            None => Box::pin(futures::stream::iter([Err(FetchError::Unreachable)])),
        }
    }
}

/// An input could not be read. The stream returns it as `DataFusionError::External`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("input {map_attempt} could not be fetched: {error}")]
pub struct ReadFailed {
    /// The map attempt whose output was missing.
    pub map_attempt: AttemptId,
    /// Why.
    pub error: FetchError,
}

impl ReadFailed {
    /// Finds a failed read in an error of the operators, however it is wrapped.
    pub fn find(error: &DataFusionError) -> Option<Self> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(failed) = error.downcast_ref::<Self>() {
                return Some(*failed);
            }
            // Shared errors do not show their content in `source`.
            if let Some(DataFusionError::Shared(shared)) = error.downcast_ref::<DataFusionError>() {
                return Self::find(shared);
            }
            next = error.source();
        }
        None
    }
}

impl From<ReadFailed> for DataFusionError {
    fn from(failed: ReadFailed) -> Self {
        Self::External(Box::new(failed))
    }
}

/// What one attempt reads of one exchange, and how.
#[derive(Debug, Clone)]
pub struct ReadInput {
    /// The map tasks and partitions.
    pub assigned: AssignedInput,
    /// The order in which rows are delivered.
    pub delivery: Delivery,
    /// The schema, from the fragment.
    pub schema: SchemaRef,
}

/// What one attempt reads, and its identity in fetch requests.
#[derive(Debug, Clone)]
pub struct ReadSpec {
    pub query: QueryId,
    /// The epoch of the coordinator that assigned the attempt.
    pub coordinator_epoch: CoordinatorEpoch,
    /// The inputs, in the order of the fragment's shuffle-read leaves.
    pub inputs: Vec<ReadInput>,
    pub config: Config,
}

/// Rows and bytes read so far.
#[derive(Debug, Default)]
pub struct ReadCounters {
    rows: AtomicU64,
    bytes: AtomicU64,
    first_chunk: OnceLock<Instant>,
}

impl ReadCounters {
    /// Rows handed to the operators.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes fetched, encoded.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// When the first bytes arrived.
    pub fn first_chunk(&self) -> Option<Instant> {
        self.first_chunk.get().copied()
    }

    fn chunk_came(&self, bytes: usize) {
        if bytes > 0 {
            self.first_chunk.get_or_init(Instant::now);
        }
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The inputs of one attempt while they are read. Reading stops once this and all its streams are dropped.
pub struct ShuffleReads {
    inputs: Vec<Option<InputQueues>>,
    counters: Arc<ReadCounters>,
}

struct InputQueues {
    schema: SchemaRef,
    format: Arc<FrameFormat>,
    delivery: Delivery,
    queues: Vec<Queue>,
    driver: Arc<AbortOnDropHandle<()>>,
}

impl ShuffleReads {
    /// Starts to read. The driver runs on `runtime`, so that fetches progress while operators compute. Reserves memory
    /// for queued bytes from `pool`.
    ///
    /// # Errors
    ///
    /// If a schema cannot be decoded, or there is not enough memory for very many streams.
    pub fn start(
        spec: ReadSpec,
        transport: Arc<dyn FetchTransport>,
        updates: mpsc::UnboundedReceiver<ReaderUpdate>,
        pool: &Arc<dyn MemoryPool>,
        runtime: &Handle,
    ) -> Result<Self, DataFusionError> {
        let counters = Arc::new(ReadCounters::default());
        let tables = charge_tables(&spec.inputs, pool)?;
        let reservation = Arc::new(MemoryConsumer::new("shuffle read").register(pool));
        let (returns, returned) = mpsc::unbounded_channel();
        let mut senders = Vec::new();
        let mut taken = Vec::new();
        let mut assigned = Vec::new();
        for (number, input) in (0..).zip(spec.inputs) {
            let keys = match input.delivery {
                Delivery::Arrival => vec![None],
                Delivery::PerStream | Delivery::InOrder => streams_of(&input.assigned),
            };
            let open = keys.into_iter().map(|key| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let queue = Queue::new(number, receiver, returns.clone(), &counters, &reservation);
                ((key, sender), queue)
            });
            let (open, queues): (BTreeMap<_, _>, Vec<_>) = open.unzip();
            senders.push(open);
            let format = FrameFormat::new(Arc::clone(&input.schema), Compression::None)?;
            taken.push((input.schema, input.delivery, Arc::new(format), queues));
            assigned.push((input.assigned, input.delivery));
        }
        let driver = ReadDriver {
            reader: Reader::new(spec.config, &assigned),
            query: spec.query,
            coordinator_epoch: spec.coordinator_epoch,
            transport,
            queues: QueueSenders::new(senders, reservation),
            counters: Arc::clone(&counters),
            _tables: tables,
        };
        let driver = AbortOnDropHandle::new(runtime.spawn(driver.run(updates, returned)));
        let driver = Arc::new(driver);
        let inputs = taken.into_iter().map(|(schema, delivery, format, queues)| {
            Some(InputQueues {
                schema,
                format,
                delivery,
                queues,
                driver: Arc::clone(&driver),
            })
        });
        Ok(Self {
            inputs: inputs.collect(),
            counters,
        })
    }

    /// What was read so far.
    pub fn counters(&self) -> &Arc<ReadCounters> {
        &self.counters
    }

    /// The streams of an input; works once. `Arrival` and `InOrder` have one stream; `PerStream` has one per map task
    /// and partition, ordered by stage, task and partition.
    ///
    /// # Errors
    ///
    /// If there is no such input, or it was taken before.
    pub fn take(&mut self, input: usize) -> Result<Vec<SendableRecordBatchStream>, DataFusionError> {
        let taken = self.take_queues(input)?;
        let queues = match taken.delivery {
            Delivery::Arrival | Delivery::InOrder => vec![taken.queues],
            Delivery::PerStream => taken.queues.into_iter().map(|queue| vec![queue]).collect(),
        };
        let streams = queues.into_iter().map(|queues| {
            let format = Arc::clone(&taken.format);
            decoded(
                Arc::clone(&taken.schema),
                format,
                queues,
                Arc::clone(&taken.driver),
            )
        });
        Ok(streams.collect())
    }

    /// The rows of an input with the streams that they come from; works once, for any delivery.
    ///
    /// # Errors
    ///
    /// If there is no such input, or it was taken before.
    pub fn take_parts(
        &mut self,
        input: usize,
    ) -> Result<BoxStream<'static, Result<Part, DataFusionError>>, DataFusionError> {
        let taken = self.take_queues(input)?;
        Ok(parts(taken.format, taken.queues, taken.driver).boxed())
    }

    fn take_queues(&mut self, input: usize) -> Result<InputQueues, DataFusionError> {
        let taken = self.inputs.get_mut(input).and_then(Option::take);
        taken.ok_or_else(|| {
            let message = format!("shuffle input {input} does not exist or is being read already");
            DataFusionError::Internal(message)
        })
    }
}

/// The bookkeeping of this many streams is not reserved.
const UNCHARGED_STREAMS: usize = 1 << 14;
/// Bookkeeping of each further stream, bytes.
const STREAM_BYTES: usize = 512;
/// The same if each stream has its own queue.
const QUEUED_STREAM_BYTES: usize = 2048;

/// Reserves memory for the bookkeeping of very many streams before it is built.
fn charge_tables(
    inputs: &[ReadInput],
    pool: &Arc<dyn MemoryPool>,
) -> Result<MemoryReservation, DataFusionError> {
    let of_input = |input: &ReadInput| {
        let tasks = input.assigned.writers.iter().map(Writer::count);
        let tasks = usize::try_from(tasks.fold(0, u64::saturating_add)).unwrap_or(usize::MAX);
        let streams = tasks.saturating_mul(input.assigned.assigned_reduce_partitions.len());
        let each = match input.delivery {
            Delivery::Arrival => STREAM_BYTES,
            Delivery::PerStream | Delivery::InOrder => QUEUED_STREAM_BYTES,
        };
        streams.saturating_sub(UNCHARGED_STREAMS).saturating_mul(each)
    };
    let tables = MemoryConsumer::new("shuffle read").register(pool);
    tables.try_grow(inputs.iter().map(of_input).fold(0, usize::saturating_add))?;
    Ok(tables)
}

/// A map task's partition, within one input.
type StreamKey = (TaskId, u32);

fn streams_of(input: &AssignedInput) -> Vec<Option<StreamKey>> {
    let tasks = input.writers.iter().flat_map(Writer::map_tasks);
    let partitions = &input.assigned_reduce_partitions;
    let keys = tasks.flat_map(|task| partitions.iter().map(move |partition| (task, *partition)));
    let sorted: BTreeSet<StreamKey> = keys.collect();
    sorted.into_iter().map(Some).collect()
}
