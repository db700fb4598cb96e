//! Reduce tasks run where most of their input lies, and wait for that no longer than the policy says.

use std::time::Duration;

use super::fixture::{Query, assigned, attempt, map_reduce, policy, stage, worker, wrote};
use crate::coordinator::spread::{Offer, Runnable, spread};
use crate::coordinator::worker_registry::WorkerRegistry;
use crate::coordinator::{Action, Event, Policy};
use crate::ids::StageId;
use crate::locality::{FilesHash, LocalityCounts, LocalityPolicy, NodeLocation};
use crate::message::Recovered;
use crate::plan::{ReadKind, StageGraph};
use crate::time::Instant;
use std::sync::Arc;

fn locality(query: &Query) -> LocalityCounts {
    query.machine.snapshot(Instant(query.now)).stages[1].locality
}

/// Map task 0 ran at a, map task 1 at b, each wrote so many bytes by partition. Where which task of the next stage started.
fn reduced(graph: StageGraph, policy: Policy, wrote_by: [&[u64]; 2]) -> (Query, Vec<(String, u32)>) {
    let mut query = Query::new(graph, policy);
    query.join("a", 1);
    query.join("b", 1);
    query.run(wrote("a", attempt(0, 0, 0), wrote_by[0]));
    let actions = query.run(wrote("b", attempt(0, 1, 0), wrote_by[1]));
    let started = assigned(&actions).into_iter();
    let mut started: Vec<_> = started.map(|(worker, id)| (worker, id.task)).collect();
    started.sort();
    (query, started)
}

#[test]
fn reduce_tasks_run_where_most_of_their_input_lies() {
    let at = |a: u32, b: u32| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    let counts = |worker| LocalityCounts {
        worker,
        ..LocalityCounts::default()
    };
    let far = LocalityPolicy {
        min_bytes: 81,
        ..policy().locality
    };
    let least = Policy {
        locality: far,
        ..policy()
    };
    for (policy, wrote_by, started, expected) in [
        (policy(), [&[90, 10][..], &[10, 90]], at(0, 1), counts(2)),
        (policy(), [&[10, 90], &[90, 10]], at(1, 0), counts(2)),
        // Nothing is saved: they run as slots come, and nothing counts.
        (policy(), [&[50, 50], &[50, 50]], at(1, 0), counts(0)),
        (policy(), [&[50, 40], &[40, 50]], at(1, 0), counts(0)),
        (least, [&[90, 10], &[10, 90]], at(1, 0), counts(0)),
        // One of two tasks is the share of a worker with half of the slots.
        (policy(), [&[90, 91], &[10, 10]], at(1, 0), counts(1)),
    ] {
        let (query, tasks) = reduced(map_reduce(2, 2), policy, wrote_by);
        assert_eq!((tasks, locality(&query)), (started, expected), "{wrote_by:?}");
    }
}

#[test]
fn a_task_that_reads_all_partitions_runs_where_most_of_them_lie() {
    let mut graph = map_reduce(2, 1);
    graph.stages[1].inputs[0].read = ReadKind::AllPartitions;
    for (wrote_by, expected) in [([&[90][..], &[10]], "a"), ([&[10], &[90]], "b")] {
        let (_, started) = reduced(graph.clone(), policy(), wrote_by);
        assert_eq!(started, [(expected.to_owned(), 0)]);
    }
}

/// The slots that are requested of a, b and c once the only task of a stage prefers b.
fn waiting(policy: Policy) -> Query {
    let mut query = Query::new(map_reduce(2, 1), policy);
    query.join("a", 1);
    query.join("b", 1);
    query.run(wrote("a", attempt(0, 0, 0), &[10]));
    query.handle(wrote("b", attempt(0, 1, 0), &[90]));
    query
}

fn requests(query: &Query) -> Vec<u32> {
    query.machine.slots.requests().collect()
}

#[test]
fn slots_are_requested_of_preferred_workers_first_and_of_others_after_the_longest_wait() {
    let brief = Policy {
        locality: LocalityPolicy {
            max_wait: Duration::from_millis(40),
            ..policy().locality
        },
        ..policy()
    };
    let mut query = waiting(brief);
    assert_eq!(requests(&query), [0, 1]);
    assert_eq!(
        query.machine.next_deadline(),
        Some(Instant(40)),
        "it wakes for that"
    );
    query.now = 39;
    query.handle(Event::Ticked);
    assert_eq!(requests(&query), [0, 1]);
    query.now = 40;
    query.handle(Event::Ticked);
    assert_eq!(
        requests(&query),
        [1, 0],
        "as if it preferred none: the first name"
    );
    assert_eq!(query.machine.next_deadline(), Some(Instant(100)));
    query.now = 100;
    query.handle(Event::Ticked);
    assert_eq!(requests(&query), [1, 1], "it starves");
}

#[test]
fn a_slot_that_is_granted_elsewhere_does_not_stay_idle() {
    let mut query = waiting(policy());
    let granted = query.handle(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    assert_eq!(assigned(&granted), [("a".to_owned(), attempt(1, 0, 0))]);
    let busy = LocalityCounts {
        near_workers_busy: 1,
        ..LocalityCounts::default()
    };
    assert_eq!(locality(&query), busy);
}

#[test]
fn a_task_whose_worker_is_gone_runs_anywhere() {
    let mut query = waiting(policy());
    let gone = query.handle(Event::WorkerDrained { worker: worker("b") });
    let request = Action::RequestSlots {
        worker: worker("a"),
        slots: 1,
        speculative_slots: 0,
    };
    assert!(gone.contains(&request), "{gone:?}");
    query.run(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    assert_eq!(locality(&query).no_worker_near, 1);
}

#[test]
fn slots_are_requested_on_the_node_and_in_the_zone_of_a_preferred_worker_without_any() {
    let mut registry = WorkerRegistry::new(&policy());
    for (name, node, zone) in [
        ("a", "n1", "y"),
        ("b", "n2", "z"),
        ("c", "n3", "z"),
        ("d", "n2", "z"),
    ] {
        let location = NodeLocation {
            node: Some(node.to_owned()),
            zone: Some(zone.to_owned()),
        };
        registry.register(&worker(name), 4, location, Instant(0));
    }
    let stages = [stage(0, 9, &[], 0)];
    let preferred = registry.get("b").expect("it is registered");
    // Tasks that prefer b, tasks that prefer none, the spare slots of a to d, and what each is asked for.
    for (preferring, others, spare, expected) in [
        (1, 0, [4, 4, 4, 4], [0, 1, 0, 0]),
        (2, 2, [4, 2, 4, 4], [1, 2, 1, 0]),
        (1, 0, [4, 0, 4, 4], [0, 0, 0, 1]),
        (2, 0, [4, 0, 4, 1], [0, 0, 1, 1]),
        (2, 0, [4, 0, 1, 0], [1, 0, 1, 0]),
    ] {
        let offers = registry.all().zip(spare).filter(|(_, spare)| *spare > 0);
        let offers = offers
            .map(|(worker, spare)| Offer::new(worker, 0, spare))
            .collect();
        let first = Runnable::anywhere(StageId(0), others);
        let near = Runnable::anywhere(StageId(0), preferring)
            .map(|tasks| tasks.preferring(&Arc::new(preferred.id().clone()), preferred.location().data()));
        let tasks: Vec<Runnable> = first.into_iter().chain(near).collect();
        let dealt = spread(&tasks, &stages, offers);
        let asked = ["a", "b", "c", "d"].map(|name| dealt.get(name).copied().unwrap_or_default());
        assert_eq!(asked, expected, "{preferring} and {others} tasks on {spare:?}");
    }
}

/// A scan of four tasks, of four files.
fn scan() -> StageGraph {
    let mut graph = map_reduce(4, 1);
    let file = |task: u64| FilesHash::of([("part", task)].into_iter());
    graph.stages[0].files = (0..4).filter_map(file).collect();
    graph
}

/// Which tasks of the scan started at which of the workers, which have two slots each and come in this order.
fn scanned(workers: [&str; 2]) -> (Query, Vec<(String, u32)>) {
    let mut query = Query::new(scan(), policy());
    let mut started = Vec::new();
    for name in workers {
        query.handle(Event::WorkerJoined {
            worker: worker(name),
            slots: 2,
            location: NodeLocation::default(),
            held: Vec::new(),
            recovered: Recovered::default(),
        });
    }
    for name in workers {
        let granted = query.handle(Event::SlotsGranted {
            worker: worker(name),
            slots: 2,
        });
        started.extend(
            assigned(&granted)
                .into_iter()
                .map(|(worker, id)| (worker, id.task)),
        );
    }
    started.sort();
    (query, started)
}

#[test]
fn scans_return_to_the_workers_that_read_the_same_files() {
    let (query, started) = scanned(["a", "b"]);
    let (_, again) = scanned(["b", "a"]);
    let same_files = query.machine.snapshot(Instant(query.now)).stages[0].locality;
    assert_eq!(started, again);
    assert_eq!(
        (same_files.same_files, same_files.asked()),
        (4, 0),
        "{same_files:?}"
    );
    assert_eq!(started.len(), 4, "no slot stays idle");
}
