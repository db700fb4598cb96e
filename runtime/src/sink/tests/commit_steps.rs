//! Commits, after crashes and beside other attempts and coordinators.

use super::*;

#[tokio::test]
async fn winners_appear_in_every_format_and_losers_vanish() {
    for format in ["parquet", "csv", "json", "arrow"] {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, "q1", format, "Fail");
        sink.check(&[]).unwrap();
        assert_eq!(write(&sink, attempt(1, 0), &[3]).await.rows, 1);
        let written = write(&sink, attempt(0, 0), &[1, 2]).await;
        write(&sink, attempt(0, 1), &[1, 2]).await;
        write(&sink, attempt(2, 0), &[]).await;
        let broken = sink.open(attempt(3, 0), batch(&[]).schema()).unwrap();
        drop(broken);
        assert!(!sink.location().exists());
        let winners = [attempt(2, 0), attempt(1, 0), attempt(0, 1)];
        let committed = sink.commit(&winners).unwrap();
        assert_eq!((committed.files, committed.rows), (2, 3));
        let files = [format!("part-00000.{format}"), format!("part-00001.{format}")];
        assert_eq!(names(sink.location()), [COMMIT_RECORD, &files[0], &files[1]]);
        assert_eq!(names(&folder.path().join("out")), ["result"], "{format}");
        assert_eq!(values(sink.location(), format).await, [1, 2, 3]);
        let first = fs::metadata(sink.location().join(&files[0])).unwrap().len();
        assert_eq!(first, written.bytes);
        let second = fs::metadata(sink.location().join(&files[1])).unwrap().len();
        assert_eq!(committed.bytes, first + second);
    }
}

#[tokio::test]
async fn a_crash_after_any_step_shows_all_or_nothing_and_the_next_call_ends_it() {
    for exchange in [true, false] {
        for if_exists in ["Fail", "Replace"] {
            for stop in STEPS {
                let folder = TempDir::new().unwrap();
                let sink = sink(&folder, "q1", "csv", if_exists);
                let replaced = if_exists == "Replace";
                if replaced {
                    place_result(sink.location());
                }
                write(&sink, attempt(0, 0), &[1, 2]).await;
                write(&sink, attempt(1, 0), &[3]).await;
                let winners = [attempt(0, 0), attempt(1, 0)];
                let what = format!("{exchange} {if_exists} {stop:?}");
                let first = commit_until(&sink, &winners, Some(stop), exchange);
                let set_aside = stop == CommitStep::SetAside;
                assert_eq!(first.is_ok(), set_aside && (exchange || !replaced), "{what}");
                // What a reader sees between the crash and the successor.
                if first.is_ok() || stop >= CommitStep::Published {
                    assert_eq!(values(sink.location(), "csv").await, [1, 2, 3], "{what}");
                } else if set_aside {
                    assert!(!sink.location().exists(), "{what}");
                } else {
                    let old: &[&str] = if replaced {
                        &[COMMIT_RECORD, "part-00009.csv"]
                    } else {
                        &[]
                    };
                    assert_eq!(names(sink.location()), old, "{what}");
                }
                let second = sink.commit(&winners).unwrap();
                assert_eq!((second.files, second.rows), (2, 3), "{what}");
                assert_eq!(values(sink.location(), "csv").await, [1, 2, 3], "{what}");
                assert_eq!(names(&folder.path().join("out")), ["result"], "{what}");
                assert_eq!(sink.commit(&winners).unwrap(), second, "{what}");
                assert_eq!(sink.committed().unwrap(), Some(second), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_abort_after_a_crash_leaves_what_was_there() {
    for exchange in [true, false] {
        for stop in STEPS {
            let folder = TempDir::new().unwrap();
            let sink = sink(&folder, "q1", "csv", "Replace");
            place_result(sink.location());
            write(&sink, attempt(0, 0), &[1]).await;
            let committed = commit_until(&sink, &[attempt(0, 0)], Some(stop), exchange).is_ok();
            sink.abort().unwrap();
            let published = committed || stop >= CommitStep::Published;
            let expected = if published { [1] } else { [9] };
            assert_eq!(
                values(sink.location(), "csv").await,
                expected,
                "{exchange} {stop:?}"
            );
            assert_eq!(sink.committed().unwrap().is_some(), published);
            assert_eq!(names(&folder.path().join("out")), ["result"]);
        }
    }
}

#[tokio::test]
async fn attempts_that_did_not_finish_are_no_winners() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "parquet", "Fail");
    write(&sink, attempt(0, 0), &[1]).await;
    let mut open = sink.open(attempt(1, 0), batch(&[]).schema()).unwrap();
    open.write(&batch(&[7])).unwrap();
    let winners = [attempt(0, 0), attempt(1, 0)];
    let error = sink.commit(&winners).unwrap_err();
    assert_eq!(error, SinkError::Incomplete(attempt(1, 0)));
    assert!(!sink.location().exists());
    // The same attempt once more, after a crash that left its folder: nothing of the first is kept.
    std::mem::forget(open);
    write(&sink, attempt(1, 0), &[2, 3]).await;
    sink.commit(&winners).unwrap();
    assert_eq!(values(sink.location(), "parquet").await, [1, 2, 3]);
}

#[tokio::test]
async fn an_attempt_after_the_end_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "csv", "Fail");
    write(&sink, attempt(0, 0), &[1]).await;
    let mut late = sink.open(attempt(0, 1), batch(&[]).schema()).unwrap();
    sink.commit(&[attempt(0, 0)]).unwrap();
    late.write(&batch(&[1])).unwrap();
    late.finish().unwrap_err();
    drop(sink.open(attempt(0, 2), batch(&[]).schema()).unwrap());
    assert_eq!(names(&folder.path().join("out")), ["result"]);
    assert_eq!(values(sink.location(), "csv").await, [1]);
}

#[tokio::test]
async fn a_successor_and_its_predecessor_do_not_touch_each_others_files() {
    let folder = TempDir::new().unwrap();
    let first = sink(&folder, "q1", "csv", "Fail");
    let second = Bound {
        sink: first.sink.clone(),
        query: first.query.clone(),
        epoch: CoordinatorEpoch(2),
    };
    let out = folder.path().join("out");
    // The numbers of attempts are the same, and both are at work at once.
    let mut late = first.open(attempt(0, 0), batch(&[]).schema()).unwrap();
    write(&second, attempt(0, 0), &[1]).await;
    late.write(&batch(&[7])).unwrap();
    late.finish().unwrap();
    first.abort().unwrap();
    assert_eq!(names(&out.join(".result.sluice-q1")), ["c2"]);
    second.commit(&[attempt(0, 0)]).unwrap();
    assert_eq!(values(second.location(), "csv").await, [1]);
    assert_eq!(names(&out), ["result"]);
    // The first would have committed too: it finds out that it need not.
    write(&first, attempt(0, 0), &[7]).await;
    assert_eq!(first.commit(&[attempt(0, 0)]).unwrap().rows, 1);
    assert_eq!(values(first.location(), "csv").await, [1]);
    assert_eq!(names(&out), ["result"]);
}

#[tokio::test]
async fn a_successor_removes_what_its_predecessors_wrote_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let first = sink(&folder, "q1", "csv", "Fail");
    write(&first, attempt(0, 0), &[7]).await;
    let staging = folder.path().join("out/.result.sluice-q1");
    fs::create_dir(staging.join("c4")).unwrap();
    first.sink.supersede(&first.query, CoordinatorEpoch(1)).unwrap();
    assert_eq!(names(&staging), ["c1", "c4"]);
    first.sink.supersede(&first.query, CoordinatorEpoch(3)).unwrap();
    assert_eq!(names(&staging), ["c4"]);
    first
        .sink
        .supersede(&QueryId::new("q2").unwrap(), CoordinatorEpoch(3))
        .unwrap();
}

#[tokio::test]
async fn only_what_queries_have_written_is_replaced() {
    let folder = TempDir::new().unwrap();
    let replacing = sink(&folder, "q1", "csv", "Replace");
    place_result(replacing.location());
    replacing.check(&[]).unwrap();
    write(&replacing, attempt(0, 0), &[1]).await;
    // It came between the check and the commit.
    fs::write(replacing.location().join("notes.txt"), "mine").unwrap();
    let error = replacing.commit(&[attempt(0, 0)]).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::ForbiddenPath);
    assert!(error.to_string().contains("holds notes.txt"), "{error}");
    assert_eq!(replacing.check(&[]).unwrap_err(), error);
    assert!(replacing.location().join("notes.txt").exists());
    fs::remove_file(replacing.location().join("notes.txt")).unwrap();
    replacing.commit(&[attempt(0, 0)]).unwrap();
    assert_eq!(values(replacing.location(), "csv").await, [1]);
    // Without the record a file of such a name is somebody's.
    fs::remove_file(replacing.location().join(COMMIT_RECORD)).unwrap();
    let error = replacing.check(&[]).unwrap_err();
    assert!(error.to_string().contains("holds part-00000.csv"), "{error}");
}
