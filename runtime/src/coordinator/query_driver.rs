//! The task that owns the coordinator's state machine: it feeds events in and executes actions.

mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sluice_core::coordinator::{Action, Coordinator, Event, Outcome, Policy};
use sluice_core::discovery::{self, Discovery};
use sluice_core::ids::WorkerId;
use sluice_core::locality::NodeLocation;
use sluice_core::message::{Assignment, InputUpdate, ReaderRange, Recovered};
use sluice_core::snapshot::QuerySnapshot;
use sluice_core::time::Instant;
use sluice_proto::auth::{FetchEndpoint, Token};
use sluice_proto::{MapOutputs, RefusedReason, Welcome, wire};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use wire::coordinator_message::Message as ToWorker;

use super::link::{self, ConnectError, Credentials, LinkEvent};
use super::resolve;
use super::result::ResultReader;
use super::worker_connection::WorkerConnection;
use super::{CoordinatorOptions, EventSender, Handover};
use crate::sink::Committed;

/// The least time between two snapshots that show no change of state, only of counters.
const SNAPSHOT_PERIOD: Duration = Duration::from_millis(100);
/// Most updates of one message: with the partitions of a large exchange they have some kilobytes each, and a session takes
/// messages of [`sluice_proto::MAX_SESSION_MESSAGE_BYTES`].
const MAX_UPDATES_PER_MESSAGE: usize = 2048;
/// How long the end of a query waits for workers to stop its attempts.
const END_QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// A layout with more bytes is not kept by workers, and a successor runs the tasks of its stage again: those of thousands of
/// hot partitions name each map task thousands of times.
const MAX_LAYOUT_BYTES: usize = 4 << 20;
/// How long a successor waits at most for workers to tell what they hold. Mostly all have told or refused in a second.
const RECOVERY_WAIT: Duration = Duration::from_secs(10);
pub(super) struct QueryDriver {
    options: Arc<CoordinatorOptions>,
    plan_fingerprint: u64,
    machine: Coordinator,
    clock: tokio::time::Instant,
    workers: BTreeMap<WorkerId, WorkerConnection>,
    discovery: Discovery,
    result: Option<ResultReader>,
    /// The updates about outputs that were sent last, and their encoding.
    last_updates: (Weak<Vec<InputUpdate>>, Vec<Bytes>),
    committed: watch::Sender<Option<Committed>>,
    snapshots: watch::Sender<QuerySnapshot>,
    last_snapshot: tokio::time::Instant,
    events: EventSender,
    inbox: mpsc::UnboundedReceiver<LinkEvent>,
    cancel: CancellationToken,
    stop: CancellationToken,
    /// The newest renewal of the query's token.
    renewals: watch::Receiver<Option<Token>>,
    links: JoinSet<()>,
    outcome: Option<Outcome>,
    handover: Option<Handover>,
}

impl QueryDriver {
    pub(super) fn new(
        options: Arc<CoordinatorOptions>,
        result: Option<ResultReader>,
        committed: watch::Sender<Option<Committed>>,
        (cancel, stop): (CancellationToken, CancellationToken),
        renewals: watch::Receiver<Option<Token>>,
    ) -> anyhow::Result<(Self, watch::Receiver<QuerySnapshot>)> {
        let clock = options.began;
        let policy = Policy {
            coordinator_epoch: options.epoch,
            recovery_wait: if options.epoch.0 > 1 {
                RECOVERY_WAIT
            } else {
                Duration::ZERO
            },
            ..options.policy.clone()
        };
        let machine = Coordinator::new(options.graph.clone(), policy, Instant(0))?;
        let discovery = Discovery::new(&options.workers);
        let (snapshots, seen) = watch::channel(machine.snapshot(Instant(0)));
        let (events, inbox) = mpsc::unbounded_channel();
        let driver = Self {
            plan_fingerprint: options.plan_fingerprint(),
            options,
            machine,
            clock,
            workers: BTreeMap::new(),
            discovery,
            result,
            last_updates: (Weak::new(), Vec::new()),
            committed,
            snapshots,
            last_snapshot: tokio::time::Instant::now(),
            events,
            inbox,
            cancel,
            stop,
            renewals,
            links: JoinSet::new(),
            outcome: None,
            handover: None,
        };
        Ok((driver, seen))
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) async fn run(mut self) -> Result<Outcome, Handover> {
        self.supersede_sink().await;
        for name in self.discovery.to_resolve() {
            let resolver = Arc::clone(&self.options.resolver);
            let follow = resolve::follow(name.to_owned(), resolver, self.events.clone());
            self.links.spawn(follow.in_current_span());
        }
        self.on_discovery(discovery::Event::Ticked);
        self.handle(Event::Ticked);
        let mut cancel_seen = false;
        let mut renewals = self.renewals.clone();
        while self.outcome.is_none() {
            // Dropping the links breaks the sessions, and workers keep what they hold.
            if let Some(handover) = self.handover {
                return Err(handover);
            }
            let deadline = self.to_clock(self.machine.next_deadline());
            let redial = self.to_clock(self.discovery.next_deadline());
            let (cancel, stop) = (self.cancel.clone(), self.stop.clone());
            tokio::select! {
                Some(event) = self.inbox.recv() => self.on_link_event(event),
                () = sleep_until(deadline) => self.handle(Event::Ticked),
                () = sleep_until(redial) => self.on_discovery(discovery::Event::Ticked),
                () = cancel.cancelled(), if !cancel_seen => {
                    cancel_seen = true;
                    self.handle(Event::CancelRequested);
                }
                () = stop.cancelled() => self.handover = Some(Handover::Stopped),
                () = next_renewal(&mut renewals) => self.renew_token(),
                () = sleep(SNAPSHOT_PERIOD) => {}
            }
            if self.last_snapshot.elapsed() >= SNAPSHOT_PERIOD {
                self.publish_snapshot();
            }
        }
        Ok(self.finish().await)
    }

    fn to_clock(&self, at: Option<Instant>) -> Option<tokio::time::Instant> {
        at.map(|at| self.clock + at.since(Instant(0)))
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Joined {
                welcome,
                recovered,
                address,
                outbound,
            } => self.on_worker_joined(welcome, recovered, (address, outbound)),
            LinkEvent::MessageReceived { address, event } => {
                // Messages of a replaced session are stale.
                let current = |worker: &WorkerId| {
                    let known = self.workers.get(worker);
                    known.is_some_and(|known| known.address == address)
                };
                if event.worker().is_some_and(current) {
                    self.handle(event);
                }
            }
            LinkEvent::SessionEnded {
                address,
                worker,
                message,
            } => {
                let current = self.workers.get(&worker);
                if current.is_some_and(|current| current.address == address) {
                    tracing::warn!(%worker, message, "worker lost");
                    self.workers.remove(&worker);
                    let message = message.clone();
                    self.handle(Event::WorkerLost { worker, message });
                }
                self.on_discovery(discovery::Event::Ended { address, message });
            }
            LinkEvent::ConnectFailed { address, error } => {
                let ConnectError { refused, message } = error;
                if refused == Some(RefusedReason::StaleCoordinator) {
                    self.handover.get_or_insert(Handover::Superseded);
                }
                if self.discovery.last_failure(&address) != Some(&message) {
                    tracing::warn!(address, ?refused, message, "worker not connected");
                }
                self.on_discovery(discovery::Event::NotConnected {
                    address,
                    refused,
                    message,
                });
            }
            LinkEvent::Resolved { name, found } => self.on_discovery(match found {
                Ok(addresses) => discovery::Event::Resolved { name, addresses },
                Err(message) => discovery::Event::NotResolved { name, message },
            }),
            LinkEvent::Event(event) => self.handle(event),
        }
    }

    fn on_worker_joined(
        &mut self,
        welcome: Welcome,
        recovered: Recovered,
        (address, outbound): (String, mpsc::UnboundedSender<wire::CoordinatorMessage>),
    ) {
        let worker = welcome.worker.clone();
        let found = recovered.outputs.len();
        tracing::info!(%worker, address, slots = welcome.slots, found, "worker joined");
        if recovered.discarded > 0 {
            let discarded = recovered.discarded;
            tracing::warn!(%worker, discarded, "starts over: an earlier coordinator had another plan");
        }
        let connection = WorkerConnection::new(address.clone(), welcome.fetch_key, outbound);
        self.workers.insert(worker.clone(), connection);
        self.on_discovery(discovery::Event::Joined {
            address,
            worker: worker.clone(),
        });
        self.handle(Event::WorkerJoined {
            worker,
            slots: welcome.slots,
            location: NodeLocation {
                node: welcome.node,
                zone: welcome.zone,
            },
            held: welcome.held,
            recovered,
        });
    }

    fn on_discovery(&mut self, event: discovery::Event) {
        for discovery::Action::Dial { address } in self.discovery.handle(self.now(), event) {
            // Ended links stay in the set until they are joined.
            while self.links.try_join_next().is_some() {}
            let credentials = Credentials {
                token: self.options.token.clone(),
                renewals: self.renewals.clone(),
            };
            let greeting = (self.options.hello(self.plan_fingerprint), credentials);
            let dial = link::dial(address, greeting, self.events.clone());
            self.links.spawn(dial.in_current_span());
        }
        if self.machine.is_recovering() && self.discovery.has_tried_all() {
            self.handle(Event::WorkersKnown);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        for action in self.machine.handle(now, event) {
            tracing::trace!(?action);
            if let ControlFlow::Break(outcome) = self.execute(action) {
                self.outcome = Some(outcome);
            }
        }
    }

    fn execute(&mut self, action: Action) -> ControlFlow<Outcome> {
        match action {
            Action::RequestSlots {
                worker,
                slots,
                speculative_slots,
            } => {
                let request = wire::RequestSlots {
                    slots,
                    speculative_slots,
                };
                self.send(&worker, ToWorker::RequestSlots(request));
            }
            Action::ReleaseSlots { worker, slots } => {
                self.send(&worker, ToWorker::ReleaseSlots(wire::ReleaseSlots { slots }));
            }
            Action::AssignAttempt { worker, assignment } => self.assign(&worker, assignment),
            Action::DefineLayout { worker, layout } => {
                let layout = wire::StageLayout::from(layout.as_ref());
                if layout.encoded_len() <= MAX_LAYOUT_BYTES {
                    self.send(&worker, ToWorker::DefineLayout(layout));
                }
            }
            Action::UpdateInputs {
                worker,
                updates,
                ranges,
            } => self.update_inputs(&worker, &updates, &ranges),
            Action::CancelAttempt { worker, attempt } => {
                self.send(&worker, ToWorker::CancelAttempt(attempt.into()));
            }
            Action::RetireAttempt { worker, attempt } => {
                self.send(&worker, ToWorker::RetireAttempt(attempt.into()));
            }
            Action::DropWorker { worker } => {
                // The link notices the closed channel and reports an end that the machine knows already.
                if self.workers.remove(&worker).is_some() {
                    tracing::warn!(%worker, "worker dropped");
                }
            }
            Action::UpdateResult { updates } => {
                let addressed = updates.into_iter().map(|update| {
                    let endpoint = self.endpoint(&update.worker);
                    (update, endpoint)
                });
                let addressed: Vec<_> = addressed.collect();
                if let Some(result) = &mut self.result {
                    result.update(addressed, &self.events);
                }
            }
            Action::SetResultTasks { writer } => {
                if let Some(result) = &mut self.result {
                    result.set_tasks(writer);
                }
            }
            Action::CommitSink { winners } => self.commit_sink(winners),
            // Done in `finish`, when no attempt writes any more.
            Action::AbortSink => {}
            Action::EndQuery { outcome } => return ControlFlow::Break(outcome),
        }
        ControlFlow::Continue(())
    }

    fn send(&self, worker: &WorkerId, message: ToWorker) {
        if let Some(connection) = self.workers.get(worker) {
            connection.send(message);
        }
    }

    fn assign(&mut self, worker: &WorkerId, assignment: Assignment) {
        let (stage, task) = (assignment.attempt.stage, assignment.attempt.task);
        let assigned = usize::try_from(stage.0)
            .ok()
            .and_then(|index| self.options.stages.get(index));
        let (Some(assigned), Some(connection)) = (assigned, self.workers.get_mut(worker)) else {
            return;
        };
        connection.define_stage(stage, &assigned.template);
        connection.define_filters(&assignment.filters);
        // Only stages whose tasks all scan the same have more tasks than were planned.
        let of_task = usize::try_from(task)
            .ok()
            .and_then(|task| assigned.splits.get(task));
        let splits = of_task.or(assigned.splits.first()).cloned().unwrap_or_default();
        tracing::debug!(%worker, attempt = %assignment.attempt, "assigned");
        self.send(
            worker,
            ToWorker::AssignAttempt(wire::AssignAttempt::new(assignment, splits)),
        );
    }

    fn update_inputs(&mut self, worker: &WorkerId, updates: &Arc<Vec<InputUpdate>>, ranges: &[ReaderRange]) {
        for outputs in self.encoded_outputs(updates) {
            let message = wire::UpdateInputs {
                outputs,
                ranges: ranges.iter().copied().map(Into::into).collect(),
            };
            self.send(worker, ToWorker::UpdateInputs(message));
        }
    }

    /// The updates in parts that a message can carry. Workers are told the same one after the other: it is encoded once.
    fn encoded_outputs(&mut self, updates: &Arc<Vec<InputUpdate>>) -> Vec<Bytes> {
        if !std::ptr::eq(self.last_updates.0.as_ptr(), Arc::as_ptr(updates)) {
            let parts = updates.chunks(MAX_UPDATES_PER_MESSAGE).map(|part| {
                let mut outputs = MapOutputs::default();
                for update in part {
                    let endpoint = outputs.endpoints.entry(Arc::clone(&update.worker));
                    endpoint.or_insert_with(|| self.endpoint(&update.worker));
                    outputs.updates.push(update.clone());
                }
                outputs.encode()
            });
            let parts = parts.collect();
            // It keeps the place of the list, so that no other one can have it.
            self.last_updates = (Arc::downgrade(updates), parts);
        }
        self.last_updates.1.clone()
    }

    /// Where a worker serves fetches; an endpoint that nobody reaches if it is gone.
    fn endpoint(&self, worker: &WorkerId) -> FetchEndpoint {
        let worker = self.workers.get(worker);
        FetchEndpoint {
            address: worker.map(|worker| worker.address.clone()).unwrap_or_default(),
            key: worker.map(|worker| worker.fetch_key.clone()),
        }
    }

    /// Sends a renewal of the query's token to all workers with a session.
    fn renew_token(&self) {
        let renewal = self.renewals.borrow().clone();
        let Some(renewal) = renewal else { return };
        for worker in self.workers.keys() {
            self.send(worker, ToWorker::RenewToken(renewal.as_text().to_owned()));
        }
    }

    fn publish_snapshot(&mut self) {
        self.last_snapshot = tokio::time::Instant::now();
        let mut snapshot = self.machine.snapshot(self.now());
        if snapshot.workers == 0 {
            snapshot.no_workers = self.discovery.no_workers_reason();
        }
        self.snapshots.send_replace(snapshot);
    }

    /// Sends `EndQuery`, waits until workers have stopped the query's attempts, and clears what a failed query wrote.
    async fn finish(mut self) -> Outcome {
        self.result = None;
        let mut leaving: BTreeSet<WorkerId> = self.workers.keys().cloned().collect();
        for worker in &leaving {
            self.send(worker, ToWorker::EndQuery(wire::EndQuery {}));
        }
        let deadline = tokio::time::Instant::now() + END_QUERY_TIMEOUT;
        while !leaving.is_empty() {
            match tokio::time::timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(LinkEvent::SessionEnded { worker, .. })) => {
                    leaving.remove(&worker);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.links.shutdown().await;
        let mut outcome = self.outcome.take().unwrap_or(Outcome::Cancelled);
        if outcome != Outcome::Succeeded {
            outcome = self.abort_sink(outcome).await;
        }
        if let Outcome::Failed(failure) = &mut outcome {
            self.discovery.explain(failure);
        }
        self.publish_end(&outcome);
        outcome
    }

    fn publish_end(&self, outcome: &Outcome) {
        let mut last = self.machine.snapshot(self.now());
        last.outcome = Some(outcome.clone());
        self.snapshots.send_replace(last);
    }
}

/// Waits for a renewal; for ever if none can come.
async fn next_renewal(renewals: &mut watch::Receiver<Option<Token>>) {
    if renewals.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
