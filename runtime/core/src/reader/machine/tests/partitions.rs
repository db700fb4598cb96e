//! Several partitions of one map task: which are fetched, and together with which.

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
        partition: 4,
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
        partition: 5,
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
    bench.chunk_of(0, 3, 0, 10, 40);
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
        bench.chunk_of(0, 3, 0, 10, 10),
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
