//! Layouts that follow the observed bytes.

use super::fixture::{
    Query, assigned, assignments, attempt, cancelled, client_updates, exchange, failed, in_epoch, map_reduce,
    policy, retired, sink_policy, stage, wrote,
};
use crate::coordinator::{Action, Event, Policy};
use crate::ids::{ExchangeId, StageId};
use crate::layout::{AdaptivePolicy, LayoutId};
use crate::message::{Assignment, InputState, Writer};
use crate::plan::{Determinism, ExchangeKind, ReadKind, StageGraph};
use crate::snapshot::{ReduceSnapshot, StageSnapshot};
use crate::time::Instant;

fn adaptive(mut policy: Policy) -> Policy {
    policy.adaptive = Some(AdaptivePolicy {
        target_bytes: 100,
        min_tasks: 1,
        max_tasks: 0,
        max_partitions_per_task: 0,
        min_task_bytes: 100,
    });
    policy
}

fn snapshot(query: &Query, number: usize) -> StageSnapshot {
    let now = Instant(query.now);
    query.machine.snapshot(now).stages.swap_remove(number)
}

fn reduce(query: &Query, number: usize) -> ReduceSnapshot {
    snapshot(query, number).reduce.expect("it reads an exchange")
}

/// What each assigned task reads of its first input.
fn partitions(actions: &[Action]) -> Vec<Vec<u32>> {
    let first = |(_, assignment): (_, Assignment)| assignment.inputs[0].assigned_reduce_partitions.clone();
    assignments(actions).into_iter().map(first).collect()
}

fn result_tasks(actions: &[Action]) -> Vec<Writer> {
    let told = |action: &Action| match action {
        Action::SetResultTasks { writer } => Some(writer.clone()),
        _ => None,
    };
    actions.iter().filter_map(told).collect()
}

/// Where a task of the reading stage was assigned.
fn host(actions: &[Action], task: u32) -> String {
    let mut assigned = assigned(actions).into_iter();
    let found = assigned.find(|(_, attempt)| (attempt.stage, attempt.task) == (StageId(1), task));
    found.expect("it was assigned").0
}

/// Two map tasks, one on each worker, and what follows the end of the second: four partitions in two tasks.
fn half_reduced() -> (Query, Vec<Action>) {
    let mut query = Query::new(map_reduce(2, 4), adaptive(policy()));
    query.join("a", 1);
    query.join("b", 1);
    query.run(wrote("a", attempt(0, 0, 0), &[40, 10, 0, 30]));
    let actions = query.run(wrote("b", attempt(0, 1, 0), &[20, 10, 60, 10]));
    (query, actions)
}

#[test]
fn barrier_time_coalescing_reads_neighbours_in_one_task() {
    let (query, actions) = half_reduced();
    // 60, 20, 60 and 40 bytes.
    let mut read = partitions(&actions);
    read.sort();
    assert_eq!(read, [[0, 1], [2, 3]]);
    let root = StageId(1);
    assert_eq!(
        result_tasks(&actions),
        [Writer {
            stage: root,
            tasks: 2,
            only: None,
        }]
    );
    let seen = reduce(&query, 1);
    assert_eq!(
        (seen.planned_reduce_tasks, seen.adaptive_reduce_tasks),
        (4, Some(2))
    );
    assert_eq!(seen.adaptive_target_bytes, Some(100));
    assert_eq!((seen.layout_finalize_count, seen.layout_events), (1, 1));
    assert_eq!(snapshot(&query, 1).tasks, 2);
    assert_eq!(
        seen.partition_bytes_histogram,
        [4],
        "what was observed, not what was made of it"
    );
}

#[test]
fn barrier_time_coalescing_waits_for_the_last_map_task() {
    let mut query = Query::new(map_reduce(2, 4), adaptive(policy()));
    query.join("a", 2);
    query.run(wrote("a", attempt(0, 0, 0), &[1, 1, 1, 1]));
    let seen = reduce(&query, 1);
    assert_eq!((seen.adaptive_reduce_tasks, seen.layout_events), (None, 0));
    assert_eq!(snapshot(&query, 1).tasks, 4);
}

#[test]
fn surplus_tasks_do_not_run() {
    let (mut query, actions) = half_reduced();
    let won = query.run(wrote(&host(&actions, 0), attempt(1, 0, 0), &[5]));
    assert_eq!(assigned(&won), []);
    query.run(wrote(&host(&actions, 1), attempt(1, 1, 0), &[5]));
    let seen = snapshot(&query, 1);
    assert_eq!((seen.done, seen.attempts, seen.tasks), (2, 2, 2));
    let ended = query.run(Event::ResultDelivered);
    assert!(matches!(ended.last(), Some(Action::EndQuery { .. })), "{ended:?}");
}

#[test]
fn a_sink_is_committed_with_the_files_of_the_tasks_that_ran() {
    let mut query = Query::new(map_reduce(1, 4), adaptive(sink_policy()));
    query.join("a", 1);
    let actions = query.run(wrote("a", attempt(0, 0, 0), &[1, 1, 1, 1]));
    assert_eq!(result_tasks(&actions), [], "nobody reads");
    let actions = query.run(wrote("a", attempt(1, 0, 0), &[1]));
    let winners = vec![attempt(1, 0, 0)];
    assert!(actions.contains(&Action::CommitSink { winners }), "{actions:?}");
}

#[test]
fn inputs_that_are_divided_together_are_coalesced_by_their_sum() {
    let graph = StageGraph {
        stages: vec![
            stage(0, 1, &[], 0),
            stage(1, 1, &[], 1),
            stage(
                2,
                3,
                &[(0, ReadKind::OwnPartition), (1, ReadKind::OwnPartition)],
                2,
            ),
            stage(3, 1, &[(2, ReadKind::AllPartitions)], 3),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Hash, 3, &[0]),
            exchange(1, ExchangeKind::Hash, 3, &[1]),
            exchange(2, ExchangeKind::Forward, 1, &[2]),
            exchange(3, ExchangeKind::Forward, 1, &[3]),
        ],
        result: ExchangeId(3),
        ordered: false,
        filters: Vec::new(),
    };
    let mut query = Query::new(graph, adaptive(policy()));
    query.join("a", 2);
    query.run(wrote("a", attempt(0, 0, 0), &[50, 10, 40]));
    let actions = query.run(wrote("a", attempt(1, 0, 0), &[50, 20, 20]));
    assert_eq!(partitions(&actions), [vec![0], vec![1, 2]]);
    for (_, assignment) in assignments(&actions) {
        let [one, other] = assignment.inputs.as_slice() else {
            panic!("two inputs: {assignment:?}");
        };
        assert_eq!(one.assigned_reduce_partitions, other.assigned_reduce_partitions);
    }
    query.run(wrote("a", attempt(2, 0, 0), &[1]));
    let actions = query.run(wrote("a", attempt(2, 1, 0), &[1]));
    let readers = assignments(&actions);
    let writers: Vec<Writer> = readers[0].1.inputs[0].writers.clone();
    assert_eq!(
        writers,
        [Writer {
            stage: StageId(2),
            tasks: 2,
            only: None,
        }],
        "its reader waits for no surplus task"
    );
}

#[test]
fn what_relies_on_one_partition_a_task_is_not_coalesced() {
    let mut apart = map_reduce(1, 4);
    apart.stages[1].coalesces = false;
    let off = Policy {
        adaptive: None,
        ..adaptive(policy())
    };
    for (graph, policy) in [(apart, adaptive(policy())), (map_reduce(1, 4), off)] {
        let mut query = Query::new(graph, policy);
        query.join("a", 4);
        let actions = query.run(wrote("a", attempt(0, 0, 0), &[1, 1, 1, 1]));
        assert_eq!(partitions(&actions), [[0], [1], [2], [3]]);
        assert_eq!(result_tasks(&actions), []);
        let seen = reduce(&query, 1);
        assert_eq!(
            (seen.adaptive_reduce_tasks, seen.adaptive_target_bytes),
            (Some(4), None)
        );
    }
}

#[test]
fn stages_that_a_client_reads_beside_others_are_not_coalesced() {
    let mut graph = map_reduce(1, 4);
    graph.stages.push(stage(2, 1, &[], 1));
    graph.exchanges[1].writers.push(StageId(2));
    for (policy, tasks) in [(policy(), 4), (sink_policy(), 1)] {
        let mut query = Query::new(graph.clone(), adaptive(policy));
        query.join("a", 8);
        query.run(wrote("a", attempt(0, 0, 0), &[1, 1, 1, 1]));
        assert_eq!(snapshot(&query, 1).tasks, tasks);
    }
}

#[test]
fn slots_are_asked_for_the_tasks_of_the_layout() {
    let mut query = Query::new(map_reduce(1, 9), adaptive(policy()));
    query.join("a", 9);
    let success = wrote("a", attempt(0, 0, 0), &[10; 9]);
    let actions = query.handle(success);
    let requested = actions.iter().find_map(|action| match action {
        Action::RequestSlots { slots, .. } => Some(*slots),
        _ => None,
    });
    assert_eq!(requested, Some(1), "{actions:?}");
}

#[test]
fn stale_reports_from_an_old_layout_are_ignored() {
    let (mut query, actions) = half_reduced();
    let layout = assignments(&actions)[0].1.layout;
    let identity = {
        let mut plain = Query::new(map_reduce(2, 4), policy());
        plain.join("a", 2);
        plain.run(wrote("a", attempt(0, 0, 0), &[1]));
        let actions = plain.run(wrote("a", attempt(0, 1, 0), &[1]));
        assignments(&actions)[0].1.layout
    };
    assert_ne!(layout, identity);
    let mut stale = wrote(&host(&actions, 0), attempt(1, 0, 0), &[1]);
    if let Event::AttemptSucceeded { layout, .. } = &mut stale {
        *layout = identity;
    }
    let actions = query.run(stale);
    assert_eq!(client_updates(&actions), []);
    assert_eq!(retired(&actions), [attempt(1, 0, 0)]);
    let again = assignments(&query.tick_at(250));
    assert_eq!(
        (again[0].1.attempt, again[0].1.layout),
        (attempt(1, 0, 1), layout)
    );
}

#[test]
fn a_failed_map_attempt_is_retried_to_completion_under_an_adaptive_layout() {
    let mut query = Query::new(map_reduce(2, 4), adaptive(policy()));
    query.join("a", 2);
    query.run(wrote("a", attempt(0, 0, 0), &[40, 10, 0, 30]));
    query.fail("a", attempt(0, 1, 0), failed("disk"));
    assert_eq!(reduce(&query, 1).layout_finalize_count, 0);
    assert_eq!(
        assigned(&query.tick_at(250)),
        [("a".to_owned(), attempt(0, 1, 1))]
    );
    let actions = query.run(wrote("a", attempt(0, 1, 1), &[20, 10, 60, 10]));
    assert_eq!(partitions(&actions), [[0, 1], [2, 3]]);
    query.run(wrote("a", attempt(1, 0, 0), &[1]));
    query.run(wrote("a", attempt(1, 1, 0), &[1]));
    assert_eq!(snapshot(&query, 1).done, 2);
}

#[test]
fn worker_death_in_map_under_an_adaptive_layout_keeps_the_layout() {
    let (mut query, before) = half_reduced();
    // The output of the second map task goes, and one reader has it already.
    query.lose("b");
    let actions = query.join("c", 2);
    assert!(
        assigned(&actions).contains(&("c".to_owned(), attempt(0, 1, 1))),
        "{actions:?}"
    );
    // It writes other sizes, as compression may.
    let actions = query.run(wrote("c", attempt(0, 1, 1), &[90, 90, 90, 90]));
    let again = assignments(&actions);
    let tasks = |all: &[Action]| {
        let of = |(_, assignment): (_, Assignment)| (assignment.attempt.task, assignment.layout);
        assignments(all).into_iter().map(of).collect::<Vec<_>>()
    };
    let first = tasks(&before);
    assert!(!again.is_empty());
    assert!(
        tasks(&actions).iter().all(|task| first.contains(task)),
        "{actions:?}"
    );
    assert_eq!(reduce(&query, 1).layout_finalize_count, 1);
    assert_eq!(result_tasks(&actions), []);
}

#[test]
fn worker_death_in_reduce_under_an_adaptive_layout_runs_the_same_partitions_again() {
    let (mut query, actions) = half_reduced();
    let there = assignments(&actions);
    let (worker, assignment) = there
        .iter()
        .find(|(worker, _)| worker == "b")
        .expect("one runs there");
    let reader = assignment.attempt;
    let read = assignment.inputs.clone();
    let worker = worker.clone();
    query.lose(&worker);
    query.join("c", 1);
    let mut actions = query.run(wrote("c", attempt(0, 1, 1), &[20, 10, 60, 10]));
    actions.extend(query.tick_at(1_000));
    let again = assignments(&actions);
    let again = again.iter().find(|(_, other)| other.attempt.task == reader.task);
    let (_, again) = again.expect("it runs again");
    assert_eq!(again.attempt.attempt, reader.attempt + 1);
    assert_eq!(again.inputs, read);
}

#[test]
fn a_stage_that_starts_over_is_coalesced_anew_and_all_its_tasks_may_run() {
    let mut graph = map_reduce(2, 4);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut query = Query::new(graph, adaptive(policy()));
    query.join("a", 1);
    query.join("b", 1);
    query.run(wrote("a", attempt(0, 0, 0), &[1, 1, 1, 1]));
    let before = query.run(wrote("b", attempt(0, 1, 0), &[1, 1, 1, 1]));
    assert_eq!(partitions(&before), [[0, 1, 2, 3]]);
    // The worker that does not read is lost with the output of its map task.
    let reads_at_a = host(&before, 0) == "a";
    let (victim, map_task) = if reads_at_a { ("b", 1) } else { ("a", 0) };
    query.lose(victim);
    let lost = query.join("c", 1);
    assert_eq!(
        cancelled(&lost),
        [attempt(1, 0, 0)],
        "its rows are of an output that is made anew"
    );
    assert_eq!(
        (snapshot(&query, 1).tasks, reduce(&query, 1).layout_events),
        (4, 2)
    );
    // What was observed of the first map task still holds; of the second, what it wrote first.
    let actions = query.run(wrote("c", attempt(0, map_task, 1), &[1, 1, 1, 1]));
    let again = assignments(&actions);
    assert_eq!(again[0].1.attempt, in_epoch(1, attempt(1, 0, 1)));
    assert_eq!(partitions(&actions), [[0, 1, 2, 3]]);
    let seen = reduce(&query, 1);
    assert_eq!((seen.layout_finalize_count, seen.layout_events), (2, 3));
    let won = query.run(wrote(&host(&actions, 0), in_epoch(1, attempt(1, 0, 1)), &[1]));
    assert_eq!(
        client_updates(&won),
        [(in_epoch(1, attempt(1, 0, 1)), InputState::Won)]
    );
}

#[test]
fn an_old_epochs_report_of_a_task_that_the_layout_leaves_out_is_ignored() {
    let (mut query, _) = half_reduced();
    let surplus = attempt(1, 3, 0);
    let mut report = wrote("a", surplus, &[1]);
    if let Event::AttemptSucceeded { layout, .. } = &mut report {
        *layout = LayoutId {
            fingerprint: 1,
            ..LayoutId::default()
        };
    }
    assert_eq!(client_updates(&query.run(report)), []);
    assert_eq!(snapshot(&query, 1).done, 0);
}
