//! Lost workers, lost outputs, and what runs again.

use super::fixture::{
    Query, assigned, attempt, cancelled, chain, client_updates, failed, failure, in_epoch, map_reduce,
    policy, retired, sink_policy, states_at, succeeded, worker,
};
use crate::coordinator::{Action, Event, Outcome};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, Incarnation, WorkerId};
use crate::locality::NodeLocation;
use crate::message::{InputState, Recovered};
use crate::plan::Determinism;
use crate::time::Instant;
use sluice_crds::ErrorReason;

fn on(name: &str, id: AttemptId) -> (String, AttemptId) {
    (name.to_owned(), id)
}

fn fetch_failed(map_attempt: AttemptId, error: FetchError) -> AttemptFailure {
    AttemptFailure::FetchFailed { map_attempt, error }
}

/// Two maps, one on `a` and one on `b`, both won; the reduce attempt runs on `a`.
fn reduce_runs() -> Query {
    let mut query = Query::new(map_reduce(2, 1), policy());
    query.handle(Event::WorkerJoined {
        worker: worker("a"),
        slots: 1,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    query.join("b", 1);
    query.run(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    let state = query.machine.snapshot(Instant(0));
    assert_eq!(state.stages[0].running, 2);
    query.succeed("b", attempt(0, 0, 0));
    let reduce = query.succeed("a", attempt(0, 1, 0));
    assert_eq!(assigned(&reduce), [on("a", attempt(1, 0, 0))]);
    query
}

#[test]
fn a_lost_workers_attempts_run_elsewhere_uncounted() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.join("b", 1);
    assert_eq!(assigned(&query.lose("a")), [on("b", attempt(0, 0, 1))]);
    let stage = query.machine.snapshot(Instant(0)).stages.remove(0);
    assert_eq!(
        (stage.failed_attempts, stage.lost_attempts, stage.attempts),
        (0, 1, 2)
    );
}

#[test]
fn a_lost_output_runs_again_and_its_readers_hear_of_it() {
    let mut query = reduce_runs();
    let lost = query.lose("b");
    assert_eq!(states_at(&lost, "a"), [(attempt(0, 0, 0), InputState::Lost)]);
    let again = query.join("c", 1);
    assert_eq!(assigned(&again), [on("c", attempt(0, 0, 1))], "and nothing else");
    let won = query.succeed("c", attempt(0, 0, 1));
    assert_eq!(states_at(&won, "a"), [(attempt(0, 0, 1), InputState::Won)]);
    assert_eq!(assigned(&won), []);
}

/// A query with a sink: one of two root tasks has won on `a`, together with the only map task; the other runs on `b`.
fn half_written(determinism: Determinism) -> Query {
    let mut graph = map_reduce(1, 2);
    graph.stages[0].determinism = determinism;
    let mut query = Query::new(graph, sink_policy());
    query.join("a", 1);
    let root = query.succeed("a", attempt(0, 0, 0));
    assert_eq!(assigned(&root), [on("a", attempt(1, 0, 0))]);
    assert_eq!(assigned(&query.join("b", 1)), [on("b", attempt(1, 1, 0))]);
    query.succeed("a", attempt(1, 0, 0));
    query
}

#[test]
fn a_file_of_the_sink_outlives_its_worker() {
    for returns in [false, true] {
        let mut query = half_written(Determinism::Unordered);
        let lost = query.lose("a");
        assert_eq!(states_at(&lost, "b"), [(attempt(0, 0, 0), InputState::Lost)]);
        assert_eq!(query.machine.snapshot(Instant(0)).stages[1].done, 1);
        assert_eq!(
            assigned(&query.join("c", 1)),
            [on("c", attempt(0, 0, 1))],
            "and nothing else"
        );
        if returns {
            // With the output of the root task, or without: its file counts, and the output is not dropped for it.
            let back = query.join_holding(&worker("a"), 1, &[attempt(1, 0, 0)]);
            assert_eq!(retired(&back), []);
        }
        query.succeed("c", attempt(0, 0, 1));
        let commit = query.succeed("b", attempt(1, 1, 0));
        let winners = vec![attempt(1, 0, 0), attempt(1, 1, 0)];
        assert!(commit.contains(&Action::CommitSink { winners }), "{commit:?}");
        assert_eq!(query.machine.snapshot(Instant(0)).stages[1].attempts, 2);
    }
}

#[test]
fn a_file_of_other_rows_does_not() {
    let mut query = half_written(Determinism::Indeterminate);
    query.lose("a");
    query.join("c", 1);
    assert_eq!(
        query.machine.snapshot(Instant(0)).stages[1].done,
        0,
        "the map task makes other rows: all that read it start over"
    );
}

#[test]
fn what_nobody_needs_does_not_run_again() {
    let mut query = Query::new(chain(3), policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    query.run(Event::WorkerDrained { worker: worker("a") });
    query.succeed("a", attempt(1, 0, 0));
    query.join("b", 1);
    query.join("c", 1);
    let reading = query.machine.snapshot(Instant(0));
    assert_eq!(reading.stages[2].running, 1);
    // s0 and s1 were on `a`. s2 still needs s1, and s1, to run again, needs s0.
    let lost = query.lose("a");
    assert_eq!(assigned(&lost), [on("c", attempt(0, 0, 1))]);
    let next = query.succeed("c", attempt(0, 0, 1));
    assert_eq!(assigned(&next), [on("c", attempt(1, 0, 1))]);
    query.succeed("c", attempt(1, 0, 1));
    // s2 wins: the outputs that it read may go.
    query.succeed("b", attempt(2, 0, 0));
    assert_eq!(assigned(&query.lose("c")), []);
    assert_eq!(query.run(Event::ResultDelivered).len(), 1);
}

#[test]
fn a_fetch_failure_on_the_winner_reruns_it() {
    let mut query = reduce_runs();
    let actions = query.fail(
        "a",
        attempt(1, 0, 0),
        fetch_failed(attempt(0, 0, 0), FetchError::Corrupt),
    );
    assert_eq!(retired(&actions), [attempt(0, 0, 0)]);
    let tasks: Vec<AttemptId> = assigned(&actions).into_iter().map(|(_, id)| id).collect();
    assert_eq!(tasks, [attempt(0, 0, 1)]);
    let state = query.machine.snapshot(Instant(0));
    assert_eq!(state.stages[1].failed_attempts, 0);
    let (runner, _) = assigned(&actions).remove(0);
    let reduce = query.succeed(&runner, attempt(0, 0, 1));
    let tasks: Vec<AttemptId> = assigned(&reduce).into_iter().map(|(_, id)| id).collect();
    assert_eq!(tasks, [attempt(1, 0, 1)]);
}

#[test]
fn a_fetch_failure_on_a_superseded_attempt_only_requeues() {
    let mut query = reduce_runs();
    query.lose("b");
    query.join("c", 1);
    query.succeed("c", attempt(0, 0, 1));
    let late = fetch_failed(attempt(0, 0, 0), FetchError::Unreachable);
    let actions = query.fail("a", attempt(1, 0, 0), late);
    let tasks: Vec<AttemptId> = assigned(&actions).into_iter().map(|(_, id)| id).collect();
    assert_eq!(tasks, [attempt(1, 0, 1)]);
}

#[test]
fn a_worker_whose_outputs_cannot_be_fetched_is_excluded() {
    let mut query = Query::new(chain(2), policy());
    query.join("a", 1);
    for number in 0..3 {
        query.succeed("a", attempt(0, 0, number));
        let error = fetch_failed(attempt(0, 0, number), FetchError::StorageFailed);
        let last = query.fail("a", attempt(1, 0, number), error);
        if number == 2 {
            let failure = failure(&last);
            assert_eq!(failure.reason, ErrorReason::FetchFailed);
            assert_eq!(failure.attempt, Some(attempt(0, 0, 0)));
        }
    }
}

#[test]
fn a_silent_worker_is_dropped() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    assert_eq!(query.machine.next_deadline().map(|at| at.0), Some(15_000));
    query.now = 14_000;
    query.run(Event::WorkerHeard { worker: worker("a") });
    assert_eq!(query.tick_at(28_999), []);
    let actions = query.tick_at(29_000);
    assert_eq!(actions, [Action::DropWorker { worker: worker("a") }]);
    assert_eq!(query.machine.snapshot(Instant(29_000)).workers, 0);
}

#[test]
fn a_returning_worker_brings_its_winners_back() {
    let mut query = reduce_runs();
    query.lose("b");
    let stale = attempt(0, 0, 7);
    let back = query.join_holding(&worker("b"), 1, &[attempt(0, 0, 0), stale]);
    assert_eq!(states_at(&back, "a"), [(attempt(0, 0, 0), InputState::Won)]);
    assert_eq!(retired(&back), [stale]);
    assert_eq!(assigned(&back), []);
    assert_eq!(query.machine.snapshot(Instant(0)).stages[0].done, 2);
}

#[test]
fn a_returning_winner_stops_the_attempt_that_replaced_it() {
    let mut query = reduce_runs();
    query.lose("b");
    query.join("c", 1);
    let back = query.join_holding(&worker("b"), 1, &[attempt(0, 0, 0)]);
    assert_eq!(cancelled(&back), [attempt(0, 0, 1)]);
    // It finished before the cancel came: one winner a task.
    assert_eq!(retired(&query.succeed("c", attempt(0, 0, 1))), [attempt(0, 0, 1)]);
}

#[test]
fn a_replaced_winner_does_not_come_back() {
    let mut query = reduce_runs();
    query.lose("b");
    query.join("c", 1);
    query.succeed("c", attempt(0, 0, 1));
    let back = query.join_holding(&worker("b"), 1, &[attempt(0, 0, 0)]);
    assert_eq!(retired(&back), [attempt(0, 0, 0)]);
    assert_eq!(states_at(&back, "a"), []);
}

#[test]
fn a_restarted_worker_brings_nothing_back() {
    let mut query = reduce_runs();
    let restarted = WorkerId {
        name: "b".to_owned(),
        incarnation: Incarnation(2),
    };
    let back = query.join_holding(&restarted, 1, &[]);
    assert_eq!(states_at(&back, "a"), [(attempt(0, 0, 0), InputState::Lost)]);
    assert_eq!(assigned(&back), [on("b", attempt(0, 0, 1))]);
    let old = query.join_holding(&worker("b"), 1, &[]);
    assert_eq!(old, [Action::DropWorker { worker: worker("b") }]);
}

#[test]
fn readers_that_hold_all_slots_give_one_up() {
    let mut query = Query::new(map_reduce(2, 2), policy());
    query.join("a", 2);
    query.succeed("a", attempt(0, 0, 0));
    let reduce = query.succeed("a", attempt(0, 1, 0));
    assert_eq!(assigned(&reduce).len(), 2);
    query.handle(Event::ResultFetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::Corrupt,
        partially_delivered: false,
    });
    assert_eq!(cancelled(&query.tick_at(499)), []);
    assert_eq!(cancelled(&query.tick_at(500)), [attempt(1, 1, 0)], "the youngest");
    assert_eq!(cancelled(&query.tick_at(2000)), [], "one at a time");
    let readers = query.machine.snapshot(Instant(2000)).stages.remove(1);
    assert_eq!(
        (
            readers.failed_attempts,
            readers.lost_attempts,
            readers.cancelled_attempts
        ),
        (0, 0, 1)
    );
    let next = query.fail("a", attempt(1, 1, 0), AttemptFailure::Cancelled);
    assert_eq!(assigned(&next), [on("a", attempt(0, 0, 1))]);
}

#[test]
fn an_indeterminate_stage_takes_its_readers_with_it() {
    let mut graph = chain(3);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut query = Query::new(graph, policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    query.run(Event::WorkerDrained { worker: worker("a") });
    query.join("b", 1);
    query.succeed("a", attempt(1, 0, 0));
    query.join("c", 1);
    query.succeed("b", attempt(1, 0, 0));
    let state = query.machine.snapshot(Instant(0));
    assert_eq!((state.stages[1].done, state.stages[2].running), (1, 1));
    // The output of s1 goes, so s0 is needed again, and its rows were read.
    let lost = query.lose("a");
    assert!(cancelled(&lost).contains(&attempt(2, 0, 0)), "{lost:?}");
    assert_eq!(assigned(&lost).last().map(|(_, id)| *id), Some(attempt(0, 0, 1)));
    let (runner, _) = assigned(&lost).remove(0);
    let next = query.succeed(&runner, attempt(0, 0, 1));
    assert_eq!(
        assigned(&next).last().map(|(_, id)| *id),
        Some(in_epoch(1, attempt(1, 0, 1)))
    );
}

#[test]
fn an_unordered_stage_runs_only_the_lost_task_again() {
    let mut query = reduce_runs();
    query.lose("b");
    let again = query.join("c", 1);
    assert_eq!(cancelled(&again), []);
    assert_eq!(assigned(&again), [on("c", attempt(0, 0, 1))]);
}

#[test]
fn the_client_hears_of_lost_and_restored_rows() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    let root = attempt(0, 0, 0);
    assert_eq!(
        client_updates(&query.succeed("a", root)),
        [(root, InputState::Won)]
    );
    query.join("b", 1);
    let lost = query.lose("a");
    assert_eq!(client_updates(&lost), [(root, InputState::Lost)]);
    assert_eq!(assigned(&lost), [on("b", attempt(0, 0, 1))]);
    let stale = query.run(Event::ResultFetchFailed {
        map_attempt: root,
        error: FetchError::Unreachable,
        partially_delivered: false,
    });
    assert_eq!(stale, []);
    let won = query.run(succeeded("b", attempt(0, 0, 1)));
    assert_eq!(client_updates(&won), [(attempt(0, 0, 1), InputState::Won)]);
}

#[test]
fn rows_that_left_cannot_be_taken_back() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    let actions = query.run(Event::ResultFetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::Unreachable,
        partially_delivered: true,
    });
    assert_eq!(failure(&actions).reason, ErrorReason::ResultPartiallyRead);
}

#[test]
fn unread_result_rows_are_made_again() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    let actions = query.run(Event::ResultFetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::Corrupt,
        partially_delivered: false,
    });
    assert_eq!(assigned(&actions), [on("a", attempt(0, 0, 1))]);
    query.succeed("a", attempt(0, 0, 1));
    assert_eq!(
        super::fixture::outcome(&query.run(Event::ResultDelivered)),
        Outcome::Succeeded
    );
}

#[test]
fn an_unread_attempt_runs_again_though_rows_of_others_have_left() {
    let mut graph = chain(1);
    graph.stages[0].tasks = 2;
    let mut query = Query::new(graph, policy());
    query.join("a", 2);
    query.succeed("a", attempt(0, 0, 0));
    query.succeed("a", attempt(0, 1, 0));
    query.run(Event::FirstRowDelivered);
    let actions = query.run(Event::ResultFetchFailed {
        map_attempt: attempt(0, 1, 0),
        error: FetchError::Corrupt,
        partially_delivered: false,
    });
    assert_eq!(client_updates(&actions), [(attempt(0, 1, 0), InputState::Lost)]);
    assert_eq!(assigned(&actions), [on("a", attempt(0, 1, 1))]);
    let again = query.succeed("a", attempt(0, 1, 1));
    assert_eq!(client_updates(&again), [(attempt(0, 1, 1), InputState::Won)]);
    assert_eq!(
        super::fixture::outcome(&query.run(Event::ResultDelivered)),
        Outcome::Succeeded
    );
}

#[test]
fn a_failure_after_the_cancel_does_not_count() {
    let mut query = reduce_runs();
    query.lose("b");
    query.join("c", 1);
    query.join_holding(&worker("b"), 1, &[attempt(0, 0, 0)]);
    assert_eq!(query.fail("c", attempt(0, 0, 1), failed("torn down")), []);
    assert_eq!(query.machine.snapshot(Instant(0)).stages[0].failed_attempts, 0);
}

#[test]
fn the_client_hears_of_every_attempt_that_does_not_count_after_a_restart() {
    let mut graph = map_reduce(1, 1);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut query = Query::new(graph, policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    query.succeed("a", attempt(1, 0, 0));
    // Map and root are gone for good: the client may have the root's rows, which the new run will not make again.
    query.lose("a");
    let again = query.join("b", 1);
    assert_eq!(
        client_updates(&again),
        [(attempt(1, 0, 0), InputState::Superseded)]
    );
    assert_eq!(assigned(&again), [on("b", attempt(0, 0, 1))]);
    let next = query.succeed("b", attempt(0, 0, 1));
    assert_eq!(assigned(&next), [on("b", in_epoch(1, attempt(1, 0, 1)))]);
}

#[test]
fn a_reader_does_not_wait_for_what_nobody_can_make() {
    let mut query = Query::new(map_reduce(1, 2), policy());
    query.join("a", 2);
    query.succeed("a", attempt(0, 0, 0));
    // One reader cannot read the output, the other waits for it, and the only worker takes nothing new.
    query.run(Event::WorkerDrained { worker: worker("a") });
    query.fail(
        "a",
        attempt(1, 0, 0),
        fetch_failed(attempt(0, 0, 0), FetchError::Corrupt),
    );
    assert_eq!(query.machine.snapshot(Instant(0)).stages[1].running, 1);
    for heard in [10_000, 20_000, 29_999] {
        query.now = heard;
        assert_eq!(query.run(Event::WorkerHeard { worker: worker("a") }), []);
    }
    assert_eq!(query.machine.next_deadline(), Some(Instant(30_000)));
    assert_eq!(failure(&query.tick_at(30_000)).reason, ErrorReason::WorkersLost);
}
