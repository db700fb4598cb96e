use std::fs;
use std::io::Write as _;
use std::path::Path;

use datafusion::execution::memory_pool::UnboundedMemoryPool;
use sluice_core::ids::{StageEpoch, StageId};

use super::*;

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
    store.open_query(query("q"), CoordinatorEpoch(1)).await;
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

#[tokio::test]
async fn a_running_attempt_can_be_read_while_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    let id = stream(0, 1);
    assert_eq!(read(&store, request(id, 0)).await.unwrap(), (vec![], false));
    let first = frame(id, 0, 100);
    append(&store, id, first.clone()).await.unwrap();
    assert_eq!(
        read(&store, request(id, 0)).await.unwrap(),
        (first.to_vec(), false)
    );
    let (head, bytes) = store.fetch_chunk(request(id, 100)).await.unwrap();
    assert!(bytes.is_empty() && !head.finalized && head.watermark_offset == 100);
    append(&store, id, frame(id, 1, 50)).await.unwrap();
    assert_eq!(store.held_attempts(query("q")).await, []);
    let outputs = store.finalize(query("q"), attempt(0)).await.unwrap();
    assert_eq!(store.held_attempts(query("q")).await, [attempt(0)]);
    assert_eq!(outputs.len(), 1);
    assert_eq!((outputs[0].bytes, outputs[0].rows), (150, 2));
    let rest = frame(id, 1, 50).to_vec();
    assert_eq!(read(&store, request(id, 100)).await.unwrap(), (rest, true));
    assert_eq!(read(&store, request(id, 150)).await.unwrap(), (vec![], true));
}

#[tokio::test]
async fn what_does_not_fit_memory_is_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    let mut expected = vec![vec![]; 6];
    for number in 0..40 {
        for (index, whole) in expected.iter_mut().enumerate() {
            let id = stream(index as u32 / 3, index as u32 % 3);
            let frame = frame(id, number, 30 + index);
            whole.extend_from_slice(&frame);
            append(&store, id, frame).await.unwrap();
            assert!(store.stats().await.memory_bytes <= 1100);
        }
    }
    let stats = store.stats().await;
    assert!(stats.spilled_bytes > 5000, "{stats:?}");
    for task in 0..2 {
        store.finalize(query("q"), attempt(task)).await.unwrap();
    }
    // The store still writes: what it counts in sum may be ahead of the counts that were asked for before.
    let counts = loop {
        let counts = store.attempt_counts(query("q")).await;
        let spilled: u64 = counts.values().map(|counts| counts.spilled_bytes).sum();
        if spilled == store.stats().await.spilled_bytes {
            break counts;
        }
    };
    assert!(
        counts.values().all(|counts| counts.spilled_bytes > 0),
        "{counts:?}"
    );
    for (index, whole) in expected.iter().enumerate() {
        let id = stream(index as u32 / 3, index as u32 % 3);
        for start in [0, 1, 29, 31, 400, whole.len() - 1] {
            let mut asked = request(id, start as u64);
            let (bytes, ended) = read(&store, asked.clone()).await.unwrap();
            assert!(ended && bytes == whole[start..], "stream {index} from {start}");
            asked.max_bytes = 33;
            let (bytes, _) = read(&store, asked).await.unwrap();
            assert_eq!(bytes, whole[start..whole.len().min(start + 33)]);
        }
    }
    let segments = ["i7.lock", "i7/q/s2.e0.t0.a0.segment", "i7/q/s2.e0.t1.a0.segment"];
    assert_eq!(files(dir.path()), segments);
}

#[tokio::test]
async fn what_goes_to_disk_counts_for_the_attempt_that_wrote_it_also_after_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    let (early, late) = (stream(0, 0), stream(1, 0));
    append(&store, early, frame(early, 0, 700)).await.unwrap();
    store.finalize(query("q"), attempt(0)).await.unwrap();
    assert_eq!(store.attempt_counts(query("q")).await, BTreeMap::new());
    store.open_query(query("other"), CoordinatorEpoch(1)).await;
    // More than the memory holds: the early attempt's bytes go, and this frame waits for it.
    append(&store, late, frame(late, 0, 400)).await.unwrap();
    settled(&store, |stats| stats.spilled_bytes > 0).await;
    let counts = store.attempt_counts(query("q")).await;
    let of = |task: u32| counts.get(&attempt(task)).copied().unwrap_or_default();
    assert_eq!(of(0).spilled_bytes, 700, "{counts:?}");
    assert_eq!(of(0).backpressure_events, 0, "{counts:?}");
    assert_eq!(of(1).backpressure_events, 1, "{counts:?}");
    assert_eq!(store.attempt_counts(query("other")).await, BTreeMap::new());
}

#[tokio::test]
async fn retiring_deletes_and_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    for task in 0..2 {
        for number in 0..30 {
            let id = stream(task, 0);
            append(&store, id, frame(id, number, 100)).await.unwrap();
        }
    }
    assert_eq!(files(dir.path()).len(), 3);
    store.retire(query("q"), attempt(0)).await;
    let gone = Err(StoreError::Retired(attempt(0)));
    assert_eq!(
        append(&store, stream(0, 0), frame(stream(0, 0), 0, 9)).await,
        gone
    );
    assert_eq!(
        store
            .open_attempt(query("q"), attempt(0), StreamEpoch(9), 3)
            .await,
        gone
    );
    assert!(store.finalize(query("q"), attempt(0)).await.is_err());
    let refused = read(&store, request(stream(0, 0), 0)).await;
    assert_eq!(refused, Err(FetchError::StaleAttempt));
    store.retire_query(query("q")).await;
    let refused = read(&store, request(stream(1, 0), 0)).await;
    assert_eq!(refused, Err(FetchError::UnknownStream));
    let stats = store.stats().await;
    assert_eq!((stats.memory_bytes, stats.disk_bytes), (0, 0));
    while files(dir.path()) != ["i7.lock"] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn full_memory_and_spill_space_are_an_error_that_names_the_knob() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreConfig {
        spill_limit: Some(500),
        ..config(dir.path())
    };
    let store = start(limited).await;
    let id = stream(0, 0);
    let mut last = Ok(());
    for number in 0..40 {
        last = append(&store, id, frame(id, number, 100)).await;
        if last.is_err() {
            break;
        }
    }
    let Err(StoreError::Exhausted(message)) = last else {
        panic!("40 frames do not fit, and yet: {last:?}");
    };
    assert!(message.contains("spill.limit is 500 bytes"), "{message}");
    // Others can go on once it is retired.
    store.retire(query("q"), attempt(0)).await;
    append(&store, stream(1, 0), frame(id, 0, 100)).await.unwrap();
}

#[tokio::test]
async fn operators_and_the_store_share_the_spill_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreConfig {
        spill_limit: Some(4000),
        ..config(dir.path())
    };
    let store = start(limited).await;
    let operators = store.space().operators(&query("q")).unwrap();
    let spilled = operators.create_tmp_file("a sort").unwrap();
    let mut writer = spilled.open_writer().unwrap();
    // An eighth is kept for the next query.
    writer.write_all(&[0; 3400]).unwrap();
    assert_eq!(store.stats().await.operator_bytes, 3400);
    let fill = || async {
        for number in 0..40 {
            append(&store, stream(0, 0), frame(stream(0, 0), number, 100)).await?;
        }
        Ok::<_, StoreError>(())
    };
    let full = fill().await;
    assert!(
        matches!(&full, Err(StoreError::Exhausted(message)) if message.contains("spill.limit")),
        "{full:?}"
    );
    let held = store.stats().await.disk_bytes;
    assert!(held <= 100, "{held} bytes beside the 3400 of operators");

    drop((writer, spilled));
    store.retire(query("q"), attempt(0)).await;
    for number in 0..20 {
        let id = stream(1, 0);
        append(&store, id, frame(id, number, 100)).await.unwrap();
    }
    let held = store.stats().await.disk_bytes;
    assert!(held > 0, "20 frames do not fit into memory");
    let spilled = operators.create_tmp_file("a sort").unwrap();
    let mut writer = spilled.open_writer().unwrap();
    let room = usize::try_from(3500 - held).unwrap();
    writer.write_all(&vec![0; room]).unwrap();
    assert!(writer.write_all(&[0; 1]).is_err(), "more than the store leaves");
}

#[tokio::test]
async fn a_query_that_has_all_it_may_have_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreConfig {
        spill_limit: Some(8000),
        ..config(dir.path())
    };
    let store = start(limited).await;
    store.open_query(query("other"), CoordinatorEpoch(1)).await;
    let fill = async |id: &str, frames: u32| {
        let opened = store.open_attempt(query(id), attempt(0), StreamEpoch(1), 1);
        let _ = opened.await;
        for number in 0..frames {
            let frame = frame(stream(0, 0), number, 100);
            store.append(query(id), stream(0, 0), frame, 1).await?;
        }
        Ok::<_, StoreError>(())
    };
    // It fills its part of the disk, then the memory; nobody reads it.
    let full = fill("q", 200).await;
    assert!(matches!(&full, Err(StoreError::Exhausted(_))), "{full:?}");
    let held = store.space().usage(&query("q")).own;
    assert!((5500..=7000).contains(&held), "{held} bytes: an eighth is left");
    fill("other", 9).await.expect("the next query has room on disk");
    let usage = store.space().usage(&query("other"));
    assert!(usage.is_contended() && usage.own > 0, "{usage:?}");
    let more = fill("other", 200).await;
    assert!(
        matches!(&more, Err(StoreError::Exhausted(message)) if message.contains("beside 1 other")),
        "{more:?}"
    );
    store.retire_query(query("q")).await;
    store.retire(query("other"), attempt(0)).await;
    let usage = store.space().usage(&query("other"));
    assert_eq!((usage.own, usage.all, usage.queries), (0, 0, 1));
}

#[tokio::test]
async fn operators_of_each_query_have_a_share_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreConfig {
        spill_limit: Some(8000),
        ..config(dir.path())
    };
    let store = start(limited).await;
    let (one, other) = (query("q"), query("other"));
    let greedy = store.space().operators(&one).unwrap();
    let file = greedy.create_tmp_file("a sort").unwrap();
    let mut writer = file.open_writer().unwrap();
    writer.write_all(&[0; 7000]).unwrap();
    assert!(writer.write_all(&[0; 1]).is_err(), "an eighth is left");
    let modest = store.space().operators(&other).unwrap();
    let beside = modest.create_tmp_file("a sort").unwrap();
    let mut small = beside.open_writer().unwrap();
    small.write_all(&[0; 1000]).unwrap();
    store.space().rebalance();
    assert!(small.write_all(&[0; 1]).is_err(), "the disk is full");
    drop((writer, file));
    store.space().rebalance();
    small.write_all(&[0; 5000]).unwrap();
    drop((small, beside, modest));
    store.retire_query(other.clone()).await;
    assert_eq!(store.space().usage(&one).all, 0);
}

#[tokio::test]
async fn what_operators_spilled_before_a_crash_is_deleted_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("i3/_operators/datafusion-1/spilled");
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, "rows").unwrap();
    fs::write(dir.path().join("i3.lock"), "").unwrap();
    let _store = start(config(dir.path())).await;
    assert!(!left.exists());
}

#[tokio::test]
async fn a_disk_that_fails_keeps_bytes_in_memory_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    // A file where the query's directory should be.
    fs::write(dir.path().join("i7/q"), "in the way").unwrap();
    let id = stream(0, 0);
    let mut written = 0;
    let message = loop {
        match append(&store, id, frame(id, written, 100)).await {
            Ok(()) => written += 1,
            Err(StoreError::Exhausted(message)) => break message,
            Err(other) => panic!("{other}"),
        }
        assert!(written < 40);
    };
    assert!(message.contains("cannot write"), "{message}");
    let (bytes, _) = read(&store, request(id, 0)).await.unwrap();
    assert_eq!(&bytes[..100], &frame(id, 0, 100)[..]);
}

#[tokio::test]
async fn lost_files_are_a_typed_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    let id = stream(0, 0);
    for number in 0..30 {
        append(&store, id, frame(id, number, 100)).await.unwrap();
    }
    settled(&store, |stats| stats.spilled_bytes > 0).await;
    fs::remove_file(dir.path().join("i7/q/s2.e0.t0.a0.segment")).unwrap();
    for _ in 0..2 {
        let refused = read(&store, request(id, 0)).await;
        assert_eq!(refused, Err(FetchError::StorageFailed));
    }
    let lost = store.finalize(query("q"), attempt(0)).await;
    assert_eq!(lost, Err(StoreError::Lost(attempt(0))));
}

#[tokio::test]
async fn operators_in_need_make_the_store_move_all_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let pressure = Arc::clone(&config.pressure);
    let store = start(config).await;
    let id = stream(0, 0);
    append(&store, id, frame(id, 0, 100)).await.unwrap();
    assert_eq!(store.stats().await.memory_bytes, 100);
    pressure.notify_one();
    let stats = settled(&store, |stats| stats.memory_bytes == 0).await;
    assert_eq!(stats.disk_bytes, 100);
    let (bytes, _) = read(&store, request(id, 0)).await.unwrap();
    assert_eq!(bytes, frame(id, 0, 100));
}

#[tokio::test]
async fn files_go_with_the_store_and_with_dead_workers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    // A dead worker's files, and others that are none of ours.
    for other in ["i5", "mine", "i6"] {
        fs::create_dir_all(path.join(other)).unwrap();
        fs::write(path.join(other).join("file"), "bytes").unwrap();
    }
    fs::write(path.join("i5.lock"), "").unwrap();
    let living = segment::SpillDir::open(path, Incarnation(9)).unwrap();
    let store = start(config(path)).await;
    assert!(path.join("i9").exists(), "another worker lives");
    assert_eq!(files(path), ["i6/file", "i7.lock", "i9.lock", "mine/file"]);
    let same = segment::SpillDir::open(path, Incarnation(7));
    assert!(same.is_err(), "one process an incarnation");
    drop(living);
    let id = stream(0, 0);
    for number in 0..30 {
        append(&store, id, frame(id, number, 100)).await.unwrap();
    }
    drop(store);
    while path.join("i7").exists() || path.join("i7.lock").exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(files(path), ["i6/file", "mine/file"]);
}

#[tokio::test]
async fn many_writers_at_once_wait_for_the_disk_and_none_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    for round in 0..50 {
        let writers = (0..60).map(|number| {
            append(
                &store,
                stream(number % 2, number % 3),
                frame(stream(0, 0), number, 150),
            )
        });
        let written = futures::future::join_all(writers).await;
        let failed: Vec<_> = written.into_iter().filter_map(Result::err).collect();
        assert_eq!(failed, [], "round {round}");
    }
}

#[tokio::test]
async fn segments_spread_over_volumes_and_leave_one_that_cannot_be_written() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let roots = || dirs.iter().map(|dir| dir.path().to_owned()).collect();
    let files = |dir: &Path| {
        let query = dir.join("i7/q");
        fs::read_dir(query).map_or(0, |entries| entries.count())
    };
    let config = StoreConfig {
        spill_dirs: roots(),
        ..config(Path::new("/unused"))
    };
    let store = start(config.clone()).await;
    for task in 0..2 {
        for number in 0..4 {
            let bytes = frame(stream(task, 0), number, 300);
            append(&store, stream(task, 0), bytes).await.unwrap();
        }
    }
    while store.stats().await.memory_bytes > 1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dirs.each_ref().map(|dir| files(dir.path())), [1, 1]);
    let (bytes, _) = read(&store, request(stream(0, 0), 0)).await.unwrap();
    assert_eq!(bytes.len(), 1200);
    store.close().await;

    // A volume that is gone, so that no file can be made there.
    let store = start(config).await;
    fs::remove_dir_all(dirs[0].path().join("i7")).unwrap();
    for number in 0..9 {
        let bytes = frame(stream(0, 0), number, 300);
        while append(&store, stream(0, 0), bytes.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    assert!(files(dirs[1].path()) >= 1);
    store.close().await;
}

#[tokio::test]
async fn a_successor_may_use_the_numbers_of_its_predecessor_while_that_ones_bytes_are_on_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    for number in 0..3 {
        append(&store, stream(0, 0), frame(stream(0, 0), number, 300))
            .await
            .unwrap();
    }
    store.open_query(query("q"), CoordinatorEpoch(2)).await;
    let opened = store.open_attempt(query("q"), attempt(0), StreamEpoch(1), 3);
    opened.await.unwrap();
    let bytes = frame(stream(1, 1), 0, 200);
    append(&store, stream(0, 0), bytes.clone()).await.unwrap();
    store.finalize(query("q"), attempt(0)).await.unwrap();
    let late = FetchRequest {
        coordinator_epoch: CoordinatorEpoch(2),
        ..request(stream(0, 0), 0)
    };
    assert_eq!(read(&store, late).await.unwrap(), (bytes.to_vec(), true));
    let stale = read(&store, request(stream(0, 0), 0)).await;
    assert_eq!(stale, Err(FetchError::StaleCoordinator));
    assert_eq!(store.stats().await.attempts, 1);
}
