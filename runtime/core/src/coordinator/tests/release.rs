//! Outputs that were read: when they are dropped, and what a loss after that costs.

use super::fixture::{
    Query, assigned, attempt, chain, client_updates, in_epoch, map_reduce, outcome, policy, retired,
    sink_policy, worker,
};
use crate::coordinator::{Event, Outcome, Policy};
use crate::ids::AttemptId;
use crate::message::InputState;
use crate::plan::{Determinism, StageGraph};
use crate::snapshot::{StageSnapshot, StageState};
use crate::time::Instant;
use sluice_crds::shuffle_query::ShuffleRetention;

fn until_read() -> Policy {
    Policy {
        retention: ShuffleRetention::UntilRead,
        ..policy()
    }
}

fn seen(query: &Query, stage: usize) -> StageSnapshot {
    query.machine.snapshot(Instant(query.now)).stages[stage].clone()
}

/// A chain of three tasks on "a", of which the first two have won.
fn two_of_three(graph: StageGraph, policy: Policy) -> (Query, Vec<AttemptId>) {
    let mut query = Query::new(graph, policy);
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    let retired = retired(&query.succeed("a", attempt(1, 0, 0)));
    (query, retired)
}

#[test]
fn an_output_is_dropped_when_its_last_reader_has_won() {
    let mut query = Query::new(map_reduce(2, 2), until_read());
    query.join("a", 2);
    query.succeed("a", attempt(0, 0, 0));
    query.succeed("a", attempt(0, 1, 0));
    assert_eq!(
        retired(&query.succeed("a", attempt(1, 1, 0))),
        [],
        "one reader is at work"
    );
    let last = query.succeed("a", attempt(1, 0, 0));
    assert_eq!(retired(&last), [attempt(0, 0, 0), attempt(0, 1, 0)]);
    let maps = seen(&query, 0);
    assert_eq!((maps.state, maps.done, maps.skipped), (StageState::Done, 2, 0));
    assert_eq!(maps.metrics.rows_out, 20, "what it wrote is still counted");
    assert_eq!(outcome(&query.run(Event::ResultDelivered)), Outcome::Succeeded);
}

#[test]
fn an_output_is_kept_until_the_end_if_that_is_asked_for() {
    let (_, retired) = two_of_three(chain(3), policy());
    assert_eq!(retired, []);
}

#[test]
fn what_nobody_can_need_is_not_made_again_when_it_is_lost() {
    let (mut query, retired) = two_of_three(chain(3), until_read());
    assert_eq!(retired, [attempt(0, 0, 0)]);
    query.join("b", 1);
    query.succeed("a", attempt(2, 0, 0));
    // The result is on a, and so is its input, which was released.
    let again = query.lose("a");
    assert_eq!(assigned(&again), [("b".to_owned(), attempt(0, 0, 1))]);
    let back = query.join_holding(&worker("a"), 1, &[attempt(2, 0, 0)]);
    assert_eq!(client_updates(&back), [(attempt(2, 0, 0), InputState::Won)]);
    assert_eq!(
        seen(&query, 0).running,
        0,
        "the result is there: nobody needs its inputs"
    );
}

#[test]
fn a_loss_after_the_release_runs_the_whole_chain_again() {
    let (mut query, _) = two_of_three(chain(3), until_read());
    query.join("b", 1);
    let again = query.lose("a");
    assert_eq!(assigned(&again), [("b".to_owned(), attempt(0, 0, 1))]);
    assert_eq!(seen(&query, 0).lost_attempts, 1);
    assert_eq!(
        assigned(&query.succeed("b", attempt(0, 0, 1))),
        [("b".to_owned(), attempt(1, 0, 1))]
    );
    let second = query.succeed("b", attempt(1, 0, 1));
    assert_eq!(retired(&second), [attempt(0, 0, 1)]);
    assert_eq!(assigned(&second), [("b".to_owned(), attempt(2, 0, 1))]);
    let last = query.succeed("b", attempt(2, 0, 1));
    assert_eq!(client_updates(&last), [(attempt(2, 0, 1), InputState::Won)]);
    for stage in query.machine.snapshot(Instant(0)).stages {
        let ended = stage.done + stage.lost_attempts + stage.cancelled_attempts;
        assert_eq!(stage.attempts, ended, "{stage:?}");
    }
}

#[test]
fn only_what_is_lost_runs_again_of_readers_whose_inputs_were_released() {
    // s0 -> s1 (two tasks, one on each worker) -> s2.
    let mut graph = map_reduce(1, 2);
    graph.stages.push(super::fixture::stage(
        2,
        1,
        &[(1, crate::plan::ReadKind::AllPartitions)],
        2,
    ));
    graph.exchanges.push(super::fixture::exchange(
        2,
        crate::plan::ExchangeKind::Forward,
        1,
        &[2],
    ));
    graph.result = crate::ids::ExchangeId(2);
    let mut query = Query::new(graph, until_read());
    query.join("a", 1);
    query.join("b", 1);
    let readers = assigned(&query.succeed("a", attempt(0, 0, 0)));
    let [(first, of_first), (second, of_second)] = readers.as_slice() else {
        panic!("two readers: {readers:?}");
    };
    query.succeed(first, *of_first);
    assert_eq!(retired(&query.succeed(second, *of_second)), [attempt(0, 0, 0)]);
    // The reader of both runs on one of them.
    let again = assigned(&query.lose(second));
    assert_eq!(seen(&query, 0).lost_attempts, 1);
    assert_eq!(seen(&query, 1).done, 1);
    let again = again.into_iter().chain(assigned(&query.tick_at(600)));
    let again: Vec<AttemptId> = again.map(|(_, id)| id).collect();
    assert_eq!(again, [attempt(0, 0, 1)]);
    let next = assigned(&query.succeed(first, attempt(0, 0, 1)));
    let next: Vec<AttemptId> = next.into_iter().map(|(_, id)| id).collect();
    assert_eq!(
        next,
        [AttemptId {
            attempt: 1,
            ..*of_second
        }]
    );
}

#[test]
fn readers_of_a_released_output_with_other_rows_start_over() {
    let mut graph = map_reduce(1, 2);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut query = Query::new(graph, until_read());
    query.join("a", 1);
    query.join("b", 1);
    let readers = assigned(&query.succeed("a", attempt(0, 0, 0)));
    for (worker, reader) in &readers {
        query.succeed(worker, *reader);
    }
    let [(kept_at, kept), (lost_at, lost)] = readers.as_slice() else {
        panic!("two readers: {readers:?}");
    };
    let again = query.lose(lost_at);
    assert_eq!(assigned(&again), [(kept_at.clone(), attempt(0, 0, 1))]);
    let told = client_updates(&again);
    assert_eq!(told[0], (*lost, InputState::Lost));
    let superseded = [attempt(1, 0, 0), attempt(1, 1, 0)].map(|id| (id, InputState::Superseded));
    assert_eq!(told[1..], superseded, "{kept} has rows of the first run");
    let next = query.succeed(kept_at, attempt(0, 0, 1));
    assert_eq!(assigned(&next)[0].1, in_epoch(1, attempt(1, 0, 1)));
}

#[test]
fn files_of_a_sink_need_no_inputs_any_more() {
    let policy = Policy {
        retention: ShuffleRetention::UntilRead,
        ..sink_policy()
    };
    let mut query = Query::new(map_reduce(1, 2), policy);
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    query.succeed("a", attempt(1, 0, 0));
    query.join("b", 1);
    // The file of task 0 is not lost with a, but task 1 still needs its input.
    let again = query.lose("a");
    assert_eq!(assigned(&again), [("b".to_owned(), attempt(0, 0, 1))]);
    assert_eq!(seen(&query, 1).done, 1);
}
