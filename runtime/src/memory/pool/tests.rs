use futures::FutureExt;

use super::*;

fn query(name: &str) -> QueryId {
    QueryId::new(name).unwrap()
}

/// Sizes in these tests count in pieces, none of which is small.
const PIECE: usize = 100_000;

fn consumer(pool: &Arc<dyn MemoryPool>, can_spill: bool) -> MemoryReservation {
    MemoryConsumer::new("join")
        .with_can_spill(can_spill)
        .register(pool)
}

fn rung(memory: &WorkerMemory) -> bool {
    memory.pressure().notified().now_or_never().is_some()
}

#[test]
fn a_query_alone_may_have_all_and_then_hears_which_knob_helps() {
    let memory = WorkerMemory::new(1000 * PIECE);
    let pool = memory.query_pool(&query("a"));
    let join = consumer(&pool, false);
    join.try_grow(800 * PIECE).unwrap();
    assert!(!rung(&memory));
    join.try_grow(100 * PIECE).unwrap();
    let error = join.try_grow(101 * PIECE).unwrap_err();
    assert!(matches!(error, DataFusionError::ResourcesExhausted(_)));
    let message = error.to_string();
    for part in [
        "workers.memory",
        "join holds 90000000 bytes and needs 10100000 more bytes of memory",
        "of the 100000000 bytes",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(is_about_memory(&message) && !is_about_memory("spill space is used up"));
    assert_eq!((join.size(), pool.reserved()), (900 * PIECE, 900 * PIECE));
    drop(join);
    assert_eq!((pool.reserved(), memory.reserved()), (0, 0));
}

#[test]
fn consumers_that_can_spill_share_what_the_others_leave() {
    let memory = WorkerMemory::new(1000 * PIECE);
    let pool = memory.query_pool(&query("a"));
    let (fixed, first, second) = (
        consumer(&pool, false),
        consumer(&pool, true),
        consumer(&pool, true),
    );
    fixed.try_grow(200 * PIECE).unwrap();
    first.try_grow(400 * PIECE).unwrap();
    assert!(first.try_grow(PIECE).is_err(), "its half of the rest is used up");
    second.try_grow(200 * PIECE).unwrap();
    assert!(
        second.try_grow(PIECE).is_err(),
        "it holds enough to spill, and a fifth is for others"
    );
    drop(first);
    second.try_grow(300 * PIECE).unwrap();
    let third = consumer(&pool, true);
    third.try_grow(250 * PIECE).unwrap();
    assert!(third.try_grow(PIECE).is_err(), "it could begin, and has begun");
}

#[test]
fn a_query_beyond_its_part_leaves_a_quarter_to_others() {
    let memory = WorkerMemory::new(1000 * PIECE);
    let (one, other) = (memory.query_pool(&query("a")), memory.query_pool(&query("b")));
    let same = memory.query_pool(&query("a"));
    let (greedy, modest) = (consumer(&one, false), consumer(&other, false));
    greedy.try_grow(750 * PIECE).unwrap();
    assert!(greedy.try_grow(PIECE).is_err());
    assert!(
        consumer(&same, false).try_grow(PIECE).is_err(),
        "all tasks of a query count together"
    );
    modest.try_grow(250 * PIECE).unwrap();
    assert!(modest.try_grow(PIECE).is_err());
    drop((modest, other));
    greedy.try_grow(250 * PIECE).unwrap();
}

#[test]
fn the_store_is_asked_to_free_memory_before_operators_fail() {
    let memory = WorkerMemory::new(1000 * PIECE);
    let store = consumer(&memory.store_pool(), false);
    let pool = memory.query_pool(&query("a"));
    let join = consumer(&pool, false);
    store.grow(300 * PIECE);
    join.try_grow(500 * PIECE).unwrap();
    assert!(!rung(&memory));
    // The last fifth is lent, and the store pays it back.
    join.try_grow(200 * PIECE).unwrap();
    assert!(rung(&memory));
    assert!(join.try_grow(200 * PIECE).is_err());
    assert!(rung(&memory));
    store.shrink(300 * PIECE);
    join.try_grow(200 * PIECE).unwrap();
}

#[test]
fn who_holds_next_to_nothing_never_fails() {
    let memory = WorkerMemory::new(10 * PIECE);
    let pool = memory.query_pool(&query("a"));
    let (over, small) = (consumer(&pool, false), consumer(&pool, false));
    over.grow(11 * PIECE);
    small.try_grow(ALWAYS_GRANTED_BYTES).unwrap();
    small.try_resize(ALWAYS_GRANTED_BYTES).unwrap();
    assert!(small.try_grow(1).is_err());
    assert_eq!(pool.reserved(), 11 * PIECE + ALWAYS_GRANTED_BYTES);
}

#[test]
fn who_had_no_room_may_have_it_once_others_are_gone() {
    let memory = WorkerMemory::new(1000 * PIECE);
    let (one, other) = (memory.query_pool(&query("a")), memory.query_pool(&query("b")));
    let attempt = consumer(&one, false);
    attempt.try_grow(PIECE).unwrap();
    // Alone, it has what it can get.
    assert!(!memory.may_have_room(&query("a")));
    let stored = consumer(&memory.store_pool(), false);
    stored.grow(300 * PIECE);
    // It stays for as long as the query, which must not wait for itself.
    assert!(!memory.may_have_room(&query("a")));
    stored.shrink(300 * PIECE);
    for held_by in [&one, &other] {
        let held = consumer(held_by, false);
        held.grow(300 * PIECE);
        assert!(memory.may_have_room(&query("a")), "{held_by}");
    }
    let held = consumer(&other, false);
    held.grow(300 * PIECE);
    let sort = consumer(&one, true);
    sort.try_grow(1001 * PIECE).unwrap_err();
    assert!(memory.may_have_room(&query("a")), "a sort goes to disk instead");
    attempt.try_grow(1000 * PIECE).unwrap_err();
    assert!(!memory.may_have_room(&query("a")), "there is no such room");
    assert!(memory.may_have_room(&query("b")));
}
