//! Several partitions of one map task: which are fetched, and together with which.

use super::ranges::ranged;
use super::*;
use crate::partition_set::PartitionSet;

#[test]
fn partitions_without_bytes_are_not_fetched() {
    let mut reader = Reader::new(config(), &[(input(1, 2, &[3, 4, 5]), Delivery::Arrival)]);
    let filled = |map_attempt, partitions: &[u32]| {
        let filled = PartitionSet::new(9, partitions.iter().copied());
        let update = InputUpdate {
            filled_partitions: Some(filled),
            ..about(map_attempt, 9, InputState::Won)
        };
        Event::InputUpdated(update.into())
    };
    let actions = reader.handle(Instant(0), filled(attempt(1, 0, 0), &[4]));
    let fetched = |actions: &[Action]| {
        let stream = |action: &Action| match action {
            Action::Fetch { stream, .. } => Some(stream.partition),
            _ => None,
        };
        actions.iter().filter_map(stream).collect::<Vec<_>>()
    };
    let ended = |actions: &[Action]| {
        let stream = |action: &Action| match action {
            Action::EndStream { stream, .. } => Some(stream.partition),
            _ => None,
        };
        actions.iter().filter_map(stream).collect::<Vec<_>>()
    };
    assert_eq!(fetched(&actions), [4]);
    assert_eq!(ended(&actions), [0; 0], "another attempt may take its place");
    let lost = reader.handle(Instant(1), update(attempt(1, 0, 0), 9, InputState::Lost));
    assert!(matches!(lost[..], [Action::CancelFetch { .. }]), "{lost:?}");
    let actions = reader.handle(Instant(2), filled(attempt(1, 0, 1), &[4]));
    let [Action::Fetch { fetch, .. }] = actions[..] else {
        panic!("a fetch: {actions:?}");
    };
    let head = ChunkHead {
        stream: stream(attempt(1, 0, 1), 4),
        ..head(0, 10, 10)
    };
    let actions = reader.handle(Instant(3), Event::ChunkArrived { fetch, head });
    assert_eq!(ended(&actions), [3, 5, 4]);
    let actions = reader.handle(Instant(4), filled(attempt(1, 1, 0), &[]));
    assert_eq!((fetched(&actions), ended(&actions)), (vec![], vec![3, 4, 5]));
    assert!(reader.is_done(), "{actions:?}");
}

#[test]
fn partitions_without_bytes_do_not_hold_up_those_after_them() {
    let mut reader = Reader::new(config(), &[(input(1, 1, &[3, 4, 5]), Delivery::InOrder)]);
    let update = InputUpdate {
        filled_partitions: Some(PartitionSet::new(6, [5].into_iter())),
        ..about(attempt(1, 0, 0), 9, InputState::Won)
    };
    let actions = reader.handle(Instant(0), Event::InputUpdated(update.into()));
    let [Action::Fetch { fetch, stream, .. }] = actions[..] else {
        panic!("a fetch: {actions:?}");
    };
    assert_eq!(stream.partition, 5);
    let head = ChunkHead {
        stream,
        ..head(0, 10, 10)
    };
    let actions = reader.handle(Instant(1), Event::ChunkArrived { fetch, head });
    let order = actions.iter().map(|action| match action {
        Action::EndStream { stream, .. } => (stream.partition, false),
        Action::Deliver { stream, .. } => (stream.partition, true),
        other => panic!("{other:?}"),
    });
    let order: Vec<_> = order.take(4).collect();
    assert_eq!(order, [(3, false), (4, false), (5, true), (5, false)]);
}

#[test]
fn one_fetch_brings_several_streams_of_a_map_task() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0, 3, 5]), Delivery::Arrival)]);
    assert_eq!(bench.won(1, 0), ["fetch 0 s1.e0.t0.a0.p0,p3,p5@0+2097152 of w1"]);
    assert_eq!(bench.chunk(0, 0, 10, 10).len(), 2, "delivered and ended");
    assert_eq!(bench.chunk(0, 0, 10, 10), [""; 0], "it was repeated");
    bench.chunk_of(0, stream(attempt(1, 0, 0), 3), (0, 10, 40));
    // The response has no more room: what is left is fetched again from where it is.
    assert_eq!(
        bench.ended(0, None),
        ["fetch 1 s1.e0.t0.a0.p3,p5@10+2097152 of w1"]
    );
}

#[test]
fn streams_of_a_fetch_that_breaks_are_all_tried_again() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0, 3]), Delivery::Arrival)]);
    bench.won(1, 0);
    assert_eq!(
        bench.chunk_of(0, stream(attempt(1, 0, 0), 3), (0, 10, 10)),
        ["cancel 0"],
        "the first one is missing"
    );
    assert_eq!(bench.tick_at(100), ["fetch 1 s1.e0.t0.a0.p0,p3@0+2097152 of w1"]);
    assert_eq!(bench.ended(1, Some(FetchError::Unreachable)), [""; 0]);
    let again = bench.tick_at(300);
    assert_eq!(again, ["fetch 2 s1.e0.t0.a0.p0,p3@0+2097152 of w1"]);
}

#[test]
fn streams_that_are_taken_one_by_one_or_in_part_are_fetched_one_by_one() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0, 3]), Delivery::PerStream)]);
    assert_eq!(bench.won(1, 0).len(), 2);
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    assert_eq!(
        bench.on(ranged(0, 10, 30)),
        ["fetch 0 s1.e0.t0.a0.p0@10+20 of w1"]
    );
}

/// One fetch at a time.
fn one_by_one() -> Config {
    Config {
        fetch_window: 1,
        ..config()
    }
}

#[test]
fn one_fetch_brings_streams_of_many_map_tasks_of_a_worker() {
    let mut bench = Bench::new(one_by_one(), &[(input(1, 1_000, &[7]), Delivery::Arrival)]);
    let mut fetched = Vec::new();
    // Every third map task ran on another worker.
    for task in 0..1_000 {
        let worker = 1 + u64::from(task % 3 == 0);
        fetched.extend(bench.on(update(attempt(1, task, 0), worker, InputState::Won)));
    }
    assert_eq!(fetched.len(), 1, "the window has room for one");
    let mut calls = 1;
    let mut open = vec![fetched.remove(0)];
    while let Some(call) = open.pop() {
        let (id, streams) = call
            .split_once(" s")
            .map(|(id, rest)| (id, format!("s{rest}")))
            .expect("a fetch");
        let id = id.trim_start_matches("fetch ").parse().expect("its number");
        let (streams, worker) = streams.split_once('@').expect("an offset");
        let tasks: Vec<u32> = streams
            .split(',')
            .map(|stream| {
                stream
                    .split(".t")
                    .nth(1)
                    .and_then(|rest| rest.split('.').next())
                    .expect("a task")
            })
            .map(|task| task.parse().expect("a number"))
            .collect();
        for task in tasks {
            assert_eq!(worker.ends_with("w2"), task % 3 == 0, "{call}");
            let actions = bench.chunk_of(id, stream(attempt(1, task, 0), 7), (0, 10, 10));
            let next = actions.into_iter().filter(|action| action.starts_with("fetch"));
            let before = open.len();
            open.extend(next);
            calls += open.len() - before;
        }
    }
    assert!(bench.reader.is_done());
    assert!(calls <= 6, "{calls} calls for 1,000 streams of two workers");
}

#[test]
fn streams_of_others_are_fetched_again_when_a_map_task_is_lost_on_the_way() {
    let mut bench = Bench::new(one_by_one(), &[(input(1, 3, &[0]), Delivery::Arrival)]);
    let lost = update(attempt(1, 1, 0), 1, InputState::Lost);
    assert_eq!(bench.won(1, 0), ["fetch 0 s1.e0.t0.a0.p0@0+2097152 of w1"]);
    assert_eq!(bench.won(1, 1), [""; 0]);
    assert_eq!(bench.won(1, 2), [""; 0]);
    assert_eq!(
        bench.chunk(0, 0, 10, 10),
        [
            "deliver 0 s1.e0.t0.a0.p0 0..10",
            "end 0 s1.e0.t0.a0.p0",
            "fetch 1 s1.e0.t1.a0.p0,s1.e0.t2.a0.p0@0+2097152 of w1"
        ]
    );
    // Nothing of the lost one has come.
    assert_eq!(
        bench.on(lost),
        ["cancel 1", "fetch 2 s1.e0.t2.a0.p0@0+2097152 of w1"]
    );
    assert_eq!(bench.chunk(2, 0, 10, 10).len(), 2);
    assert_eq!(
        bench.on(update(attempt(1, 1, 1), 2, InputState::Won)),
        ["fetch 3 s1.e0.t1.a1.p0@0+2097152 of w2"]
    );
    assert_eq!(
        bench.chunk(3, 0, 10, 10).len(),
        3,
        "delivered, ended, and the input"
    );
}

#[test]
fn a_refused_stream_is_the_first_that_has_not_ended() {
    let mut bench = Bench::new(one_by_one(), &[(input(1, 3, &[0]), Delivery::Arrival)]);
    for task in 0..3 {
        bench.won(1, task);
    }
    bench.chunk(0, 0, 10, 10);
    bench.chunk_of(1, stream(attempt(1, 1, 0), 0), (0, 10, 10));
    assert_eq!(
        bench.ended(1, Some(FetchError::UnknownStream)),
        ["fail s1.e0.t2.a0: UnknownStream"]
    );
}

#[test]
fn a_chunk_of_another_attempt_than_was_asked_for_is_not_taken() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::Arrival)]);
    bench.won(1, 0);
    let other = stream(attempt(1, 0, 3), 0);
    assert_eq!(bench.chunk_of(0, other, (0, 10, 10)), ["cancel 0"]);
}
