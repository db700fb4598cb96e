mod partitions;
mod ranges;

use super::super::event::{Action, Event, FetchId};
use super::*;
use crate::ids::{AttemptId, Incarnation, StageEpoch, StageId, StreamEpoch, WorkerId};
use crate::message::{InputUpdate, NextStream, Writer};
use crate::ranges::ByteRange;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn config() -> Config {
    Config {
        fetch_window: 4,
        input_bytes: 4 * MIB,
        fetch_bytes: 2 * MIB,
        retry_base: Duration::from_millis(100),
        retry_limit: Duration::from_millis(1000),
        silence_limit: Duration::from_millis(3000),
    }
}

fn input(stage: u32, tasks: u32, partitions: &[u32]) -> AssignedInput {
    AssignedInput {
        writers: vec![Writer {
            stage: StageId(stage),
            tasks,
            only: None,
        }],
        assigned_reduce_partitions: partitions.to_vec(),
        range: None,
    }
}

fn attempt(stage: u32, task: u32, attempt: u32) -> AttemptId {
    AttemptId {
        stage: StageId(stage),
        stage_epoch: StageEpoch(0),
        task,
        attempt,
    }
}

fn update(map_attempt: AttemptId, stream_epoch: u64, state: InputState) -> Event {
    Event::InputUpdated(about(map_attempt, stream_epoch, state).into())
}

fn about(map_attempt: AttemptId, stream_epoch: u64, state: InputState) -> InputUpdate {
    InputUpdate {
        map_attempt,
        stream_epoch: StreamEpoch(stream_epoch),
        worker: Arc::new(WorkerId {
            name: format!("w{stream_epoch}"),
            incarnation: Incarnation(stream_epoch),
        }),
        state,
        filled_partitions: None,
    }
}

/// Won, and the bytes that are wanted.
fn in_part(map_attempt: AttemptId, stream_epoch: u64, (start, end): (u64, u64)) -> Event {
    Event::InputUpdated(ReaderUpdate {
        update: Arc::new(about(map_attempt, stream_epoch, InputState::Won)),
        range: Some(ByteRange { start, end }),
    })
}

fn head(start: u64, end: u64, watermark: u64) -> ChunkHead {
    ChunkHead {
        stream: stream(attempt(1, 0, 0), 0),
        start_offset: start,
        end_offset: end,
        watermark_offset: watermark,
        finalized: true,
        stream_epoch: StreamEpoch(9),
    }
}

fn stream(attempt: AttemptId, partition: u32) -> StreamId {
    StreamId { attempt, partition }
}

/// A reader, the time, and the first stream of each fetch.
struct Bench {
    reader: Reader,
    now: Instant,
    fetched: BTreeMap<FetchId, StreamId>,
}

impl Bench {
    fn new(config: Config, inputs: &[(AssignedInput, Delivery)]) -> Self {
        Self {
            reader: Reader::new(config, inputs),
            now: Instant(0),
            fetched: BTreeMap::new(),
        }
    }

    fn on(&mut self, event: Event) -> Vec<String> {
        let actions = self.reader.handle(self.now, event);
        for action in &actions {
            if let Action::Fetch { fetch, stream, .. } = action {
                self.fetched.insert(*fetch, *stream);
            }
        }
        actions.into_iter().map(words).collect()
    }

    fn won(&mut self, stage: u32, task: u32) -> Vec<String> {
        self.on(update(attempt(stage, task, 0), 1, InputState::Won))
    }

    fn chunk(&mut self, fetch: u64, start: u64, end: u64, watermark: u64) -> Vec<String> {
        let stream = self.fetched.get(&FetchId(fetch)).copied();
        let stream = stream.unwrap_or(head(0, 0, 0).stream);
        self.chunk_of(fetch, stream, (start, end, watermark))
    }

    /// A chunk of any of the streams of a fetch.
    fn chunk_of(
        &mut self,
        fetch: u64,
        stream: StreamId,
        (start, end, watermark): (u64, u64, u64),
    ) -> Vec<String> {
        let fetch = FetchId(fetch);
        let head = ChunkHead {
            stream,
            ..head(start, end, watermark)
        };
        self.on(Event::ChunkArrived { fetch, head })
    }

    fn ended(&mut self, fetch: u64, error: Option<FetchError>) -> Vec<String> {
        let fetch = FetchId(fetch);
        self.on(Event::FetchEnded { fetch, error })
    }

    fn consumed(&mut self, input: u32, map: AttemptId, bytes: u64) -> Vec<String> {
        let stream = StreamId {
            attempt: map,
            partition: 0,
        };
        self.on(Event::BytesConsumed { input, stream, bytes })
    }

    fn tick_at(&mut self, millis: u64) -> Vec<String> {
        self.now = Instant(millis);
        self.on(Event::Ticked)
    }
}

fn words(action: Action) -> String {
    match action {
        Action::Fetch {
            fetch,
            worker,
            stream,
            start_offset,
            max_bytes,
            next_streams,
            ..
        } => {
            let name = |next: &NextStream| {
                let NextStream { stream: next, .. } = next;
                match next.attempt == stream.attempt {
                    true => format!(",p{}", next.partition),
                    false => format!(",{next}"),
                }
            };
            let next = next_streams.iter().map(name).collect::<Vec<_>>().concat();
            format!(
                "fetch {} {stream}{next}@{start_offset}+{max_bytes} of {}",
                fetch.0, worker.name
            )
        }
        Action::CancelFetch { fetch } => format!("cancel {}", fetch.0),
        Action::Deliver {
            input,
            stream,
            start_offset,
            end_offset,
        } => format!("deliver {input} {stream} {start_offset}..{end_offset}"),
        Action::EndStream { input, stream } => format!("end {input} {stream}"),
        Action::EndInput { input } => format!("end {input}"),
        Action::Fail { map_attempt, error } => format!("fail {map_attempt}: {error:?}"),
    }
}

#[test]
fn won_streams_are_fetched_delivered_and_ended() {
    let mut bench = Bench::new(config(), &[(input(1, 2, &[0]), Delivery::Arrival)]);
    assert_eq!(bench.tick_at(0), [""; 0]);
    assert_eq!(bench.won(1, 0), ["fetch 0 s1.e0.t0.a0.p0@0+2097152 of w1"]);
    assert_eq!(bench.chunk(0, 0, 10, 30), ["deliver 0 s1.e0.t0.a0.p0 0..10"]);
    assert_eq!(bench.chunk(0, 10, 20, 30), ["deliver 0 s1.e0.t0.a0.p0 10..20"]);
    assert_eq!(bench.ended(0, None), ["fetch 1 s1.e0.t0.a0.p0@20+2097152 of w1"]);
    let last = ["deliver 0 s1.e0.t0.a0.p0 20..30", "end 0 s1.e0.t0.a0.p0"];
    assert_eq!(bench.chunk(1, 20, 30, 30), last);
    assert_eq!(bench.ended(1, None), [""; 0]);
    // The other stream is empty.
    assert_eq!(bench.won(1, 1), ["fetch 2 s1.e0.t1.a0.p0@0+2097152 of w1"]);
    assert_eq!(bench.chunk(2, 0, 0, 0), ["end 0 s1.e0.t1.a0.p0", "end 0"]);
    assert!(bench.reader.is_done());
    assert_eq!(bench.reader.next_deadline(), None);
}

#[test]
fn an_input_without_streams_ends_at_the_start() {
    for empty in [input(1, 0, &[0]), input(1, 3, &[])] {
        let inputs = [(empty, Delivery::Arrival), (input(2, 1, &[0]), Delivery::Arrival)];
        let mut bench = Bench::new(config(), &inputs);
        assert_eq!(bench.reader.next_deadline(), Some(Instant(0)));
        assert_eq!(bench.tick_at(0), ["end 0"]);
        assert!(!bench.reader.is_done());
    }
}

/// What becomes of a map task whose attempt is replaced, by how much of it was read.
#[test]
fn a_replaced_attempt_is_repointed_kept_or_fatal() {
    let lost = [
        (InputState::Lost, 0, 1),
        (InputState::Superseded, 0, 1),
        (InputState::Won, 1, 2),
    ];
    for (state, by, stream_epoch) in lost {
        let replace = || update(attempt(1, 0, by), stream_epoch, state);
        let again = update(attempt(1, 0, 1), 2, InputState::Won);
        let inputs = [(input(1, 1, &[0, 1]), Delivery::Arrival)];

        let mut untouched = Bench::new(config(), &inputs);
        assert_eq!(untouched.won(1, 0).len(), 1);
        let mut actions = untouched.on(replace());
        actions.extend(untouched.on(again.clone()));
        let repointed = ["cancel 0", "fetch 1 s1.e0.t0.a1.p0,p1@0+2097152 of w2"];
        assert_eq!(actions, repointed, "{state:?}");
        assert_eq!(untouched.chunk(0, 0, 10, 10), [""; 0], "late bytes do not count");

        let mut partly = Bench::new(config(), &inputs);
        partly.won(1, 0);
        // One stream is complete, the other not begun: the map task is read in part.
        partly.chunk(0, 0, 10, 10);
        assert_eq!(
            partly.on(replace()),
            ["fail s1.e0.t0.a0: StaleAttempt"],
            "{state:?}"
        );
        assert_eq!(partly.on(again.clone()), [""; 0], "nothing follows a failure");

        let two = [(input(1, 2, &[0, 1]), Delivery::Arrival)];
        let mut read = Bench::new(config(), &two);
        read.won(1, 0);
        read.chunk(0, 0, 10, 10);
        read.chunk_of(0, stream(attempt(1, 0, 0), 1), (0, 0, 0));
        assert_eq!(read.on(replace()), [""; 0], "{state:?}");
        assert_eq!(read.on(again), [""; 0], "the rows of a map task count once");
    }
}

#[test]
fn updates_about_other_attempts_than_the_one_read_change_nothing() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.on(update(attempt(1, 0, 1), 5, InputState::Won));
    bench.chunk(0, 0, 10, 20);
    for (attempt, epoch, state) in [
        (attempt(1, 0, 0), 4, InputState::Superseded),
        (attempt(1, 0, 0), 4, InputState::Lost),
        (attempt(1, 0, 0), 4, InputState::Won),
        (attempt(1, 0, 1), 5, InputState::Won),
        (attempt(1, 0, 1), 4, InputState::Lost),
        (attempt(1, 9, 0), 9, InputState::Won),
        (attempt(7, 0, 0), 9, InputState::Lost),
    ] {
        let update = update(attempt, epoch, state);
        assert_eq!(bench.on(update), [""; 0], "{attempt} {state:?}");
    }
    assert_eq!(bench.chunk(0, 10, 20, 20).len(), 3);
}

#[test]
fn the_same_attempt_under_another_worker_goes_on_at_the_cursor() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.won(1, 0);
    bench.chunk(0, 0, 10, 20);
    let moved = update(attempt(1, 0, 0), 3, InputState::Won);
    assert_eq!(
        bench.on(moved),
        ["cancel 0", "fetch 1 s1.e0.t0.a0.p0@10+2097152 of w3"]
    );
}

#[test]
fn transient_errors_are_tried_again_until_the_limit() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.tick_at(0);
    bench.won(1, 0);
    let mut retries = vec![];
    let mut last = vec![];
    for fetch in 0..20 {
        last = bench.ended(fetch, Some(FetchError::Unreachable));
        let Some(until) = bench.reader.next_deadline() else {
            break;
        };
        retries.push(until.0);
        assert_eq!(bench.tick_at(until.0).len(), 1);
    }
    assert_eq!(retries, [100, 300, 700, 1000]);
    assert_eq!(last, ["fail s1.e0.t0.a0: Unreachable"]);
}

#[test]
fn a_byte_that_comes_ends_the_trouble() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.tick_at(0);
    bench.won(1, 0);
    for fetch in 0..50 {
        bench.chunk(fetch, fetch, fetch + 1, 100);
        bench.ended(fetch, Some(FetchError::Unreachable));
        let until = bench.reader.next_deadline().unwrap();
        let again = format!("fetch {} s1.e0.t0.a0.p0@{}+2097152 of w1", fetch + 1, fetch + 1);
        assert_eq!(bench.tick_at(until.0), [again]);
    }
}

#[test]
fn other_errors_and_wrong_answers_fail_at_once() {
    for error in [
        FetchError::UnknownStream,
        FetchError::StaleAttempt,
        FetchError::WrongIncarnation,
        FetchError::StorageFailed,
    ] {
        let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
        bench.won(1, 0);
        let failed = format!("fail s1.e0.t0.a0: {error:?}");
        assert_eq!(bench.ended(0, Some(error)), [failed]);
        assert!(bench.reader.is_done());
        assert_eq!(bench.reader.next_deadline(), None);
    }
    let wrong = [
        ("too much", head(0, 3 * MIB, 3 * MIB), "Corrupt"),
        ("beyond the watermark", head(0, 20, 10), "Corrupt"),
        (
            "stale epoch",
            ChunkHead {
                stream_epoch: StreamEpoch(0),
                ..head(0, 10, 10)
            },
            "StaleStreamEpoch",
        ),
    ];
    for (case, head, error) in wrong {
        let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
        bench.won(1, 0);
        let fetch = FetchId(0);
        let actions = bench.on(Event::ChunkArrived { fetch, head });
        assert_eq!(actions, [format!("fail s1.e0.t0.a0: {error}")], "{case}");
    }
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.won(1, 0);
    bench.chunk(0, 0, 10, 20);
    let stream = StreamId {
        attempt: attempt(1, 0, 0),
        partition: 0,
    };
    assert_eq!(
        bench.on(Event::FrameRejected { stream }),
        ["fail s1.e0.t0.a0: Corrupt"]
    );
}

#[test]
fn repeated_chunks_are_ignored_and_gaps_are_fetched_again() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.won(1, 0);
    bench.chunk(0, 0, 10, 40);
    assert_eq!(bench.chunk(0, 0, 10, 40), [""; 0]);
    assert_eq!(bench.chunk(0, 20, 40, 40), ["cancel 0"]);
    assert_eq!(bench.tick_at(100), ["fetch 1 s1.e0.t0.a0.p0@10+2097152 of w1"]);
}

#[test]
fn a_winner_that_is_not_finalized_and_a_silent_worker_are_tried_again() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.won(1, 0);
    let fetch = FetchId(0);
    let head = ChunkHead {
        finalized: false,
        ..head(0, 0, 0)
    };
    assert_eq!(bench.on(Event::ChunkArrived { fetch, head }), ["cancel 0"]);
    assert_eq!(bench.tick_at(100), ["fetch 1 s1.e0.t0.a0.p0@0+2097152 of w1"]);
    assert_eq!(bench.reader.next_deadline(), Some(Instant(3100)));
    assert_eq!(bench.tick_at(3099), [""; 0]);
    // By now the retry has lasted for longer than the limit.
    assert_eq!(bench.tick_at(3100), ["cancel 1", "fail s1.e0.t0.a0: Unreachable"]);
}

#[test]
fn a_full_input_does_not_stop_another() {
    let inputs = [
        (input(1, 1, &[0]), Delivery::Arrival),
        (input(2, 3, &[0]), Delivery::Arrival),
    ];
    let mut bench = Bench::new(config(), &inputs);
    for task in 0..3 {
        bench.won(2, task);
    }
    // Two fetches reserve all that the second input may hold; nobody consumes it.
    bench.chunk(0, 0, 2 * MIB, 9 * MIB);
    assert_eq!(bench.ended(0, None), [""; 0]);
    bench.chunk(1, 0, 2 * MIB, 9 * MIB);
    assert_eq!(bench.ended(1, None), [""; 0]);
    assert_eq!(bench.won(1, 0), ["fetch 2 s1.e0.t0.a0.p0@0+2097152 of w1"]);
    // What was begun goes on first.
    let next = ["fetch 3 s2.e0.t0.a0.p0,s2.e0.t2.a0.p0@2097152+65536 of w1"];
    assert_eq!(bench.consumed(1, attempt(2, 0, 0), 65536), next);
}

/// A merge waits for rows of each stream: none may be shut out by what the others hold. A concatenation waits for
/// its first stream only.
#[test]
fn a_stream_that_the_operators_wait_for_gets_through_a_full_input() {
    for (delivery, through) in [
        (Delivery::Arrival, false),
        (Delivery::PerStream, true),
        (Delivery::InOrder, false),
    ] {
        let mut bench = Bench::new(config(), &[(input(1, 4, &[0]), delivery)]);
        for task in [1, 2] {
            bench.won(1, task);
        }
        for fetch in [0, 1] {
            bench.chunk(fetch, 0, 2 * MIB, 9 * MIB);
            bench.ended(fetch, None);
        }
        assert_eq!(bench.won(1, 3).len(), usize::from(through), "{delivery:?}");
        let first = bench.won(1, 0);
        let passes = delivery != Delivery::Arrival;
        assert_eq!(first.len(), usize::from(passes), "{delivery:?}");
    }
}

#[test]
fn the_window_bounds_fetches_over_all_inputs() {
    let inputs = [
        (input(1, 8, &[0]), Delivery::Arrival),
        (input(2, 8, &[0]), Delivery::Arrival),
    ];
    let small = Config {
        input_bytes: 64 * MIB,
        ..config()
    };
    let mut bench = Bench::new(small, &inputs);
    let mut fetches = 0;
    for stage in [1, 2] {
        for task in 0..8 {
            fetches += bench.won(stage, task).len();
        }
    }
    assert_eq!(fetches, 4);
    // A place that gets free goes to the input with fewer fetches.
    let actions = bench.chunk(0, 0, 10, 10);
    let last = actions.last().expect("a fetch");
    assert!(
        last.starts_with("fetch 4 s2.e0.t0.a0.p0,s2.e0.t1.a0.p0,"),
        "{last}"
    );
}
