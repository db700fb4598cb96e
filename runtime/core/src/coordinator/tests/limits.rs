//! Limits: tasks that need not run once there are enough rows.

use super::fixture::{
    Query, assigned, assignments, attempt, cancelled, client_updates, exchange, in_epoch, outcome, policy,
    retired, stage, states_at, succeeded,
};
use crate::coordinator::{Action, Event, Outcome};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, StageId};
use crate::message::{InputState, MapOutputPartitionMeta, Writer};
use crate::plan::{Determinism, ExchangeKind, ReadKind, StageGraph};
use crate::snapshot::{StageSnapshot, StageState};
use crate::time::Instant;

const LIMIT: AttemptId = attempt_of_limit(0);

const fn attempt_of_limit(number: u32) -> AttemptId {
    AttemptId {
        stage: StageId(1),
        stage_epoch: crate::ids::StageEpoch(0),
        task: 0,
        attempt: number,
    }
}

/// `scans` tasks of s0, of whose rows s1 takes ten.
fn limited(scans: u32) -> StageGraph {
    let mut graph = StageGraph {
        stages: vec![
            stage(0, scans, &[], 0),
            stage(1, 1, &[(0, ReadKind::AllPartitions)], 1),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Forward, 1, &[0]),
            exchange(1, ExchangeKind::Forward, 1, &[1]),
        ],
        result: crate::ids::ExchangeId(1),
        filters: Vec::new(),
        ordered: false,
    };
    graph.exchanges[0].fetch = Some(10);
    graph.stages[1].determinism = Determinism::Indeterminate;
    graph
}

fn wrote(name: &str, id: AttemptId, rows: u64) -> Event {
    let mut event = succeeded(name, id);
    if let Event::AttemptSucceeded { outputs, .. } = &mut event {
        outputs.push(MapOutputPartitionMeta {
            partition: 0,
            bytes: 8 * rows,
            rows,
        });
    }
    event
}

fn scan(query: &Query) -> StageSnapshot {
    query.machine.snapshot(Instant(query.now)).stages[0].clone()
}

/// What the first assigned attempt reads of the scan.
fn reads(actions: &[Action]) -> Writer {
    let (_, assignment) = assignments(actions).remove(0);
    assignment.inputs[0].writers[0].clone()
}

fn only(tasks: u32, only: &[u32]) -> Writer {
    Writer {
        stage: StageId(0),
        tasks,
        only: Some(only.to_vec()),
    }
}

#[test]
fn a_limit_with_enough_rows_ends_the_tasks_that_run_and_those_that_wait() {
    let mut query = Query::new(limited(100), policy());
    assert_eq!(assigned(&query.join("a", 3)).len(), 3);
    let next = query.run(wrote("a", attempt(0, 1, 0), 6));
    assert_eq!(
        assigned(&next),
        [("a".to_owned(), attempt(0, 3, 0))],
        "six are not enough"
    );
    let enough = query.run(wrote("a", attempt(0, 3, 0), 4));
    assert_eq!(cancelled(&enough), [attempt(0, 0, 0), attempt(0, 2, 0)]);
    assert_eq!(assigned(&enough), [("a".to_owned(), LIMIT)]);
    assert_eq!(reads(&enough), only(100, &[1, 3]));
    assert_eq!(
        states_at(&enough, "a"),
        [
            (attempt(0, 1, 0), InputState::Won),
            (attempt(0, 3, 0), InputState::Won)
        ]
    );
    let seen = scan(&query);
    assert_eq!(
        (seen.state, seen.done, seen.skipped, seen.running),
        (StageState::Done, 2, 98, 0)
    );
    // One of the two finished before it heard that it was cancelled.
    assert_eq!(
        retired(&query.run(wrote("a", attempt(0, 0, 0), 9))),
        [attempt(0, 0, 0)]
    );
    assert_eq!(
        client_updates(&query.succeed("a", LIMIT)),
        [(LIMIT, InputState::Won)]
    );
    assert_eq!(outcome(&query.run(Event::ResultDelivered)), Outcome::Succeeded);
}

#[test]
fn a_limit_without_enough_rows_reads_all_tasks() {
    let mut query = Query::new(limited(2), policy());
    query.join("a", 2);
    query.run(wrote("a", attempt(0, 0, 0), 3));
    let all = query.run(wrote("a", attempt(0, 1, 0), 3));
    let everything = Writer {
        stage: StageId(0),
        tasks: 2,
        only: None,
    };
    assert_eq!(reads(&all), everything);
    assert_eq!(scan(&query).skipped, 0);
}

#[test]
fn a_limit_over_a_union_counts_the_rows_of_all_branches() {
    // s0 and s2 write the exchange that s3 reads; s2 reads s1.
    let mut graph = limited(2);
    graph.stages = vec![
        stage(0, 2, &[], 0),
        stage(1, 4, &[], 1),
        stage(2, 2, &[(1, ReadKind::OwnPartition)], 0),
        stage(3, 1, &[(0, ReadKind::AllPartitions)], 2),
    ];
    graph.exchanges = vec![
        exchange(0, ExchangeKind::Forward, 1, &[0, 2]),
        exchange(1, ExchangeKind::Hash, 2, &[1]),
        exchange(2, ExchangeKind::Forward, 1, &[3]),
    ];
    graph.exchanges[0].fetch = Some(10);
    graph.result = crate::ids::ExchangeId(2);
    let mut query = Query::new(graph, policy());
    query.join("a", 6);
    let enough = query.run(wrote("a", attempt(0, 1, 0), 10));
    let stopped: Vec<AttemptId> = (0..4).map(|task| attempt(1, task, 0)).collect();
    assert_eq!(cancelled(&enough)[0], attempt(0, 0, 0));
    assert_eq!(
        cancelled(&enough)[1..],
        stopped,
        "nobody reads what the other branch scans"
    );
    let (_, limit) = assignments(&enough).remove(0);
    let writers: Vec<_> = limit.inputs[0]
        .writers
        .iter()
        .map(|writer| writer.only.clone())
        .collect();
    assert_eq!(writers, [Some(vec![1]), Some(Vec::new())]);
    let seen = query.machine.snapshot(Instant(0)).stages;
    let skipped: Vec<_> = seen.iter().map(|stage| (stage.state, stage.skipped)).collect();
    assert_eq!(
        skipped[..3],
        [
            (StageState::Done, 1),
            (StageState::Done, 4),
            (StageState::Done, 2)
        ]
    );
}

#[test]
fn what_a_limit_reads_and_loses_runs_again_and_nothing_else() {
    let mut query = Query::new(limited(9), policy());
    query.join("a", 1);
    query.run(wrote("a", attempt(0, 0, 0), 6));
    query.join("b", 1);
    let enough = query.run(wrote("a", attempt(0, 1, 0), 6));
    assert_eq!(reads(&enough), only(9, &[0, 1]));
    let reader = assigned(&enough).remove(0);
    assert_eq!(reader.1, LIMIT);
    let again = query.fail(
        &reader.0,
        LIMIT,
        AttemptFailure::FetchFailed {
            map_attempt: attempt(0, 1, 0),
            error: FetchError::Corrupt,
        },
    );
    assert_eq!(
        assigned(&again).first().map(|(_, id)| *id),
        Some(attempt(0, 1, 1))
    );
    assert_eq!(scan(&query).skipped, 7);
    let worker = assigned(&again).remove(0).0;
    let second = query.run(wrote(&worker, attempt(0, 1, 1), 6));
    assert_eq!(
        assigned(&second).last().map(|(_, id)| *id),
        Some(attempt_of_limit(1))
    );
    assert_eq!(reads(&second), only(9, &[0, 1]));
}

#[test]
fn tasks_that_were_skipped_run_if_rows_are_lost_before_they_are_read() {
    let mut query = Query::new(limited(4), policy());
    query.join("a", 1);
    query.run(wrote("a", attempt(0, 0, 0), 6));
    // No slot is left for the limit itself.
    query.handle(wrote("a", attempt(0, 1, 0), 6));
    assert_eq!(scan(&query).skipped, 2);
    query.lose("a");
    let seen = scan(&query);
    assert_eq!(
        (seen.state, seen.skipped, seen.done),
        (StageState::Schedulable, 0, 0)
    );
    let again = query.join("b", 4);
    assert_eq!(assigned(&again).len(), 4);
}

#[test]
fn a_second_run_with_fewer_rows_needs_tasks_that_were_skipped() {
    let mut graph = limited(4);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut query = Query::new(graph, policy());
    query.join("a", 2);
    query.run(wrote("a", attempt(0, 0, 0), 6));
    let enough = query.run(wrote("a", attempt(0, 1, 0), 6));
    // Task 2 had begun in the slot of task 0.
    assert_eq!(cancelled(&enough), [attempt(0, 2, 0)]);
    assert_eq!(reads(&enough), only(4, &[0, 1]));
    query.fail("a", attempt(0, 2, 0), AttemptFailure::Cancelled);
    let lost = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 1, 0),
        error: FetchError::Corrupt,
    };
    query.fail("a", LIMIT, lost);
    let started = assigned(&query.run(wrote("a", attempt(0, 1, 1), 1)));
    let started: Vec<AttemptId> = started.into_iter().map(|(_, id)| id).collect();
    assert_eq!(
        started,
        [attempt(0, 2, 1), attempt(0, 3, 0)],
        "seven rows are not enough"
    );
    let limit = query.run(wrote("a", attempt(0, 2, 1), 9));
    assert_eq!(cancelled(&limit), [attempt(0, 3, 0)]);
    assert_eq!(assigned(&limit)[0].1, in_epoch(1, attempt_of_limit(1)));
    assert_eq!(reads(&limit), only(4, &[0, 1, 2]));
}
