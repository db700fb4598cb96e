//! The task that owns the coordinator's state machine: it feeds events in and carries actions out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::coordinator::{Action, Coordinator, Event, Outcome};
use sluice_core::ids::{AttemptId, StageId, WorkerId};
use sluice_core::message::{Assignment, InputUpdate};
use sluice_core::snapshot::QuerySnapshot;
use sluice_core::time::Instant;
use sluice_proto::wire;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wire::coordinator_message::Message as ToWorker;

use super::link::{self, FromLink};
use super::result::ResultReader;
use super::{CoordinatorOptions, EventSender};
use crate::sink::Committed;

/// The least time between two snapshots that show no change of state, only of counters.
const SNAPSHOT_PERIOD: Duration = Duration::from_millis(100);
/// How long the end of a query waits for workers to stop its attempts.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Drive {
    options: Arc<CoordinatorOptions>,
    machine: Coordinator,
    clock: tokio::time::Instant,
    workers: BTreeMap<WorkerId, Connected>,
    /// The last word on each address that is not connected.
    troubles: BTreeMap<String, String>,
    result: Option<ResultReader>,
    committed: watch::Sender<Option<Committed>>,
    snapshots: watch::Sender<QuerySnapshot>,
    last_snapshot: tokio::time::Instant,
    events: EventSender,
    inbox: mpsc::UnboundedReceiver<FromLink>,
    cancel: CancellationToken,
    links: JoinSet<()>,
    outcome: Option<Outcome>,
}

struct Connected {
    address: String,
    outbound: mpsc::UnboundedSender<wire::CoordinatorMessage>,
    /// Stages whose template was sent in this session.
    defined: BTreeSet<StageId>,
}

impl Drive {
    pub(super) fn new(
        options: Arc<CoordinatorOptions>,
        result: Option<ResultReader>,
        committed: watch::Sender<Option<Committed>>,
        cancel: CancellationToken,
    ) -> anyhow::Result<(Self, watch::Receiver<QuerySnapshot>)> {
        let clock = tokio::time::Instant::now();
        let machine = Coordinator::new(options.graph.clone(), options.policy.clone(), Instant(0))?;
        let (snapshots, seen) = watch::channel(machine.snapshot(Instant(0)));
        let (events, inbox) = mpsc::unbounded_channel();
        let drive = Self {
            options,
            machine,
            clock,
            workers: BTreeMap::new(),
            troubles: BTreeMap::new(),
            result,
            committed,
            snapshots,
            last_snapshot: clock,
            events,
            inbox,
            cancel,
            links: JoinSet::new(),
            outcome: None,
        };
        Ok((drive, seen))
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) async fn run(mut self) -> Outcome {
        for address in &self.options.workers {
            self.links.spawn(link::keep(
                address.clone(),
                self.options.hello(),
                self.events.clone(),
            ));
        }
        self.handle(Event::Ticked);
        let mut cancel_seen = false;
        while self.outcome.is_none() {
            let deadline = self
                .machine
                .next_deadline()
                .map(|due| self.clock + due.since(Instant(0)));
            let cancel = self.cancel.clone();
            tokio::select! {
                Some(input) = self.inbox.recv() => self.take(input),
                () = sleep_to(deadline) => self.handle(Event::Ticked),
                () = cancel.cancelled(), if !cancel_seen => {
                    cancel_seen = true;
                    self.handle(Event::CancelRequested);
                }
                () = sleep(SNAPSHOT_PERIOD) => {}
            }
            if self.last_snapshot.elapsed() >= SNAPSHOT_PERIOD {
                self.publish();
            }
        }
        self.finish().await
    }

    fn take(&mut self, input: FromLink) {
        match input {
            FromLink::Joined {
                welcome,
                address,
                outbound,
            } => {
                self.troubles.remove(&address);
                let worker = welcome.worker.clone();
                tracing::info!(%worker, address, slots = welcome.slots, "worker joined");
                self.workers.insert(
                    worker.clone(),
                    Connected {
                        address,
                        outbound,
                        defined: BTreeSet::new(),
                    },
                );
                self.handle(Event::WorkerJoined {
                    worker,
                    slots: welcome.slots,
                    held: welcome.held,
                });
            }
            FromLink::NotConnected { address, message } => {
                if self.troubles.get(&address) != Some(&message) {
                    tracing::warn!(address, message, "worker not connected");
                }
                self.troubles.insert(address, message);
            }
            FromLink::Event(event) => {
                if let Event::WorkerLost { worker, message } = &event
                    && let Some(lost) = self.workers.remove(worker)
                {
                    tracing::warn!(%worker, message, "worker lost");
                    self.troubles.insert(lost.address, message.clone());
                }
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        for action in self.machine.handle(now, event) {
            tracing::trace!(?action);
            if let ControlFlow::Break(outcome) = self.carry_out(action) {
                self.outcome = Some(outcome);
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> ControlFlow<Outcome> {
        match action {
            Action::WantSlots { worker, slots } => {
                self.send(&worker, ToWorker::WantSlots(wire::WantSlots { slots }));
            }
            Action::ReleaseSlots { worker, slots } => {
                self.send(&worker, ToWorker::ReleaseSlots(wire::ReleaseSlots { slots }));
            }
            Action::AssignAttempt { worker, assignment } => self.assign(&worker, assignment),
            Action::UpdateInputs {
                worker,
                attempt,
                updates,
            } => self.update_inputs(&worker, attempt, updates),
            Action::CancelAttempt { worker, attempt } => {
                self.send(&worker, ToWorker::CancelAttempt(attempt.into()));
            }
            Action::RetireAttempt { worker, attempt } => {
                self.send(&worker, ToWorker::RetireAttempt(attempt.into()));
            }
            Action::DropWorker { worker } => {
                // The link sees its outbound side go and reports the loss, which the machine knows already.
                if let Some(dropped) = self.workers.remove(&worker) {
                    tracing::warn!(%worker, "worker dropped");
                    self.troubles
                        .insert(dropped.address, "it was silent for too long".into());
                }
            }
            Action::UpdateResult { updates } => {
                let addressed: Vec<_> = updates.into_iter().map(|update| self.addressed(update)).collect();
                if let Some(result) = &mut self.result {
                    result.update(addressed, &self.events);
                }
            }
            Action::CommitSink { winners } => self.commit_sink(winners),
            // Done at the end, when no attempt writes any more.
            Action::AbortSink => {}
            Action::EndQuery { outcome } => return ControlFlow::Break(outcome),
        }
        ControlFlow::Continue(())
    }

    fn send(&self, worker: &WorkerId, message: ToWorker) {
        if let Some(connected) = self.workers.get(worker) {
            // A closed session reports its end by itself.
            let _ = connected.outbound.send(wire::CoordinatorMessage::of(message));
        }
    }

    fn assign(&mut self, worker: &WorkerId, assignment: Assignment) {
        let (stage, task) = (assignment.attempt.stage, assignment.attempt.task);
        let orders = usize::try_from(stage.0)
            .ok()
            .and_then(|index| self.options.stages.get(index));
        let (Some(orders), Some(connected)) = (orders, self.workers.get_mut(worker)) else {
            return;
        };
        if connected.defined.insert(stage) {
            let fragment = orders.template.clone();
            let define = ToWorker::DefineStage(wire::DefineStage {
                stage: stage.0,
                fragment,
            });
            let _ = connected.outbound.send(wire::CoordinatorMessage::of(define));
        }
        let splits = usize::try_from(task)
            .ok()
            .and_then(|task| orders.splits.get(task))
            .cloned()
            .unwrap_or_default();
        tracing::debug!(%worker, attempt = %assignment.attempt, "assigned");
        self.send(
            worker,
            ToWorker::AssignAttempt(wire::AssignAttempt::new(assignment, splits)),
        );
    }

    fn update_inputs(&self, worker: &WorkerId, attempt: AttemptId, updates: Vec<InputUpdate>) {
        let updates = updates.into_iter().map(|update| {
            let (update, address) = self.addressed(update);
            wire::InputUpdate::new(update, address)
        });
        let message = wire::UpdateInputs {
            attempt: Some(attempt.into()),
            updates: updates.collect(),
        };
        self.send(worker, ToWorker::UpdateInputs(message));
    }

    fn addressed(&self, update: InputUpdate) -> (InputUpdate, String) {
        let address = self
            .workers
            .get(&update.worker)
            .map(|worker| worker.address.clone())
            .unwrap_or_default();
        (update, address)
    }

    fn commit_sink(&self, winners: Vec<AttemptId>) {
        let (options, events, committed) = (
            Arc::clone(&self.options),
            self.events.clone(),
            self.committed.clone(),
        );
        tokio::task::spawn_blocking(move || {
            let Some(sink) = &options.sink else { return };
            let event = match sink.commit(&options.query, &winners) {
                Ok(shown) => {
                    committed.send_replace(Some(shown));
                    Event::SinkCommitted
                }
                Err(error) => Event::SinkFailed {
                    message: error.to_string(),
                },
            };
            let _ = events.send(FromLink::Event(event));
        });
    }

    fn publish(&mut self) {
        self.last_snapshot = tokio::time::Instant::now();
        let snapshot = self.machine.snapshot(self.now());
        self.snapshots.send_replace(snapshot);
    }

    /// Says goodbye, waits until workers have stopped the query's attempts, and clears what a failed query wrote.
    async fn finish(mut self) -> Outcome {
        self.result = None;
        let mut leaving: BTreeSet<WorkerId> = self.workers.keys().cloned().collect();
        for worker in &leaving {
            self.send(worker, ToWorker::Goodbye(wire::Goodbye {}));
        }
        let patience = tokio::time::Instant::now() + GOODBYE_TIMEOUT;
        while !leaving.is_empty() {
            match tokio::time::timeout_at(patience, self.inbox.recv()).await {
                Ok(Some(FromLink::Event(Event::WorkerLost { worker, .. }))) => {
                    leaving.remove(&worker);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.links.shutdown().await;
        let mut outcome = self.outcome.take().unwrap_or(Outcome::Cancelled);
        if outcome != Outcome::Succeeded
            && let Some(sink) = &self.options.sink
            && let Err(error) = sink.abort(&self.options.query)
        {
            tracing::warn!(%error, "the sink's staging folder could not be removed");
        }
        self.explain_loss(&mut outcome);
        self.publish_end(&outcome);
        outcome
    }

    /// Adds to a loss of all workers what was last heard of each.
    fn explain_loss(&self, outcome: &mut Outcome) {
        if let Outcome::Failed(failure) = outcome
            && failure.reason == sluice_crds::ErrorReason::WorkersLost
        {
            for (address, trouble) in &self.troubles {
                failure.message.push_str(&format!("; {address}: {trouble}"));
            }
        }
    }

    fn publish_end(&self, outcome: &Outcome) {
        let mut last = self.machine.snapshot(self.now());
        last.outcome = Some(outcome.clone());
        self.snapshots.send_replace(last);
    }
}

async fn sleep_to(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
