//! Parts of streams.

use super::*;

pub(super) fn ranged(task: u32, start: u64, end: u64) -> Event {
    in_part(attempt(1, task, 0), 1, (start, end))
}

#[test]
fn a_range_of_a_stream_is_read_and_nothing_else() {
    let mut bench = Bench::new(config(), &[(input(1, 2, &[0]), Delivery::PerStream)]);
    bench.tick_at(0);
    assert_eq!(
        bench.on(ranged(0, 300, 900)),
        ["fetch 0 s1.e0.t0.a0.p0@300+600 of w1"]
    );
    // Nothing is wanted of the other one.
    assert_eq!(bench.on(ranged(1, 500, 500)), ["end 0 s1.e0.t1.a0.p0"]);
    assert_eq!(
        bench.chunk(0, 300, 700, 5_000),
        ["deliver 0 s1.e0.t0.a0.p0 300..700"]
    );
    assert_eq!(
        bench.chunk(0, 700, 900, 5_000),
        [
            "deliver 0 s1.e0.t0.a0.p0 700..900",
            "end 0 s1.e0.t0.a0.p0",
            "end 0"
        ]
    );
    assert!(bench.reader.is_done());
}

#[test]
fn a_range_of_which_no_byte_has_come_may_lie_elsewhere_in_another_attempt() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::PerStream)]);
    bench.tick_at(0);
    bench.on(ranged(0, 300, 900));
    let lost = update(attempt(1, 0, 0), 1, InputState::Lost);
    assert_eq!(bench.on(lost), ["cancel 0"]);
    let again = in_part(attempt(1, 0, 1), 2, (100, 450));
    assert_eq!(bench.on(again), ["fetch 1 s1.e0.t0.a1.p0@100+350 of w2"]);
}

#[test]
fn a_stream_that_ends_before_its_range_is_another_one() {
    let mut bench = Bench::new(config(), &[(input(1, 1, &[0]), Delivery::PerStream)]);
    bench.tick_at(0);
    bench.on(ranged(0, 300, 900));
    let actions = bench.chunk(0, 300, 700, 700);
    assert!(
        actions.last().is_some_and(|last| last.contains("fail")),
        "{actions:?}"
    );
}
