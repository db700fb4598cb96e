use futures::FutureExt;

use super::*;

fn query(name: &str) -> QueryId {
    QueryId::new(name).unwrap()
}

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
    let memory = WorkerMemory::new(1000);
    let pool = memory.query_pool(&query("a"));
    let join = consumer(&pool, false);
    join.try_grow(900).unwrap();
    assert!(!rung(&memory));
    let error = join.try_grow(101).unwrap_err();
    assert!(matches!(error, DataFusionError::ResourcesExhausted(_)));
    let message = error.to_string();
    for part in [
        "workers.memory",
        "join holds 900 bytes and needs 101 more",
        "of the 1000 bytes",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!((join.size(), pool.reserved()), (900, 900));
    drop(join);
    assert_eq!((pool.reserved(), memory.reserved()), (0, 0));
}

#[test]
fn consumers_that_can_spill_share_what_the_others_leave() {
    let memory = WorkerMemory::new(1000);
    let pool = memory.query_pool(&query("a"));
    let (fixed, first, second) = (
        consumer(&pool, false),
        consumer(&pool, true),
        consumer(&pool, true),
    );
    fixed.try_grow(200).unwrap();
    first.try_grow(400).unwrap();
    assert!(first.try_grow(1).is_err(), "its half of the rest is used up");
    second.try_grow(400).unwrap();
    drop(second);
    first.try_grow(300).unwrap();
}

#[test]
fn a_query_beyond_its_part_leaves_a_quarter_to_others() {
    let memory = WorkerMemory::new(1000);
    let (one, other) = (memory.query_pool(&query("a")), memory.query_pool(&query("b")));
    let same = memory.query_pool(&query("a"));
    let (greedy, modest) = (consumer(&one, false), consumer(&other, false));
    greedy.try_grow(750).unwrap();
    assert!(greedy.try_grow(1).is_err());
    assert!(
        consumer(&same, false).try_grow(1).is_err(),
        "all tasks of a query count together"
    );
    modest.try_grow(250).unwrap();
    assert!(modest.try_grow(1).is_err());
    drop((modest, other));
    greedy.try_grow(250).unwrap();
}

#[test]
fn the_store_is_asked_to_free_memory_before_operators_fail() {
    let memory = WorkerMemory::new(1000);
    let store = consumer(&memory.store_pool(), false);
    let pool = memory.query_pool(&query("a"));
    let join = consumer(&pool, false);
    store.grow(300);
    join.try_grow(650).unwrap();
    assert!(!rung(&memory));
    // The last twentieth is lent, and the store pays it back.
    join.try_grow(50).unwrap();
    assert!(rung(&memory));
    assert!(join.try_grow(200).is_err());
    assert!(rung(&memory));
    store.shrink(300);
    join.try_grow(200).unwrap();
}
