//! The whole way of rows: split, gathered, encoded, spilled, fetched, decoded.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringViewArray, StringViewBuilder, TimestampNanosecondArray,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_expr::expressions::col;
use futures::TryStreamExt;
use sluice_core::ids::{
    AttemptId, CoordinatorEpoch, Incarnation, QueryId, StageEpoch, StageId, StreamEpoch, WorkerId,
};
use sluice_core::message::{AssignedInput, InputState, InputUpdate, Writer};
use sluice_core::reader::{Config, Delivery};
use sluice_crds::shuffle_query::Compression;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::partition::Partitioning;
use super::read::{InProcessTransport, ReadInput, ReadSpec, ShuffleReads};
use super::store::{StoreConfig, StoreHandle};
use super::write::{ShuffleWriter, WriteSpec};
use crate::memory::WorkerMemory;

const TASKS: u32 = 3;
const PARTITIONS: u32 = 5;
const ROWS: usize = 4000;

/// Rows of a task in many types, with nulls and NaN among the keys.
fn rows(task: u32) -> RecordBatch {
    let numbers = || (0..ROWS).map(|i| i as i64 * 7 + i64::from(task));
    let words = numbers().map(|i| (i % 11 != 0).then(|| format!("word {}", "y".repeat(i as usize % 40))));
    let keys = numbers().map(|i| match i % 13 {
        0 => None,
        1 => Some(f64::NAN),
        key => Some(key as f64 / 2.0),
    });
    let dictionary: DictionaryArray<Int32Type> = words.clone().map(|w| w.map(|_| "some word")).collect();
    let views: StringViewArray = words.clone().collect();
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for word in words.clone() {
        lists.values().append_option(word.clone());
        lists.values().append_value("one more, that is not inlined");
        lists.append(word.is_some());
    }
    let times = TimestampNanosecondArray::from_iter_values(numbers()).with_timezone("Europe/Berlin");
    let decimals = cast(
        &Int64Array::from_iter_values(numbers()),
        &DataType::Decimal128(20, 3),
    );
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", Arc::new(keys.collect::<Float64Array>())),
        ("dictionary", Arc::new(dictionary)),
        ("view", Arc::new(views)),
        ("text", Arc::new(words.collect::<StringArray>())),
        ("list", Arc::new(lists.finish())),
        ("time", Arc::new(times)),
        ("decimal", decimals.unwrap()),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

/// Rows as sorted text: equal for equal multisets.
fn as_text(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default();
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|c| ArrayFormatter::try_new(c, &options).unwrap())
        .collect();
    let mut lines: Vec<String> = (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|c| c.value(row).to_string())
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect();
    lines.sort_unstable();
    lines
}

struct Bench {
    _dir: tempfile::TempDir,
    store: StoreHandle,
    memory: Arc<WorkerMemory>,
    query: QueryId,
}

fn attempt(task: u32) -> AttemptId {
    AttemptId {
        stage: StageId(0),
        stage_epoch: StageEpoch(0),
        task,
        attempt: 0,
    }
}

fn worker() -> WorkerId {
    WorkerId {
        name: "w".to_owned(),
        incarnation: Incarnation(1),
    }
}

impl Bench {
    async fn new() -> Self {
        let memory = WorkerMemory::new(64 << 20);
        let dir = tempfile::tempdir().unwrap();
        let query = QueryId::new("q").unwrap();
        let store = StoreHandle::start(StoreConfig {
            incarnation: Incarnation(1),
            spill_dirs: vec![dir.path().to_owned()],
            spill_limit: None,
            memory_bytes: 100_000,
            pool: memory.store_pool(),
            pressure: memory.pressure(),
        });
        let store = store.unwrap();
        store.open_query(query.clone(), CoordinatorEpoch(1), false).await;
        Self {
            _dir: dir,
            store,
            memory,
            query,
        }
    }

    async fn write(&self, task: u32, schema: SchemaRef, compression: Compression) {
        let keys = ["key", "dictionary", "view"].map(|name| col(name, &schema).unwrap());
        let spec = WriteSpec {
            query: self.query.clone(),
            attempt: attempt(task),
            schema,
            partitioning: Partitioning::Hash {
                keys: keys.to_vec(),
                partitions: PARTITIONS,
            },
            compression,
            buffer_bytes: 300_000,
            sorted_by: None,
        };
        let opened = self
            .store
            .open_attempt(self.query.clone(), attempt(task), StreamEpoch(1), PARTITIONS);
        opened.await.unwrap();
        let pool = self.memory.query_pool(&self.query);
        let mut writer = ShuffleWriter::new(&spec, self.store.clone(), &pool).unwrap();
        let all = rows(task);
        for start in (0..ROWS).step_by(100) {
            writer.write(all.slice(start, 100)).await.unwrap();
        }
        writer.finish().await.unwrap();
    }

    fn read(&self, partition: u32, schema: SchemaRef, pool: &Arc<dyn MemoryPool>) -> ShuffleReads {
        let spec = ReadSpec {
            query: self.query.clone(),
            coordinator_epoch: CoordinatorEpoch(1),
            inputs: vec![ReadInput {
                assigned: AssignedInput {
                    writers: vec![Writer {
                        stage: StageId(0),
                        tasks: TASKS,
                        only: None,
                    }],
                    assigned_reduce_partitions: vec![partition],
                    range: None,
                },
                delivery: Delivery::Arrival,
                schema,
            }],
            config: Config {
                fetch_window: 2,
                input_bytes: 70_000,
                fetch_bytes: 20_000,
                retry_base: Duration::from_millis(1),
                retry_limit: Duration::from_secs(5),
                silence_limit: Duration::from_secs(60),
            },
        };
        let (updates, receiver) = mpsc::unbounded_channel();
        for task in 0..TASKS {
            let won = InputUpdate {
                map_attempt: attempt(task),
                stream_epoch: StreamEpoch(1),
                worker: Arc::new(worker()),
                state: InputState::Won,
                filled_partitions: None,
            };
            updates.send(won.into()).unwrap();
        }
        let transport = InProcessTransport {
            stores: [(worker(), self.store.clone())].into(),
        };
        ShuffleReads::start(spec, Arc::new(transport), receiver, pool, &Handle::current()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_many_types_survive_a_spilled_shuffle() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let bench = Bench::new().await;
        let schema = rows(0).schema();
        let writes = (0..TASKS).map(|task| bench.write(task, Arc::clone(&schema), compression));
        futures::future::join_all(writes).await;
        assert!(bench.store.stats().await.spilled_bytes > 0);
        let pool = bench.memory.query_pool(&bench.query);
        let mut batches = Vec::new();
        for partition in 0..PARTITIONS {
            let mut reads = bench.read(partition, Arc::clone(&schema), &pool);
            let stream = reads.take(0).unwrap().remove(0);
            let part: Vec<RecordBatch> = stream.try_collect().await.unwrap();
            assert!(!part.is_empty());
            batches.extend(part);
        }
        let expected: Vec<RecordBatch> = (0..TASKS).map(rows).collect();
        let expected = concat_batches(&schema, &expected).unwrap();
        let read = concat_batches(&schema, &batches).unwrap();
        assert_eq!(as_text(&read), as_text(&expected), "{compression:?}");
        assert_eq!(pool.reserved(), 0);
    }
}
