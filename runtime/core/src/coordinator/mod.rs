//! The coordinator of one query: which attempt runs where, which has won, what must run again, how it ends.
//! README.md beside this file has the rules and their reasons.

mod assign;
mod attempts;
mod demand;
mod event;
mod filters;
mod joins;
mod layouts;
mod map_outputs;
mod observe;
mod outcome;
mod poison;
mod policy;
mod preferences;
mod recover;
mod recovery;
mod reports;
mod slot_broker;
mod spread;
mod stage_table;
mod stalls;
mod stragglers;
#[cfg(test)]
mod tests;
mod topology;
mod worker_registry;

use std::collections::BTreeSet;
use std::mem;

pub use event::{Action, Event, Outcome, QueryFailure};
pub use poison::MAX_WORKERS_LOST_WITH_TASK;
pub use policy::Policy;
pub use topology::{GraphError, check_graph};

use crate::ids::TaskId;
use crate::message::FinishedOutput;
use crate::plan::StageGraph;
use crate::time::Instant;
use filters::RuntimeFilters;
use joins::SortedJoins;
use layouts::Layouts;
use map_outputs::Subscriptions;
use outcome::QueryState;
use poison::Suspects;
use recovery::Recovery;
use slot_broker::SlotBroker;
use sluice_crds::ErrorReason;
use stage_table::StageTable;
use stragglers::Stragglers;
use topology::Topology;
use worker_registry::WorkerRegistry;

/// Most attempts of one task, whatever ended them. Lost attempts are no failures, but the cluster cannot run a task that is
/// lost this often.
pub const MAX_ATTEMPTS_PER_TASK: u32 = 100;

/// The machine that runs one query.
#[derive(Debug)]
pub struct Coordinator {
    graph: StageGraph,
    topology: Topology,
    policy: Policy,
    started: Instant,
    /// The time of the last event.
    now: Instant,
    state: QueryState,
    stages: StageTable,
    layouts: Layouts,
    subscriptions: Subscriptions,
    filters: RuntimeFilters,
    joins: SortedJoins,
    recovery: Recovery,
    workers: WorkerRegistry,
    slots: SlotBroker,
    /// Tasks that were lost together with their workers.
    suspects: Suspects,
    /// Workers that were lost with outputs and have not come back.
    workers_with_lost_winners: BTreeSet<String>,
    /// Tasks whose last attempt failed and that have not won since.
    failed_tasks: BTreeSet<TaskId>,
    /// The first failure that counted. It is the cause to report when no worker is left.
    first_failure: Option<QueryFailure>,
    first_row: Option<Instant>,
    /// Attempts started so far: the start sequence number.
    starts: u64,
    /// Since when there is work, nothing runs, and no worker is usable.
    no_usable_worker_since: Option<Instant>,
    /// When running attempts were last checked for progress.
    stalls_checked: Instant,
    /// Attempts that should have a duplicate.
    stragglers: Stragglers,
    /// Actions for the current event.
    out: Vec<Action>,
}

impl Coordinator {
    /// A coordinator that knows no worker yet.
    ///
    /// # Errors
    ///
    /// When the graph cannot be executed: it names the stage or exchange.
    pub fn new(graph: StageGraph, policy: Policy, started: Instant) -> Result<Self, GraphError> {
        let topology = Topology::new(&graph)?;
        let before = u32::try_from(policy.coordinator_epoch.0.saturating_sub(1)).unwrap_or(u32::MAX);
        let first_attempt = before.saturating_mul(MAX_ATTEMPTS_PER_TASK);
        let (stages, layouts) = (StageTable::new(&graph, first_attempt), Layouts::new(&graph));
        let filters = RuntimeFilters::new(&graph);
        let joins = SortedJoins::new(&graph);
        let subscriptions = Subscriptions::new(&graph);
        let recovery = Recovery::new(&graph, &topology, &policy, started);
        Ok(Self {
            graph,
            topology,
            started,
            now: started,
            state: QueryState::Running,
            stages,
            layouts,
            subscriptions,
            filters,
            joins,
            recovery,
            workers: WorkerRegistry::new(&policy),
            policy,
            slots: SlotBroker::default(),
            suspects: Suspects::default(),
            workers_with_lost_winners: BTreeSet::new(),
            failed_tasks: BTreeSet::new(),
            first_failure: None,
            first_row: None,
            starts: 0,
            no_usable_worker_since: Some(started),
            stalls_checked: started,
            stragglers: Stragglers::default(),
            out: Vec::new(),
        })
    }

    /// Handles one event and returns the actions to carry out, in order. After `EndQuery` there are none.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        if self.has_ended() {
            return Vec::new();
        }
        self.now = self.now.max(now);
        self.apply(event);
        self.end_recovery();
        self.drop_silent_workers();
        self.check_deadline();
        self.end_stalled_attempts();
        self.check_roots();
        self.check_commit();
        self.fail_poison_task();
        self.count_filter_waits();
        self.find_stragglers();
        self.schedule();
        self.check_worker_availability();
        mem::take(&mut self.out)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::WorkerJoined {
                worker,
                slots,
                location,
                held,
                recovered,
            } => self.on_joined(&worker, (slots, location), &held, recovered),
            Event::WorkersKnown => self.recovery.stop_waiting(),
            Event::WorkerHeard { worker } => {
                self.workers.heard(&worker, self.now);
            }
            Event::WorkerLost { worker, message } => self.on_lost(&worker, message),
            Event::WorkerDrained { worker } => self.on_drained(&worker),
            Event::SlotsGranted { worker, slots } => self.on_granted(&worker, slots),
            Event::AttemptProgressed {
                worker,
                attempt,
                metrics,
            } => self.on_progressed(&worker, attempt, metrics),
            Event::AttemptSucceeded {
                worker,
                attempt,
                layout,
                outputs,
                run,
                filters,
                metrics,
            } => {
                let success = FinishedOutput {
                    attempt,
                    layout,
                    outputs,
                    run,
                    filters,
                    metrics,
                };
                self.on_succeeded(&worker, success);
            }
            Event::AttemptFailed {
                worker,
                attempt,
                failure,
            } => self.on_failed(&worker, attempt, &failure),
            Event::FirstRowDelivered => {
                self.first_row.get_or_insert(self.now);
            }
            Event::ResultDelivered => self.on_result_delivered(),
            Event::ResultFetchFailed {
                map_attempt,
                error,
                partially_delivered,
            } => self.on_result_fetch_failed(map_attempt, error, partially_delivered),
            Event::SinkCommitted => self.on_sink_committed(),
            Event::SinkFailed { message } => self.give_up(ErrorReason::SinkFailed, message),
            Event::TaskPanicked { message } => self.give_up(ErrorReason::Internal, message),
            Event::CancelRequested => self.end_or_remember(Outcome::Cancelled),
            Event::Ticked => {}
        }
    }
}
