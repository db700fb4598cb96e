//! One coordinator's session at a worker: it starts and stops attempts, and reports what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::ids::{AttemptId, StageId};
use sluice_core::key_filter::KeyFilter;
use sluice_core::layout::LayoutId;
use sluice_core::limits::MAX_ATTEMPTS_PER_SESSION;
use sluice_core::message::{Assignment, ReaderRange, ReaderUpdate};
use sluice_core::metrics::AttemptMetrics;
use sluice_proto::auth::{AuthError, Claims, Token};
use sluice_proto::{Hello, LeafSplit, MapOutputs, WireError, wire};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Instrument as _;
use wire::coordinator_message::Message as FromCoordinator;
use wire::worker_message::Message as ToCoordinator;

use super::Shared;
use super::attempt::{self, AttemptEnd, AttemptJob};
use super::counters::Counters;
use super::path_policy::PathPolicy;
use super::session_filters::{AttemptFilters, SessionFilters};
use super::session_outputs::SessionOutputs;
use super::slots::SessionSlots;
use super::stages::SessionStages;
use crate::shuffle::store::AttemptCounts;
use crate::transport::Peers;

/// How often running attempts report their counters.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// The coordinator sent `EndQuery`.
    QueryEnded,
    /// The session broke: the query's data is kept for its lease.
    Broken,
}

impl SessionEnd {
    /// For the log.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::QueryEnded => "the query is over",
            Self::Broken => "it broke",
        }
    }
}

/// The state of one session; owned by its task.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) hello: Hello,
    pub(super) slots: SessionSlots,
    permit: SessionPermit,
    /// The workers that this session has named.
    peers: Peers,
    pub(super) outbound: mpsc::UnboundedSender<Result<wire::WorkerMessage, Status>>,
    /// Cancelled when a later session of the query replaces this one, or the worker shuts down.
    pub(super) replaced: CancellationToken,
    stages: SessionStages,
    filters: SessionFilters,
    outputs: SessionOutputs,
    /// Attempts that messages have named so far, to bound what is remembered of them.
    attempts_named: u64,
    running: BTreeMap<AttemptId, Running>,
    /// Spilled bytes of ended attempts, as last reported.
    reported_spills: BTreeMap<AttemptId, u64>,
}

/// What a session's token permits.
pub(super) struct SessionPermit {
    /// The claims of the token, where tokens are checked.
    pub(super) claims: Option<Claims>,
    /// What the session's attempts may read and write.
    pub(super) paths: Arc<PathPolicy>,
}

impl SessionPermit {
    /// Waits until the token has expired.
    async fn ended(&self) {
        let Some(claims) = &self.claims else {
            return std::future::pending().await;
        };
        // In short steps, because the system clock may be changed.
        while let Ok(left) = claims.deadline().duration_since(SystemTime::now()) {
            sleep(left.min(Duration::from_secs(10))).await;
        }
    }
}

struct Running {
    cancel: CancellationToken,
    inputs: mpsc::UnboundedSender<ReaderUpdate>,
    counters: Arc<Counters>,
    /// By which its inputs are divided; the report of its success says it.
    layout: LayoutId,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        hello: Hello,
        slots: SessionSlots,
        permit: SessionPermit,
        (outbound, replaced): (
            mpsc::UnboundedSender<Result<wire::WorkerMessage, Status>>,
            CancellationToken,
        ),
    ) -> Self {
        Self {
            stages: SessionStages::new(&shared.fragments),
            filters: SessionFilters::new(&shared.fragments),
            outputs: SessionOutputs::new(&shared.fragments),
            attempts_named: 0,
            shared,
            hello,
            slots,
            permit,
            peers: Peers::default(),
            outbound,
            replaced,
            running: BTreeMap::new(),
            reported_spills: BTreeMap::new(),
        }
    }

    /// Serves the session until it ends; then all its attempts have stopped.
    pub(super) async fn serve(mut self, mut inbound: Streaming<wire::CoordinatorMessage>) -> SessionEnd {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut heartbeat = interval(self.hello.liveness_timeout / 3);
        let mut progress = interval(PROGRESS_PERIOD);
        progress.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut last_heard = Instant::now();
        let draining = self.shared.draining.clone();
        let mut drain_told = false;
        let end = loop {
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        last_heard = Instant::now();
                        match self.receive(message, &ended).await {
                            Ok(Some(end)) => break end,
                            Ok(None) => {}
                            Err(status) => {
                                let _ = self.outbound.send(Err(status));
                                break SessionEnd::Broken;
                            }
                        }
                    }
                    Ok(None) | Err(_) => break SessionEnd::Broken,
                },
                Some((attempt, end)) = ends.recv() => self.report_end(attempt, end).await,
                slots = self.slots.granted() => {
                    self.send(ToCoordinator::SlotsGranted(wire::SlotsGranted { slots }));
                }
                _ = heartbeat.tick() => self.send(ToCoordinator::Heartbeat(wire::Heartbeat {})),
                _ = progress.tick() => self.report_progress().await,
                () = draining.cancelled(), if !drain_told => {
                    drain_told = true;
                    self.send(ToCoordinator::Draining(wire::Draining {}));
                }
                () = sleep_until(last_heard + self.hello.liveness_timeout) => break SessionEnd::Broken,
                () = self.replaced.cancelled() => break SessionEnd::Broken,
                () = self.permit.ended() => {
                    let _ = self.outbound.send(Err(AuthError::Expired.into()));
                    break SessionEnd::Broken;
                }
            }
        };
        self.stop_all(&mut ends).await;
        end
    }

    async fn stop_all(&mut self, ends: &mut mpsc::UnboundedReceiver<(AttemptId, AttemptEnd)>) {
        for running in self.running.values() {
            running.cancel.cancel();
        }
        while !self.running.is_empty() {
            let Some((attempt, _)) = ends.recv().await else {
                return;
            };
            self.running.remove(&attempt);
        }
    }

    async fn receive(
        &mut self,
        message: wire::CoordinatorMessage,
        ended: &mpsc::UnboundedSender<(AttemptId, AttemptEnd)>,
    ) -> Result<Option<SessionEnd>, Status> {
        match message
            .message
            .ok_or(WireError::Missing("message"))
            .map_err(invalid_message)?
        {
            FromCoordinator::Hello(_) => {
                return Err(invalid_message(WireError::Impossible {
                    field: "message",
                    value: "a second hello".into(),
                }));
            }
            FromCoordinator::RenewToken(renewal) => self.renew(&renewal)?,
            FromCoordinator::Heartbeat(_) => {}
            FromCoordinator::RequestSlots(request) => {
                self.slots.request(request.slots, request.speculative_slots);
            }
            FromCoordinator::ReleaseSlots(release) => self.slots.release(release.slots),
            FromCoordinator::DefineStage(stage) => {
                let query = &self.hello.query;
                if let Err(failure) = self.stages.define(StageId(stage.stage), &stage.template) {
                    tracing::warn!(%query, stage = stage.stage, %failure, "refused a stage");
                }
            }
            FromCoordinator::DefineLayout(layout) => {
                self.shared.records.keep_layout(&self.hello.query, layout);
            }
            FromCoordinator::DefineFilter(define) => {
                let keys = define.keys.ok_or(WireError::Missing("define_filter.keys"));
                let keys = keys.and_then(KeyFilter::try_from).map_err(invalid_message)?;
                self.filters.define(define.filter, &keys);
            }
            FromCoordinator::AssignAttempt(assign) => self.on_assigned(assign, ended).await?,
            FromCoordinator::UpdateInputs(update) => {
                self.update_inputs(update)?;
            }
            FromCoordinator::CancelAttempt(attempt) => {
                if let Some(running) = self.running.get(&attempt.into()) {
                    running.cancel.cancel();
                }
            }
            FromCoordinator::RetireAttempt(attempt) => {
                self.count_attempt()?;
                let (query, attempt) = (&self.hello.query, attempt.into());
                self.shared.records.forget(query, attempt);
                self.shared.store.retire(query.clone(), attempt).await;
            }
            FromCoordinator::EndQuery(_) => return Ok(Some(SessionEnd::QueryEnded)),
        }
        Ok(None)
    }

    async fn on_assigned(
        &mut self,
        assign: wire::AssignAttempt,
        ended: &mpsc::UnboundedSender<(AttemptId, AttemptEnd)>,
    ) -> Result<(), Status> {
        self.count_attempt()?;
        let attempt = assign.attempt;
        let filters = self.filters.of_attempt(&assign.filters);
        match (assign.try_into(), attempt) {
            (Ok((assignment, splits)), _) => self.start(assignment, (splits, filters), ended).await,
            (Err(WireError::TooLarge(large)), Some(attempt)) => {
                let failure = AttemptFailure::BadInput {
                    kind: BadInputKind::UnsupportedPlan,
                    message: large.to_string(),
                };
                self.refuse(attempt.into(), failure, ended);
            }
            (Err(error), _) => return Err(invalid_message(error)),
        }
        Ok(())
    }

    /// Takes over where outputs are, and passes it on to the attempts that read them.
    fn update_inputs(&mut self, message: wire::UpdateInputs) -> Result<(), Status> {
        let outputs = MapOutputs::decode(message.outputs).map_err(invalid_message)?;
        let ranges = message.ranges.into_iter().map(ReaderRange::try_from);
        let ranges = ranges.collect::<Result<Vec<_>, _>>().map_err(invalid_message)?;
        for (worker, endpoint) in outputs.endpoints {
            self.peers.learn(&worker, endpoint);
        }
        for update in outputs.updates {
            for (reader, update) in self.outputs.update(update, &ranges)? {
                if let Some(running) = self.running.get(&reader) {
                    let _ = running.inputs.send(update);
                }
            }
        }
        Ok(())
    }

    /// Extends the session's token.
    fn renew(&mut self, renewal: &str) -> Result<(), AuthError> {
        let Some(claims) = self.permit.claims.clone() else {
            return Ok(());
        };
        let authorizer = &self.shared.options.authorizer;
        self.permit.claims = Some(authorizer.extend(claims, &Token::new(renewal)?)?);
        Ok(())
    }

    async fn start(
        &mut self,
        assignment: Assignment,
        (splits, filters): (Vec<LeafSplit>, AttemptFilters),
        ended: &mpsc::UnboundedSender<(AttemptId, AttemptEnd)>,
    ) {
        let attempt = assignment.attempt;
        let layout = assignment.layout;
        let stage = match self.stages.get(attempt.stage) {
            Ok(stage) => stage,
            Err(failure) => return self.refuse(attempt, failure, ended),
        };
        let Some(slot) = self.slots.consume().await else {
            let failure = AttemptFailure::Refused {
                message: "no slot was granted for it".to_owned(),
            };
            return self.refuse(attempt, failure, ended);
        };
        let shared = Arc::clone(&self.shared);
        let (query, coordinator_epoch) = (self.hello.query.clone(), self.hello.coordinator_epoch);
        let input_roots = self.hello.input_roots.clone();
        let tracked = self.track(attempt, layout);
        self.outputs.open(&assignment, &tracked.inputs);
        let job = AttemptJob {
            shared,
            peers: self.peers.clone(),
            query,
            coordinator_epoch,
            input_roots,
            paths: Arc::clone(&self.permit.paths),
            stage,
            assignment,
            splits,
            filters,
            inputs: tracked.receiver,
            counters: tracked.counters,
            cancel: tracked.cancel,
        };
        let ended = ended.clone();
        let run = async move {
            let end = attempt::run(job).await;
            drop(slot);
            let _ = ended.send((attempt, end));
        };
        self.shared.cpu.spawn(run.in_current_span());
    }

    /// Fails an attempt without starting it.
    fn refuse(
        &mut self,
        attempt: AttemptId,
        failure: AttemptFailure,
        ended: &mpsc::UnboundedSender<(AttemptId, AttemptEnd)>,
    ) {
        let _ = ended.send((attempt, AttemptEnd::Failed(failure)));
        self.track(attempt, LayoutId::default()).cancel.cancel();
    }

    /// Bounds the attempts that a session may name, because each takes memory. No real coordinator names more.
    fn count_attempt(&mut self) -> Result<(), Status> {
        self.attempts_named += 1;
        if self.attempts_named > MAX_ATTEMPTS_PER_SESSION {
            return Err(Status::resource_exhausted(format!(
                "the session has named more than {MAX_ATTEMPTS_PER_SESSION} attempts"
            )));
        }
        Ok(())
    }

    fn track(&mut self, attempt: AttemptId, layout: LayoutId) -> Tracked {
        let (inputs, receiver) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let counters = Arc::new(Counters::start());
        let running = Running {
            cancel: cancel.clone(),
            inputs: inputs.clone(),
            counters: Arc::clone(&counters),
            layout,
        };
        self.running.insert(attempt, running);
        Tracked {
            inputs,
            receiver,
            cancel,
            counters,
        }
    }

    async fn report_end(&mut self, attempt: AttemptId, end: AttemptEnd) {
        let counts = self.attempt_counts().await;
        let Some(running) = self.running.remove(&attempt) else {
            return;
        };
        self.outputs.close(attempt);
        let message = match end {
            AttemptEnd::Succeeded {
                outputs,
                run,
                filters,
                mut metrics,
            } => {
                self.reported_spills
                    .insert(attempt, add_counts(&mut metrics, counts.get(&attempt)));
                let success = wire::AttemptSucceeded {
                    attempt: Some(attempt.into()),
                    outputs: outputs.into_iter().map(Into::into).collect(),
                    run: run.map(Into::into),
                    filters: filters.iter().map(Into::into).collect(),
                    metrics: Some(metrics.into()),
                    layout_version: running.layout.version.0,
                    layout_fingerprint: running.layout.fingerprint,
                };
                let by = (attempt, self.hello.coordinator_epoch);
                self.shared
                    .records
                    .keep_report(&self.hello.query, by, success.clone());
                ToCoordinator::AttemptSucceeded(success)
            }
            AttemptEnd::Failed(failure) => ToCoordinator::AttemptFailed(wire::AttemptFailed {
                attempt: Some(attempt.into()),
                failure: Some(failure.into()),
            }),
        };
        // A success may end the query: send the counts of other attempts first.
        self.report_spills(&counts);
        self.send(message);
    }

    async fn attempt_counts(&self) -> BTreeMap<AttemptId, AttemptCounts> {
        self.shared.store.attempt_counts(self.hello.query.clone()).await
    }

    async fn report_progress(&mut self) {
        self.shared.store.space().rebalance();
        let counts = self.attempt_counts().await;
        for (attempt, running) in &self.running {
            let mut metrics = running.counters.read();
            add_counts(&mut metrics, counts.get(attempt));
            self.report(*attempt, metrics);
        }
        self.report_spills(&counts);
    }

    /// Reports new spills of ended attempts, whose output is spilled first.
    fn report_spills(&mut self, counts: &BTreeMap<AttemptId, AttemptCounts>) {
        for (attempt, counted) in counts {
            let reported = self.reported_spills.get(attempt).copied().unwrap_or(0);
            if self.running.contains_key(attempt) || reported == counted.spilled_bytes {
                continue;
            }
            let mut metrics = AttemptMetrics::default();
            self.reported_spills
                .insert(*attempt, add_counts(&mut metrics, Some(counted)));
            self.report(*attempt, metrics);
        }
    }

    fn report(&self, attempt: AttemptId, metrics: AttemptMetrics) {
        self.send(ToCoordinator::AttemptProgressed(wire::AttemptProgressed {
            attempt: Some(attempt.into()),
            metrics: Some(metrics.into()),
        }));
    }

    fn send(&self, message: ToCoordinator) {
        // A closed channel also ends the inbound stream.
        let _ = self.outbound.send(Ok(wire::WorkerMessage::of(message)));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn invalid_message(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Adds the store's counts. Returns the spilled bytes.
fn add_counts(metrics: &mut AttemptMetrics, counts: Option<&AttemptCounts>) -> u64 {
    let counts = counts.copied().unwrap_or_default();
    metrics.stored(counts.spilled_bytes);
    metrics.backpressure_events = counts.backpressure_events;
    counts.spilled_bytes
}

struct Tracked {
    inputs: mpsc::UnboundedSender<ReaderUpdate>,
    receiver: mpsc::UnboundedReceiver<ReaderUpdate>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
}
