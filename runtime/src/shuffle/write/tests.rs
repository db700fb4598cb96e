use std::collections::BTreeSet;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int8Array, Int64Array, RecordBatchOptions, StringArray,
    StringViewArray,
};
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema};
use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
use datafusion::physical_expr::expressions::{Column, col};
use sluice_core::ids::{CoordinatorEpoch, Incarnation, StageEpoch, StageId, StreamEpoch};
use sluice_core::message::FetchRequest;
use tempfile::TempDir;

use super::*;
use crate::shuffle::frame::FrameDecoder;
use crate::shuffle::store::StoreConfig;

fn query() -> QueryId {
    QueryId::new("q").unwrap()
}

fn attempt(task: u32) -> AttemptId {
    AttemptId {
        stage: StageId(0),
        stage_epoch: StageEpoch(0),
        task,
        attempt: 0,
    }
}

fn unbounded() -> Arc<dyn MemoryPool> {
    Arc::new(UnboundedMemoryPool::default())
}

async fn store(partitions: u32) -> (StoreHandle, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreHandle::start(StoreConfig {
        incarnation: Incarnation(1),
        spill_dirs: vec![dir.path().to_owned()],
        spill_limit: None,
        memory_bytes: 1 << 20,
        pool: unbounded(),
        pressure: Arc::default(),
    });
    let store = store.unwrap();
    store.open_query(query(), CoordinatorEpoch(1), false).await;
    for task in 0..2 {
        let opened = store.open_attempt(query(), attempt(task), StreamEpoch(1), partitions);
        opened.await.unwrap();
    }
    (store, dir)
}

fn spec(schema: SchemaRef, partitioning: Partitioning) -> WriteSpec {
    WriteSpec {
        query: query(),
        attempt: attempt(0),
        schema,
        partitioning,
        compression: Compression::Lz4,
        buffer_bytes: 32 << 20,
        sorted_by: None,
    }
}

/// The batches of one stream, as a reader sees them.
async fn read(store: &StoreHandle, schema: SchemaRef, task: u32, partition: u32) -> Vec<RecordBatch> {
    let mut decoder =
        FrameDecoder::starting_at(Arc::new(FrameFormat::new(schema, Compression::None).unwrap()), 0);
    let (mut batches, mut start_offset) = (Vec::new(), 0);
    loop {
        let request = FetchRequest {
            query: query(),
            stream: StreamId {
                attempt: attempt(task),
                partition,
            },
            next_streams: Vec::new().into(),
            start_offset,
            max_bytes: u64::MAX,
            min_stream_epoch: StreamEpoch(0),
            coordinator_epoch: CoordinatorEpoch(1),
            worker_incarnation: Incarnation(1),
        };
        let (head, bytes) = store.fetch_chunk(request).await.unwrap();
        if bytes.is_empty() {
            assert!(head.finalized);
            decoder.finish().unwrap();
            return batches;
        }
        batches.extend(decoder.push(&bytes).unwrap());
        start_offset = head.end_offset;
    }
}

fn numbered(range: std::ops::Range<i64>) -> RecordBatch {
    let names = range
        .clone()
        .map(|i| format!("a name that is not inlined {}", i % 50));
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values(range))),
        ("name", Arc::new(StringViewArray::from_iter_values(names))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let columns = batches.iter().map(|b| b.column(0).as_primitive::<Int64Type>());
    columns.flat_map(|column| column.values().to_vec()).collect()
}

#[tokio::test]
async fn tasks_agree_on_the_partition_of_a_key_and_lose_no_row() {
    let (store, _dir) = store(7).await;
    let schema = numbered(0..1).schema();
    let keys = vec![col("name", &schema).unwrap()];
    let mut written = 0;
    for task in 0..2u32 {
        let hash = Partitioning::Hash {
            keys: keys.clone(),
            partitions: 7,
        };
        let spec = WriteSpec {
            attempt: attempt(task),
            ..spec(Arc::clone(&schema), hash)
        };
        let mut writer = ShuffleWriter::new(&spec, store.clone(), &unbounded()).unwrap();
        for i in 0..20 {
            let start = i64::from(task) * 100_000 + i * 1000;
            writer.write(numbered(start..start + 1000)).await.unwrap();
        }
        let ShuffleOutput { outputs, counts, .. } = writer.finish().await.unwrap();
        assert_eq!(outputs.iter().map(|o| o.rows).sum::<u64>(), 20_000);
        assert_eq!(outputs.iter().map(|o| o.bytes).sum::<u64>(), counts.bytes);
        written += counts.rows;
    }
    let (mut all, mut homes) = (BTreeSet::new(), BTreeSet::new());
    for task in 0..2 {
        for partition in 0..7 {
            let batches = read(&store, Arc::clone(&schema), task, partition).await;
            let part = numbers(&batches);
            assert!(part.is_sorted(), "rows keep their order");
            homes.extend(part.iter().map(|n| (n % 50, partition)));
            all.extend(part);
        }
    }
    assert_eq!((all.len() as u64, written), (40_000, 40_000));
    assert_eq!(homes.len(), 50, "each key has one partition");
}

/// By the hash of the first column.
fn hashed(partitions: u32) -> Partitioning {
    Partitioning::Hash {
        keys: vec![Arc::new(Column::new("n", 0))],
        partitions,
    }
}

#[tokio::test]
async fn small_batches_are_gathered_and_large_ones_cut() {
    let (store, _dir) = store(1).await;
    let schema = numbered(0..1).schema();
    let forward = spec(Arc::clone(&schema), Partitioning::Single);
    let mut writer = ShuffleWriter::new(&forward, store.clone(), &unbounded()).unwrap();
    for i in 0..1000 {
        writer.write(numbered(i * 10..i * 10 + 10)).await.unwrap();
    }
    assert!(writer.counts().rows >= 8192, "full frames are published at once");
    writer.write(numbered(10_000..200_000)).await.unwrap();
    writer.finish().await.unwrap();
    let batches = read(&store, schema, 0, 0).await;
    assert_eq!(numbers(&batches), (0..200_000).collect::<Vec<_>>());
    let rows = batches.iter().map(RecordBatch::num_rows);
    assert!(rows.clone().max().unwrap() <= 2 * FRAME_ROWS && batches.len() < 40);
}

#[tokio::test]
async fn a_frame_of_many_small_batches_is_read_with_one_buffer_of_strings() {
    let (store, _dir) = store(1).await;
    let schema = numbered(0..1).schema();
    let spec = spec(Arc::clone(&schema), hashed(1));
    let mut writer = ShuffleWriter::new(&spec, store.clone(), &unbounded()).unwrap();
    for i in 0..100 {
        writer.write(numbered(i * 10..(i + 1) * 10)).await.unwrap();
    }
    writer.finish().await.unwrap();
    let batches = read(&store, schema, 0, 0).await;
    assert_eq!(numbers(&batches), (0..1000).collect::<Vec<_>>());
    for batch in batches {
        assert_eq!(batch.column(1).as_string_view().data_buffers().len(), 1);
    }
}

#[tokio::test]
async fn rows_without_columns_are_counted() {
    let (store, _dir) = store(1).await;
    let schema = Arc::new(Schema::empty());
    let spec = spec(Arc::clone(&schema), Partitioning::Single);
    let mut writer = ShuffleWriter::new(&spec, store.clone(), &unbounded()).unwrap();
    for rows in [5, 6, 7, 8, 0] {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options);
        writer.write(batch.unwrap()).await.unwrap();
    }
    writer.finish().await.unwrap();
    let batches = read(&store, schema, 0, 0).await;
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 26);
}

#[tokio::test]
async fn dictionaries_that_do_not_fit_together_stay_apart() {
    let (store, _dir) = store(1).await;
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let schema = Arc::new(Schema::new(vec![Field::new("d", dictionary, true)]));
    let spec = spec(Arc::clone(&schema), hashed(1));
    let mut writer = ShuffleWriter::new(&spec, store.clone(), &unbounded()).unwrap();
    for part in 0..3 {
        let values = StringArray::from_iter_values((0..100).map(|i| format!("value {}", part * 100 + i)));
        let array = DictionaryArray::<Int8Type>::new(Int8Array::from_iter_values(0..100), Arc::new(values));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(array)]).unwrap();
        writer.write(batch).await.unwrap();
    }
    writer.finish().await.unwrap();
    let batches = read(&store, schema, 0, 0).await;
    let mut seen = BTreeSet::new();
    for batch in &batches {
        let plain = arrow::compute::cast(batch.column(0), &DataType::Utf8).unwrap();
        let plain = plain.as_string::<i32>();
        seen.extend((0..plain.len()).map(|i| plain.value(i).to_owned()));
    }
    assert_eq!(seen.len(), 300);
}

#[tokio::test]
async fn waiting_rows_are_bounded_and_charged() {
    let (store, _dir) = store(100).await;
    let schema = numbered(0..1).schema();
    let hash = Partitioning::Hash {
        keys: vec![col("n", &schema).unwrap()],
        partitions: 100,
    };
    let small = WriteSpec {
        buffer_bytes: 1 << 20,
        ..spec(Arc::clone(&schema), hash)
    };
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(4 << 20));
    let mut writer = ShuffleWriter::new(&small, store.clone(), &pool).unwrap();
    let mut most = 0;
    for i in 0..100 {
        writer.write(numbered(i * 2000..i * 2000 + 2000)).await.unwrap();
        most = most.max(pool.reserved());
        assert!(pool.reserved() <= (1 << 20) + 1);
    }
    assert!(most > 100_000, "{most}");
    writer.finish().await.unwrap();
    assert_eq!(pool.reserved(), 0);
    // A pool that has no room for one batch says so.
    let tight: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1000));
    let other = WriteSpec {
        attempt: attempt(1),
        ..small
    };
    let mut writer = ShuffleWriter::new(&other, store, &tight).unwrap();
    let refused = writer.write(numbered(0..100_000)).await.unwrap_err();
    assert!(
        matches!(refused, DataFusionError::ResourcesExhausted(_)),
        "{refused}"
    );
}
