//! When output and files go: retired, with the store, and with dead workers.

use super::*;

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
async fn a_successor_may_use_the_numbers_of_its_predecessor_while_that_ones_bytes_are_on_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    for number in 0..3 {
        append(&store, stream(0, 0), frame(stream(0, 0), number, 300))
            .await
            .unwrap();
    }
    store.open_query(query("q"), CoordinatorEpoch(2), false).await;
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
