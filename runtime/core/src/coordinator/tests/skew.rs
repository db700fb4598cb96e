//! Hot partitions are split into shards.

use super::fixture::{Query, assignments, attempt, cancelled, in_epoch, join, policy, states_at, wrote};
use crate::coordinator::{Action, Policy};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, StageId};
use crate::layout::AdaptivePolicy;
use crate::message::{Assignment, InputState, Writer};
use crate::plan::{Determinism, StageGraph};
use crate::snapshot::ReduceSnapshot;
use crate::time::Instant;

/// Bytes by partition of each map task of the probe side, and of the build side.
const PROBE: [u64; 4] = [10, 10, 100, 10];
const BUILD: [u64; 4] = [5, 5, 5, 5];

fn adaptive() -> Policy {
    let mut policy = policy();
    policy.adaptive = Some(AdaptivePolicy {
        target_bytes: 100,
        min_tasks: 1,
        max_tasks: 0,
        max_partitions_per_task: 0,
        min_task_bytes: 1,
    });
    policy
}

/// The join with all its inputs written by one worker of as many slots, and what followed.
fn joined(graph: StageGraph, policy: Policy, slots: u32) -> (Query, Vec<Action>) {
    let mut query = Query::new(graph, policy);
    query.join("a", slots);
    query.run(wrote("a", attempt(2, 0, 0), &BUILD));
    let mut actions = Vec::new();
    for (stage, task) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        actions = query.run(wrote("a", attempt(stage, task, 0), &PROBE));
    }
    (query, actions)
}

fn reduce(query: &Query) -> ReduceSnapshot {
    let mut stages = query.machine.snapshot(Instant(query.now)).stages;
    stages.swap_remove(3).reduce.expect("it reads exchanges")
}

/// Partitions, and map tasks by stage and number.
type Part = (Vec<u32>, Vec<(u32, u32)>);

/// What each task of the join reads of the probe side.
fn read(actions: &[Action]) -> Vec<Part> {
    let of_probe = |(_, assignment): &(String, Assignment)| {
        let input = &assignment.inputs[0];
        let map_tasks = input.writers.iter().flat_map(Writer::map_tasks);
        let map_tasks = map_tasks.map(|task| (task.stage.0, task.task)).collect();
        (input.assigned_reduce_partitions.clone(), map_tasks)
    };
    assignments(actions).iter().map(of_probe).collect()
}

#[test]
fn hot_partition_splitting_raises_the_number_of_reduce_tasks() {
    let (query, actions) = joined(join(), adaptive(), 8);
    let all = vec![(0, 0), (0, 1), (1, 0), (1, 1)];
    let mut expected = vec![(vec![0], all.clone()), (vec![1], all.clone())];
    expected.extend(all.iter().map(|map_task| (vec![2], vec![*map_task])));
    expected.push((vec![3], all));
    assert_eq!(read(&actions), expected);
    let seen = reduce(&query);
    assert_eq!(
        (
            seen.planned_reduce_tasks,
            seen.adaptive_reduce_tasks,
            seen.skew_split_tasks
        ),
        (4, Some(7), 4)
    );
    for (_, assignment) in assignments(&actions) {
        let build: Vec<_> = assignment.inputs[1]
            .writers
            .iter()
            .flat_map(Writer::map_tasks)
            .collect();
        assert_eq!(build.len(), 1, "the other side is read whole: {assignment:?}");
    }
}

#[test]
fn the_loss_of_a_map_task_concerns_the_tasks_that_read_it() {
    let (mut query, _) = joined(join(), adaptive(), 8);
    let layout = query.machine.layouts.id(StageId(3));
    let failure = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::UnknownStream,
    };
    let lost = query.fail("a", attempt(3, 2, 0), failure);
    assert_eq!(states_at(&lost, "a"), [(attempt(0, 0, 0), InputState::Lost)]);
    // It writes other sizes, as compression may, and the layout holds.
    let again = query.run(wrote("a", attempt(0, 0, 1), &[90; 4]));
    assert_eq!(read(&again), [(vec![2], vec![(0, 0)])]);
    assert_eq!(
        states_at(&again, "a"),
        [(attempt(0, 0, 1), InputState::Won)],
        "it knows the others"
    );
    assert_eq!(query.machine.layouts.id(StageId(3)), layout);
}

#[test]
fn a_stage_that_starts_over_is_divided_anew() {
    let mut graph = join();
    graph.stages[0].determinism = Determinism::Indeterminate;
    let (mut query, _) = joined(graph, adaptive(), 8);
    let failure = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 0, 0),
        error: FetchError::UnknownStream,
    };
    let lost = query.fail("a", attempt(3, 2, 0), failure);
    let mut stopped = cancelled(&lost);
    stopped.sort_unstable();
    let others = [0, 1, 3, 4, 5, 6].map(|task| attempt(3, task, 0));
    assert_eq!(stopped, others, "shards that were not planned too");
    for id in stopped {
        query.fail("a", id, AttemptFailure::Cancelled);
    }
    let again = query.run(wrote("a", attempt(0, 0, 1), &PROBE));
    assert_eq!(read(&again).len(), 7);
    let ids = assignments(&again).into_iter();
    let ids: Vec<AttemptId> = ids.map(|(_, assignment)| assignment.attempt).collect();
    assert!(ids.contains(&in_epoch(1, attempt(3, 6, 1))), "{ids:?}");
}

#[test]
fn a_partition_is_split_where_that_cannot_change_rows() {
    let mut whole = join();
    whole.stages[3].inputs[0].may_split = false;
    // The build side is the smaller one: each of its shards would read all of the probe side.
    let mut smaller = whole.clone();
    smaller.stages[3].inputs[1].may_split = true;
    for graph in [whole, smaller] {
        let (query, actions) = joined(graph, adaptive(), 8);
        assert_eq!(assignments(&actions).len(), 4);
        assert_eq!(reduce(&query).skew_split_tasks, 0);
    }
}

#[test]
fn the_bounds_of_the_policy_hold_for_shards() {
    let most = |max_tasks| {
        let mut policy = adaptive();
        policy.adaptive.as_mut().expect("it is adaptive").max_tasks = max_tasks;
        reduce(&joined(join(), policy, 8).0)
    };
    assert_eq!(most(7).skew_split_tasks, 4);
    let few = most(5);
    assert_eq!((few.skew_split_tasks, few.adaptive_reduce_tasks), (0, Some(4)));
}
