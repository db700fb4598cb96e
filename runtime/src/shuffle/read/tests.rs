use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
use futures::{StreamExt, TryStreamExt};
use sluice_core::ids::{Incarnation, StageEpoch, StageId, StreamEpoch};
use sluice_core::message::{InputState, InputUpdate, Writer};
use tempfile::TempDir;

use super::*;
use crate::shuffle::partition::Partitioning;
use crate::shuffle::store::StoreConfig;
use crate::shuffle::write::{ShuffleWriter, WriteSpec};

fn query() -> QueryId {
    QueryId::new("q").unwrap()
}

fn attempt(stage: u32, task: u32, attempt: u32) -> AttemptId {
    AttemptId {
        stage: StageId(stage),
        stage_epoch: StageEpoch(0),
        task,
        attempt,
    }
}

fn worker(number: u64) -> WorkerId {
    WorkerId {
        name: format!("w{number}"),
        incarnation: Incarnation(number),
    }
}

/// Two workers' stores. What a worker's store serves can be changed on its way.
struct Cluster {
    _dirs: Vec<TempDir>,
    transport: InProcessTransport,
    updates: mpsc::UnboundedSender<ReaderUpdate>,
    receiver: Option<mpsc::UnboundedReceiver<ReaderUpdate>>,
    pool: Arc<dyn MemoryPool>,
}

const WORKERS: u64 = 2;

async fn cluster() -> Cluster {
    let mut dirs = Vec::new();
    let mut transport = InProcessTransport::default();
    for number in 0..WORKERS {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreHandle::start(StoreConfig {
            incarnation: Incarnation(number),
            spill_dirs: vec![dir.path().to_owned()],
            spill_limit: None,
            memory_bytes: 1 << 20,
            pool: Arc::new(UnboundedMemoryPool::default()),
            pressure: Arc::default(),
        });
        let store = store.unwrap();
        store.open_query(query(), CoordinatorEpoch(1), false).await;
        transport.stores.insert(worker(number), store);
        dirs.push(dir);
    }
    let (updates, receiver) = mpsc::unbounded_channel();
    Cluster {
        _dirs: dirs,
        transport,
        updates,
        receiver: Some(receiver),
        pool: Arc::new(GreedyMemoryPool::new(1 << 30)),
    }
}

fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    let words = range.clone().map(|i| format!("word {i} {}", "x".repeat(50)));
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values(range))),
        ("w", Arc::new(StringArray::from_iter_values(words))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

impl Cluster {
    /// Runs a map attempt that forwards these rows, and says nothing of it.
    async fn write(&self, map: AttemptId, rows: std::ops::Range<i64>) {
        let store = &self.transport.stores[&self.home(map)];
        let epoch = StreamEpoch(u64::from(map.attempt));
        store.open_attempt(query(), map, epoch, 1).await.unwrap();
        let spec = WriteSpec {
            query: query(),
            attempt: map,
            schema: numbers(0..0).schema(),
            partitioning: Partitioning::Single,
            compression: Compression::None,
            buffer_bytes: 8 << 20,
            sorted_by: None,
        };
        let mut writer = ShuffleWriter::new(&spec, store.clone(), &self.pool).unwrap();
        writer.write(numbers(rows)).await.unwrap();
        writer.finish().await.unwrap();
    }

    fn home(&self, map: AttemptId) -> WorkerId {
        worker(u64::from(map.task + map.attempt) % WORKERS)
    }

    fn update(&self, map: AttemptId, state: InputState) {
        let update = InputUpdate {
            map_attempt: map,
            stream_epoch: StreamEpoch(u64::from(map.attempt)),
            worker: Arc::new(self.home(map)),
            state,
            filled_partitions: None,
        };
        self.updates.send(update.into()).unwrap();
    }

    fn start(&mut self, inputs: Vec<ReadInput>, input_bytes: u64) -> ShuffleReads {
        let transport = Arc::new(self.transport.clone());
        self.start_over(inputs, input_bytes, transport)
    }

    fn start_over(
        &mut self,
        inputs: Vec<ReadInput>,
        input_bytes: u64,
        transport: Arc<dyn FetchTransport>,
    ) -> ShuffleReads {
        let spec = ReadSpec {
            query: query(),
            coordinator_epoch: CoordinatorEpoch(1),
            inputs,
            config: Config {
                fetch_window: 2,
                input_bytes,
                fetch_bytes: 1 << 20,
                retry_base: Duration::from_millis(1),
                retry_limit: Duration::from_millis(20),
                silence_limit: Duration::from_secs(60),
            },
        };
        let updates = self.receiver.take().unwrap();
        ShuffleReads::start(spec, transport, updates, &self.pool, &Handle::current()).unwrap()
    }
}

fn input(stage: u32, tasks: u32, delivery: Delivery) -> ReadInput {
    ReadInput {
        assigned: AssignedInput {
            writers: vec![Writer {
                stage: StageId(stage),
                tasks,
                only: None,
            }],
            assigned_reduce_partitions: vec![0],
            range: None,
        },
        delivery,
        schema: numbers(0..0).schema(),
    }
}

fn column(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

async fn all(stream: SendableRecordBatchStream) -> Result<Vec<i64>, DataFusionError> {
    let batches: Vec<RecordBatch> = stream.try_collect().await?;
    Ok(batches.iter().flat_map(column).collect())
}

#[tokio::test]
async fn every_delivery_gives_all_rows_once() {
    for delivery in [Delivery::Arrival, Delivery::InOrder, Delivery::PerStream] {
        let mut cluster = cluster().await;
        let mut reads = cluster.start(vec![input(0, 4, delivery)], 100_000);
        // The last one is told first; one map task has no rows.
        for task in (0..4u32).rev() {
            let rows = if task == 2 { 0 } else { 20_000 };
            let first = i64::from(task) * 100_000;
            cluster.write(attempt(0, task, 0), first..first + rows).await;
            cluster.update(attempt(0, task, 0), InputState::Won);
        }
        let streams = reads.take(0).unwrap();
        assert!(reads.take(0).is_err(), "an input is taken once");
        assert_eq!(streams.len(), if delivery == Delivery::PerStream { 4 } else { 1 });
        let mut rows = Vec::new();
        for stream in streams {
            rows.extend(all(stream).await.unwrap());
        }
        if delivery == Delivery::Arrival {
            rows.sort_unstable();
        }
        let expected = [0, 100_000, 300_000].map(|first| first..first + 20_000);
        let expected: Vec<i64> = expected.into_iter().flatten().collect();
        assert_eq!(rows, expected, "{delivery:?}");
        assert_eq!(reads.counters().rows(), 60_000);
        assert!(reads.counters().bytes() > 60_000 * 60);
        drop(reads);
        assert_eq!(cluster.pool.reserved(), 0);
    }
}

/// A merge takes one batch of each stream in turn: none may wait for bytes that others hold.
#[tokio::test]
async fn streams_can_be_read_in_turn_within_a_small_bound() {
    let mut cluster = cluster().await;
    let mut reads = cluster.start(vec![input(0, 6, Delivery::PerStream)], 1);
    for task in 0..6 {
        cluster.write(attempt(0, task, 0), 0..50_000).await;
        cluster.update(attempt(0, task, 0), InputState::Won);
    }
    let mut streams = reads.take(0).unwrap();
    let mut rows = vec![0; 6];
    while rows.iter().any(|rows| *rows < 50_000) {
        for (stream, rows) in streams.iter_mut().zip(&mut rows) {
            if let Some(batch) = stream.next().await {
                *rows += batch.unwrap().num_rows();
            }
        }
    }
}

/// A hash join reads one side to its end before it asks for the other.
#[tokio::test]
async fn an_input_that_nobody_reads_yet_does_not_stop_another() {
    let mut cluster = cluster().await;
    let inputs = vec![input(0, 3, Delivery::Arrival), input(1, 3, Delivery::Arrival)];
    let mut reads = cluster.start(inputs, 200_000);
    for stage in [1, 0] {
        for task in 0..3 {
            cluster.write(attempt(stage, task, 0), 0..30_000).await;
            cluster.update(attempt(stage, task, 0), InputState::Won);
        }
    }
    let build = reads.take(0).unwrap().remove(0);
    let probe = reads.take(1).unwrap().remove(0);
    assert_eq!(all(build).await.unwrap().len(), 90_000);
    assert!(cluster.pool.reserved() <= 300_000, "{}", cluster.pool.reserved());
    assert_eq!(all(probe).await.unwrap().len(), 90_000);
}

#[tokio::test]
async fn a_superseded_attempt_is_not_read() {
    let mut cluster = cluster().await;
    let mut reads = cluster.start(vec![input(0, 1, Delivery::Arrival)], 100_000);
    let mut stream = reads.take(0).unwrap().remove(0);
    cluster.write(attempt(0, 0, 0), 0..10).await;
    cluster.update(attempt(0, 0, 0), InputState::Superseded);
    cluster.write(attempt(0, 0, 1), 10..20).await;
    cluster.update(attempt(0, 0, 1), InputState::Won);
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(column(&first), (10..20).collect::<Vec<_>>());
    assert!(stream.next().await.is_none());
}

/// Chunks as a transport that fails or damages would bring them.
struct Faulty {
    inner: InProcessTransport,
    fault: Fault,
    log: Mutex<Vec<u64>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Every second call breaks after its first chunk.
    Breaks,
    /// One bit is wrong.
    Flips,
    /// The stream is said to end earlier than it does.
    Ends,
    /// Bytes are missing that the head counts.
    Shrinks,
    /// Nobody answers.
    Silent,
}

impl FetchTransport for Faulty {
    fn fetch(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>> {
        let calls = {
            let mut log = self.log.lock().unwrap();
            log.push(request.start_offset);
            log.len()
        };
        let fault = self.fault;
        let start = request.start_offset;
        let small = FetchRequest {
            max_bytes: request.max_bytes.min(100_000),
            ..request
        };
        let chunks = self.inner.fetch(worker, small);
        let changed = chunks.map(move |chunk| {
            let (mut head, bytes) = chunk?;
            let mut bytes = bytes.to_vec();
            match fault {
                Fault::Flips if start > 0 => bytes[500] ^= 4,
                Fault::Ends if start > 0 => {
                    head.watermark_offset = head.end_offset;
                    head.finalized = true;
                }
                Fault::Shrinks => drop(bytes.pop()),
                Fault::Silent => return Err(FetchError::Unreachable),
                Fault::Flips | Fault::Ends | Fault::Breaks => {}
            }
            Ok((head, Bytes::from(bytes)))
        });
        if fault == Fault::Breaks && calls.is_multiple_of(2) {
            let broken = futures::stream::iter([Err(FetchError::Unreachable)]);
            return changed.take(1).chain(broken).boxed();
        }
        changed.boxed()
    }
}

#[tokio::test]
async fn faults_are_retried_or_typed() {
    for (fault, expected) in [
        (Fault::Breaks, None),
        (Fault::Flips, Some(FetchError::Corrupt)),
        (Fault::Ends, Some(FetchError::Corrupt)),
        (Fault::Shrinks, Some(FetchError::Corrupt)),
        (Fault::Silent, Some(FetchError::Unreachable)),
    ] {
        let mut cluster = cluster().await;
        let map = attempt(0, 0, 0);
        cluster.write(map, 0..30_000).await;
        cluster.update(map, InputState::Won);
        let transport = Faulty {
            inner: cluster.transport.clone(),
            fault,
            log: Mutex::default(),
        };
        let inputs = vec![input(0, 1, Delivery::Arrival)];
        let mut reads = cluster.start_over(inputs, 1 << 20, Arc::new(transport));
        let stream = reads.take(0).unwrap().remove(0);
        match (all(stream).await, expected) {
            (Ok(rows), None) => assert_eq!(rows, (0..30_000).collect::<Vec<_>>()),
            (Err(error), Some(expected)) => {
                let wrapped = DataFusionError::Shared(Arc::new(error.context("while joining")));
                let failed = ReadFailed::find(&wrapped).expect("the failure stays typed");
                assert_eq!((failed.map_attempt, failed.error), (map, expected));
            }
            (other, expected) => panic!("{expected:?} expected, but {other:?}"),
        }
        drop(reads);
        assert_eq!(cluster.pool.reserved(), 0);
    }
}

#[tokio::test]
async fn dropping_the_streams_ends_the_read() {
    let mut cluster = cluster().await;
    cluster.write(attempt(0, 0, 0), 0..50_000).await;
    cluster.update(attempt(0, 0, 0), InputState::Won);
    let mut reads = cluster.start(vec![input(0, 2, Delivery::Arrival)], 100_000);
    let mut stream = reads.take(0).unwrap().remove(0);
    assert!(stream.next().await.unwrap().is_ok());
    drop(reads);
    assert!(stream.next().await.unwrap().is_ok(), "a taken stream goes on");
    drop(stream);
    cluster.updates.closed().await;
    assert_eq!(cluster.pool.reserved(), 0);
}
