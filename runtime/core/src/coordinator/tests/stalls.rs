//! Attempts that get nowhere end; those that work or wait for an input do not.

use super::fixture::{Query, assigned, attempt, cancelled, chain, failure, map_reduce, policy, worker};
use crate::coordinator::{Action, Event};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::AttemptId;
use crate::metrics::AttemptMetrics;
use crate::time::Instant;
use sluice_crds::ErrorReason;

/// The time that an attempt may stand still, in milliseconds.
const STALL: u64 = 600_000;

fn progressed(query: &mut Query, id: AttemptId, activity: u64) -> Vec<Action> {
    query.run(Event::AttemptProgressed {
        worker: worker("a"),
        attempt: id,
        metrics: AttemptMetrics {
            activity,
            ..AttemptMetrics::default()
        },
    })
}

/// Lets time pass with a worker that is heard each ten seconds, and says the same of the attempt.
fn wait(query: &mut Query, until: u64, id: AttemptId, mut activity: impl FnMut() -> u64) -> Vec<Action> {
    let mut all = Vec::new();
    while query.now + 10_000 <= until {
        query.now += 10_000;
        let activity = activity();
        all.extend(progressed(query, id, activity));
        all.extend(query.run(Event::WorkerHeard { worker: worker("a") }));
    }
    all
}

#[test]
fn an_attempt_that_stands_still_ends_and_counts_as_failed() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 4);
    for number in 0..3 {
        let id = attempt(0, 0, number);
        let until = query.now + STALL - 10_000;
        assert_eq!(wait(&mut query, until, id, || 7), []);
        let until = query.now + 2 * STALL / 10;
        let actions = wait(&mut query, until, id, || 7);
        assert_eq!(cancelled(&actions), [id], "once");
        if number == 2 {
            let failure = failure(&actions);
            assert_eq!(failure.reason, ErrorReason::TaskFailed);
            assert!(
                failure.message.contains("nothing has moved for 600 s"),
                "{}",
                failure.message
            );
        } else {
            assert_eq!(assigned(&actions), [("a".to_owned(), attempt(0, 0, number + 1))]);
        }
    }
}

#[test]
fn an_attempt_whose_thread_works_may_take_as_long_as_it_needs() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    let mut ticks = 0;
    let actions = wait(&mut query, 20 * STALL, attempt(0, 0, 0), || {
        ticks += 1;
        ticks
    });
    assert_eq!(actions, []);
    assert_eq!(query.machine.snapshot(Instant(query.now)).stages[0].running, 1);
}

#[test]
fn a_reader_waits_for_a_lost_input_as_long_as_that_takes() {
    let mut query = Query::new(map_reduce(1, 2), policy());
    query.join("a", 3);
    query.succeed("a", attempt(0, 0, 0));
    let failed = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::Corrupt,
    };
    query.fail("a", attempt(1, 0, 0), failed);
    let mut ticks = 0;
    // The input is made again, which takes long; the other reader stands still.
    let actions = wait(&mut query, 3 * STALL, attempt(0, 0, 1), || {
        ticks += 1;
        ticks
    });
    assert_eq!(cancelled(&actions), []);
    query.succeed("a", attempt(0, 0, 1));
    // From now on it has what it needs.
    let until = query.now + 2 * STALL;
    let actions = wait(&mut query, until, attempt(1, 0, 1), || {
        ticks += 1;
        ticks
    });
    assert_eq!(cancelled(&actions), [attempt(1, 1, 0)]);
}
