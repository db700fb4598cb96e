//! What runs when, and where.

use super::fixture::{
    Query, assigned, assignments, attempt, chain, client_updates, exchange, failed, map_reduce, outcome,
    policy, stage, states_at, succeeded, worker,
};
use crate::coordinator::{Action, Event, Outcome};
use crate::ids::{ExchangeId, StageId, StreamEpoch};
use crate::locality::{DataLocality, LocalityCounts, NodeLocation};
use crate::message::{InputState, Recovered};
use crate::plan::{ExchangeKind, ReadKind, StageGraph};
use crate::time::Instant;

#[test]
fn a_query_runs_from_the_first_stage_to_the_end() {
    let mut query = Query::new(map_reduce(2, 1), policy());
    let maps = query.join("a", 4);
    assert_eq!(
        assigned(&maps),
        [
            ("a".to_owned(), attempt(0, 0, 0)),
            ("a".to_owned(), attempt(0, 1, 0))
        ]
    );
    assert_eq!(query.succeed("a", attempt(0, 0, 0)), [], "the barrier holds");
    let reduce = query.succeed("a", attempt(0, 1, 0));
    let root = attempt(1, 0, 0);
    assert_eq!(assigned(&reduce), [("a".to_owned(), root)]);
    assert_eq!(
        states_at(&reduce, "a"),
        [
            (attempt(0, 0, 0), InputState::Won),
            (attempt(0, 1, 0), InputState::Won)
        ]
    );
    assert_eq!(
        client_updates(&query.succeed("a", root)),
        [(root, InputState::Won)]
    );
    assert_eq!(outcome(&query.run(Event::ResultDelivered)), Outcome::Succeeded);
    assert_eq!(query.machine.next_deadline(), None);
    assert_eq!(query.run(Event::CancelRequested), [], "nothing follows the end");
}

#[test]
fn an_assignment_says_what_to_read_and_write() {
    let graph = StageGraph {
        stages: vec![
            stage(0, 2, &[], 0),
            stage(1, 1, &[], 1),
            stage(
                2,
                3,
                &[(0, ReadKind::OwnPartition), (1, ReadKind::AllPartitions)],
                2,
            ),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Hash, 3, &[0]),
            exchange(1, ExchangeKind::Forward, 2, &[1]),
            exchange(2, ExchangeKind::Forward, 1, &[2]),
        ],
        result: ExchangeId(2),
        ordered: false,
        filters: Vec::new(),
    };
    let mut query = Query::new(graph, policy());
    let maps = assignments(&query.join("a", 8));
    assert_eq!(maps[0].1.output_partitions, 3);
    assert_eq!(maps[0].1.inputs, []);
    for id in [attempt(0, 0, 0), attempt(0, 1, 0)] {
        query.succeed("a", id);
    }
    let reduces = assignments(&query.succeed("a", attempt(1, 0, 0)));
    let second = &reduces[1].1;
    assert_eq!(second.attempt, attempt(2, 1, 0));
    assert_eq!(second.inputs[0].writers[0].stage, StageId(0));
    assert_eq!(second.inputs[0].writers[0].tasks, 2);
    assert_eq!(second.inputs[0].assigned_reduce_partitions, [1]);
    assert_eq!(second.inputs[1].assigned_reduce_partitions, [0, 1]);
    assert_eq!(second.recommended_reduce_fetch_window_partitions, 4);
    assert_eq!(second.layout.version.0, 1);
    assert_eq!(second.layout, reduces[0].1.layout);
    assert_ne!(second.layout.fingerprint, maps[0].1.layout.fingerprint);
}

#[test]
fn the_longest_way_to_the_result_goes_first() {
    // s0 -> s1 -> s3 <- s2: the scan s0 starts before the scan s2, whatever slots there are.
    let graph = StageGraph {
        stages: vec![
            stage(0, 1, &[], 0),
            stage(1, 1, &[], 1),
            stage(2, 1, &[(1, ReadKind::AllPartitions)], 2),
            stage(
                3,
                1,
                &[(0, ReadKind::AllPartitions), (2, ReadKind::AllPartitions)],
                3,
            ),
        ],
        exchanges: (0..4)
            .map(|id| exchange(id, ExchangeKind::Forward, 1, &[id]))
            .collect(),
        result: ExchangeId(3),
        ordered: false,
        filters: Vec::new(),
    };
    let mut query = Query::new(graph, policy());
    let first = query.join("a", 1);
    assert_eq!(assigned(&first), [("a".to_owned(), attempt(1, 0, 0))]);
}

#[test]
fn tasks_spread_over_the_workers() {
    let mut query = Query::new(map_reduce(4, 1), policy());
    query.handle(Event::WorkerJoined {
        worker: worker("a"),
        slots: 4,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    let requests = query.handle(Event::WorkerJoined {
        worker: worker("b"),
        slots: 4,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    let request = |name: &str, slots| Action::RequestSlots {
        worker: worker(name),
        slots,
        speculative_slots: 0,
    };
    assert_eq!(requests, [request("a", 2), request("b", 2)]);
}

#[test]
fn starving_tasks_ask_every_worker_for_all_they_could_use() {
    let mut query = Query::new(map_reduce(4, 1), policy());
    query.handle(Event::WorkerJoined {
        worker: worker("a"),
        slots: 4,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    query.handle(Event::WorkerJoined {
        worker: worker("b"),
        slots: 3,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    assert_eq!(query.machine.next_deadline().map(|at| at.0), Some(100));
    query.now = 100;
    let request = |name: &str, slots| Action::RequestSlots {
        worker: worker(name),
        slots,
        speculative_slots: 0,
    };
    assert_eq!(query.handle(Event::Ticked), [request("a", 4), request("b", 3)]);
}

#[test]
fn slots_without_work_go_back() {
    let mut query = Query::new(chain(1), policy());
    query.handle(Event::WorkerJoined {
        worker: worker("a"),
        slots: 4,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    });
    let actions = query.handle(Event::SlotsGranted {
        worker: worker("a"),
        slots: 3,
    });
    assert_eq!(assigned(&actions), [("a".to_owned(), attempt(0, 0, 0))]);
    assert!(actions.contains(&Action::ReleaseSlots {
        worker: worker("a"),
        slots: 2
    }));
}

#[test]
fn an_ended_attempt_leaves_no_slot_behind() {
    let mut query = Query::new(map_reduce(2, 1), policy());
    query.join("a", 1);
    let next = query.handle(succeeded("a", attempt(0, 0, 0)));
    assert_eq!(
        next,
        [Action::RequestSlots {
            worker: worker("a"),
            slots: 1,
            speculative_slots: 0,
        }]
    );
}

#[test]
fn a_draining_worker_gets_no_attempt_and_keeps_its_output() {
    let mut query = Query::new(chain(2), policy());
    query.join("a", 1);
    query.join("b", 1);
    query.run(Event::WorkerDrained { worker: worker("a") });
    let next = query.succeed("a", attempt(0, 0, 0));
    assert_eq!(assigned(&next), [("b".to_owned(), attempt(1, 0, 0))]);
    assert_eq!(states_at(&next, "b"), [(attempt(0, 0, 0), InputState::Won)]);
}

#[test]
fn attempts_and_stream_epochs_grow() {
    let mut query = Query::new(chain(1), policy());
    let first = assignments(&query.join("a", 1));
    query.fail("a", attempt(0, 0, 0), failed("boom"));
    let second = assignments(&query.tick_at(250));
    assert_eq!(
        (first[0].1.attempt, first[0].1.stream_epoch),
        (attempt(0, 0, 0), StreamEpoch(1))
    );
    assert_eq!(
        (second[0].1.attempt, second[0].1.stream_epoch),
        (attempt(0, 0, 1), StreamEpoch(2))
    );
}

/// Four scanning tasks whose rows are on node `near` and in zone `z`.
fn near_scan() -> StageGraph {
    let mut graph = map_reduce(4, 1);
    graph.stages[0].data = DataLocality {
        nodes: ["near".to_owned()].into(),
        zones: ["z".to_owned()].into(),
    };
    graph
}

#[test]
fn tasks_run_where_their_data_is_as_long_as_there_are_slots() {
    let mut query = Query::new(near_scan(), policy());
    let mut all = query.join_at("near", "z", 2);
    all.extend(query.join_at("far", "y", 1));
    all.extend(query.join_at("in-zone", "z", 1));
    let mut on: Vec<String> = assigned(&all).into_iter().map(|(worker, _)| worker).collect();
    on.sort();
    assert_eq!(on, ["far", "in-zone", "near", "near"]);
    query.succeed("near", attempt(0, 0, 0));
    // A task that runs again goes to the free slot near its data, though another is free as well.
    query.join_at("idle", "y", 4);
    let again = query.lose("far");
    assert_eq!(
        assigned(&again).first().map(|(worker, _)| worker.as_str()),
        Some("near")
    );
    let counts = query.machine.snapshot(Instant(query.now)).stages[0].locality;
    let expected = LocalityCounts {
        node: 3,
        zone: 1,
        near_workers_busy: 1,
        ..LocalityCounts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn slots_are_asked_for_near_the_data_first() {
    let mut query = Query::new(near_scan(), policy());
    let join = |name: &str, zone: Option<&str>, slots| Event::WorkerJoined {
        worker: worker(name),
        slots,
        location: NodeLocation {
            node: Some(name.to_owned()),
            zone: zone.map(str::to_owned),
        },
        held: Vec::new(),
        recovered: Recovered::default(),
    };
    query.handle(join("a", Some("y"), 4));
    query.handle(join("b", Some("z"), 2));
    query.handle(join("near", None, 1));
    let requests = |query: &Query| query.machine.slots.requests().collect::<Vec<_>>();
    // In the order of the names: what is left of four after one on the node and two in the zone.
    assert_eq!(requests(&query), [1, 2, 1]);
    query.now = 100;
    query.handle(Event::Ticked);
    assert_eq!(requests(&query), [4, 2, 1], "starving tasks take any slot");
    let far = query.handle(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    assert_eq!(assigned(&far), [("a".to_owned(), attempt(0, 0, 0))]);
    query.handle(Event::WorkerLost {
        worker: worker("b"),
        message: "gone".to_owned(),
    });
    query.handle(Event::WorkerLost {
        worker: worker("near"),
        message: "gone".to_owned(),
    });
    query.handle(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    let counts = query.machine.snapshot(Instant(100)).stages[0].locality;
    let expected = LocalityCounts {
        near_workers_busy: 1,
        no_worker_near: 1,
        ..LocalityCounts::default()
    };
    assert_eq!(counts, expected);
}

#[test]
fn workers_that_were_chosen_stay_chosen_until_a_slot_is_given_back() {
    let mut query = Query::new(map_reduce(2, 1), policy());
    let join = |name: &str| Event::WorkerJoined {
        worker: worker(name),
        slots: 1,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered: Recovered::default(),
    };
    let request = |name: &str, slots| Action::RequestSlots {
        worker: worker(name),
        slots,
        speculative_slots: 0,
    };
    assert_eq!(query.handle(join("a")), [request("a", 1)]);
    assert_eq!(query.handle(join("b")), [request("b", 1)]);
    assert_eq!(query.handle(join("c")), []);
    let granted = query.handle(Event::SlotsGranted {
        worker: worker("a"),
        slots: 1,
    });
    assert_eq!(assigned(&granted), [("a".to_owned(), attempt(0, 0, 0))]);
    assert_eq!(granted.len(), 1, "the other task has its request: {granted:?}");
    let ended = query.handle(succeeded("a", attempt(0, 0, 0)));
    assert_eq!(ended, [request("a", 1), request("b", 0)], "the first name again");
}
