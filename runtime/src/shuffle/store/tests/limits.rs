//! Memory and spill space that are used up, and their shares among queries.

use super::*;

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
    store.open_query(query("other"), CoordinatorEpoch(1), false).await;
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
