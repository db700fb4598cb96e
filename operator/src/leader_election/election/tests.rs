//! The machine step by step: each test is a table of what happens and what it answers.

use super::*;

const US: &str = "us";
const REQUEST: Duration = Duration::from_secs(5);

fn at(seconds: f64) -> Now {
    Now {
        elapsed: Duration::from_secs_f64(seconds),
        wall: wall(seconds),
    }
}

/// This candidate's wall clock: of no meaning to a decision.
fn wall(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap()
}

fn election() -> Election {
    Election::new(US.into(), Timing::default(), 1)
}

/// The record that `holder` wrote at its own second `renewed`.
fn record(holder: &str, renewed: f64) -> Record {
    Record {
        holder: Some(holder.into()),
        seconds: Some(15),
        acquired: Some(wall(0.0)),
        renewed: Some(wall(renewed)),
        transitions: 4,
    }
}

fn stored(record: Record, version: &str) -> Stored {
    Stored {
        record,
        version: version.into(),
    }
}

fn found(holder: &str, renewed: f64, version: &str) -> Event {
    Event::Found(stored(record(holder, renewed), version))
}

fn is_wait(action: &Action) -> bool {
    matches!(action, Action::Wait(_))
}

const READ: Action = Action::Read { within: REQUEST };

/// The answer to a write, as the API server gives it: the record and a new version.
fn wrote(action: &Action, version: &str) -> Event {
    let Action::Write { record, .. } = action else {
        panic!("{action:?} is no write");
    };
    Event::Wrote(stored(record.clone(), version))
}

/// A candidate that took the lease at second 0, the answer having taken a quarter of a second.
fn leader() -> Election {
    let mut us = election();
    us.handle(at(0.0), Event::Due);
    let write = us.handle(at(0.0), Event::Missing);
    us.handle(at(0.25), wrote(&write, "1"));
    assert!(us.leads(at(0.25)));
    us
}

#[test]
fn a_missing_lease_is_created_and_makes_a_leader() {
    let mut us = election();
    assert_eq!(us.handle(at(0.0), Event::Due), READ);
    let write = us.handle(at(1.0), Event::Missing);
    let wanted = Record {
        acquired: Some(wall(1.0)),
        transitions: 0,
        ..record(US, 1.0)
    };
    assert_eq!(
        write,
        Action::Write {
            record: wanted,
            over: None,
            within: REQUEST
        }
    );
    assert!(!us.leads(at(1.0)), "not before the answer");
    let wait = us.handle(at(2.0), wrote(&write, "1"));
    assert_eq!(wait, Action::Wait(Duration::from_secs(2)));
    assert!(us.leads(at(10.9)));
    assert!(
        !us.leads(at(11.0)),
        "10 s after the write was sent, not after it was answered"
    );
}

#[test]
fn a_lease_expires_by_the_time_since_it_was_seen_to_change() {
    let mut us = election();
    us.handle(at(100.0), Event::Due);
    // Written an hour ago, or in an hour, by the holder's clock: both count from now.
    assert!(is_wait(&us.handle(at(100.0), found("other", 3700.0, "1"))));
    us.handle(at(103.0), Event::Due);
    assert!(is_wait(&us.handle(at(103.0), found("other", -3500.0, "2"))));
    for second in [106.0, 110.0, 117.9] {
        us.handle(at(second), Event::Due);
        assert!(is_wait(&us.handle(at(second), found("other", -3500.0, "2"))));
    }
    // A new version with the same record is no sign of life.
    us.handle(at(118.0), Event::Due);
    let write = us.handle(at(118.0), found("other", -3500.0, "3"));
    let Action::Write { record, over, .. } = write else {
        panic!("{write:?}");
    };
    assert_eq!(over.as_deref(), Some("3"));
    assert_eq!((record.holder.as_deref(), record.transitions), (Some(US), 5));
    assert_eq!(record.acquired, Some(wall(118.0)));
}

#[test]
fn the_duration_that_the_holder_promised_counts() {
    let promise = |seconds, second| {
        let mut us = election();
        us.handle(at(0.0), Event::Due);
        let lease = Event::Found(stored(
            Record {
                seconds,
                ..record("other", 0.0)
            },
            "1",
        ));
        us.handle(at(0.0), lease.clone());
        us.handle(at(second), Event::Due);
        !is_wait(&us.handle(at(second), lease))
    };
    assert!(!promise(Some(60), 59.0));
    assert!(promise(Some(60), 60.0));
    assert!(promise(Some(1), 1.0));
    // Nothing that makes sense: ours.
    for seconds in [None, Some(-1)] {
        assert!(!promise(seconds, 14.0));
        assert!(promise(seconds, 15.0));
    }
}

#[test]
fn a_lease_that_nobody_holds_is_taken_at_once() {
    for holder in [None, Some(String::new())] {
        let mut us = election();
        us.handle(at(0.0), Event::Due);
        let lease = Record {
            holder,
            ..record("", 0.0)
        };
        let action = us.handle(at(0.0), Event::Found(stored(lease, "7")));
        assert!(matches!(action, Action::Write { over: Some(over), .. } if over == "7"));
    }
}

#[test]
fn who_loses_the_race_waits_and_looks_again() {
    for event in [Event::Refused, Event::Failed] {
        let mut us = election();
        us.handle(at(0.0), Event::Due);
        us.handle(at(0.0), Event::Missing);
        let Action::Wait(time) = us.handle(at(0.1), event) else {
            panic!("no wait");
        };
        assert!((2.0..4.4).contains(&time.as_secs_f64()), "{time:?}");
        assert_eq!(us.handle(at(4.5), Event::Due), READ);
        assert!(!us.leads(at(4.5)));
    }
}

#[test]
fn a_lost_answer_makes_no_leader_until_a_write_is_confirmed() {
    let mut us = election();
    us.handle(at(0.0), Event::Due);
    us.handle(at(0.0), Event::Missing);
    us.handle(at(5.0), Event::Failed);
    us.handle(at(8.0), Event::Due);
    let write = us.handle(at(8.0), found(US, 0.0, "1"));
    assert!(!us.leads(at(8.0)));
    let Action::Write { record, .. } = &write else {
        panic!("{write:?}");
    };
    assert_eq!((record.acquired, record.transitions), (Some(wall(0.0)), 4));
    us.handle(at(8.2), wrote(&write, "2"));
    assert!(us.leads(at(17.9)));
    assert!(!us.leads(at(18.0)));
}

#[test]
fn an_answer_after_the_deadline_makes_no_leader() {
    let mut us = election();
    us.handle(at(0.0), Event::Due);
    let write = us.handle(at(0.0), Event::Missing);
    assert_eq!(us.handle(at(10.0), wrote(&write, "1")), READ);
    assert!(!us.leads(at(10.0)));
}

#[test]
fn a_leader_renews_without_reading() {
    let mut us = leader();
    let write = us.handle(at(2.25), Event::Due);
    assert!(matches!(&write, Action::Write { over: Some(over), .. } if over == "1"));
    us.handle(at(2.3), wrote(&write, "2"));
    assert!(us.leads(at(12.2)));
    assert!(!us.leads(at(12.25)));
}

#[test]
fn a_leader_that_cannot_renew_ends_at_its_deadline() {
    let mut us = leader();
    us.handle(at(2.0), Event::Due);
    assert_eq!(
        us.handle(at(7.0), Event::Failed),
        Action::Wait(Duration::from_secs(2))
    );
    // It is not known whether the write came through: look first, and only as long as there is time.
    let within = Duration::from_secs(1);
    assert_eq!(us.handle(at(9.0), Event::Due), Action::Read { within });
    assert_eq!(
        us.handle(at(9.5), Event::Failed),
        Action::Wait(Duration::from_millis(500))
    );
    assert_eq!(us.handle(at(10.0), Event::Due), Action::End(Outcome::NotRenewed));
    assert!(!us.leads(at(10.0)));
    let after = us.handle(at(11.0), found(US, 2.0, "2"));
    assert_eq!(after, Action::End(Outcome::NotRenewed), "never again");
}

#[test]
fn a_leader_whose_answer_was_lost_goes_on() {
    let mut us = leader();
    us.handle(at(2.0), Event::Due);
    // The write succeeded, its repetition by the client met its own version.
    assert_eq!(us.handle(at(2.1), Event::Refused), READ);
    let write = us.handle(at(2.2), found(US, 2.0, "2"));
    assert!(matches!(&write, Action::Write { over: Some(over), .. } if over == "2"));
    us.handle(at(2.3), wrote(&write, "3"));
    assert!(us.leads(at(12.1)));
}

#[test]
fn a_leader_that_finds_another_holder_ends_at_once() {
    for holder in ["other", ""] {
        let mut us = leader();
        us.handle(at(2.0), Event::Due);
        us.handle(at(2.1), Event::Refused);
        let end = us.handle(at(2.2), found(holder, 2.1, "2"));
        assert_eq!(end, Action::End(Outcome::Deposed));
        assert!(!us.leads(at(2.2)));
    }
}

#[test]
fn a_leader_creates_a_lease_that_was_deleted() {
    let mut us = leader();
    us.handle(at(2.0), Event::Due);
    us.handle(at(2.1), Event::Refused);
    let write = us.handle(at(2.2), Event::Missing);
    assert!(matches!(&write, Action::Write { over: None, .. }));
    us.handle(at(2.3), wrote(&write, "9"));
    assert!(us.leads(at(12.1)));
}

#[test]
fn a_leader_that_stops_gives_the_lease_up() {
    let mut us = leader();
    let Action::Write { record, over, .. } = us.handle(at(1.0), Event::StopAsked) else {
        panic!("no write");
    };
    assert_eq!(
        (record.holder.clone(), record.seconds, over.as_deref()),
        (None, Some(1), Some("1"))
    );
    assert!(!us.leads(at(1.0)));
    let end = us.handle(at(1.1), Event::Wrote(stored(record, "2")));
    assert_eq!(end, Action::End(Outcome::Stopped));
}

#[test]
fn giving_up_is_tried_again_and_not_for_ever() {
    let mut us = leader();
    us.handle(at(1.0), Event::StopAsked);
    assert!(matches!(us.handle(at(1.1), Event::Refused), Action::Read { .. }));
    let again = us.handle(at(1.2), found(US, 0.9, "2"));
    assert!(matches!(again, Action::Write { over: Some(over), .. } if over == "2"));
    assert!(is_wait(&us.handle(at(1.3), Event::Failed)));
    assert!(matches!(us.handle(at(3.3), Event::Due), Action::Read { .. }));
    assert_eq!(us.handle(at(6.0), Event::Failed), Action::End(Outcome::Stopped));
}

#[test]
fn a_candidate_that_stops_leaves_the_lease_alone_unless_it_may_hold_it() {
    let mut us = election();
    us.handle(at(0.0), Event::Due);
    us.handle(at(0.0), found("other", 0.0, "1"));
    assert_eq!(
        us.handle(at(1.0), Event::StopAsked),
        Action::End(Outcome::Stopped)
    );

    let mut us = election();
    us.handle(at(0.0), Event::Due);
    us.handle(at(0.0), Event::Missing);
    us.handle(at(5.0), Event::Failed);
    assert!(matches!(
        us.handle(at(5.1), Event::StopAsked),
        Action::Read { .. }
    ));
    let write = us.handle(at(5.2), found(US, 0.0, "1"));
    assert!(matches!(
        write,
        Action::Write {
            record: Record { holder: None, .. },
            ..
        }
    ));
}

#[test]
fn times_that_do_not_fit_are_refused() {
    assert_eq!(Timing::new(15, 10, 2), Ok(Timing::default()));
    for (lease, renewal, retry) in [(10, 10, 2), (9, 10, 2), (15, 2, 2), (15, 10, 0), (0, 0, 0)] {
        let error = Timing::new(lease, renewal, retry).unwrap_err().to_string();
        assert!(error.contains(&format!("a lease of {lease} s")), "{error}");
    }
}
