//! Inputs without rows: what reads them need not run.

use super::fixture::{
    Query, assigned, assignments, attempt, cancelled, exchange, outcome, policy, stage, succeeded, wrote,
};
use crate::coordinator::{Action, Event, Outcome, Policy};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, ExchangeId, StageEpoch};
use crate::message::Writer;
use crate::plan::{Determinism, ExchangeKind, ReadKind, StageGraph};
use crate::snapshot::{StageSnapshot, StageState};
use crate::time::Instant;

/// s0 (two tasks) is the side without which the join s2 has no rows, s1 (four tasks) the other one.
fn join_as_root() -> StageGraph {
    let mut graph = StageGraph {
        stages: vec![
            stage(0, 2, &[], 0),
            stage(1, 4, &[], 1),
            stage(
                2,
                2,
                &[(0, ReadKind::OwnPartition), (1, ReadKind::OwnPartition)],
                2,
            ),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Hash, 2, &[0]),
            exchange(1, ExchangeKind::Hash, 2, &[1]),
            exchange(2, ExchangeKind::Forward, 1, &[2]),
        ],
        result: ExchangeId(2),
        ordered: false,
        filters: Vec::new(),
    };
    graph.stages[2].inputs[0].empty_ends = true;
    graph
}

/// The same join below s3, which counts its rows in one task.
fn join_below_a_count() -> StageGraph {
    let mut graph = join_as_root();
    graph.stages.push(stage(3, 1, &[(2, ReadKind::AllPartitions)], 3));
    graph.exchanges.push(exchange(3, ExchangeKind::Forward, 1, &[3]));
    graph.result = ExchangeId(3);
    graph
}

/// Both tasks of s0 win without a row; answers with what follows.
fn without_rows(query: &mut Query) -> Vec<Action> {
    query.run(succeeded("a", attempt(0, 0, 0)));
    query.run(succeeded("a", attempt(0, 1, 0)))
}

fn seen(query: &Query) -> Vec<StageSnapshot> {
    query.machine.snapshot(Instant(query.now)).stages
}

fn skipped(query: &Query) -> Vec<(StageState, u32)> {
    let stages = seen(query).into_iter();
    stages.map(|stage| (stage.state, stage.skipped)).collect()
}

/// What the first assigned attempt reads, by writing stage.
fn reads(actions: &[Action]) -> Vec<Writer> {
    let (_, assignment) = assignments(actions).remove(0);
    assignment
        .inputs
        .into_iter()
        .flat_map(|input| input.writers)
        .collect()
}

fn only(stage: u32, tasks: u32, only: &[u32]) -> Writer {
    Writer {
        stage: crate::ids::StageId(stage),
        tasks,
        only: Some(only.to_vec()),
    }
}

#[test]
fn a_join_with_an_empty_side_runs_nothing_and_ends_the_other_side() {
    let mut query = Query::new(join_below_a_count(), policy());
    assert_eq!(assigned(&query.join("a", 4)).len(), 4);
    let then = without_rows(&mut query);
    let stopped: Vec<AttemptId> = cancelled(&then);
    assert_eq!(
        stopped,
        (0..3).map(|task| attempt(1, task, 0)).collect::<Vec<_>>()
    );
    assert_eq!(
        assigned(&then),
        [("a".to_owned(), attempt(3, 0, 0))],
        "the count of no rows is a row"
    );
    assert_eq!(reads(&then), [only(2, 2, &[])]);
    assert_eq!(
        skipped(&query),
        [
            (StageState::Done, 0),
            (StageState::Done, 4),
            (StageState::Done, 2),
            (StageState::Running, 0)
        ]
    );
    query.run(succeeded("a", attempt(3, 0, 0)));
    assert_eq!(outcome(&query.run(Event::ResultDelivered)), Outcome::Succeeded);
}

#[test]
fn an_empty_join_that_is_the_result_runs_over_what_is_there() {
    let mut query = Query::new(join_as_root(), policy());
    query.join("a", 4);
    query.run(wrote("a", attempt(1, 0, 0), &[5, 5]));
    let then = without_rows(&mut query);
    assert_eq!(cancelled(&then).len(), 3);
    assert_eq!(
        assigned(&then).len(),
        1,
        "slots of cancelled attempts are not free yet"
    );
    let zero = Writer {
        stage: crate::ids::StageId(0),
        tasks: 2,
        only: None,
    };
    assert_eq!(reads(&then), [zero, only(1, 4, &[0])]);
    assert_eq!(skipped(&query)[1], (StageState::Done, 3));
    assert_eq!(
        skipped(&query)[2],
        (StageState::Running, 0),
        "somebody has to hand out no rows"
    );
}

#[test]
fn a_join_whose_sides_have_rows_or_that_needs_none_runs() {
    let off = Policy {
        joins: None,
        ..policy()
    };
    let mut outer = join_below_a_count();
    outer.stages[2].inputs[0].empty_ends = false;
    for (graph, policy) in [(outer, policy()), (join_below_a_count(), off)] {
        let mut query = Query::new(graph, policy);
        query.join("a", 4);
        let then = without_rows(&mut query);
        assert_eq!(cancelled(&then), []);
        assert!(seen(&query).iter().all(|stage| stage.skipped == 0));
    }
    let mut query = Query::new(join_below_a_count(), policy());
    query.join("a", 4);
    query.run(wrote("a", attempt(0, 0, 0), &[0, 8]));
    let then = query.run(succeeded("a", attempt(0, 1, 0)));
    assert_eq!(cancelled(&then), [], "one task has written a row");
}

#[test]
fn the_other_side_goes_on_for_others_that_read_it() {
    // s3 reads the other side of the join, too; s4 reads both.
    let mut graph = join_below_a_count();
    graph.stages[3] = stage(3, 2, &[(1, ReadKind::OwnPartition)], 3);
    let both = [(2, ReadKind::AllPartitions), (3, ReadKind::AllPartitions)];
    graph.stages.push(stage(4, 1, &both, 4));
    graph.exchanges.push(exchange(4, ExchangeKind::Forward, 1, &[4]));
    graph.result = ExchangeId(4);
    let mut query = Query::new(graph, policy());
    query.join("a", 4);
    let then = without_rows(&mut query);
    assert_eq!(cancelled(&then), []);
    assert_eq!(skipped(&query)[1].1, 0);
    assert_eq!(skipped(&query)[2], (StageState::Done, 2));
}

#[test]
fn joins_above_an_empty_one_are_empty_too() {
    // s3 joins what s2 writes with the whole of s1 once more; s4 counts.
    let mut graph = join_below_a_count();
    graph.stages[3] = stage(
        3,
        2,
        &[(2, ReadKind::AllPartitions), (1, ReadKind::OwnPartition)],
        3,
    );
    graph.stages[3].inputs[0].empty_ends = true;
    graph.stages.push(stage(4, 1, &[(3, ReadKind::AllPartitions)], 4));
    graph.exchanges.push(exchange(4, ExchangeKind::Forward, 1, &[4]));
    graph.result = ExchangeId(4);
    let mut query = Query::new(graph, policy());
    query.join("a", 4);
    let then = without_rows(&mut query);
    assert_eq!(cancelled(&then).len(), 3);
    assert_eq!(assigned(&then), [("a".to_owned(), attempt(4, 0, 0))]);
    let done: Vec<_> = skipped(&query).into_iter().map(|(_, skipped)| skipped).collect();
    assert_eq!(done, [0, 4, 2, 2, 0]);
}

/// The side without rows is lost and has some when it runs again.
fn runs_again_with_rows(mut graph: StageGraph, reader: AttemptId) -> (Query, Vec<Action>) {
    let last = graph.stages.len() - 1;
    for stage in [0, 2, last] {
        graph.stages[stage].determinism = Determinism::Indeterminate;
    }
    // Both are read by the last stage, so that the empty side is needed when it is lost.
    if last > 2 {
        let zero = graph.stages[2].inputs[0];
        graph.stages[last].inputs.push(zero);
        graph.stages[last].inputs[1].read = ReadKind::AllPartitions;
        graph.stages[last].inputs[1].empty_ends = false;
    }
    let mut query = Query::new(graph, policy());
    query.join("a", 4);
    without_rows(&mut query);
    for task in 0..3 {
        query.fail("a", attempt(1, task, 0), AttemptFailure::Cancelled);
    }
    let lost = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 1, 0),
        error: FetchError::Corrupt,
    };
    let again = query.fail("a", reader, lost);
    assert_eq!(
        assigned(&again).first().map(|(_, id)| *id),
        Some(attempt(0, 1, 1))
    );
    let then = query.run(wrote("a", attempt(0, 1, 1), &[4, 4]));
    (query, then)
}

#[test]
fn what_was_ended_runs_if_the_empty_side_has_rows_when_it_runs_again() {
    let (query, _) = runs_again_with_rows(join_below_a_count(), attempt(3, 0, 0));
    let running: Vec<u32> = seen(&query).iter().map(|stage| stage.running).collect();
    assert_eq!(running[1], 4, "the other side is read after all");
    assert!(
        skipped(&query).iter().all(|(_, skipped)| *skipped == 0),
        "{:?}",
        skipped(&query)
    );
}

#[test]
fn the_inputs_of_an_empty_result_run_if_it_is_not_empty_after_all() {
    let (mut query, _) = runs_again_with_rows(join_as_root(), attempt(2, 0, 0));
    assert_eq!(skipped(&query)[1].1, 0);
    assert_eq!(
        seen(&query)[1].running,
        3,
        "the other side is read after all, one slot has a cancelled attempt"
    );
    let joined = loop {
        let next = query.machine.stages.running_attempts().next();
        let next = next.map(|attempt| attempt.id).expect("the query goes on");
        let then = query.run(wrote("a", next, &[9, 9]));
        if assigned(&then).iter().any(|(_, id)| id.stage.0 == 2) {
            break then;
        }
    };
    assert_eq!(assigned(&joined)[0].1.stage_epoch, StageEpoch(1));
    assert!(reads(&joined).iter().all(|writer| writer.only.is_none()));
}
