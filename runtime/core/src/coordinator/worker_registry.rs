//! The workers of a query: sessions, liveness, and which of them may run attempts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Coordinator;
use super::event::Action;
use super::outcome::QueryState;
use super::policy::Policy;
use crate::ids::{AttemptId, WorkerId};
use crate::locality::NodeLocation;
use crate::message::Recovered;
use crate::time::Instant;

/// A worker, over all its sessions since its last start.
#[derive(Debug)]
pub(super) struct Worker {
    id: Arc<WorkerId>,
    session: Session,
    location: NodeLocation,
    /// Its slots in all, shared by all queries.
    slots: u32,
    /// Failures that count against this start of the worker.
    failures: u32,
    /// What broke its last session.
    last_error: Option<String>,
    last_heard: Instant,
}

/// Whether a worker has a session, and takes attempts.
///
/// ```text
/// Live --> Draining
///  ^ |         |
///  | v         v
///  Lost <------'      (joins again through a new session)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// It takes attempts.
    Live,
    /// It takes no new attempts but serves what it holds.
    Draining,
    /// No session.
    Lost,
}

impl Worker {
    pub(super) fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Its id, for what is kept of many attempts.
    pub(super) fn shared_id(&self) -> Arc<WorkerId> {
        Arc::clone(&self.id)
    }

    pub(super) fn name(&self) -> &str {
        &self.id.name
    }

    pub(super) fn location(&self) -> &NodeLocation {
        &self.location
    }

    /// Its slots in all, shared by all queries.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Failures that count against it.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// What broke its last session.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn is_connected(&self) -> bool {
        match self.session {
            Session::Live | Session::Draining => true,
            Session::Lost => false,
        }
    }
}

/// Every worker that was ever heard of, by name.
#[derive(Debug)]
pub(super) struct WorkerRegistry {
    workers: BTreeMap<String, Worker>,
    /// Workers with a session by the time when they were last heard.
    heard: BTreeSet<(Instant, String)>,
    exclude_after_failures: u32,
    liveness_timeout: Duration,
}

/// What a new session with a worker means for what is known of it.
pub(super) enum Registration {
    /// A later start of the worker is known: the process behind the session is gone or about to go.
    Stale,
    /// The worker had a session, which the new one replaces.
    Replaces,
    /// The worker had no session.
    New,
}

/// A session that has ended.
pub(super) struct EndedSession {
    pub(super) worker: WorkerId,
    /// Whether the worker had said that it drains.
    pub(super) drained: bool,
}

impl WorkerRegistry {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            workers: BTreeMap::new(),
            heard: BTreeSet::new(),
            exclude_after_failures: policy.exclude_worker_after_failures.max(1),
            liveness_timeout: policy.worker_liveness_timeout,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Worker> {
        self.workers.get(name)
    }

    /// All workers, by name.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Worker> {
        self.workers.values()
    }

    /// Workers with a session.
    pub(super) fn connected(&self) -> impl Iterator<Item = &Worker> {
        self.all().filter(|worker| worker.is_connected())
    }

    /// How many workers have a session.
    pub(super) fn sessions(&self) -> usize {
        self.heard.len()
    }

    /// Workers to which attempts may be assigned.
    pub(super) fn usable(&self) -> impl Iterator<Item = &Worker> {
        self.all().filter(|worker| self.is_usable(worker))
    }

    /// Whether attempts may be assigned to the worker.
    pub(super) fn is_usable(&self, worker: &Worker) -> bool {
        let takes_attempts = match worker.session {
            Session::Live => true,
            Session::Draining | Session::Lost => false,
        };
        takes_attempts && worker.slots > 0 && !self.is_excluded(worker)
    }

    /// Whether the worker failed too often to get more attempts.
    pub(super) fn is_excluded(&self, worker: &Worker) -> bool {
        worker.failures >= self.exclude_after_failures
    }

    /// Whether this start of the worker has a session.
    pub(super) fn is_connected(&self, id: &WorkerId) -> bool {
        self.get(&id.name)
            .is_some_and(|worker| *worker.id == *id && worker.is_connected())
    }

    /// Records a sign of life; false if it comes from a session or a start of the worker that is over.
    pub(super) fn heard(&mut self, id: &WorkerId, now: Instant) -> bool {
        let Some(worker) = self.connected_mut(id) else {
            return false;
        };
        let before = std::mem::replace(&mut worker.last_heard, now);
        if before != now {
            let entry = self.heard.take(&(before, id.name.clone()));
            self.heard.extend(entry.map(|(_, name)| (now, name)));
        }
        true
    }

    fn connected_mut(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        let worker = self.workers.get_mut(&id.name)?;
        (*worker.id == *id && worker.is_connected()).then_some(worker)
    }

    /// What a session with this start of the worker would mean.
    pub(super) fn classify(&self, id: &WorkerId) -> Registration {
        match self.get(&id.name) {
            Some(known) if known.id.incarnation > id.incarnation => Registration::Stale,
            Some(known) if known.is_connected() => Registration::Replaces,
            Some(_) | None => Registration::New,
        }
    }

    /// Registers a session. Failures of the same start of the worker still count.
    pub(super) fn register(&mut self, id: &WorkerId, slots: u32, location: NodeLocation, now: Instant) {
        let known = self.get(&id.name).filter(|worker| *worker.id == *id);
        let worker = Worker {
            id: Arc::new(id.clone()),
            session: Session::Live,
            location,
            slots,
            failures: known.map_or(0, Worker::failures),
            last_error: None,
            last_heard: now,
        };
        if let Some(before) = self.workers.insert(id.name.clone(), worker) {
            self.heard.remove(&(before.last_heard, before.id.name.clone()));
        }
        self.heard.insert((now, id.name.clone()));
    }

    /// Records why a worker could not be reached. It is what the user must see when no worker comes.
    pub(super) fn record_unreachable(&mut self, id: &WorkerId, message: String, now: Instant) {
        match self.workers.get_mut(&id.name) {
            Some(worker) if worker.id.incarnation > id.incarnation => {}
            Some(worker) => worker.last_error = Some(message),
            None => {
                let worker = Worker {
                    id: Arc::new(id.clone()),
                    session: Session::Lost,
                    location: NodeLocation::default(),
                    slots: 0,
                    failures: 0,
                    last_error: Some(message),
                    last_heard: now,
                };
                self.workers.insert(id.name.clone(), worker);
            }
        }
    }

    /// Records that the worker takes no new attempts.
    pub(super) fn drain(&mut self, id: &WorkerId) {
        if let Some(worker) = self.connected_mut(id) {
            worker.session = Session::Draining;
        }
    }

    /// Ends the session of a worker.
    pub(super) fn disconnect(&mut self, name: &str, message: &str) -> Option<EndedSession> {
        let worker = self.workers.get_mut(name)?;
        let drained = match worker.session {
            Session::Live => false,
            Session::Draining | Session::Lost => true,
        };
        worker.session = Session::Lost;
        worker.last_error = Some(message.to_owned());
        self.heard.remove(&(worker.last_heard, name.to_owned()));
        Some(EndedSession {
            worker: WorkerId::clone(&worker.id),
            drained,
        })
    }

    /// Workers that were silent for longer than the liveness timeout.
    pub(super) fn silent(&self, now: Instant) -> Vec<WorkerId> {
        let silent = self
            .heard
            .iter()
            .take_while(|(heard, _)| *heard + self.liveness_timeout <= now);
        let silent = silent.filter_map(|(_, name)| self.get(name));
        let mut silent: Vec<WorkerId> = silent.map(|worker| WorkerId::clone(&worker.id)).collect();
        silent.sort_unstable();
        silent
    }

    /// When the first of the connected workers counts as silent if nothing is heard of it.
    pub(super) fn next_liveness_deadline(&self) -> Option<Instant> {
        self.heard
            .first()
            .map(|(heard, _)| *heard + self.liveness_timeout)
    }

    /// Counts a failure against this start of the worker.
    pub(super) fn record_failure(&mut self, id: &WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id.name).filter(|known| *known.id == *id) {
            worker.failures = worker.failures.saturating_add(1);
        }
    }
}

impl Coordinator {
    pub(super) fn on_joined(
        &mut self,
        id: &WorkerId,
        (slots, location): (u32, NodeLocation),
        held: &[AttemptId],
        recovered: Recovered,
    ) {
        match self.workers.classify(id) {
            Registration::Stale => {
                self.out.push(Action::DropWorker { worker: id.clone() });
                return;
            }
            Registration::Replaces => self.lose_worker(&id.name, "it began a new session"),
            Registration::New => {}
        }
        self.workers.register(id, slots, location, self.now);
        self.slots.open_account(&id.name, slots);
        self.follow_usability(&id.name);
        self.suspects.on_joined(id);
        self.resynchronise(id, held, recovered);
    }

    pub(super) fn on_lost(&mut self, id: &WorkerId, message: String) {
        if self.workers.is_connected(id) {
            self.lose_worker(&id.name, &message);
        } else {
            self.workers.record_unreachable(id, message, self.now);
        }
    }

    pub(super) fn on_drained(&mut self, id: &WorkerId) {
        if self.workers.heard(id, self.now) {
            self.workers.drain(id);
            self.follow_usability(&id.name);
        }
    }

    /// Tells the broker whether the worker takes attempts.
    fn follow_usability(&mut self, name: &str) {
        let worker = self.workers.get(name);
        let usable = worker.is_some_and(|worker| self.workers.is_usable(worker));
        self.slots.set_usable(name, usable);
        self.prefer_by_files_again();
    }

    pub(super) fn on_granted(&mut self, id: &WorkerId, slots: u32) {
        if self.workers.heard(id, self.now) {
            self.slots.grant(&id.name, slots);
        }
    }

    /// Drops workers that were silent for longer than the liveness timeout.
    pub(super) fn drop_silent_workers(&mut self) {
        if self.has_ended() {
            return;
        }
        let timeout = self.policy.worker_liveness_timeout;
        for id in self.workers.silent(self.now) {
            let message = format!("nothing was heard from it for {} ms", timeout.as_millis());
            self.out.push(Action::DropWorker { worker: id.clone() });
            self.lose_worker(&id.name, &message);
        }
    }

    /// Ends a worker's session: what ran there is lost, what it held cannot be read.
    pub(super) fn lose_worker(&mut self, name: &str, message: &str) {
        let Some(ended) = self.workers.disconnect(name, message) else {
            return;
        };
        let occupied = self.slots.close_account(name);
        self.subscriptions.end_session(&ended.worker);
        self.recovery.end_session(&ended.worker);
        self.stragglers.recheck(self.now);
        match self.state {
            QueryState::Running => {
                // A worker that drains has said that it goes.
                if !ended.drained {
                    self.suspect(&ended.worker, &occupied, message);
                }
                self.lose_work(&ended.worker, message);
            }
            // The winners' files are with the sink: workers no longer matter.
            QueryState::Committing { .. } | QueryState::Ended { .. } => {}
        }
    }

    /// Records a failure of a worker; too many and it gets no more attempts. The first one is the cause to name when the
    /// query runs out of workers.
    pub(super) fn record_worker_failure(&mut self, worker: &WorkerId, cause: &super::QueryFailure) {
        self.first_failure.get_or_insert_with(|| cause.clone());
        self.workers.record_failure(worker);
        self.follow_usability(&worker.name);
    }
}
