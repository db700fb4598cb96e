//! Graphs, workers and events for tests of the coordinator, and a query that runs by hand.

use std::time::Duration;

use crate::coordinator::{Action, Coordinator, Event, Outcome, Policy, QueryFailure};
use crate::failure::AttemptFailure;
use crate::ids::{AttemptId, CoordinatorEpoch, ExchangeId, Incarnation, StageEpoch, StageId, WorkerId};
use crate::joins::JoinPolicy;
use crate::layout::LayoutId;
use crate::locality::{DataLocality, LocalityPolicy, NodeLocation};
use crate::message::{Assignment, InputState, InputUpdate, MapOutputPartitionMeta, Recovered};
use crate::metrics::AttemptMetrics;
use crate::plan::{Determinism, Exchange, ExchangeKind, ReadKind, Stage, StageGraph, StageInput};
use crate::time::Instant;
use sluice_crds::shuffle_query::ShuffleRetention;

pub fn policy() -> Policy {
    Policy {
        max_task_attempts: 3,
        retry_backoff_base: Duration::from_millis(250),
        exclude_worker_after_failures: 3,
        worker_liveness_timeout: Duration::from_secs(15),
        coordinator_epoch: CoordinatorEpoch(1),
        recovery_wait: Duration::ZERO,
        no_workers_grace: Duration::from_secs(30),
        attempt_stall_timeout: Duration::from_secs(600),
        deadline: None,
        reduce_fetch_window_partitions: 4,
        min_range_bytes: 100,
        adaptive: None,
        joins: Some(JoinPolicy::new(0)),
        speculation: None,
        locality: LocalityPolicy {
            min_bytes: 1,
            max_wait: Duration::from_millis(100),
        },
        retention: ShuffleRetention::UntilEnd,
        sink: false,
    }
}

pub fn sink_policy() -> Policy {
    Policy {
        sink: true,
        ..policy()
    }
}

pub fn stage(id: u32, tasks: u32, inputs: &[(u32, ReadKind)], output: u32) -> Stage {
    let input = |(exchange, read): &(u32, ReadKind)| StageInput {
        exchange: ExchangeId(*exchange),
        read: *read,
        empty_ends: false,
        may_split: false,
    };
    Stage {
        id: StageId(id),
        label: format!("stage {id}"),
        tasks,
        inputs: inputs.iter().map(input).collect(),
        output: ExchangeId(output),
        determinism: Determinism::Unordered,
        coalesces: true,
        has_sortable_join: false,
        swappable_joins: Vec::new(),
        data: DataLocality::default(),
        files: Vec::new(),
    }
}

pub fn exchange(id: u32, kind: ExchangeKind, partitions: u32, writers: &[u32]) -> Exchange {
    Exchange {
        id: ExchangeId(id),
        kind,
        partitions,
        writers: writers.iter().copied().map(StageId).collect(),
        fetch: None,
    }
}

/// `maps` tasks of s0, hashed to `reduces` tasks of s1, which write the result.
pub fn map_reduce(maps: u32, reduces: u32) -> StageGraph {
    StageGraph {
        stages: vec![
            stage(0, maps, &[], 0),
            stage(1, reduces, &[(0, ReadKind::OwnPartition)], 1),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Hash, reduces, &[0]),
            exchange(1, ExchangeKind::Forward, 1, &[1]),
        ],
        result: ExchangeId(1),
        ordered: false,
        filters: Vec::new(),
    }
}

/// Two probe stages of two tasks and a build stage of one, joined in four partitions by stage 3, which stage 4 reads. The probe side
/// may be split.
pub fn join() -> StageGraph {
    let own = [(0, ReadKind::OwnPartition), (1, ReadKind::OwnPartition)];
    let mut graph = StageGraph {
        stages: vec![
            stage(0, 2, &[], 0),
            stage(1, 2, &[], 0),
            stage(2, 1, &[], 1),
            stage(3, 4, &own, 2),
            stage(4, 1, &[(2, ReadKind::AllPartitions)], 3),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Hash, 4, &[0, 1]),
            exchange(1, ExchangeKind::Hash, 4, &[2]),
            exchange(2, ExchangeKind::Forward, 1, &[3]),
            exchange(3, ExchangeKind::Forward, 1, &[4]),
        ],
        result: ExchangeId(3),
        ordered: false,
        filters: Vec::new(),
    };
    graph.stages[3].inputs[0].may_split = true;
    graph
}

/// One task a stage, `stages` of them in a row.
pub fn chain(stages: u32) -> StageGraph {
    let input = |id: u32| id.checked_sub(1).map(|before| (before, ReadKind::AllPartitions));
    StageGraph {
        stages: (0..stages)
            .map(|id| stage(id, 1, &input(id).into_iter().collect::<Vec<_>>(), id))
            .collect(),
        exchanges: (0..stages)
            .map(|id| exchange(id, ExchangeKind::Forward, 1, &[id]))
            .collect(),
        result: ExchangeId(stages - 1),
        ordered: false,
        filters: Vec::new(),
    }
}

pub fn worker(name: &str) -> WorkerId {
    WorkerId {
        name: name.to_owned(),
        incarnation: Incarnation(1),
    }
}

/// Attempt `attempt` of task `task` of stage `stage` in the stage's first epoch.
pub fn attempt(stage: u32, task: u32, attempt: u32) -> AttemptId {
    AttemptId {
        stage: StageId(stage),
        stage_epoch: StageEpoch(0),
        task,
        attempt,
    }
}

pub fn in_epoch(epoch: u32, id: AttemptId) -> AttemptId {
    AttemptId {
        stage_epoch: StageEpoch(epoch),
        ..id
    }
}

pub fn failed(message: &str) -> AttemptFailure {
    AttemptFailure::Failed {
        message: message.to_owned(),
    }
}

/// A coordinator, its clock, and workers that grant every request at once.
pub struct Query {
    pub machine: Coordinator,
    pub now: u64,
}

impl Query {
    pub fn new(graph: StageGraph, policy: Policy) -> Self {
        let machine = Coordinator::new(graph, policy, Instant(0)).expect("a good graph");
        Self { machine, now: 0 }
    }

    /// Hands one event in. A success that names no layout was read by that of its stage.
    pub fn handle(&mut self, mut event: Event) -> Vec<Action> {
        if let Event::AttemptSucceeded { attempt, layout, .. } = &mut event
            && *layout == LayoutId::default()
        {
            *layout = self.machine.layouts.id(attempt.stage).unwrap_or_default();
        }
        self.machine.handle(Instant(self.now), event)
    }

    /// Hands one event in and grants every request that follows; answers with all actions but leases.
    pub fn run(&mut self, event: Event) -> Vec<Action> {
        let mut todo = vec![event];
        let mut all = Vec::new();
        while let Some(event) = todo.pop() {
            for action in self.handle(event) {
                match action {
                    Action::RequestSlots { slots: 0, .. } | Action::ReleaseSlots { .. } => {}
                    Action::RequestSlots { worker, slots, .. } => {
                        todo.push(Event::SlotsGranted { worker, slots });
                    }
                    other => all.push(other),
                }
            }
        }
        all
    }

    pub fn tick_at(&mut self, now: u64) -> Vec<Action> {
        self.now = now;
        self.run(Event::Ticked)
    }

    pub fn join(&mut self, name: &str, slots: u32) -> Vec<Action> {
        self.join_holding(&worker(name), slots, &[])
    }

    /// Joins from a node called as the worker.
    pub fn join_at(&mut self, name: &str, zone: &str, slots: u32) -> Vec<Action> {
        self.run(Event::WorkerJoined {
            worker: worker(name),
            slots,
            location: NodeLocation {
                node: Some(name.to_owned()),
                zone: Some(zone.to_owned()),
            },
            held: Vec::new(),
            recovered: Recovered::default(),
        })
    }

    pub fn join_holding(&mut self, worker: &WorkerId, slots: u32, held: &[AttemptId]) -> Vec<Action> {
        self.run(Event::WorkerJoined {
            worker: worker.clone(),
            slots,
            location: NodeLocation::default(),
            held: held.to_vec(),
            recovered: Recovered::default(),
        })
    }

    pub fn lose(&mut self, name: &str) -> Vec<Action> {
        self.run(lost(name))
    }

    pub fn succeed(&mut self, name: &str, id: AttemptId) -> Vec<Action> {
        self.run(succeeded(name, id))
    }

    pub fn fail(&mut self, name: &str, id: AttemptId, failure: AttemptFailure) -> Vec<Action> {
        self.run(Event::AttemptFailed {
            worker: worker(name),
            attempt: id,
            failure,
        })
    }
}

pub fn lost(name: &str) -> Event {
    Event::WorkerLost {
        worker: worker(name),
        message: "connection reset".to_owned(),
    }
}

pub fn succeeded(name: &str, id: AttemptId) -> Event {
    Event::AttemptSucceeded {
        worker: worker(name),
        attempt: id,
        layout: LayoutId::default(),
        outputs: Vec::new(),
        run: None,
        filters: Vec::new(),
        metrics: AttemptMetrics {
            rows_out: 10,
            ..AttemptMetrics::default()
        },
    }
}

/// A success that wrote so many bytes to each partition.
pub fn wrote(name: &str, id: AttemptId, bytes: &[u64]) -> Event {
    let output = |(partition, bytes): (u32, &u64)| MapOutputPartitionMeta {
        partition,
        bytes: *bytes,
        rows: 1,
    };
    Event::AttemptSucceeded {
        worker: worker(name),
        attempt: id,
        layout: LayoutId::default(),
        outputs: (0..).zip(bytes).map(output).collect(),
        run: None,
        filters: Vec::new(),
        metrics: AttemptMetrics::default(),
    }
}

pub fn assignments(actions: &[Action]) -> Vec<(String, Assignment)> {
    let assignment = |action: &Action| match action {
        Action::AssignAttempt { worker, assignment } => Some((worker.name.clone(), assignment.clone())),
        _ => None,
    };
    actions.iter().filter_map(assignment).collect()
}

/// Who was assigned what.
pub fn assigned(actions: &[Action]) -> Vec<(String, AttemptId)> {
    assignments(actions)
        .into_iter()
        .map(|(worker, assignment)| (worker, assignment.attempt))
        .collect()
}

/// What a worker was told of outputs.
pub fn updates_at(actions: &[Action], name: &str) -> Vec<InputUpdate> {
    let updates = |action: &Action| match action {
        Action::UpdateInputs { worker, updates, .. } if worker.name == name => Some(updates.as_ref().clone()),
        _ => None,
    };
    actions.iter().filter_map(updates).flatten().collect()
}

/// Which outputs a worker was told to count, and which not.
pub fn states_at(actions: &[Action], name: &str) -> Vec<(AttemptId, InputState)> {
    states(&updates_at(actions, name))
}

/// What the client was told.
pub fn client_updates(actions: &[Action]) -> Vec<(AttemptId, InputState)> {
    let updates = |action: &Action| match action {
        Action::UpdateResult { updates } => Some(states(updates)),
        _ => None,
    };
    actions.iter().filter_map(updates).flatten().collect()
}

fn states(updates: &[InputUpdate]) -> Vec<(AttemptId, InputState)> {
    updates
        .iter()
        .map(|update| (update.map_attempt, update.state))
        .collect()
}

pub fn cancelled(actions: &[Action]) -> Vec<AttemptId> {
    let cancel = |action: &Action| match action {
        Action::CancelAttempt { attempt, .. } => Some(*attempt),
        _ => None,
    };
    actions.iter().filter_map(cancel).collect()
}

pub fn retired(actions: &[Action]) -> Vec<AttemptId> {
    let retire = |action: &Action| match action {
        Action::RetireAttempt { attempt, .. } => Some(*attempt),
        _ => None,
    };
    actions.iter().filter_map(retire).collect()
}

/// How the query ended; panics if it did not, or if anything follows the end.
pub fn outcome(actions: &[Action]) -> Outcome {
    match actions.last() {
        Some(Action::EndQuery { outcome }) => outcome.clone(),
        other => panic!("the query did not end: {other:?}"),
    }
}

pub fn failure(actions: &[Action]) -> QueryFailure {
    match outcome(actions) {
        Outcome::Failed(failure) => failure,
        other => panic!("the query did not fail: {other:?}"),
    }
}
