//! What is read while it is written, and what goes from memory to disk.

use super::*;

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
    store.open_query(query("other"), CoordinatorEpoch(1), false).await;
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
