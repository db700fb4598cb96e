use std::fs;
use std::io::Write as _;
use std::path::Path;

use datafusion::execution::memory_pool::UnboundedMemoryPool;
use sluice_core::ids::{StageEpoch, StageId};

use super::*;

mod lifetime;
mod limits;
mod memory_and_disk;
mod several;

fn query(name: &str) -> QueryId {
    QueryId::new(name).unwrap()
}

fn attempt(task: u32) -> AttemptId {
    AttemptId {
        stage: StageId(2),
        stage_epoch: StageEpoch(0),
        task,
        attempt: 0,
    }
}

fn stream(task: u32, partition: u32) -> StreamId {
    StreamId {
        attempt: attempt(task),
        partition,
    }
}

fn request(stream: StreamId, start_offset: u64) -> FetchRequest {
    FetchRequest {
        query: query("q"),
        stream,
        next_streams: Vec::new().into(),
        start_offset,
        max_bytes: u64::MAX,
        min_stream_epoch: StreamEpoch(0),
        coordinator_epoch: CoordinatorEpoch(1),
        worker_incarnation: Incarnation(7),
    }
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        incarnation: Incarnation(7),
        spill_dirs: vec![dir.to_owned()],
        spill_limit: None,
        memory_bytes: 1000,
        pool: Arc::new(UnboundedMemoryPool::default()),
        pressure: Arc::new(Notify::new()),
    }
}

async fn start(config: StoreConfig) -> StoreHandle {
    let store = StoreHandle::start(config).unwrap();
    store.open_query(query("q"), CoordinatorEpoch(1), false).await;
    for task in 0..2 {
        let opened = store.open_attempt(query("q"), attempt(task), StreamEpoch(1), 3);
        opened.await.unwrap();
    }
    store
}

/// Frame `number` of a stream: bytes that tell where they belong.
fn frame(stream: StreamId, number: u32, length: usize) -> Bytes {
    let seed = stream.attempt.task * 100 + stream.partition * 10 + number;
    (0..length)
        .map(|i| (seed as usize * 31 + i) as u8)
        .collect::<Vec<_>>()
        .into()
}

async fn append(store: &StoreHandle, stream: StreamId, frame: Bytes) -> Result<(), StoreError> {
    store.append(query("q"), stream, frame, 1).await
}

/// All that one response brings, and whether it ended the stream.
async fn read(store: &StoreHandle, request: FetchRequest) -> Result<(Vec<u8>, bool), FetchError> {
    let mut response = store.fetch(request);
    let (mut bytes, mut ended) = (Vec::new(), false);
    while let Some(chunk) = response.next().await {
        let (head, part) = chunk?;
        assert_eq!(head.end_offset - head.start_offset, part.len() as u64);
        ended = head.finalized && head.end_offset == head.watermark_offset;
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, ended))
}

fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        // The store may delete it at the same time.
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                names.push(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    names.sort();
    names
}

/// Waits until the store has no job on disk: a job that was asked for before is done then.
async fn settled(store: &StoreHandle, until: impl Fn(StoreStats) -> bool) -> StoreStats {
    loop {
        let stats = store.stats().await;
        if until(stats) {
            return stats;
        }
        tokio::task::yield_now().await;
    }
}
