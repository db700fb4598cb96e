use super::*;
use crate::ids::Incarnation;

fn worker(name: &str) -> WorkerId {
    WorkerId {
        name: name.to_owned(),
        incarnation: Incarnation(1),
    }
}

fn resolved(addresses: &[&str]) -> Event {
    Event::Resolved {
        name: "pool:7400".to_owned(),
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
    }
}

fn not_resolved() -> Event {
    Event::NotResolved {
        name: "pool:7400".to_owned(),
        message: "no such name".to_owned(),
    }
}

fn joined(address: &str, name: &str) -> Event {
    Event::Joined {
        address: address.to_owned(),
        worker: worker(name),
    }
}

fn ended(address: &str) -> Event {
    Event::Ended {
        address: address.to_owned(),
        message: "broke".to_owned(),
    }
}

fn refused(address: &str, reason: RefusedReason) -> Event {
    Event::NotConnected {
        address: address.to_owned(),
        refused: Some(reason),
        message: "it refused".to_owned(),
    }
}

fn unreachable(address: &str) -> Event {
    Event::NotConnected {
        address: address.to_owned(),
        refused: None,
        message: "cannot connect".to_owned(),
    }
}

fn pool() -> Discovery {
    Discovery::new(&["pool:7400".to_owned()])
}

fn handle(discovery: &mut Discovery, now: u64, event: Event) -> Vec<String> {
    let dialled = |Action::Dial { address }: Action| address;
    let actions = discovery.handle(Instant(now), event);
    actions.into_iter().map(dialled).collect()
}

fn lost() -> QueryFailure {
    QueryFailure {
        reason: ErrorReason::WorkersLost,
        message: "nobody".to_owned(),
        attempt: None,
    }
}

#[test]
fn addresses_are_dialled_at_once_and_need_no_resolution() {
    let mut discovery = Discovery::new(&["10.0.0.1:1".to_owned(), "[::1]:2".to_owned()]);
    assert_eq!(discovery.to_resolve().count(), 0);
    assert_eq!(discovery.next_deadline(), Some(Instant(0)));
    assert_eq!(
        handle(&mut discovery, 0, Event::Ticked),
        ["10.0.0.1:1", "[::1]:2"]
    );
    assert!(
        handle(&mut discovery, 5, Event::Ticked).is_empty(),
        "dialled twice"
    );
    assert_eq!(discovery.next_deadline(), None);
}

#[test]
fn every_address_of_a_name_is_dialled_and_new_ones_as_they_come() {
    let mut discovery = pool();
    assert_eq!(discovery.to_resolve().collect::<Vec<_>>(), ["pool:7400"]);
    assert!(handle(&mut discovery, 0, not_resolved()).is_empty());
    assert_eq!(
        handle(&mut discovery, 10, resolved(&["a:1", "b:1"])),
        ["a:1", "b:1"]
    );
    assert_eq!(
        handle(&mut discovery, 20, resolved(&["a:1", "b:1", "c:1"])),
        ["c:1"]
    );
}

#[test]
fn a_failed_dial_is_repeated_with_growing_waits() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1"]));
    let mut now = 0;
    for wait in [100, 200, 400, 800, 1600, 2000, 2000] {
        assert!(handle(&mut discovery, now, unreachable("a:1")).is_empty());
        assert_eq!(discovery.next_deadline(), Some(Instant(now + wait)));
        assert!(handle(&mut discovery, now + wait - 1, Event::Ticked).is_empty());
        now += wait;
        assert_eq!(handle(&mut discovery, now, Event::Ticked), ["a:1"]);
    }
    handle(&mut discovery, now, joined("a:1", "a"));
    handle(&mut discovery, now, ended("a:1"));
    assert_eq!(
        discovery.next_deadline(),
        Some(Instant(now + 100)),
        "a session starts the waits over"
    );
}

#[test]
fn what_is_no_longer_listed_keeps_its_session_but_is_not_dialled_again() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1", "b:1"]));
    handle(&mut discovery, 0, joined("a:1", "a"));
    handle(&mut discovery, 0, unreachable("b:1"));
    handle(&mut discovery, 50, resolved(&[]));
    assert_eq!(discovery.next_deadline(), None, "b is forgotten at once");
    handle(&mut discovery, 60, ended("a:1"));
    assert_eq!(discovery.next_deadline(), None, "a is forgotten with its session");
    assert!(handle(&mut discovery, 10_000, Event::Ticked).is_empty());
    assert_eq!(handle(&mut discovery, 10_001, resolved(&["a:1"])), ["a:1"]);
}

#[test]
fn an_address_that_is_unlisted_while_it_is_dialled_may_still_join() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1"]));
    handle(&mut discovery, 1, resolved(&[]));
    handle(&mut discovery, 2, joined("a:1", "a"));
    assert!(
        handle(&mut discovery, 3, resolved(&["a:1"])).is_empty(),
        "it is up"
    );
}

#[test]
fn a_name_that_stops_to_resolve_keeps_its_addresses_for_a_while() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1"]));
    handle(&mut discovery, 1_000, not_resolved());
    handle(&mut discovery, 1_000, unreachable("a:1"));
    assert_eq!(handle(&mut discovery, 30_999, not_resolved()), ["a:1"]);
    handle(&mut discovery, 31_000, unreachable("a:1"));
    handle(&mut discovery, 31_000, not_resolved());
    assert_eq!(discovery.next_deadline(), None);
}

#[test]
fn two_addresses_of_one_worker_make_one_session() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1", "b:1"]));
    handle(&mut discovery, 0, joined("a:1", "same"));
    handle(&mut discovery, 1, joined("b:1", "same"));
    handle(&mut discovery, 2, ended("a:1"));
    assert_eq!(discovery.next_deadline(), None, "a would only cut b's session");
    handle(&mut discovery, 3, ended("b:1"));
    let mut dialled = handle(&mut discovery, 3_000, Event::Ticked);
    dialled.sort();
    assert_eq!(dialled, ["a:1", "b:1"]);
}

#[test]
fn a_loss_names_what_was_refused_and_only_other_builds_make_it_a_mismatch() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1", "b:1"]));
    handle(&mut discovery, 0, refused("a:1", RefusedReason::BuildMismatch));
    handle(&mut discovery, 0, unreachable("b:1"));
    let mut failure = lost();
    discovery.explain(&mut failure);
    assert_eq!(failure.reason, ErrorReason::WorkersLost);
    assert_eq!(failure.message, "nobody; a:1: it refused; b:1: cannot connect");
    // What a query that has no worker says meanwhile.
    assert_eq!(
        discovery.no_workers_reason().as_deref(),
        Some("a:1: it refused; b:1: cannot connect")
    );
    handle(&mut discovery, 100, Event::Ticked);
    handle(&mut discovery, 100, refused("b:1", RefusedReason::BuildMismatch));
    let mut failure = lost();
    discovery.explain(&mut failure);
    assert_eq!(failure.reason, ErrorReason::BuildMismatch);
}

#[test]
fn a_loss_after_a_worker_was_there_is_no_mismatch_and_other_failures_stay_as_they_are() {
    let mut discovery = pool();
    handle(&mut discovery, 0, resolved(&["a:1"]));
    handle(&mut discovery, 0, joined("a:1", "a"));
    handle(&mut discovery, 1, ended("a:1"));
    handle(&mut discovery, 2_000, Event::Ticked);
    handle(
        &mut discovery,
        2_000,
        refused("a:1", RefusedReason::BuildMismatch),
    );
    let mut failure = lost();
    discovery.explain(&mut failure);
    assert_eq!(failure.reason, ErrorReason::WorkersLost);
    let mut other = QueryFailure {
        reason: ErrorReason::TaskFailed,
        ..lost()
    };
    discovery.explain(&mut other);
    assert_eq!(other.message, "nobody");
}

#[test]
fn names_without_addresses_are_told_and_long_lists_cut() {
    let mut discovery = pool();
    handle(&mut discovery, 0, not_resolved());
    let mut failure = lost();
    discovery.explain(&mut failure);
    assert_eq!(
        failure.message,
        "nobody; pool:7400 does not resolve: no such name"
    );
    let addresses: Vec<String> = (10..30).map(|port| format!("a:{port}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    handle(&mut discovery, 1, resolved(&addresses));
    for address in &addresses {
        handle(&mut discovery, 1, unreachable(address));
    }
    let mut failure = lost();
    discovery.explain(&mut failure);
    assert!(failure.message.ends_with("; and 12 more"), "{}", failure.message);
}

#[test]
fn all_are_tried_once_each_address_was_reached_or_has_failed() {
    let mut discovery = pool();
    assert!(!discovery.has_tried_all(), "nothing is known");
    handle(&mut discovery, 0, not_resolved());
    assert!(!discovery.has_tried_all(), "there may be workers yet");
    handle(&mut discovery, 1, resolved(&["a", "b", "c"]));
    handle(&mut discovery, 2, joined("a", "w1"));
    handle(&mut discovery, 2, unreachable("b"));
    assert!(!discovery.has_tried_all());
    handle(&mut discovery, 3, refused("c", RefusedReason::Draining));
    assert!(discovery.has_tried_all());
    handle(&mut discovery, 4, resolved(&["a", "b", "c", "d"]));
    assert!(!discovery.has_tried_all(), "another one was found");
}
