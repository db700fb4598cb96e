//! Tasks whose hash joins run out of memory.

use super::fixture::{Query, assignments, attempt, failure, map_reduce, policy, succeeded, worker};
use crate::coordinator::{Action, Event, Policy};
use crate::failure::{AttemptFailure, Resource};
use crate::ids::AttemptId;
use crate::joins::JoinPolicy;
use crate::snapshot::StageSnapshot;
use crate::time::Instant;
use sluice_crds::ErrorReason;

fn exhausted(resource: Resource) -> AttemptFailure {
    AttemptFailure::ResourcesExhausted {
        resource,
        message: "HashJoinInput[0] needs more".to_owned(),
    }
}

/// A query whose stage of three joining tasks has begun, and may fail once.
fn joining(change: impl FnOnce(&mut Policy), sortable: bool) -> Query {
    let mut graph = map_reduce(1, 3);
    graph.stages[1].has_sortable_join = sortable;
    let mut policy = Policy {
        max_task_attempts: 1,
        ..policy()
    };
    change(&mut policy);
    let mut query = Query::new(graph, policy);
    query.join("a", 2);
    let begun = query.succeed("a", attempt(0, 0, 0));
    assert_eq!(
        sorting(&begun),
        [(attempt(1, 0, 0), false), (attempt(1, 1, 0), false)]
    );
    query
}

/// Which attempts were assigned, and whether they sort.
fn sorting(actions: &[Action]) -> Vec<(AttemptId, bool)> {
    let assigned = assignments(actions).into_iter();
    assigned
        .map(|(_, assignment)| (assignment.attempt, assignment.sort_joins))
        .collect()
}

fn seen(query: &Query) -> StageSnapshot {
    query.machine.snapshot(Instant(query.now)).stages.swap_remove(1)
}

#[test]
fn a_task_whose_hash_join_runs_out_of_memory_sorts_at_once_and_has_not_failed() {
    let mut query = joining(|_| {}, true);
    let again = query.fail("a", attempt(1, 0, 0), exhausted(Resource::Memory));
    assert_eq!(sorting(&again), [(attempt(1, 0, 1), true)]);
    let stage = seen(&query);
    assert_eq!(
        (
            stage.join_switches.sorted_tasks,
            stage.failed_attempts,
            stage.lost_attempts
        ),
        (1, 0, 1)
    );
    let next = query.run(succeeded("a", attempt(1, 0, 1)));
    assert_eq!(
        sorting(&next),
        [(attempt(1, 2, 0), false)],
        "one task says nothing of the others"
    );
}

#[test]
fn a_task_that_sorts_and_runs_out_of_memory_fails() {
    let mut query = joining(|_| {}, true);
    query.fail("a", attempt(1, 0, 0), exhausted(Resource::Memory));
    let failure = failure(&query.fail("a", attempt(1, 0, 1), exhausted(Resource::Memory)));
    assert_eq!(failure.reason, ErrorReason::ResourcesExhausted);
    assert!(failure.message.contains("HashJoinInput"), "{}", failure.message);
}

#[test]
fn two_tasks_that_run_out_of_memory_speak_for_their_stage() {
    let mut query = joining(|_| {}, true);
    query.fail("a", attempt(1, 0, 0), exhausted(Resource::Memory));
    query.fail("a", attempt(1, 1, 0), exhausted(Resource::Memory));
    let next = query.run(succeeded("a", attempt(1, 0, 1)));
    assert_eq!(sorting(&next), [(attempt(1, 2, 0), true)]);
    assert_eq!(
        seen(&query).join_switches.sorted_tasks,
        2,
        "the third was never hashed"
    );
}

#[test]
fn an_attempt_that_was_hashed_before_its_stage_sorts_gets_its_own_try() {
    let mut query = joining(|_| {}, true);
    query.join("b", 1);
    query.fail("a", attempt(1, 0, 0), exhausted(Resource::Memory));
    query.fail("a", attempt(1, 1, 0), exhausted(Resource::Memory));
    let again = query.fail("b", attempt(1, 2, 0), exhausted(Resource::Memory));
    assert_eq!(sorting(&again), [(attempt(1, 2, 1), true)]);
}

#[test]
fn want_of_other_things_and_other_stages_and_queries_that_want_none_switch_nothing() {
    let cases = [
        (Some(JoinPolicy::new(0)), true, Resource::Disk),
        (Some(JoinPolicy::new(0)), true, Resource::Plans),
        (Some(JoinPolicy::new(0)), false, Resource::Memory),
        (None, true, Resource::Memory),
    ];
    for (joins, sortable, resource) in cases {
        let mut query = joining(|policy| policy.joins = joins, sortable);
        let failure = failure(&query.fail("a", attempt(1, 0, 0), exhausted(resource)));
        assert_eq!(failure.reason, ErrorReason::ResourcesExhausted, "{resource:?}");
        assert_eq!(seen(&query).join_switches.sorted_tasks, 0);
    }
}

#[test]
fn a_task_that_waits_for_memory_of_others_sorts_when_it_has_waited() {
    let mut query = joining(|_| {}, true);
    let contended = AttemptFailure::ResourcesContended {
        resource: Resource::Memory,
        message: "others hold the memory".to_owned(),
    };
    let meanwhile = query.fail("a", attempt(1, 0, 0), contended);
    assert_eq!(sorting(&meanwhile), [(attempt(1, 2, 0), false)]);
    query.run(succeeded("a", attempt(1, 1, 0)));
    query.now = 250;
    let again = query.run(Event::WorkerHeard { worker: worker("a") });
    assert_eq!(sorting(&again), [(attempt(1, 0, 1), true)]);
}
