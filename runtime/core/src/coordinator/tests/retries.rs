//! Failures of attempts: what counts, for whom, and when it is over.

use super::fixture::{
    Query, assigned, assignments, attempt, chain, client_updates, failed, failure, map_reduce, policy,
    retired, succeeded, worker,
};
use crate::coordinator::reports::MAX_CONTENDED_ATTEMPTS;
use crate::coordinator::{Event, MAX_ATTEMPTS_PER_TASK, Policy};
use crate::failure::{AttemptFailure, BadInputKind, Resource};
use crate::ids::{AttemptId, LayoutVersion};
use crate::layout::LayoutId;
use crate::message::InputState;
use crate::time::Instant;
use sluice_crds::ErrorReason;

#[test]
fn a_failed_attempt_waits_for_its_backoff() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    assert_eq!(assigned(&query.fail("a", attempt(0, 0, 0), failed("one"))), []);
    assert_eq!(query.machine.next_deadline().map(|at| at.0), Some(250));
    assert_eq!(assigned(&query.tick_at(249)), []);
    assert_eq!(
        assigned(&query.tick_at(250)),
        [("a".to_owned(), attempt(0, 0, 1))]
    );
    query.fail("a", attempt(0, 0, 1), failed("two"));
    assert_eq!(
        assigned(&query.tick_at(749)),
        [],
        "the second backoff is twice as long"
    );
    assert_eq!(assigned(&query.tick_at(750)).len(), 1);
}

#[test]
fn the_backoff_is_capped_at_64_times_the_base() {
    let patient = Policy {
        max_task_attempts: 50,
        exclude_worker_after_failures: 50,
        ..policy()
    };
    let mut query = Query::new(chain(1), patient);
    query.join("a", 1);
    for number in 0..10 {
        query.fail("a", attempt(0, 0, number), failed("again"));
        query.run(Event::WorkerHeard { worker: worker("a") });
        let until = query.now + 250 * 64;
        while query.now < until
            && query.machine.snapshot(crate::time::Instant(query.now)).stages[0].running == 0
        {
            query.now += 1000;
            query.run(Event::WorkerHeard { worker: worker("a") });
        }
        assert_eq!(
            query.machine.snapshot(crate::time::Instant(query.now)).stages[0].attempts,
            number + 2
        );
    }
}

#[test]
fn the_last_allowed_failure_ends_the_query_with_the_first_cause() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.join("b", 1);
    query.fail("a", attempt(0, 0, 0), failed("disk on fire"));
    let second = assigned(&query.tick_at(250));
    assert_eq!(
        second,
        [("b".to_owned(), attempt(0, 0, 1))],
        "rather on another worker"
    );
    query.fail("b", attempt(0, 0, 1), failed("two"));
    let third = assigned(&query.tick_at(1000));
    let failure = failure(&query.fail(&third[0].0, attempt(0, 0, 2), failed("three")));
    assert_eq!(failure.reason, ErrorReason::TaskFailed);
    assert!(
        failure.message.contains("s0.t0 failed 3 times"),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("disk on fire"), "{}", failure.message);
    assert_eq!(failure.attempt, Some(attempt(0, 0, 0)));
}

#[test]
fn bad_input_ends_the_query_at_once() {
    let mut query = Query::new(map_reduce(2, 1), policy());
    query.join("a", 4);
    let failure = failure(&query.fail(
        "a",
        attempt(0, 1, 0),
        AttemptFailure::BadInput {
            kind: BadInputKind::InputChanged,
            message: "part-0.parquet changed".to_owned(),
        },
    ));
    assert_eq!(failure.reason, ErrorReason::InputChanged);
    assert_eq!(failure.message, "part-0.parquet changed");
}

#[test]
fn a_worker_that_fails_too_often_gets_no_more_attempts() {
    let mut query = Query::new(map_reduce(8, 1), policy());
    query.join("a", 3);
    for task in 0..3 {
        let next = query.fail("a", attempt(0, task, 0), failed("boom"));
        assert_eq!(
            assigned(&next).len(),
            usize::from(task < 2),
            "two failures are not too many"
        );
    }
    assert_eq!(assigned(&query.tick_at(1000)), []);
    let other = query.join("b", 1);
    assert_eq!(assigned(&other), [("b".to_owned(), attempt(0, 5, 0))]);
}

#[test]
fn a_failing_sink_counts_for_the_task_and_not_against_the_worker() {
    let mut query = Query::new(map_reduce(4, 1), policy());
    query.join("a", 4);
    let full = || AttemptFailure::SinkFailed {
        message: "cannot write part.csv: no space left".to_owned(),
    };
    for task in 0..4 {
        query.fail("a", attempt(0, task, 0), full());
    }
    // More than the three failures that a worker may have.
    let again = assigned(&query.tick_at(250));
    assert_eq!(again.len(), 4, "the worker still gets attempts: {again:?}");
    query.fail("a", attempt(0, 0, 1), full());
    assert_eq!(assigned(&query.tick_at(750)).len(), 1);
    let failure = failure(&query.fail("a", attempt(0, 0, 2), full()));
    assert_eq!(failure.reason, ErrorReason::SinkFailed);
    assert!(failure.message.contains("no space left"), "{}", failure.message);
    assert_eq!(failure.attempt, Some(attempt(0, 0, 0)));
}

#[test]
fn want_of_space_counts_for_the_task_and_not_against_the_worker() {
    let mut query = Query::new(map_reduce(4, 1), policy());
    query.join("a", 4);
    let exhausted = || AttemptFailure::ResourcesExhausted {
        resource: Resource::Disk,
        message: "spill space is used up".to_owned(),
    };
    for task in 0..4 {
        query.fail("a", attempt(0, task, 0), exhausted());
    }
    // More than the three failures that a worker may have.
    assert_eq!(assigned(&query.tick_at(250)).len(), 4);
    query.fail("a", attempt(0, 0, 1), exhausted());
    assert_eq!(assigned(&query.tick_at(750)).len(), 1);
    let failure = failure(&query.fail("a", attempt(0, 0, 2), exhausted()));
    assert_eq!(failure.reason, ErrorReason::ResourcesExhausted);
    assert!(failure.message.contains("spill space"), "{}", failure.message);
}

#[test]
fn a_task_waits_for_what_other_queries_hold_and_not_for_ever() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    let contended = || AttemptFailure::ResourcesContended {
        resource: Resource::Memory,
        message: "others hold the memory".to_owned(),
    };
    for number in 0..MAX_CONTENDED_ATTEMPTS {
        assert_eq!(assigned(&query.fail("a", attempt(0, 0, number), contended())), []);
        let pause = 250 << number.min(6);
        query.now += pause - 1;
        query.run(Event::WorkerHeard { worker: worker("a") });
        let state = query.machine.snapshot(crate::time::Instant(query.now));
        assert_eq!(state.stages[0].running, 0, "after {number} waits");
        query.now += 1;
        let again = query.run(Event::WorkerHeard { worker: worker("a") });
        assert_eq!(assigned(&again), [("a".to_owned(), attempt(0, 0, number + 1))]);
    }
    let state = query.machine.snapshot(crate::time::Instant(query.now));
    assert_eq!(
        (state.stages[0].failed_attempts, state.stages[0].lost_attempts),
        (0, MAX_CONTENDED_ATTEMPTS)
    );
    let mut last = Vec::new();
    for number in MAX_CONTENDED_ATTEMPTS..MAX_CONTENDED_ATTEMPTS + 3 {
        last = query.fail("a", attempt(0, 0, number), contended());
        query.now += 1_000;
        if number < MAX_CONTENDED_ATTEMPTS + 2 {
            assert_eq!(
                assigned(&query.run(Event::WorkerHeard { worker: worker("a") })).len(),
                1
            );
        }
    }
    let failure = failure(&last);
    assert_eq!(failure.reason, ErrorReason::ResourcesExhausted);
    assert!(
        failure.message.contains("others hold the memory"),
        "{}",
        failure.message
    );
}

#[test]
fn a_task_that_waits_for_room_rather_runs_elsewhere() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.join("b", 1);
    let contended = AttemptFailure::ResourcesContended {
        resource: Resource::Memory,
        message: "others hold the memory".to_owned(),
    };
    query.fail("a", attempt(0, 0, 0), contended);
    assert_eq!(
        assigned(&query.tick_at(250)),
        [("b".to_owned(), attempt(0, 0, 1))]
    );
}

#[test]
fn when_all_workers_are_excluded_the_first_cause_is_named() {
    let mut query = Query::new(map_reduce(8, 1), policy());
    query.join("a", 3);
    query.fail("a", attempt(0, 0, 0), failed("first of all"));
    query.fail("a", attempt(0, 1, 0), failed("second"));
    let mut last = query.fail("a", attempt(0, 2, 0), failed("third"));
    // What still runs there may end first.
    for task in 3..8 {
        if last.is_empty() {
            last = query.fail("a", attempt(0, task, 0), failed("later"));
        }
    }
    let failure = failure(&last);
    assert!(failure.message.contains("first of all"), "{}", failure.message);
    assert_eq!(failure.attempt, Some(attempt(0, 0, 0)));
}

#[test]
fn a_refusal_counts_for_the_worker_alone() {
    let lenient = Policy {
        max_task_attempts: 1,
        ..policy()
    };
    let mut query = Query::new(chain(1), lenient);
    query.join("a", 1);
    let refused = AttemptFailure::Refused {
        message: "draining".to_owned(),
    };
    assert_eq!(query.fail("a", attempt(0, 0, 0), refused), []);
    assert_eq!(
        assigned(&query.tick_at(250)),
        [("a".to_owned(), attempt(0, 0, 1))]
    );
    assert_eq!(
        query.machine.snapshot(crate::time::Instant(250)).stages[0].failed_attempts,
        0
    );
}

#[test]
fn a_task_that_is_lost_for_ever_ends_the_query() {
    let mut query = Query::new(chain(1), policy());
    for _ in 0..MAX_ATTEMPTS_PER_TASK {
        assert_eq!(assigned(&query.join("a", 1)).len(), 1);
        query.lose("a");
    }
    let failure = failure(&query.join("a", 1));
    assert_eq!(failure.reason, ErrorReason::WorkersLost);
    assert!(
        failure.message.contains("connection reset"),
        "{}",
        failure.message
    );
}

#[test]
fn reports_of_stale_attempts_change_nothing() {
    let mut query = Query::new(chain(2), policy());
    query.join("a", 1);
    query.join("b", 1);
    query.lose("a");
    assert_eq!(assigned(&query.join("a", 1)), []);
    assert_eq!(query.fail("a", attempt(0, 0, 0), failed("late")), []);
    let mut unknown = attempt(7, 7, 7);
    assert_eq!(query.fail("a", unknown, failed("never was")), []);
    unknown.stage.0 = 0;
    assert_eq!(query.fail("a", unknown, failed("never was")), []);
    assert_eq!(
        query.machine.snapshot(crate::time::Instant(0)).stages[0].failed_attempts,
        0
    );
}

#[test]
fn a_success_by_another_layout_is_refused() {
    let mut query = Query::new(map_reduce(1, 2), policy());
    query.join("a", 2);
    let reduces = assignments(&query.succeed("a", attempt(0, 0, 0)));
    let layout = reduces[0].1.layout;
    let (older, other) = (
        LayoutId {
            version: LayoutVersion(layout.version.0 - 1),
            ..layout
        },
        LayoutId {
            fingerprint: layout.fingerprint ^ 1,
            ..layout
        },
    );
    for (task, wrong) in [(0, older), (1, other)] {
        let id = attempt(1, task, 0);
        let mut success = succeeded("a", id);
        if let Event::AttemptSucceeded { layout, .. } = &mut success {
            *layout = wrong;
        }
        let actions = query.run(success);
        assert_eq!(client_updates(&actions), [], "{wrong}");
        assert_eq!(retired(&actions), [id], "{wrong}");
    }
    let again = query.tick_at(250);
    let again: Vec<AttemptId> = assigned(&again).into_iter().map(|(_, attempt)| attempt).collect();
    assert_eq!(again, [attempt(1, 0, 1), attempt(1, 1, 1)]);
    assert_eq!(
        query.machine.snapshot(Instant(query.now)).stages[1].failed_attempts,
        2
    );
    let won = query.succeed("a", attempt(1, 0, 1));
    assert_eq!(client_updates(&won), [(attempt(1, 0, 1), InputState::Won)]);
}
