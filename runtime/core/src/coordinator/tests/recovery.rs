//! The successor of a lost coordinator: what it waits for, what it takes over, and what it refuses.

use std::time::Duration;

use super::fixture::{
    Query, assigned, attempt, client_updates, in_epoch, map_reduce, outcome, policy, retired, sink_policy,
    worker, wrote,
};
use crate::coordinator::{Action, Event, Outcome, Policy};
use crate::ids::{AttemptId, CoordinatorEpoch};
use crate::layout::AdaptivePolicy;
use crate::locality::NodeLocation;
use crate::message::{FinishedOutput, InputState, MapOutputPartitionMeta, Recovered, StageLayout};
use crate::metrics::AttemptMetrics;
use crate::plan::{Determinism, StageGraph};
use crate::snapshot::RecoveryCounts;
use crate::time::Instant;

const WAIT: Duration = Duration::from_secs(10);

fn adaptive(policy: Policy) -> Policy {
    Policy {
        adaptive: Some(AdaptivePolicy {
            target_bytes: 130,
            min_tasks: 1,
            max_tasks: 0,
            max_partitions_per_task: 0,
            min_task_bytes: 1_000_000,
        }),
        ..policy
    }
}

fn successor_of(policy: &Policy) -> Policy {
    Policy {
        coordinator_epoch: CoordinatorEpoch(2),
        recovery_wait: WAIT,
        ..policy.clone()
    }
}

/// What worker "a" keeps of a coordinator's query: two maps of thirty bytes a partition, read by tasks of two partitions each,
/// of which the first has won.
fn left_by_the_first(graph: &StageGraph, policy: &Policy) -> Recovered {
    let mut query = Query::new(graph.clone(), policy.clone());
    let mut actions = query.join("a", 1);
    let mut recovered = Recovered::default();
    let ended = (0..2).map(|task| attempt(0, task, 0)).chain([attempt(1, 0, 0)]);
    for id in ended {
        let bytes: &[u64] = if id.stage.0 == 0 { &[30, 30, 30, 30] } else { &[7] };
        actions.extend(query.run(wrote("a", id, bytes)));
        recovered.outputs.push(output(&query, id, bytes));
    }
    for action in actions {
        if let Action::DefineLayout { layout, .. } = action {
            recovered.layouts.push(StageLayout::clone(&layout));
        }
    }
    recovered
}

fn output(query: &Query, attempt: AttemptId, bytes: &[u64]) -> FinishedOutput {
    let meta = |(partition, bytes): (u32, &u64)| MapOutputPartitionMeta {
        partition,
        bytes: *bytes,
        rows: 1,
    };
    FinishedOutput {
        attempt,
        layout: query.machine.layouts.id(attempt.stage).unwrap_or_default(),
        outputs: (0..).zip(bytes).map(meta).collect(),
        run: None,
        filters: Vec::new(),
        metrics: AttemptMetrics::default(),
    }
}

fn join_with(query: &mut Query, name: &str, recovered: Recovered) -> Vec<Action> {
    query.run(Event::WorkerJoined {
        worker: worker(name),
        slots: 1,
        location: NodeLocation::default(),
        held: Vec::new(),
        recovered,
    })
}

fn counts(query: &Query) -> RecoveryCounts {
    query.machine.snapshot(Instant(query.now)).recovery
}

#[test]
fn a_successor_runs_only_what_its_predecessor_had_not_finished() {
    let (graph, policy) = (map_reduce(2, 4), adaptive(policy()));
    let left = left_by_the_first(&graph, &policy);
    assert_eq!(
        left.layouts.len(),
        1,
        "scans have one layout, which needs no keeping"
    );
    assert_eq!(left.layouts[0].layout.tasks.len(), 2);
    let mut query = Query::new(graph, successor_of(&policy));
    let joined = join_with(&mut query, "a", left);
    assert_eq!(
        (assigned(&joined), retired(&joined)),
        (vec![], vec![]),
        "it waits"
    );
    assert_eq!(client_updates(&joined), [(attempt(1, 0, 0), InputState::Won)]);
    assert!(query.machine.is_recovering());
    let begun = query.run(Event::WorkersKnown);
    let next = attempt(1, 1, 100);
    assert_eq!(
        assigned(&begun),
        [("a".to_owned(), next)],
        "above the numbers of the first"
    );
    query.run(wrote("a", next, &[7]));
    assert_eq!(outcome(&query.run(Event::ResultDelivered)), Outcome::Succeeded);
    let expected = RecoveryCounts {
        recovered_tasks: 3,
        discarded_outputs: 0,
    };
    assert_eq!(counts(&query), expected);
    let stages = query.machine.snapshot(Instant(query.now)).stages;
    let attempts: Vec<u32> = stages.iter().map(|stage| stage.attempts).collect();
    assert_eq!(attempts, [2, 2], "no task ran twice");
}

#[test]
fn a_successor_waits_for_workers_and_not_for_ever() {
    let mut query = Query::new(map_reduce(2, 4), successor_of(&policy()));
    assert_eq!(assigned(&query.join("a", 1)), []);
    assert_eq!(query.machine.next_deadline(), Some(Instant(10_000)));
    assert_eq!(assigned(&query.tick_at(9_999)), []);
    assert_eq!(
        assigned(&query.tick_at(10_000)),
        [("a".to_owned(), attempt(0, 0, 100))]
    );
}

#[test]
fn a_worker_that_comes_late_saves_what_is_still_open() {
    let (graph, policy) = (map_reduce(2, 4), adaptive(policy()));
    let left = left_by_the_first(&graph, &policy);
    let mut query = Query::new(graph, successor_of(&policy));
    query.run(Event::WorkersKnown);
    query.join("b", 1);
    query.run(wrote("b", attempt(0, 0, 100), &[30, 30, 30, 30]));
    // Task 1 is at work at "b".
    let joined = join_with(&mut query, "a", left);
    assert_eq!(
        retired(&joined),
        [attempt(0, 0, 0)],
        "that task has won elsewhere"
    );
    let cancels = |action: &&Action| matches!(action, Action::CancelAttempt { .. });
    assert_eq!(joined.iter().filter(cancels).count(), 1);
    let expected = RecoveryCounts {
        recovered_tasks: 2,
        discarded_outputs: 1,
    };
    assert_eq!(counts(&query), expected);
}

#[test]
fn a_worker_whose_session_breaks_brings_the_same_outputs_again() {
    let (graph, policy) = (map_reduce(2, 4), adaptive(policy()));
    let left = left_by_the_first(&graph, &policy);
    let mut query = Query::new(graph, successor_of(&policy));
    join_with(&mut query, "a", left.clone());
    query.lose("a");
    let again = join_with(&mut query, "a", left);
    assert_eq!(retired(&again), []);
    assert_eq!(counts(&query).recovered_tasks, 3, "each once");
    assert_eq!(
        assigned(&query.run(Event::WorkersKnown)),
        [("a".to_owned(), attempt(1, 1, 100))]
    );
}

/// What a successor takes over of outputs that differ from those that it could use.
fn taken(graph: StageGraph, policy: &Policy, change: impl Fn(&mut Recovered)) -> (u32, Vec<AttemptId>) {
    let mut left = left_by_the_first(&graph, policy);
    change(&mut left);
    let mut query = Query::new(graph, successor_of(policy));
    let joined = join_with(&mut query, "a", left);
    (counts(&query).recovered_tasks, retired(&joined))
}

#[test]
fn outputs_that_may_have_other_rows_are_not_taken_over() {
    let policy = adaptive(policy());
    let graph = || map_reduce(2, 4);
    let reduce = attempt(1, 0, 0);
    let all = vec![attempt(0, 0, 0), attempt(0, 1, 0), reduce];
    assert_eq!(taken(graph(), &policy, |_| {}), (3, vec![]));
    // Nothing tells by which layout the task has read.
    assert_eq!(
        taken(graph(), &policy, |left| left.layouts.clear()),
        (2, vec![reduce])
    );
    // The layout is not the one that its name says, or not of this stage.
    let changed = |left: &mut Recovered| left.layouts[0].layout.tasks[0].partitions = 0..3;
    assert_eq!(taken(graph(), &policy, changed), (2, vec![reduce]));
    let wider = |left: &mut Recovered| left.layouts[0].layout.tasks[0].partitions = 0..u32::MAX;
    assert_eq!(taken(graph(), &policy, wider), (2, vec![reduce]));
    let swapped = |left: &mut Recovered| left.layouts[0].swapped_joins.push(0);
    assert_eq!(taken(graph(), &policy, swapped), (2, vec![reduce]));
    let another = |left: &mut Recovered| left.outputs[2].layout.fingerprint ^= 1;
    assert_eq!(taken(graph(), &policy, another), (2, vec![reduce]));
    // The stage had started over.
    let again = in_epoch(1, reduce);
    let restarted = |left: &mut Recovered| left.outputs[2].attempt = again;
    assert_eq!(taken(graph(), &policy, restarted), (2, vec![again]));
    // Another attempt would write other rows, so that those of its reader are others too.
    let mut random = graph();
    random.stages[0].determinism = Determinism::Indeterminate;
    assert_eq!(taken(random, &policy, |_| {}), (0, all));
    // Files beside the sink are removed with their coordinator.
    assert_eq!(
        taken(graph(), &adaptive(sink_policy()), |_| {}),
        (2, vec![reduce])
    );
}

#[test]
fn tasks_that_do_not_exist_are_refused() {
    let unknown = [attempt(9, 0, 0), attempt(0, 99, 0)];
    let (recovered, refused) = taken(map_reduce(2, 4), &adaptive(policy()), |left| {
        left.layouts[0].stage = unknown[0].stage;
        left.outputs[0].attempt = unknown[0];
        left.outputs[1].attempt = unknown[1];
    });
    assert_eq!(
        (recovered, refused),
        (0, vec![unknown[0], unknown[1], attempt(1, 0, 0)])
    );
}
