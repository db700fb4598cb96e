use super::*;
use crate::ids::StageId;

fn query(name: &str) -> QueryId {
    QueryId::new(name).unwrap()
}

fn attempt(task: u32, attempt: u32) -> AttemptId {
    AttemptId {
        stage: StageId(1),
        stage_epoch: StageEpoch(0),
        task,
        attempt,
    }
}

fn stream(task: u32, partition: u32) -> StreamId {
    StreamId {
        attempt: attempt(task, 0),
        partition,
    }
}

fn request(stream: StreamId, start_offset: u64) -> FetchRequest {
    FetchRequest {
        query: query("q"),
        stream,
        next_streams: Vec::new().into(),
        start_offset,
        max_bytes: 1 << 30,
        min_stream_epoch: StreamEpoch(5),
        coordinator_epoch: CoordinatorEpoch(3),
        worker_incarnation: Incarnation(7),
    }
}

fn open(table: &mut StreamTable, id: AttemptId, stream_epoch: u64) -> Vec<Action> {
    table.handle(Event::AttemptOpened {
        query: query("q"),
        attempt: id,
        stream_epoch: StreamEpoch(stream_epoch),
        partitions: 4,
    })
}

fn commit(table: &mut StreamTable, stream: StreamId, bytes: u64) -> Vec<Action> {
    let query = query("q");
    let rows = 2;
    table.handle(Event::FrameCommitted {
        query,
        stream,
        bytes,
        rows,
    })
}

fn finalize(table: &mut StreamTable, attempt: AttemptId) -> Vec<Action> {
    let query = query("q");
    table.handle(Event::AttemptFinalized { query, attempt })
}

fn retire(table: &mut StreamTable, attempt: AttemptId) -> Vec<Action> {
    let query = query("q");
    table.handle(Event::AttemptRetired { query, attempt })
}

fn fetch(table: &mut StreamTable, request: FetchRequest) -> Result<ChunkHead, FetchError> {
    let fetch = FetchId(9);
    let actions = table.handle(Event::FetchArrived { fetch, request });
    match actions.as_slice() {
        [Action::ServeChunk { head, .. }] => Ok(*head),
        [Action::RefuseFetch { error, .. }] => Err(*error),
        other => panic!("a fetch has one answer, not {other:?}"),
    }
}

/// A query in coordinator epoch 3 and one attempt of task 0 in stream epoch 5, with 100 bytes in partition 1.
fn table() -> StreamTable {
    let mut table = StreamTable::new(Incarnation(7));
    let opened = Event::QueryOpened {
        keeps_outputs: false,
        query: query("q"),
        coordinator_epoch: CoordinatorEpoch(3),
    };
    table.handle(opened);
    assert_eq!(open(&mut table, attempt(0, 0), 5), vec![]);
    assert_eq!(commit(&mut table, stream(0, 1), 100), vec![]);
    table
}

fn head(start: u64, end: u64, watermark: u64, finalized: bool) -> ChunkHead {
    ChunkHead {
        stream: stream(0, 1),
        start_offset: start,
        end_offset: end,
        watermark_offset: watermark,
        finalized,
        stream_epoch: StreamEpoch(5),
    }
}

#[test]
fn a_running_attempt_is_read_up_to_its_watermark() {
    let mut table = table();
    let at = |offset| request(stream(0, 1), offset);
    assert_eq!(fetch(&mut table, at(0)), Ok(head(0, 100, 100, false)));
    assert_eq!(fetch(&mut table, at(100)), Ok(head(100, 100, 100, false)));
    assert_eq!(fetch(&mut table, at(170)), Ok(head(170, 170, 100, false)));
    commit(&mut table, stream(0, 1), 50);
    assert_eq!(fetch(&mut table, at(100)), Ok(head(100, 150, 150, false)));
    finalize(&mut table, attempt(0, 0));
    assert_eq!(fetch(&mut table, at(0)), Ok(head(0, 150, 150, true)));
    assert_eq!(fetch(&mut table, at(150)), Ok(head(150, 150, 150, true)));
    assert_eq!(fetch(&mut table, at(151)), Err(FetchError::Corrupt));
    let empty = request(stream(0, 3), 0);
    let of_empty = ChunkHead {
        stream: stream(0, 3),
        ..head(0, 0, 0, true)
    };
    assert_eq!(fetch(&mut table, empty), Ok(of_empty));
}

#[test]
fn a_chunk_is_bounded_and_never_empty_below_the_watermark() {
    let mut table = table();
    commit(&mut table, stream(0, 1), 3 << 20);
    let end = 100 + (3 << 20);
    for (max_bytes, start, expected_end) in [
        (10, 0, 10),
        (0, 4, 5),
        (u64::MAX, 0, MAX_CHUNK_BYTES),
        (u64::MAX, end - 1, end),
    ] {
        let mut request = request(stream(0, 1), start);
        request.max_bytes = max_bytes;
        assert_eq!(
            fetch(&mut table, request),
            Ok(head(start, expected_end, end, false))
        );
    }
    let past_all = request(stream(0, 1), u64::MAX);
    assert_eq!(
        fetch(&mut table, past_all),
        Ok(head(u64::MAX, u64::MAX, end, false))
    );
}

type Change = fn(&mut FetchRequest);

const STALE_FETCHES: [(&str, Change, Option<FetchError>); 11] = [
    ("as it is", |_| {}, None),
    (
        "other start of the worker",
        |r| r.worker_incarnation = Incarnation(6),
        Some(FetchError::WrongIncarnation),
    ),
    (
        "older coordinator",
        |r| r.coordinator_epoch = CoordinatorEpoch(2),
        Some(FetchError::StaleCoordinator),
    ),
    (
        "newer coordinator",
        |r| r.coordinator_epoch = CoordinatorEpoch(4),
        None,
    ),
    (
        "other query",
        |r| r.query = query("other"),
        Some(FetchError::UnknownStream),
    ),
    (
        "attempt not seen",
        |r| r.stream.attempt.attempt = 4,
        Some(FetchError::UnknownStream),
    ),
    (
        "partition that does not exist",
        |r| r.stream.partition = 4,
        Some(FetchError::UnknownStream),
    ),
    (
        "retired attempt",
        |r| r.stream.attempt.attempt = 1,
        Some(FetchError::StaleAttempt),
    ),
    (
        "older stage epoch",
        |r| r.stream.attempt.task = 2,
        Some(FetchError::StaleAttempt),
    ),
    (
        "stream epoch",
        |r| r.min_stream_epoch = StreamEpoch(6),
        Some(FetchError::StaleStreamEpoch),
    ),
    (
        "lost bytes",
        |r| r.stream.partition = 2,
        Some(FetchError::StorageFailed),
    ),
];

#[test]
fn each_stale_or_unknown_fetch_has_its_error() {
    for (case, change, expected) in STALE_FETCHES {
        let mut table = table();
        open(&mut table, attempt(0, 1), 6);
        retire(&mut table, attempt(0, 1));
        let mut newer = attempt(2, 1);
        open(&mut table, attempt(2, 0), 5);
        newer.stage_epoch = StageEpoch(1);
        open(&mut table, newer, 8);
        let failed = Event::StorageFailed {
            query: query("q"),
            stream: stream(0, 2),
        };
        table.handle(failed);
        let mut request = request(stream(0, 1), 0);
        change(&mut request);
        assert_eq!(fetch(&mut table, request).err(), expected, "{case}");
    }
}

#[test]
fn a_newer_attempt_of_the_same_stage_epoch_does_not_hide_a_held_one() {
    let mut table = table();
    open(&mut table, attempt(0, 1), 6);
    assert_eq!(
        fetch(&mut table, request(stream(0, 1), 0)),
        Ok(head(0, 100, 100, false))
    );
}

#[test]
fn finalizing_reports_the_partitions_that_hold_bytes() {
    let mut table = table();
    commit(&mut table, stream(0, 3), 7);
    commit(&mut table, stream(0, 3), 7);
    let meta = |partition, bytes, rows| MapOutputPartitionMeta {
        partition,
        bytes,
        rows,
    };
    let report = vec![Action::ReportOutputs {
        query: query("q"),
        attempt: attempt(0, 0),
        outputs: vec![meta(1, 100, 2), meta(3, 14, 4)],
    }];
    assert_eq!(finalize(&mut table, attempt(0, 0)), report);
    // Frames after the end do not count, and a repeated event has the same answer.
    commit(&mut table, stream(0, 3), 7);
    assert_eq!(finalize(&mut table, attempt(0, 0)), report);
}

#[test]
fn an_attempt_with_lost_bytes_is_not_reported() {
    let mut table = table();
    let failed = Event::StorageFailed {
        query: query("q"),
        stream: stream(0, 1),
    };
    table.handle(failed);
    assert_eq!(finalize(&mut table, attempt(0, 0)), vec![]);
}

#[test]
fn what_was_retired_is_dropped_whenever_it_shows_up_again() {
    let mut table = table();
    let dropped = |attempt| {
        vec![Action::DropAttempt {
            query: query("q"),
            attempt,
        }]
    };
    let (first, early) = (attempt(0, 0), attempt(3, 0));
    assert_eq!(retire(&mut table, first), dropped(first));
    assert_eq!(commit(&mut table, stream(0, 1), 1), dropped(first));
    assert_eq!(finalize(&mut table, first), dropped(first));
    assert_eq!(open(&mut table, first, 9), dropped(first));
    // The order to retire may overtake the start of the attempt.
    assert_eq!(retire(&mut table, early), dropped(early));
    assert_eq!(open(&mut table, early, 9), dropped(early));
    let ended = table.handle(Event::QueryRetired { query: query("q") });
    assert_eq!(ended, vec![Action::DropQuery { query: query("q") }]);
    assert_eq!(open(&mut table, attempt(1, 0), 1), dropped(attempt(1, 0)));
    let answer = fetch(&mut table, request(stream(0, 1), 0));
    assert_eq!(answer, Err(FetchError::UnknownStream));
}

#[test]
fn only_whole_finalized_attempts_are_held() {
    let mut table = table();
    for task in 1..4 {
        open(&mut table, attempt(task, 0), 5);
        finalize(&mut table, attempt(task, 0));
    }
    retire(&mut table, attempt(1, 0));
    let failed = Event::StorageFailed {
        query: query("q"),
        stream: stream(2, 0),
    };
    table.handle(failed);
    assert_eq!(table.held_attempts(&query("q")), [attempt(3, 0)]);
    assert_eq!(table.held_attempts(&query("other")), []);
}

#[test]
fn registering_again_raises_the_stream_epoch() {
    let mut table = table();
    open(&mut table, attempt(0, 0), 8);
    open(&mut table, attempt(0, 0), 6);
    let mut asks = request(stream(0, 1), 0);
    asks.min_stream_epoch = StreamEpoch(8);
    assert_eq!(fetch(&mut table, asks).unwrap().stream_epoch, StreamEpoch(8));
}

fn press(target_bytes: u64, kept: &[&str]) -> Event {
    let kept = kept.iter().map(|id| query(id)).collect();
    Event::MemoryPressed { target_bytes, kept }
}

#[test]
fn a_query_that_cannot_spill_leaves_it_to_others() {
    let mut table = table();
    let opened = |id: &str| Event::QueryOpened {
        keeps_outputs: false,
        query: query(id),
        coordinator_epoch: CoordinatorEpoch(3),
    };
    table.handle(opened("other"));
    let attempt_opened = Event::AttemptOpened {
        query: query("other"),
        attempt: attempt(1, 0),
        stream_epoch: StreamEpoch(5),
        partitions: 3,
    };
    table.handle(attempt_opened);
    let committed = Event::FrameCommitted {
        query: query("other"),
        stream: stream(1, 0),
        bytes: 10,
        rows: 1,
    };
    table.handle(committed);
    let expected = Action::SpillStream {
        query: query("other"),
        stream: stream(1, 0),
        upto_offset: 10,
    };
    assert_eq!(table.handle(press(0, &["q"])), [expected]);
    assert!(!table.handle(press(0, &["other"])).is_empty());
}

#[test]
fn spilling_takes_finalized_and_large_streams_first() {
    let mut table = table();
    open(&mut table, attempt(1, 0), 5);
    for (stream, bytes) in [
        (stream(1, 0), 30),
        (stream(1, 1), 40),
        (stream(1, 2), 40),
        (stream(0, 2), 500),
    ] {
        commit(&mut table, stream, bytes);
    }
    finalize(&mut table, attempt(1, 0));
    let mut pressed = |target_bytes| {
        let actions = table.handle(press(target_bytes, &[]));
        let spills = actions.into_iter().map(|action| match action {
            Action::SpillStream {
                stream, upto_offset, ..
            } => (stream, upto_offset),
            other => panic!("only spills were asked for, not {other:?}"),
        });
        spills.collect::<Vec<_>>()
    };
    assert_eq!(pressed(710), vec![]);
    assert_eq!(pressed(640), vec![(stream(1, 1), 40), (stream(1, 2), 40)]);
    // What is on its way to disk counts as gone.
    assert_eq!(pressed(630), vec![]);
    assert_eq!(pressed(500), vec![(stream(1, 0), 30), (stream(0, 2), 500)]);
    let spilled = |stream, upto_offset| Event::StreamSpilled {
        query: query("q"),
        stream,
        upto_offset,
    };
    table.handle(spilled(stream(1, 1), 40));
    let failed = Event::SpillFailed {
        query: query("q"),
        stream: stream(0, 2),
    };
    table.handle(failed);
    commit(&mut table, stream(0, 2), 1);
    let again = table.handle(press(0, &[]));
    let expected =
        [(stream(0, 2), 501), (stream(0, 1), 100)].map(|(stream, upto_offset)| Action::SpillStream {
            query: query("q"),
            stream,
            upto_offset,
        });
    assert_eq!(again, expected);
}

#[test]
fn a_successor_of_the_same_plan_keeps_what_its_predecessor_left() {
    let mut table = table();
    let first = attempt(0, 0);
    open(&mut table, first, 5);
    commit(&mut table, stream(0, 0), 10);
    let finalized = Event::AttemptFinalized {
        query: query("q"),
        attempt: first,
    };
    table.handle(finalized);
    let opened = Event::QueryOpened {
        keeps_outputs: true,
        query: query("q"),
        coordinator_epoch: CoordinatorEpoch(4),
    };
    assert!(table.handle(opened).is_empty());
    assert_eq!(table.held_attempts(&query("q")), [first]);
}

#[test]
fn a_successor_drops_what_its_predecessor_left_and_may_use_its_numbers_again() {
    let mut table = table();
    let first = attempt(0, 0);
    open(&mut table, first, 5);
    commit(&mut table, stream(0, 0), 10);
    let opened = |epoch| Event::QueryOpened {
        keeps_outputs: false,
        query: query("q"),
        coordinator_epoch: CoordinatorEpoch(epoch),
    };
    assert!(table.handle(opened(3)).is_empty(), "the same coordinator again");
    assert!(table.handle(opened(2)).is_empty(), "an older one changes nothing");
    let dropped = Action::DropQuery { query: query("q") };
    assert_eq!(table.handle(opened(4)), [dropped]);
    assert!(table.held_attempts(&query("q")).is_empty());
    assert!(open(&mut table, first, 5).is_empty(), "it is not retired");
}
