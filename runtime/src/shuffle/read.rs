//! The inputs of one reduce attempt, or of the client of a result: the task around `sluice-core`'s `Reader` that
//! fetches, decodes and hands rows over.

mod drive;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::Stream;
use futures::stream::BoxStream;
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, LayoutVersion, QueryId, StreamId, WorkerId};
use sluice_core::message::{AssignedInput, ChunkHead, FetchRequest, InputUpdate};
use sluice_core::reader::{Config, Delivery};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::frame::FrameFormat;

/// A way to bytes of streams that other attempts wrote.
pub trait FetchTransport: Send + Sync {
    /// Asks a worker for a range of a stream. The response ends after an error.
    fn fetch(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>>;
}

/// An input could not be read to its end. It travels through the engine as the source of an external error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("input {map_attempt} could not be fetched: {error}")]
pub struct ReadFailed {
    /// The map attempt whose output was missing.
    pub map_attempt: AttemptId,
    /// Why.
    pub error: FetchError,
}

impl ReadFailed {
    /// The typed failure inside an engine's error, however deep.
    pub fn within(error: &DataFusionError) -> Option<Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(failed) = error.downcast_ref::<Self>() {
                return Some(*failed);
            }
            cause = match error.downcast_ref::<DataFusionError>() {
                Some(DataFusionError::Shared(shared)) => Some(shared.as_ref()),
                Some(DataFusionError::External(external)) => Some(external.as_ref()),
                Some(_) | None => error.source(),
            };
        }
        None
    }
}

/// One input to read.
#[derive(Debug)]
pub struct ReadInput {
    /// Its map tasks and partitions.
    pub assigned: AssignedInput,
    /// In what order its rows are taken.
    pub delivery: Delivery,
    /// How its frames are decoded.
    pub format: Arc<FrameFormat>,
}

/// What all fetches of a reader have in common.
#[derive(Debug, Clone)]
pub struct ReadOrigin {
    /// The query.
    pub query: QueryId,
    /// The term of its coordinator.
    pub coordinator_epoch: CoordinatorEpoch,
    /// The layout of the reading stage.
    pub layout_version: LayoutVersion,
}

/// The bounds of a reader whose inputs may hold `input_bytes` each.
pub fn read_config(fetch_window: u32, input_bytes: u64) -> Config {
    Config {
        fetch_window,
        input_bytes,
        fetch_bytes: input_bytes.clamp(64 << 10, 4 << 20),
        retry_base: Duration::from_millis(100),
        retry_limit: Duration::from_secs(5),
        silence_limit: Duration::from_secs(10),
    }
}

/// What a reader has brought in.
#[derive(Debug, Default)]
pub struct ReadCounters {
    rows: AtomicU64,
    bytes: AtomicU64,
    inflight_bytes: AtomicU64,
    queue_depth: AtomicU32,
}

impl ReadCounters {
    /// Rows decoded.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes fetched.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes fetched and not yet taken by operators.
    pub fn inflight_bytes(&self) -> u64 {
        self.inflight_bytes.load(Ordering::Relaxed)
    }

    /// Streams being fetched.
    pub fn queue_depth(&self) -> u32 {
        self.queue_depth.load(Ordering::Relaxed)
    }
}

/// A batch on its way to the operators, and the bytes that are free once it is taken.
#[derive(Debug)]
struct Decoded {
    batch: RecordBatch,
    stream: StreamId,
    bytes: u64,
}

type Rows = mpsc::UnboundedReceiver<Result<Decoded, ReadFailed>>;
type Consumed = mpsc::UnboundedSender<(u32, StreamId, u64)>;

/// Fetches all inputs of an attempt in a task of its own; dropping it stops the task.
#[derive(Debug)]
pub struct ShuffleReader {
    inputs: Vec<OpenInput>,
    consumed: Consumed,
    counters: Arc<ReadCounters>,
    task: AbortHandle,
}

#[derive(Debug)]
struct OpenInput {
    schema: SchemaRef,
    /// One queue, or one a map task where streams are read by themselves.
    queues: Vec<Mutex<Option<Rows>>>,
}

impl ShuffleReader {
    /// Starts to fetch on the current runtime. Bytes in the queues are charged to `reservation`.
    pub fn start(
        origin: ReadOrigin,
        config: Config,
        inputs: Vec<ReadInput>,
        transport: Arc<dyn FetchTransport>,
        updates: mpsc::UnboundedReceiver<InputUpdate>,
        reservation: MemoryReservation,
    ) -> Self {
        let counters = Arc::new(ReadCounters::default());
        let (consumed, taken) = mpsc::unbounded_channel();
        let mut open = Vec::with_capacity(inputs.len());
        let mut targets = Vec::with_capacity(inputs.len());
        for input in &inputs {
            let count = match input.delivery {
                Delivery::PerStream => map_tasks(&input.assigned).count(),
                Delivery::Arrival | Delivery::InOrder => 1,
            };
            let (senders, queues): (Vec<_>, Vec<_>) = (0..count)
                .map(|_| mpsc::unbounded_channel())
                .map(|(sender, queue)| (sender, Mutex::new(Some(queue))))
                .unzip();
            open.push(OpenInput { schema: Arc::clone(input.format.schema()), queues });
            targets.push(senders);
        }
        let drive =
            drive::Drive::new(origin, config, inputs, targets, transport, Arc::clone(&counters), reservation);
        let task = tokio::spawn(drive.run(updates, taken)).abort_handle();
        Self { inputs: open, consumed, counters, task }
    }

    /// What came in so far.
    pub fn counters(&self) -> Arc<ReadCounters> {
        Arc::clone(&self.counters)
    }

    /// The rows of an input: of all its map tasks, or of map task `map_task` (counted over the writing stages in
    /// order) where the input's delivery is per stream. Each can be opened once.
    ///
    /// # Errors
    /// There is no such stream, or it was opened before.
    pub fn open(&self, input: usize, map_task: Option<u32>) -> Result<SendableRecordBatchStream, DataFusionError> {
        let queue = usize::try_from(map_task.unwrap_or(0)).unwrap_or(usize::MAX);
        let missing = || DataFusionError::Internal(format!("input {input} has no unread stream {map_task:?}"));
        let open = self.inputs.get(input).ok_or_else(missing)?;
        let rows = open.queues.get(queue).and_then(|queue| queue.lock().ok()?.take()).ok_or_else(missing)?;
        Ok(Box::pin(InputRows {
            schema: Arc::clone(&open.schema),
            input: u32::try_from(input).unwrap_or(u32::MAX),
            rows,
            consumed: self.consumed.clone(),
        }))
    }
}

impl Drop for ShuffleReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The map tasks of an input in the order in which they are counted.
fn map_tasks(assigned: &AssignedInput) -> impl Iterator<Item = sluice_core::ids::TaskId> {
    let stages = assigned.writers.iter();
    stages.flat_map(|writer| (0..writer.tasks).map(|task| sluice_core::ids::TaskId { stage: writer.stage, task }))
}

/// Rows of one queue; what is taken makes room for more fetches.
struct InputRows {
    schema: SchemaRef,
    input: u32,
    rows: Rows,
    consumed: Consumed,
}

impl Stream for InputRows {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = futures::ready!(self.rows.poll_recv(context));
        Poll::Ready(next.map(|decoded| {
            let decoded = decoded.map_err(|failed| DataFusionError::External(Box::new(failed)))?;
            // The task is gone only when nothing is fetched any more.
            let _ = self.consumed.send((self.input, decoded.stream, decoded.bytes));
            Ok(decoded.batch)
        }))
    }
}

impl RecordBatchStream for InputRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
