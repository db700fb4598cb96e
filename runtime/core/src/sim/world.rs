//! The clock, the queue of what is going to happen, and the coordinator's shell.

mod end;
mod event;

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;

pub use event::SimEvent;

use super::audit::{Audit, Violation};
use super::client::Client;
use super::defects::{Defect, apply_to_action};
use super::model::{Row, reference};
use super::node::Node;
use super::plan::{FAULTS_END, Plan, SINK_ANSWER, SLOWEST};
use super::recovery::relabel;
use super::session::{Link, ToWorker};
use crate::coordinator::{Action, Coordinator, Event, Outcome};
use crate::ids::{AttemptId, CoordinatorEpoch, Incarnation, QueryId, WorkerId};
use crate::message::{InputState, InputUpdate};
use crate::plan::Determinism;
use crate::reader;
use crate::snapshot::JoinSwitches;
use crate::time::Instant;

const STEP_LIMIT: u64 = 400_000;

pub struct World {
    pub plan: Plan,
    pub rng: SmallRng,
    pub now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), SimEvent>,
    pub coordinator: Coordinator,
    /// Which coordinator of the query it is.
    pub epoch: CoordinatorEpoch,
    coordinator_tick: Option<u64>,
    pub links: BTreeMap<String, Link>,
    pub broken: BTreeSet<u64>,
    pub next_session: u64,
    pub nodes: BTreeMap<String, Node>,
    pub client: Client,
    /// Files of root attempts at the sink.
    pub staged: BTreeMap<AttemptId, Vec<Row>>,
    pub visible: Option<Vec<AttemptId>>,
    /// Starts of workers that the poisoned task has killed.
    pub killed: Vec<WorkerId>,
    /// Attempts that hang.
    pub hung: u32,
    pub audit: Audit,
    /// When a worker last could take attempts.
    usable_worker_at: u64,
    reference: Vec<Row>,
    outcome: Option<Outcome>,
    trace: bool,
}

/// How a run went.
#[derive(Debug)]
pub struct Run {
    pub outcome: Outcome,
    pub steps: u64,
    pub lost_attempts: u32,
    /// Times that the client read on after rows had left.
    pub client_went_on: u32,
    /// Workers that the poisoned task has killed.
    pub killed: usize,
    /// Attempts that stood still.
    pub hung: u32,
    /// Stages that had fewer tasks than were planned.
    pub coalesced_stages: usize,
    /// Stages that read partitions in shards.
    pub split_stages: usize,
    /// Tasks whose joins did not fit and were sorted.
    pub sorted_tasks: u32,
    /// Tasks that read inputs of joins whole.
    pub broadcast_tasks: u32,
    /// Joins whose sides changed places.
    pub swapped_joins: u32,
    /// Duplicates that won.
    pub duplicates_won: u32,
    /// Duplicates that ended in vain.
    pub duplicates_wasted: u32,
    /// Tasks that a limit did not need.
    pub skipped: u32,
    /// Attempts at the worker that held most of their input.
    pub at_preferred_worker: u32,
    /// Tasks that ran again after their output was dropped.
    pub ran_again: u32,
    /// Tasks whose output the last coordinator took over.
    pub recovered: u32,
    /// Tasks that workers reported to it, whose output it could not use.
    pub discarded: u32,
}

impl World {
    /// A coordinator of the plan's query, as the plan's defect has it.
    pub fn new_coordinator(plan: &Plan, epoch: CoordinatorEpoch, now: u64) -> Result<Coordinator, Violation> {
        let mut graph = plan.graph.clone();
        if plan.defect == Defect::HideIndeterminacy {
            graph
                .stages
                .iter_mut()
                .for_each(|stage| stage.determinism = Determinism::Unordered);
        }
        if plan.defect == Defect::HalfLimit {
            let limits = graph
                .exchanges
                .iter_mut()
                .filter_map(|exchange| exchange.fetch.as_mut());
            limits.for_each(|rows| *rows = rows.div_ceil(2));
        }
        let coordinator = Coordinator::new(graph, plan.coordinator_policy(epoch), Instant(now));
        coordinator.map_err(|error| error.to_string())
    }

    pub fn new(plan: Plan, rng: SmallRng, trace: bool) -> Result<Self, Violation> {
        let epoch = CoordinatorEpoch(1);
        let mut world = Self {
            coordinator: Self::new_coordinator(&plan, epoch, 0)?,
            epoch,
            reference: reference(&plan.graph),
            rng,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            coordinator_tick: None,
            links: BTreeMap::new(),
            broken: BTreeSet::new(),
            next_session: 0,
            nodes: BTreeMap::new(),
            client: Client::default(),
            staged: BTreeMap::new(),
            visible: None,
            killed: Vec::new(),
            hung: 0,
            audit: Audit::of(&plan.graph, plan.policy.speculation.is_some()),
            usable_worker_at: 0,
            outcome: None,
            trace,
            plan,
        };
        world.schedule_setup();
        Ok(world)
    }

    fn schedule_setup(&mut self) {
        for (number, slots) in self.plan.slots.clone().into_iter().enumerate() {
            let name = format!("w{number}");
            self.nodes
                .insert(name.clone(), Node::new(&name, Incarnation(1), slots));
            self.links.insert(name.clone(), Link::default());
            self.after(1, SimEvent::Connect { name: name.clone() });
            self.after(100, SimEvent::Beat { name, incarnation: 1 });
        }
        for (at, worker, fault) in self.plan.faults.clone() {
            let name = format!("w{worker}");
            self.after(at, SimEvent::Fault { name, fault });
        }
        for at in self.plan.coordinator_losses.clone() {
            self.after(at, SimEvent::CoordinatorLost);
        }
        if let Some(at) = self.plan.cancel_at {
            self.after(at, SimEvent::CancelRequested);
        }
        if !self.plan.policy.sink {
            self.open_client();
        }
        self.after(0, SimEvent::CoordinatorTick);
    }

    pub fn query() -> QueryId {
        QueryId::new("sim").expect("a legal id")
    }

    pub fn after(&mut self, delay: u64, what: SimEvent) {
        self.at(self.now + delay, what);
    }

    pub fn at(&mut self, at: u64, what: SimEvent) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), what);
    }

    /// Nothing that is under way to the coordinator arrives any more.
    pub fn forget_messages_to_coordinator(&mut self) {
        self.coordinator_tick = None;
        self.queue.retain(|_, what| {
            !matches!(
                what,
                SimEvent::CoordinatorTick | SimEvent::ToCoordinator { .. } | SimEvent::SinkAnswered
            )
        });
    }

    /// Draws whether a fault of this probability happens now.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.now < FAULTS_END && probability > 0.0 && self.rng.random_bool(probability)
    }

    /// Draws the delay of one message.
    pub fn delay(&mut self) -> u64 {
        if self.chance(self.plan.slow) {
            return self.rng.random_range(50..SLOWEST);
        }
        self.rng.random_range(1..15)
    }

    /// Runs until the query has ended, and checks the end.
    pub fn run(mut self) -> Result<Run, Violation> {
        let (mut steps, limit) = (0, self.plan.ends_by());
        while self.outcome.is_none() {
            let Some(((at, _), what)) = self.queue.pop_first() else {
                return Err("nothing is left to happen, but the query has not ended".to_owned());
            };
            steps += 1;
            if at > limit || steps > STEP_LIMIT {
                return Err(format!("the query has not ended after {at} ms and {steps} steps"));
            }
            self.now = at;
            if self.trace {
                println!("{at:>7} {what:?}");
            }
            let step = self.dispatch(what);
            step.map_err(|violation| format!("at {at} ms: {violation}"))?;
        }
        self.check_end()?;
        let snapshot = self.coordinator.snapshot(Instant(self.now));
        let outcome = self.outcome.ok_or("no outcome")?;
        let skipped = snapshot.stages.iter().map(|stage| stage.skipped).sum();
        let sum = |count: fn(&JoinSwitches) -> u32| -> u32 {
            let stages = snapshot.stages.iter();
            stages.map(|stage| count(&stage.join_switches)).sum()
        };
        let sorted_tasks = sum(|joins| joins.sorted_tasks);
        let lost: u32 = snapshot.stages.iter().map(|stage| stage.lost_attempts).sum();
        let coalesced = snapshot.stages.iter().filter(|stage| {
            let reduce = stage.reduce.as_ref();
            reduce.is_some_and(|reduce| {
                reduce
                    .adaptive_reduce_tasks
                    .is_some_and(|tasks| tasks < reduce.planned_reduce_tasks)
            })
        });
        let reads = snapshot.stages.iter().filter_map(|stage| stage.reduce.as_ref());
        Ok(Run {
            split_stages: reads.filter(|reduce| reduce.skew_split_tasks > 0).count(),
            coalesced_stages: coalesced.count(),
            outcome,
            steps,
            // Each of them is an attempt that was given up.
            lost_attempts: lost - sorted_tasks,
            sorted_tasks,
            broadcast_tasks: sum(|joins| joins.broadcast_tasks),
            swapped_joins: sum(|joins| joins.swapped_joins),
            client_went_on: self.client.went_on,
            killed: self.killed.len(),
            hung: self.hung,
            duplicates_won: snapshot.stages.iter().map(|stage| stage.speculation.won).sum(),
            duplicates_wasted: snapshot.stages.iter().map(|stage| stage.speculation.wasted).sum(),
            skipped,
            at_preferred_worker: snapshot.stages.iter().map(|stage| stage.locality.worker).sum(),
            ran_again: self.audit.ran_again,
            recovered: snapshot.recovery.recovered_tasks,
            discarded: snapshot.recovery.discarded_outputs,
        })
    }

    fn dispatch(&mut self, what: SimEvent) -> Result<(), Violation> {
        let node = what.worker().and_then(|name| self.nodes.get_mut(name));
        if let Some(node) = node.filter(|node| node.frozen) {
            node.parked.push(what);
            return Ok(());
        }
        match what {
            SimEvent::CoordinatorTick => {
                self.coordinator_tick = None;
                self.notify_coordinator(Event::Ticked)
            }
            SimEvent::Connect { name } => self.connect(name),
            SimEvent::ConnectTimedOut { name, session } => self.on_connect_timed_out(&name, session),
            SimEvent::ToWorker {
                name,
                session,
                message,
            } => self.on_worker_message(&name, session, message),
            SimEvent::ToCoordinator { name, session, event } => {
                self.on_coordinator_message(&name, session, event)
            }
            SimEvent::BrokenAtCoordinator { name, session } => self.on_broken_at_coordinator(&name, session),
            SimEvent::BrokenAtWorker { name, session } => self.end_session(&name, session),
            SimEvent::Beat { name, incarnation } => self.beat(name, incarnation),
            SimEvent::Work {
                name,
                incarnation,
                attempt,
            } => self.work(&name, incarnation, attempt),
            SimEvent::Request {
                from,
                fetch,
                worker,
                request,
            } => self.serve(from, fetch, &worker, request),
            SimEvent::Answered { to, fetch, answer } => self.on_answer(&to, fetch, answer),
            SimEvent::ReaderTick { reader } => self.tick_reader(&reader),
            // The last update at this time, not at the time when the reader was opened: newer ones may have come.
            SimEvent::RepeatUpdate { reader, task } => match self.client.last_updates.get(&task).cloned() {
                Some(update) => self.notify_reader(&reader, reader::Event::InputUpdated(update.into()), &[]),
                None => Ok(()),
            },
            SimEvent::Consumed {
                reader,
                input,
                stream,
                bytes,
            } => self.notify_reader(
                &reader,
                reader::Event::BytesConsumed { input, stream, bytes },
                &[],
            ),
            SimEvent::ClientTakes { generation } => self.client_takes(generation),
            SimEvent::Fault { name, fault } => self.apply_fault(name, fault),
            SimEvent::CoordinatorLost => self.lose_coordinator(),
            SimEvent::Restart { name } => self.restart(name),
            SimEvent::Thaw { name } => self.thaw(&name),
            SimEvent::SinkAnswered => self.answer_for_sink(),
            SimEvent::CancelRequested if self.plan.defect == Defect::EndEarly => {
                self.outcome = Some(Outcome::Cancelled);
                Ok(())
            }
            SimEvent::CancelRequested => self.notify_coordinator(Event::CancelRequested),
        }
    }

    /// Hands the coordinator an event and carries out its actions.
    pub fn notify_coordinator(&mut self, mut event: Event) -> Result<(), Violation> {
        if self.plan.defect == Defect::RelabelOutputs {
            relabel(&self.coordinator, &mut event);
        }
        if let (Event::WorkerLost { worker, .. }, Defect::ReportAllDrained) = (&event, self.plan.defect) {
            let drained = Event::WorkerDrained {
                worker: worker.clone(),
            };
            self.coordinator.handle(Instant(self.now), drained);
        }
        self.audit.on_event(&event);
        let recovered = recovered_of(&event);
        let actions = self.coordinator.handle(Instant(self.now), event);
        for (worker, attempt) in recovered {
            let refused = actions.iter().any(|action| refuses(action, &worker, attempt));
            // It may have been read by nobody, and dropped at once.
            if !refused || actions.iter().any(|action| counts(action, attempt)) {
                self.audit.on_recovered(&worker.name, attempt);
            }
        }
        for mut action in actions {
            if self.plan.defect == Defect::NeverCancel && matches!(action, Action::CancelAttempt { .. }) {
                continue;
            }
            if self.trace {
                println!("        -> {action:?}");
            }
            apply_to_action(self.plan.defect, &mut action);
            self.audit.on_action(&action)?;
            self.perform(action)?;
        }
        self.audit.on_handled()?;
        if self.audit.has_usable_worker() {
            self.usable_worker_at = self.now;
        }
        if let Some(deadline) = self.coordinator.next_deadline() {
            let at = deadline.0.max(self.now);
            if self.coordinator_tick.is_none_or(|planned| planned > at) {
                self.coordinator_tick = Some(at);
                self.at(at, SimEvent::CoordinatorTick);
            }
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::RequestSlots {
                worker,
                slots,
                speculative_slots,
            } => self.send(&worker.name, ToWorker::RequestSlots(slots, speculative_slots)),
            Action::ReleaseSlots { worker, slots } => self.send(&worker.name, ToWorker::ReleaseSlots(slots)),
            Action::DefineLayout { worker, layout } => {
                self.send(&worker.name, ToWorker::DefineLayout(layout));
            }
            Action::AssignAttempt { worker, assignment } => {
                self.send(&worker.name, ToWorker::Assign(assignment));
            }
            Action::UpdateInputs {
                worker,
                updates,
                ranges,
            } => self.send(&worker.name, ToWorker::Inputs(updates.as_ref().clone(), ranges)),
            Action::CancelAttempt { worker, attempt } => self.send(&worker.name, ToWorker::Cancel(attempt)),
            Action::RetireAttempt { worker, attempt } => self.send(&worker.name, ToWorker::Retire(attempt)),
            Action::DropWorker { worker } => self.drop_link(&worker.name),
            Action::UpdateResult { updates } => {
                for update in updates {
                    self.update_client(update)?;
                }
            }
            Action::SetResultTasks { writer } => self.set_result_tasks(&writer),
            Action::CommitSink { winners } => {
                self.visible = Some(winners);
                self.after(SINK_ANSWER, SimEvent::SinkAnswered);
            }
            Action::AbortSink if self.plan.defect == Defect::KeepFiles => {}
            Action::AbortSink => {
                self.staged.clear();
                self.visible = None;
            }
            Action::EndQuery { outcome } => self.outcome = Some(outcome),
        }
        Ok(())
    }

    fn answer_for_sink(&mut self) -> Result<(), Violation> {
        if self.plan.sink_fails {
            if self.plan.defect != Defect::KeepFiles {
                self.visible = None;
            }
            let message = "no space".to_owned();
            return self.notify_coordinator(Event::SinkFailed { message });
        }
        self.notify_coordinator(Event::SinkCommitted)
    }
}

/// The outputs of earlier coordinators' attempts that a worker brings.
fn recovered_of(event: &Event) -> Vec<(WorkerId, AttemptId)> {
    let Event::WorkerJoined {
        worker, recovered, ..
    } = event
    else {
        return Vec::new();
    };
    let outputs = recovered.outputs.iter();
    outputs.map(|output| (worker.clone(), output.attempt)).collect()
}

/// Whether the coordinator does not take over an output.
fn refuses(action: &Action, of: &WorkerId, output: AttemptId) -> bool {
    match action {
        Action::RetireAttempt { worker, attempt } => worker == of && *attempt == output,
        Action::DropWorker { worker } => worker == of,
        _ => false,
    }
}

/// Whether readers are told that an output counts.
fn counts(action: &Action, output: AttemptId) -> bool {
    let updates = match action {
        Action::UpdateInputs { updates, .. } => updates.as_slice(),
        Action::UpdateResult { updates } => updates.as_slice(),
        _ => &[],
    };
    let won = |update: &InputUpdate| update.map_attempt == output && update.state == InputState::Won;
    updates.iter().any(won)
}
