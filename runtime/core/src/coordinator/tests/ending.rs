//! How queries end: once, with the first cause.

use super::fixture::{
    Query, assigned, attempt, cancelled, chain, failed, failure, map_reduce, outcome, policy, sink_policy,
    worker,
};
use crate::coordinator::{Action, Event, Outcome, Policy};
use crate::layout::LayoutId;
use crate::locality::NodeLocation;
use crate::message::Recovered;
use crate::metrics::AttemptMetrics;
use crate::time::Instant;
use sluice_crds::ErrorReason;
use std::time::Duration;

/// A query with a sink, right after `CommitSink`.
fn committing() -> Query {
    let mut query = Query::new(chain(1), sink_policy());
    query.join("a", 1);
    let commit = query.succeed("a", attempt(0, 0, 0));
    assert_eq!(
        commit,
        [Action::CommitSink {
            winners: vec![attempt(0, 0, 0)]
        }]
    );
    query
}

#[test]
fn a_sink_is_committed_when_all_roots_have_won() {
    let mut query = Query::new(map_reduce(1, 2), sink_policy());
    query.join("a", 4);
    query.succeed("a", attempt(0, 0, 0));
    assert_eq!(query.succeed("a", attempt(1, 1, 0)), []);
    let commit = query.succeed("a", attempt(1, 0, 0));
    let winners = vec![attempt(1, 0, 0), attempt(1, 1, 0)];
    assert_eq!(commit, [Action::CommitSink { winners }]);
    assert_eq!(outcome(&query.run(Event::SinkCommitted)), Outcome::Succeeded);
}

#[test]
fn the_first_row_of_a_sink_is_there_once_it_is_committed() {
    let mut query = committing();
    query.now = 70;
    assert_eq!(query.machine.snapshot(Instant(70)).first_row, None);
    query.run(Event::SinkCommitted);
    assert_eq!(query.machine.snapshot(Instant(90)).first_row, Some(Instant(70)));

    let mut query = Query::new(chain(1), sink_policy());
    query.join("a", 1);
    query.run(Event::AttemptSucceeded {
        worker: worker("a"),
        attempt: attempt(0, 0, 0),
        layout: LayoutId::default(),
        outputs: Vec::new(),
        run: None,
        filters: Vec::new(),
        metrics: AttemptMetrics::default(),
    });
    assert_eq!(outcome(&query.run(Event::SinkCommitted)), Outcome::Succeeded);
    assert_eq!(
        query.machine.snapshot(Instant(90)).first_row,
        None,
        "it has no rows"
    );
}

#[test]
fn a_failed_commit_fails_the_query() {
    let mut query = committing();
    let end = query.run(Event::SinkFailed {
        message: "disk full".to_owned(),
    });
    assert_eq!(end[0], Action::AbortSink);
    let failure = failure(&end);
    assert_eq!(
        (failure.reason, failure.message.as_str()),
        (ErrorReason::SinkFailed, "disk full")
    );
    assert_eq!(query.machine.snapshot(Instant(0)).first_row, None);
}

#[test]
fn a_commit_or_a_reader_that_panics_ends_the_query() {
    let panicked = || Event::TaskPanicked {
        message: "the commit of the sink: panicked".to_owned(),
    };
    let mut query = committing();
    let end = query.run(panicked());
    assert_eq!(end[0], Action::AbortSink);
    assert_eq!(failure(&end).reason, ErrorReason::Internal);

    let mut query = committing();
    query.run(Event::CancelRequested);
    assert_eq!(
        outcome(&query.run(panicked())),
        Outcome::Cancelled,
        "the first cause"
    );

    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    let failure = failure(&query.run(panicked()));
    assert_eq!(failure.message, "the commit of the sink: panicked");
}

#[test]
fn losing_a_worker_during_the_commit_does_not_matter() {
    let mut query = committing();
    assert_eq!(query.lose("a"), []);
    assert_eq!(assigned(&query.join("b", 1)), []);
    assert_eq!(
        query.tick_at(100_000).len(),
        1,
        "only the silent worker is dropped"
    );
    assert_eq!(outcome(&query.run(Event::SinkCommitted)), Outcome::Succeeded);
}

#[test]
fn a_cancel_during_the_commit_waits_for_the_answer() {
    let mut query = committing();
    assert_eq!(query.run(Event::CancelRequested), []);
    assert_eq!(outcome(&query.run(Event::SinkCommitted)), Outcome::Succeeded);

    let mut query = committing();
    query.run(Event::CancelRequested);
    let end = query.run(Event::SinkFailed {
        message: "disk full".to_owned(),
    });
    assert_eq!(outcome(&end), Outcome::Cancelled, "the first cause");
}

#[test]
fn a_sink_that_never_answers_ends_the_query_some_time_after_its_deadline() {
    let hurried = Policy {
        deadline: Some(Duration::from_secs(5)),
        ..sink_policy()
    };
    let mut query = Query::new(chain(1), hurried);
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    query.lose("a");
    assert_eq!(query.machine.next_deadline(), Some(Instant(5000)));
    assert_eq!(
        query.tick_at(5000),
        [],
        "the answer is the truth while it may come"
    );
    assert_eq!(query.machine.next_deadline(), Some(Instant(35_000)));
    assert_eq!(query.tick_at(34_999), []);
    let end = query.tick_at(35_000);
    assert_eq!(end[0], Action::AbortSink);
    assert_eq!(
        failure(&end).reason,
        ErrorReason::DeadlineExceeded,
        "the first cause"
    );
}

#[test]
fn a_sink_that_never_answers_ends_a_query_without_deadline_too() {
    let mut query = committing();
    query.lose("a");
    assert_eq!(query.machine.next_deadline(), Some(Instant(600_000)));
    assert_eq!(query.tick_at(599_999), []);
    let failure = failure(&query.tick_at(600_000));
    assert_eq!(failure.reason, ErrorReason::SinkFailed);
    assert!(failure.message.contains("did not answer"), "{}", failure.message);
}

#[test]
fn a_cancel_stops_everything() {
    let mut query = Query::new(map_reduce(3, 1), sink_policy());
    query.handle(Event::WorkerJoined {
        worker: worker("a"),
        slots: 2,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    query.handle(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    let end = query.handle(Event::CancelRequested);
    assert_eq!(cancelled(&end), [attempt(0, 0, 0)]);
    assert!(end.contains(&Action::RequestSlots {
        worker: worker("a"),
        slots: 0,
        speculative_slots: 0,
    }));
    assert!(end.contains(&Action::AbortSink));
    assert_eq!(outcome(&end), Outcome::Cancelled);
    assert_eq!(query.run(Event::SinkCommitted), []);
}

#[test]
fn the_deadline_counts_from_the_start() {
    let hurried = Policy {
        deadline: Some(Duration::from_secs(5)),
        ..policy()
    };
    let mut query = Query::new(chain(1), hurried);
    query.join("a", 1);
    assert_eq!(query.machine.next_deadline(), Some(Instant(5000)));
    assert_eq!(query.tick_at(4999), []);
    assert_eq!(
        failure(&query.tick_at(5000)).reason,
        ErrorReason::DeadlineExceeded
    );
}

#[test]
fn a_query_without_workers_fails_after_the_grace_time() {
    let mut query = Query::new(chain(1), policy());
    query.lose("a");
    assert_eq!(query.machine.next_deadline(), Some(Instant(30_000)));
    assert_eq!(query.tick_at(29_999), []);
    let failure = failure(&query.tick_at(30_000));
    assert_eq!(failure.reason, ErrorReason::WorkersLost);
    assert!(
        failure.message.contains("a: connection reset"),
        "{}",
        failure.message
    );
}

#[test]
fn the_grace_time_starts_again_when_a_worker_was_there() {
    let mut query = Query::new(chain(1), policy());
    query.now = 20_000;
    query.join("a", 1);
    query.now = 25_000;
    query.lose("a");
    assert_eq!(query.tick_at(54_999), []);
    assert_eq!(failure(&query.tick_at(55_000)).reason, ErrorReason::WorkersLost);
}

#[test]
fn a_query_whose_rows_all_won_needs_no_taker() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.succeed("a", attempt(0, 0, 0));
    query.run(Event::WorkerDrained { worker: worker("a") });
    for minute in 1..10 {
        query.now = minute * 10_000;
        assert_eq!(query.run(Event::WorkerHeard { worker: worker("a") }), []);
    }
}

#[test]
fn the_first_cause_stays() {
    let once = Policy {
        max_task_attempts: 1,
        ..policy()
    };
    let mut query = Query::new(map_reduce(2, 1), once);
    query.join("a", 2);
    let first = query.fail("a", attempt(0, 0, 0), failed("the cause"));
    assert!(failure(&first).message.contains("the cause"));
    assert_eq!(cancelled(&first), [attempt(0, 1, 0)]);
    assert_eq!(query.fail("a", attempt(0, 1, 0), failed("a consequence")), []);
    let snapshot = query.machine.snapshot(Instant(0));
    assert_eq!(snapshot.ended, Some(Instant(0)));
    assert_eq!(snapshot.outcome, Some(outcome(&first)));
}
