//! Joins whose inputs turned out small or large: tasks read small ones whole, and sides change places.

use std::collections::VecDeque;

use super::fixture::{Query, assigned, assignments, attempt, cancelled, failed, join, policy, wrote};
use crate::coordinator::{Action, Policy};
use crate::failure::{AttemptFailure, FetchError, Resource};
use crate::ids::{AttemptId, StageId};
use crate::joins::JoinPolicy;
use crate::layout::AdaptivePolicy;
use crate::message::{AssignedInput, Writer};
use crate::plan::{StageGraph, SwappableJoin};
use crate::snapshot::JoinSwitches;
use crate::time::Instant;

const JOIN: StageId = StageId(3);

fn adaptive() -> Policy {
    Policy {
        adaptive: Some(AdaptivePolicy {
            target_bytes: 100,
            min_tasks: 1,
            max_tasks: 0,
            max_partitions_per_task: 0,
            min_task_bytes: 1,
        }),
        joins: Some(JoinPolicy::new(20)),
        ..policy()
    }
}

/// A join whose probe side may be split and whose sides may change places.
fn changeable() -> StageGraph {
    let mut graph = join();
    graph.stages[3].has_sortable_join = true;
    graph.stages[3].swappable_joins = vec![SwappableJoin {
        join: 0,
        build: 0,
        probe: 1,
    }];
    graph
}

/// The join with its inputs written: tasks of stage 0 by worker a, of stage 1 by worker b. What followed.
fn joined(graph: StageGraph, policy: Policy, build: u64) -> (Query, Vec<Action>) {
    let mut query = Query::new(graph, policy);
    let mut running: VecDeque<_> = assigned(&query.join("a", 2)).into();
    running.extend(assigned(&query.join("b", 2)));
    let mut last = Vec::new();
    while let Some((worker, id)) = running.pop_front() {
        let bytes = if id.stage == StageId(2) { build } else { 100 };
        last = query.run(wrote(&worker, id, &[bytes; 4]));
        running.extend(assigned(&last).into_iter().filter(|(_, id)| id.stage < JOIN));
    }
    (query, last)
}

fn map_tasks(input: &AssignedInput) -> Vec<(u32, u32)> {
    let tasks = input.writers.iter().flat_map(Writer::map_tasks);
    tasks.map(|task| (task.stage.0, task.task)).collect()
}

/// Of each task of the join its worker and what it reads of the probe side, if it reads all partitions of everything.
fn local(actions: &[Action]) -> Vec<(String, Vec<(u32, u32)>)> {
    let mut read = Vec::new();
    for (worker, assignment) in assignments(actions) {
        let [probe, build] = assignment.inputs.as_slice() else {
            panic!("a join has two inputs")
        };
        let partitions = [probe, build].map(|input| input.assigned_reduce_partitions.clone());
        if partitions == [[0, 1, 2, 3], [0, 1, 2, 3]] {
            assert_eq!(map_tasks(build), [(2, 0)], "all of it");
            read.push((worker, map_tasks(probe)));
        }
    }
    read.sort();
    read
}

fn switches(query: &Query) -> JoinSwitches {
    let stages = query.machine.snapshot(Instant(query.now)).stages;
    stages[JOIN.0 as usize].join_switches
}

#[test]
fn tasks_read_a_small_build_side_whole_and_run_where_their_part_of_the_probe_side_lies() {
    let (query, actions) = joined(changeable(), adaptive(), 5);
    let at = |worker: &str, map_task| (worker.to_owned(), vec![map_task]);
    assert_eq!(
        local(&actions),
        [at("a", (0, 0)), at("a", (0, 1)), at("b", (1, 0)), at("b", (1, 1))]
    );
    assert_eq!(switches(&query).broadcast_tasks, 4);
    let stages = query.machine.snapshot(Instant(query.now)).stages;
    let reduce = stages[3].reduce.as_ref().expect("it reads exchanges");
    assert_eq!(reduce.skew_split_tasks, 0, "none is hot");
}

#[test]
fn partitions_are_read_where_the_build_side_is_large_or_rows_could_change_or_joins_are_fixed() {
    let mut whole = changeable();
    whole.stages[3].inputs[0].may_split = false;
    let fixed = Policy {
        joins: None,
        ..adaptive()
    };
    for (graph, policy, build) in [
        (changeable(), adaptive(), 6),
        (whole, adaptive(), 5),
        (changeable(), fixed, 5),
    ] {
        let (query, actions) = joined(graph, policy, build);
        assert_eq!(local(&actions), []);
        assert_eq!(assignments(&actions).len(), 4);
        assert_eq!(switches(&query).broadcast_tasks, 0);
    }
}

#[test]
fn a_part_that_is_lost_and_written_again_is_read_by_the_same_task() {
    let (mut query, _) = joined(changeable(), adaptive(), 5);
    let layout = query.machine.layouts.id(JOIN);
    let failure = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::UnknownStream,
    };
    let lost = query.fail("a", attempt(3, 0, 0), failure);
    assert_eq!(cancelled(&lost), [], "the other tasks read other parts");
    let again = query.run(wrote(
        &holder(&query, attempt(0, 0, 1)),
        attempt(0, 0, 1),
        &[90; 4],
    ));
    let read: Vec<_> = local(&again)
        .into_iter()
        .map(|(_, map_tasks)| map_tasks)
        .collect();
    assert_eq!(read, [[(0, 0)]]);
    assert_eq!(query.machine.layouts.id(JOIN), layout, "the parts stay");
}

/// Which joins of which attempts have their sides swapped.
fn swapped(actions: &[Action]) -> Vec<(AttemptId, Vec<u32>)> {
    let assigned = assignments(actions).into_iter();
    assigned
        .map(|(_, assignment)| (assignment.attempt, assignment.swapped_joins))
        .collect()
}

#[test]
fn the_smaller_side_becomes_the_build_side_in_every_attempt_that_hashes() {
    let shuffled = Policy {
        adaptive: None,
        ..adaptive()
    };
    let (mut query, actions) = joined(changeable(), shuffled, 200);
    assert_eq!(swapped(&actions).len(), 4);
    assert!(
        swapped(&actions).iter().all(|(_, joins)| *joins == [0]),
        "{actions:?}"
    );
    assert_eq!(switches(&query).swapped_joins, 1);
    query.fail(
        &holder(&query, attempt(3, 0, 0)),
        attempt(3, 0, 0),
        failed("it crashed"),
    );
    let again = query.tick_at(1_000);
    assert_eq!(swapped(&again), [(attempt(3, 0, 1), vec![0])]);
    let memory = AttemptFailure::ResourcesExhausted {
        resource: Resource::Memory,
        message: "HashJoinInput".to_owned(),
    };
    let sorts = query.fail(&holder(&query, attempt(3, 0, 1)), attempt(3, 0, 1), memory);
    assert_eq!(
        swapped(&sorts),
        [(attempt(3, 0, 2), vec![])],
        "it sorts both sides"
    );
}

/// The worker that runs an attempt.
fn holder(query: &Query, id: AttemptId) -> String {
    let task = query.machine.stages.task(id.task_id()).expect("a task");
    let attempt = task.running_attempt(id).expect("it runs");
    attempt.worker.name.clone()
}

#[test]
fn sides_stay_where_the_probe_side_is_not_much_smaller_or_joins_are_fixed() {
    for (joins, build) in [(Some(JoinPolicy::new(0)), 201), (None, 10)] {
        let policy = Policy {
            adaptive: None,
            joins,
            ..adaptive()
        };
        let (query, actions) = joined(changeable(), policy, build);
        assert!(swapped(&actions).iter().all(|(_, joins)| joins.is_empty()));
        assert_eq!(switches(&query).swapped_joins, 0);
    }
}

#[test]
fn an_input_that_tasks_read_whole_counts_as_such() {
    // Each task reads 20 bytes of the build side, and 400 of the probe side.
    for (max_swap_percent, expected) in [(4, 0), (5, 1)] {
        let mut policy = adaptive();
        policy.joins.as_mut().expect("they may change").max_swap_percent = max_swap_percent;
        let (query, _) = joined(changeable(), policy, 5);
        let seen = switches(&query);
        assert_eq!((seen.broadcast_tasks, seen.swapped_joins), (4, expected));
    }
}
