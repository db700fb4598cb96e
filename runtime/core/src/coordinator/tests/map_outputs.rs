//! Who is told where the outputs of map tasks are, and how often.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::fixture::{
    Query, assigned, attempt, in_epoch, map_reduce, policy, sink_policy, states_at, succeeded, updates_at,
    worker, wrote,
};
use crate::coordinator::{Action, Event};
use crate::ids::AttemptId;
use crate::message::{InputState, InputUpdate};
use crate::plan::{Determinism, ReadKind, StageGraph};

/// Messages about outputs, and updates in them, by worker.
#[derive(Debug, Default)]
struct Told {
    messages: BTreeMap<String, u32>,
    updates: BTreeMap<String, usize>,
    /// What was said, each once.
    lists: Vec<Arc<Vec<InputUpdate>>>,
}

impl Told {
    fn count(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::UpdateInputs { worker, updates, .. } = action {
                if !self.lists.iter().any(|known| Arc::ptr_eq(known, updates)) {
                    self.lists.push(Arc::clone(updates));
                }
                *self.messages.entry(worker.name.clone()).or_default() += 1;
                *self.updates.entry(worker.name.clone()).or_default() += updates.len();
            }
        }
    }
}

/// Runs a query to its end on four workers with so many slots.
fn run(graph: StageGraph, slots: u32) -> Told {
    let mut query = Query::new(graph, sink_policy());
    let mut told = Told::default();
    let mut running: VecDeque<(String, AttemptId)> = VecDeque::new();
    let mut todo: Vec<Vec<Action>> = Vec::new();
    for name in ["a", "b", "c", "d"] {
        todo.push(query.join(name, slots));
    }
    loop {
        for actions in todo.drain(..) {
            told.count(&actions);
            running.extend(assigned(&actions));
            if actions
                .iter()
                .any(|action| matches!(action, Action::CommitSink { .. }))
            {
                return told;
            }
        }
        let (name, id) = running.pop_front().expect("something runs");
        todo.push(query.succeed(&name, id));
    }
}

#[test]
fn an_update_covers_a_map_task_once_for_all_readers_at_a_worker() {
    // 10,000 pairs of a map task and a reader.
    let told = run(map_reduce(100, 100), 5);
    assert_eq!(told.messages.values().copied().collect::<Vec<_>>(), [1; 4]);
    assert_eq!(told.updates.values().copied().collect::<Vec<_>>(), [100; 4]);
    assert_eq!(told.lists.len(), 1, "workers are told the same");
    // As many readers again make no difference.
    let twice = run(map_reduce(100, 200), 5);
    assert_eq!(twice.updates, told.updates);
}

/// Two map tasks won on `a`; of three readers, two run on `a` and one on `b`.
fn readers() -> Query {
    let mut query = Query::new(map_reduce(2, 3), policy());
    query.join("a", 2);
    query.succeed("a", attempt(0, 0, 0));
    query.succeed("a", attempt(0, 1, 0));
    query
}

fn won(id: AttemptId) -> (AttemptId, InputState) {
    (id, InputState::Won)
}

#[test]
fn a_worker_is_told_with_its_first_reader() {
    let mut query = readers();
    assert_eq!(states_at(&query.join("idle", 0), "idle"), []);
    let actions = query.join("b", 4);
    assert_eq!(assigned(&actions), [("b".to_owned(), attempt(1, 2, 0))]);
    assert_eq!(
        states_at(&actions, "b"),
        [won(attempt(0, 0, 0)), won(attempt(0, 1, 0))]
    );
    assert_eq!(states_at(&actions, "a"), []);
    let position = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
    assert!(
        position(|action| matches!(action, Action::UpdateInputs { .. }))
            < position(|action| matches!(action, Action::AssignAttempt { .. })),
        "the attempt finds its inputs known: {actions:?}"
    );
}

#[test]
fn every_worker_that_reads_is_told_once_of_a_loss_and_of_the_next_winner() {
    let mut query = Query::new(map_reduce(2, 4), policy());
    query.join("m", 1);
    query.join("a", 2);
    query.succeed("m", attempt(0, 0, 0));
    query.succeed("a", attempt(0, 1, 0));
    query.join("b", 1);
    let lost = query.lose("m");
    for name in ["a", "b"] {
        let told = states_at(&lost, name);
        assert_eq!(told, [(attempt(0, 0, 0), InputState::Lost)], "{name}");
    }
    let again = query.join("n", 1);
    assert!(assigned(&again).contains(&("n".to_owned(), attempt(0, 0, 1))));
    let told = query.succeed("n", attempt(0, 0, 1));
    for name in ["a", "b"] {
        assert_eq!(states_at(&told, name), [won(attempt(0, 0, 1))], "{name}");
    }
}

#[test]
fn a_session_that_begins_anew_knows_nothing() {
    let mut query = readers();
    query.join("b", 1);
    let back = query.join_holding(&worker("b"), 1, &[]);
    assert_eq!(assigned(&back), [("b".to_owned(), attempt(1, 2, 1))]);
    assert_eq!(
        states_at(&back, "b"),
        [won(attempt(0, 0, 0)), won(attempt(0, 1, 0))]
    );
}

#[test]
fn a_lost_worker_is_told_no_more() {
    let mut query = readers();
    query.join("b", 1);
    query.join("c", 0);
    query.lose("b");
    let lost = query.lose("a");
    assert!(
        !lost
            .iter()
            .any(|action| matches!(action, Action::UpdateInputs { .. })),
        "{lost:?}"
    );
}

#[test]
fn readers_of_a_stage_that_starts_over_are_told_of_its_outputs_at_once() {
    // s0 -> s1 -> s2, where other runs of s0 write other rows.
    let mut graph = map_reduce(1, 2);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut last = graph.stages[1].clone();
    last.id.0 = 2;
    last.tasks = 1;
    last.inputs[0].exchange.0 = 1;
    last.inputs[0].read = ReadKind::AllPartitions;
    last.output.0 = 2;
    let mut exchange = graph.exchanges[1].clone();
    exchange.id.0 = 2;
    exchange.writers[0].0 = 2;
    graph.stages.push(last);
    graph.exchanges.push(exchange);
    graph.result.0 = 2;
    let mut query = Query::new(graph, policy());
    query.join("m", 1);
    query.join("a", 2);
    query.succeed("m", attempt(0, 0, 0));
    query.run(Event::WorkerDrained { worker: worker("m") });
    query.succeed("a", attempt(1, 0, 0));
    query.succeed("m", attempt(1, 0, 0));
    let read = query.succeed("a", attempt(1, 1, 0));
    let (told, _) = (states_at(&read, "a"), query.succeed("m", attempt(1, 1, 0)));
    assert!(told.len() <= 2, "{told:?}");
    query.lose("m");
    let again = query.succeed("a", attempt(0, 0, 1));
    assert_eq!(states_at(&again, "a"), [won(attempt(0, 0, 1))], "s1 reads it");
    let first = query.succeed("a", in_epoch(1, attempt(1, 0, 1)));
    assert_eq!(states_at(&first, "a"), [], "nobody reads s1 yet");
    let second = query.succeed("a", in_epoch(1, attempt(1, 1, 1)));
    let both = [0, 1].map(|task| won(in_epoch(1, attempt(1, task, 1))));
    assert_eq!(states_at(&second, "a"), both);
}

#[test]
fn a_worker_is_told_which_partitions_hold_bytes() {
    // The bytes of three partitions.
    let cases: [(&[u64], Option<&[u32]>); 2] = [(&[7, 7, 7], None), (&[7], Some(&[0]))];
    for (bytes, filled) in cases {
        let mut query = Query::new(map_reduce(1, 3), policy());
        query.join("a", 3);
        let actions = query.run(wrote("a", attempt(0, 0, 0), bytes));
        let told = updates_at(&actions, "a");
        assert_eq!(told.len(), 1);
        let told = told[0].filled_partitions.as_ref();
        let members = told.map(|told| told.members_in(0..3).collect::<Vec<u32>>());
        assert_eq!(members.as_deref(), filled, "{bytes:?}");
    }
    let mut query = Query::new(map_reduce(1, 3), policy());
    query.join("a", 3);
    let nothing = query.run(succeeded("a", attempt(0, 0, 0)));
    let told = updates_at(&nothing, "a");
    let filled = told[0].filled_partitions.as_ref().expect("not all hold bytes");
    assert_eq!(filled.members_in(0..3).count(), 0);
}
