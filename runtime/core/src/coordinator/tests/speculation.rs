//! Duplicates of slow attempts.

use std::time::Duration;

use super::fixture::*;
use crate::coordinator::{Action, Event, Outcome, Policy};
use crate::failure::{AttemptFailure, BadInputKind, FetchError};
use crate::ids::{AttemptId, StageId};
use crate::locality::NodeLocation;
use crate::message::{InputState, Recovered};
use crate::snapshot::SpeculationCounts;
use crate::speculation::SpeculationPolicy;
use crate::time::Instant;

fn speculative() -> Policy {
    Policy {
        speculation: Some(SpeculationPolicy {
            min_completed_samples: 5,
            p95_multiplier_percent: 150,
            min_runtime: Duration::from_millis(250),
            max_wasted_percent: 10,
        }),
        ..policy()
    }
}

/// A query of eight map tasks of which seven have won after 100 ms.
struct Slow {
    query: Query,
    /// The attempt of the eighth, and its worker.
    first: AttemptId,
    host: &'static str,
    other: &'static str,
}

/// Four slots at each of two workers.
fn seven_of_eight(policy: Policy) -> Slow {
    let mut query = Query::new(map_reduce(8, 1), policy);
    let mut all = assigned(&query.join("a", 4));
    all.extend(assigned(&query.join("b", 4)));
    assert_eq!(all.len(), 8);
    query.now = 100;
    let (host, first) = all.pop().expect("eight");
    for (worker, attempt) in all {
        query.succeed(&worker, attempt);
    }
    let (host, other) = if host == "a" { ("a", "b") } else { ("b", "a") };
    Slow {
        query,
        first,
        host,
        other,
    }
}

/// The same with its duplicate at work, since 250 ms.
fn duplicated(policy: Policy) -> (Slow, AttemptId) {
    let mut slow = seven_of_eight(policy);
    let started = assigned(&slow.query.tick_at(250));
    let duplicate = attempt(0, slow.first.task, 1);
    assert_eq!(started, [(slow.other.to_owned(), duplicate)]);
    (slow, duplicate)
}

fn counts(query: &Query) -> SpeculationCounts {
    query.machine.snapshot(Instant(query.now)).stages[0].speculation
}

fn counted(launched: u32, won: u32, wasted: u32, wasted_ms: u64) -> SpeculationCounts {
    SpeculationCounts {
        launched,
        won,
        wasted,
        wasted_ms,
    }
}

fn readers(actions: &[Action]) -> Vec<AttemptId> {
    let all = assigned(actions).into_iter().map(|(_, attempt)| attempt);
    all.filter(|attempt| attempt.stage.0 == 1).collect()
}

#[test]
fn a_straggler_is_noticed_in_time_and_not_before() {
    let mut slow = seven_of_eight(speculative());
    assert_eq!(slow.query.machine.next_deadline(), Some(Instant(200)));
    assert_eq!(slow.query.tick_at(200), []);
    assert_eq!(slow.query.machine.next_deadline(), Some(Instant(250)));
    assert_eq!(slow.query.tick_at(249), []);
    let started = assigned(&slow.query.tick_at(250));
    assert_eq!(started, [(slow.other.to_owned(), attempt(0, slow.first.task, 1))]);
    assert_eq!(counts(&slow.query), counted(1, 0, 0, 0));
    assert_eq!(assigned(&slow.query.tick_at(10_000)), [], "one is enough");
}

#[test]
fn without_a_policy_there_are_no_duplicates() {
    let mut slow = seven_of_eight(policy());
    assert_eq!(slow.query.tick_at(10_000), []);
    assert_eq!(counts(&slow.query), counted(0, 0, 0, 0));
}

#[test]
fn a_speculative_attempt_launched_and_the_older_success_accepted() {
    let (mut slow, duplicate) = duplicated(speculative());
    slow.query.now = 300;
    let won = slow.query.succeed(slow.host, slow.first);
    assert_eq!(cancelled(&won), [duplicate]);
    assert_eq!(readers(&won), [attempt(1, 0, 0)], "the stage is done");
    let told: Vec<_> = ["a", "b"].map(|name| states_at(&won, name)).concat();
    assert!(told.contains(&(slow.first, InputState::Won)), "{told:?}");
    assert!(told.iter().all(|(known, _)| *known != duplicate), "{told:?}");
    assert_eq!(counts(&slow.query), counted(1, 0, 1, 50));
    // Its cancellation came too late.
    let late = slow.query.succeed(slow.other, duplicate);
    assert_eq!(retired(&late), [duplicate]);
    assert_eq!(updates_at(&late, "a"), []);
    assert_eq!(updates_at(&late, "b"), []);
}

#[test]
fn a_speculative_attempt_that_is_faster_wins_and_the_older_one_is_cancelled() {
    let (mut slow, duplicate) = duplicated(speculative());
    slow.query.now = 350;
    let won = slow.query.succeed(slow.other, duplicate);
    assert_eq!(cancelled(&won), [slow.first]);
    assert_eq!(readers(&won), [attempt(1, 0, 0)]);
    assert_eq!(counts(&slow.query), counted(1, 1, 0, 0));
    let stage = &slow.query.machine.snapshot(Instant(350)).stages[0];
    assert_eq!(
        (stage.attempts, stage.cancelled_attempts, stage.failed_attempts),
        (9, 1, 0)
    );
    let late = slow.query.succeed(slow.host, slow.first);
    assert_eq!(retired(&late), [slow.first]);
}

#[test]
fn a_cancelled_loser_keeps_its_slot_until_its_worker_has_ended_it() {
    let (mut slow, duplicate) = duplicated(speculative());
    slow.query.succeed(slow.other, duplicate);
    let occupied = |query: &Query, name: &str| {
        let worker = query.machine.workers.get(name).expect("it has joined");
        query.machine.slots.occupied(worker).copied().collect::<Vec<_>>()
    };
    assert!(occupied(&slow.query, slow.host).contains(&slow.first));
    slow.query.fail(slow.host, slow.first, AttemptFailure::Cancelled);
    assert!(!occupied(&slow.query, slow.host).contains(&slow.first));
}

#[test]
fn a_duplicate_goes_on_when_the_older_attempt_is_lost() {
    let (mut slow, duplicate) = duplicated(speculative());
    let lost = slow.query.lose(slow.host);
    let again = assigned(&lost);
    assert!(
        again.iter().all(|(_, started)| started.task != slow.first.task),
        "{again:?}"
    );
    slow.query.succeed(slow.other, duplicate);
    assert_eq!(counts(&slow.query), counted(1, 1, 0, 0));
}

#[test]
fn a_failure_of_a_duplicate_is_none_of_its_task() {
    let strict = Policy {
        max_task_attempts: 1,
        ..speculative()
    };
    let bad = AttemptFailure::BadInput {
        kind: BadInputKind::InputChanged,
        message: "a file has changed".to_owned(),
    };
    for failure in [failed("broken"), bad] {
        let (mut slow, duplicate) = duplicated(strict.clone());
        slow.query.now = 280;
        let actions = slow.query.fail(slow.other, duplicate, failure);
        assert!(!slow.query.machine.has_ended(), "{actions:?}");
        assert_eq!(counts(&slow.query), counted(1, 0, 1, 30));
        let stage = &slow.query.machine.snapshot(Instant(280)).stages[0];
        assert_eq!((stage.failed_attempts, stage.running), (0, 1));
        // That of the older attempt counts.
        let ended = slow.query.fail(slow.host, slow.first, failed("broken"));
        let message = format!("attempt {} on worker {}: broken", slow.first, slow.host);
        assert_eq!(super::fixture::failure(&ended).message, message);
    }
}

#[test]
fn a_duplicate_that_has_become_the_only_attempt_counts_as_one() {
    let strict = Policy {
        max_task_attempts: 1,
        ..speculative()
    };
    let (mut slow, duplicate) = duplicated(strict);
    slow.query.lose(slow.host);
    let ended = slow.query.fail(slow.other, duplicate, failed("broken"));
    assert!(matches!(outcome(&ended), Outcome::Failed(_)));
}

#[test]
fn a_loser_that_is_lost_with_its_worker_is_not_held_against_its_task() {
    let (mut slow, duplicate) = duplicated(speculative());
    slow.query.succeed(slow.other, duplicate);
    slow.query.lose(slow.host);
    assert!(!slow.query.machine.suspects.contains(slow.first.task_id()));
}

#[test]
fn a_task_that_was_lost_with_its_worker_gets_no_duplicate() {
    let mut slow = seven_of_eight(speculative());
    let again = assigned(&slow.query.lose(slow.host));
    let tasks: Vec<u32> = again.iter().map(|(_, started)| started.task).collect();
    assert!(tasks.contains(&slow.first.task), "{again:?}");
    slow.query.join("c", 4);
    for (worker, started) in again.into_iter().filter(|(_, id)| id.task != slow.first.task) {
        slow.query.succeed(&worker, started);
    }
    assert_eq!(assigned(&slow.query.tick_at(5_000)), []);
}

#[test]
fn a_duplicate_never_runs_beside_the_attempt_that_it_duplicates() {
    let mut query = Query::new(map_reduce(8, 1), speculative());
    let mut all = assigned(&query.join("a", 10));
    query.now = 100;
    all.pop();
    for (worker, attempt) in all {
        query.succeed(&worker, attempt);
    }
    assert_eq!(query.tick_at(10_000), [], "there is no other worker");
    assert_eq!(assigned(&query.join("b", 1)).len(), 1, "now there is");
}

#[test]
fn a_duplicate_runs_on_another_node_where_there_is_one() {
    let mut query = Query::new(map_reduce(8, 1), speculative());
    let mut join = |name: &str, node: &str, slots| {
        query.run(Event::WorkerJoined {
            worker: worker(name),
            slots,
            location: NodeLocation {
                node: Some(node.to_owned()),
                zone: None,
            },
            held: Vec::new(),
            recovered: Recovered::default(),
        })
    };
    let mut all = assigned(&join("a", "n1", 8));
    join("b", "n1", 8);
    join("c", "n2", 1);
    query.now = 100;
    all.pop();
    for (worker, attempt) in all {
        query.succeed(&worker, attempt);
    }
    let started = assigned(&query.tick_at(10_000));
    assert_eq!(started, [("c".to_owned(), attempt(0, 7, 1))]);
}

/// Takes the output of a map task that has won; nobody grants slots after that.
fn lose_an_output(query: &mut Query) -> AttemptId {
    let stage = query.machine.stages.get(StageId(0));
    let winner = stage.tasks().iter().find_map(|task| task.winner());
    let winner = winner.expect("seven have won").id;
    query
        .machine
        .on_output_unreadable(winner, FetchError::UnknownStream);
    winner
}

/// Of whom slots are requested, how many, and how many of them for duplicates alone.
fn requests(actions: &[Action]) -> Vec<(String, u32, u32)> {
    let of = actions.iter().filter_map(|action| match action {
        Action::RequestSlots {
            worker,
            slots,
            speculative_slots,
        } => Some((worker.name.clone(), *slots, *speculative_slots)),
        _ => None,
    });
    of.collect()
}

#[test]
fn a_request_is_for_a_duplicate_until_a_task_waits() {
    let mut slow = seven_of_eight(speculative());
    slow.query.run(Event::WorkerDrained {
        worker: worker(slow.host),
    });
    slow.query.now = 250;
    let requested = slow.query.handle(Event::Ticked);
    assert_eq!(requests(&requested), [(slow.other.to_owned(), 1, 1)]);
    slow.query.now = 300;
    lose_an_output(&mut slow.query);
    let requested = slow.query.handle(Event::Ticked);
    assert_eq!(requests(&requested), [(slow.other.to_owned(), 1, 0)]);
}

#[test]
fn a_task_does_not_starve_because_a_duplicate_did() {
    let mut slow = seven_of_eight(speculative());
    slow.query.now = 250;
    slow.query.handle(Event::Ticked);
    slow.query.now = 340;
    lose_an_output(&mut slow.query);
    let asked_at = |query: &mut Query, now| {
        query.now = now;
        requests(&query.handle(Event::Ticked)).len()
    };
    let first = asked_at(&mut slow.query, 340);
    assert!(first > 0, "the task needs a slot");
    assert_eq!(asked_at(&mut slow.query, 360), 0, "it waits for an even spread");
    assert_eq!(asked_at(&mut slow.query, 440), 1, "it takes a slot of anyone");
}

#[test]
fn a_duplicate_takes_no_slot_that_a_task_waits_for() {
    let mut slow = seven_of_eight(speculative());
    slow.query.now = 260;
    let winner = lose_an_output(&mut slow.query);
    assert_eq!(assigned(&slow.query.handle(Event::Ticked)), []);
    let grant = |name: &str| Event::SlotsGranted {
        worker: worker(name),
        slots: 1,
    };
    let started = assigned(&slow.query.handle(grant(slow.other)));
    assert_eq!(started, [(slow.other.to_owned(), attempt(0, winner.task, 1))]);
    let started = assigned(&slow.query.tick_at(360));
    assert_eq!(started, [(slow.other.to_owned(), attempt(0, slow.first.task, 1))]);
}

#[test]
fn a_duplicate_gives_up_its_slot_to_a_task_that_starves() {
    let (mut slow, duplicate) = duplicated(speculative());
    slow.query.now = 300;
    lose_an_output(&mut slow.query);
    let actions = slow.query.handle(Event::Ticked);
    assert_eq!(cancelled(&actions), []);
    slow.query.now = 799;
    assert_eq!(cancelled(&slow.query.handle(Event::Ticked)), []);
    slow.query.now = 800;
    assert_eq!(cancelled(&slow.query.handle(Event::Ticked)), [duplicate]);
    assert_eq!(counts(&slow.query), counted(1, 0, 1, 550));
}

#[test]
fn a_task_that_reads_more_may_take_longer() {
    let mut query = Query::new(map_reduce(1, 8), speculative());
    query.join("a", 4);
    query.join("b", 5);
    // Seven of 100 bytes and one of 900: four and a half times the average.
    let sizes = [100, 100, 100, 100, 100, 100, 100, 900];
    let map = attempt(0, 0, 0);
    let name = match query.machine.stages.running_attempt(&worker("a"), map) {
        Some(_) => "a",
        None => "b",
    };
    let all = assigned(&query.run(wrote(name, map, &sizes)));
    assert_eq!(all.len(), 8);
    query.now = 1_000;
    for (worker, reader) in all.into_iter().filter(|(_, reader)| reader.task != 7) {
        query.succeed(&worker, reader);
    }
    // A task of average size would be slow after 1,534 ms: 1,023 is the upper end of the bucket.
    assert_eq!(assigned(&query.tick_at(6_900)), []);
    assert_eq!(assigned(&query.tick_at(7_000)).len(), 1);
}
