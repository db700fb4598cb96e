//! What a stage shows of its exchanges: sizes of partitions, first bytes and rows, bytes that went to disk.

use super::fixture::{Query, attempt, chain, map_reduce, policy, worker, wrote};
use crate::coordinator::{Event, Policy};
use crate::ids::AttemptId;
use crate::layout::LayoutId;
use crate::metrics::AttemptMetrics;
use crate::plan::Determinism;
use crate::snapshot::{ReduceSnapshot, StageSnapshot};
use crate::time::Instant;

const KIB: u64 = 1 << 10;

fn progressed(name: &str, id: AttemptId, metrics: AttemptMetrics) -> Event {
    Event::AttemptProgressed {
        worker: worker(name),
        attempt: id,
        metrics,
    }
}

fn stage(query: &Query, number: usize) -> StageSnapshot {
    query
        .machine
        .snapshot(Instant(query.now))
        .stages
        .swap_remove(number)
}

fn reduce(query: &Query, number: usize) -> ReduceSnapshot {
    stage(query, number).reduce.expect("it reads an exchange")
}

#[test]
fn partitions_are_summed_over_map_tasks_each_once() {
    let mut query = Query::new(map_reduce(2, 3), policy());
    query.join("a", 1);
    query.join("b", 1);
    assert_eq!(stage(&query, 0).reduce, None, "it reads no exchange");
    assert_eq!(
        reduce(&query, 1).partition_bytes_histogram,
        [0; 0],
        "not known yet"
    );
    query.run(wrote("a", attempt(0, 0, 0), &[40 * KIB, 10, 0]));
    query.run(wrote("b", attempt(0, 1, 0), &[40 * KIB, 300 * KIB, 5, 9_999]));
    let seen = reduce(&query, 1);
    assert_eq!(seen.partition_bytes_histogram, [1, 1, 1]);
    assert_eq!(
        (seen.planned_reduce_tasks, seen.reduce_fetch_window_partitions),
        (3, 4)
    );
    // The task runs again: the same rows.
    query.lose("a");
    query.join("c", 1);
    query.run(wrote("c", attempt(0, 0, 1), &[40 * KIB, 10, 0]));
    assert_eq!(stage(&query, 0).done, 2);
    assert_eq!(reduce(&query, 1).partition_bytes_histogram, [1, 1, 1]);
}

#[test]
fn a_stage_that_starts_over_writes_its_partitions_anew() {
    let mut graph = map_reduce(1, 1);
    graph.stages[0].determinism = Determinism::Indeterminate;
    graph.stages.push(super::fixture::stage(
        2,
        1,
        &[(1, crate::plan::ReadKind::OwnPartition)],
        2,
    ));
    graph.exchanges.push(super::fixture::exchange(
        2,
        crate::plan::ExchangeKind::Forward,
        1,
        &[2],
    ));
    graph.result = crate::ids::ExchangeId(2);
    let mut query = Query::new(graph, policy());
    query.join("a", 1);
    query.run(wrote("a", attempt(0, 0, 0), &[KIB]));
    query.run(wrote("a", attempt(1, 0, 0), &[KIB * KIB]));
    assert_eq!(reduce(&query, 2).partition_bytes_histogram, [0, 0, 0, 1]);
    query.lose("a");
    query.join("b", 1);
    assert_eq!(stage(&query, 0).running, 1);
    assert_eq!(reduce(&query, 2).partition_bytes_histogram, [0; 0]);
}

#[test]
fn the_first_chunk_and_row_of_any_attempt_are_the_stages() {
    let mut query = Query::new(map_reduce(1, 2), policy());
    query.join("a", 2);
    let firsts = |chunk: u64, row: Option<u64>| AttemptMetrics {
        first_chunk_ms: Some(chunk),
        first_reduce_row_ms: row,
        ..AttemptMetrics::default()
    };
    query.run(progressed("a", attempt(0, 0, 0), firsts(1, Some(1))));
    query.now = 100;
    query.run(wrote("a", attempt(0, 0, 0), &[KIB, KIB]));
    assert_eq!(stage(&query, 0).reduce, None);
    query.now = 150;
    query.run(progressed("a", attempt(1, 0, 0), firsts(40, None)));
    query.run(progressed("a", attempt(1, 1, 0), firsts(30, Some(35))));
    query.run(progressed("a", attempt(1, 0, 0), firsts(40, Some(45))));
    let seen = reduce(&query, 1);
    assert_eq!(
        (seen.first_chunk_ms, seen.first_reduce_row_ms),
        (Some(30), Some(35))
    );
    // What has happened stays, whatever becomes of the attempt, and nothing is later than now.
    query.lose("a");
    query.now = 1_000;
    query.join("b", 2);
    let seen = reduce(&query, 1);
    assert_eq!(
        (seen.first_chunk_ms, seen.first_reduce_row_ms),
        (Some(30), Some(35))
    );
    let mut query = Query::new(map_reduce(1, 1), policy());
    query.join("a", 1);
    query.run(wrote("a", attempt(0, 0, 0), &[KIB]));
    query.now = 7;
    query.run(progressed("a", attempt(1, 0, 0), firsts(u64::MAX, None)));
    assert_eq!(reduce(&query, 1).first_chunk_ms, Some(7));
}

#[test]
fn an_output_that_goes_to_disk_after_its_attempts_end_still_counts() {
    let mut query = Query::new(chain(2), policy());
    query.join("a", 1);
    let spilled = |bytes_spilled, shuffle_bytes_spilled| AttemptMetrics {
        rows_out: 5,
        bytes_spilled,
        shuffle_bytes_spilled,
        ..AttemptMetrics::default()
    };
    query.run(Event::AttemptSucceeded {
        worker: worker("a"),
        attempt: attempt(0, 0, 0),
        layout: LayoutId::default(),
        outputs: Vec::new(),
        run: None,
        filters: Vec::new(),
        metrics: spilled(130, 30),
    });
    let later = AttemptMetrics {
        bytes_spilled: 90,
        shuffle_bytes_spilled: 90,
        ..AttemptMetrics::default()
    };
    query.run(progressed("a", attempt(0, 0, 0), later));
    let seen = stage(&query, 0).metrics;
    assert_eq!(
        (seen.bytes_spilled, seen.rows_out),
        (190, 5),
        "100 of operators, 90 of the store"
    );
    // Of others nothing is taken over.
    query.run(progressed("b", attempt(0, 0, 0), spilled(1_000, 1_000)));
    query.run(progressed("a", attempt(0, 0, 7), spilled(1_000, 1_000)));
    assert_eq!(stage(&query, 0).metrics.bytes_spilled, 190);
}

#[test]
fn the_window_is_the_one_that_attempts_are_told() {
    let wide = Policy {
        reduce_fetch_window_partitions: 9,
        ..policy()
    };
    let query = Query::new(chain(2), wide);
    let seen = reduce(&query, 1);
    assert_eq!(
        (seen.planned_reduce_tasks, seen.reduce_fetch_window_partitions),
        (1, 9)
    );
    assert_eq!(
        seen.partition_bytes_histogram, [0; 0],
        "one task reads all partitions"
    );
}
