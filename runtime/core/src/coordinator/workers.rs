//! Workers: sessions, liveness, leased slots and the blacklist.

use std::collections::BTreeSet;

use super::Coordinator;
use super::event::Action;
use super::outcome::QueryState;
use crate::ids::{AttemptId, WorkerId};
use crate::locality::NodeLocation;
use crate::time::Instant;

/// A worker, over all its sessions since its last start.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) session: Session,
    pub(super) location: NodeLocation,
    /// Its slots in all, shared by all queries.
    pub(super) slots: u32,
    /// Slots granted to this query and not consumed.
    pub(super) granted: u32,
    /// Slots requested of the worker beyond those granted.
    pub(super) requested: u32,
    /// Attempts assigned in this session whose end was not reported: each has a slot.
    pub(super) occupied: BTreeSet<AttemptId>,
    /// Failures that count against it; a restart forgets them.
    pub(super) failures: u32,
    /// What broke its last session.
    pub(super) last_error: Option<String>,
    pub(super) last_heard: Instant,
}

/// Whether a worker can be talked to.
///
/// ```text
/// Live --> Draining
///  ^ |         |
///  | v         v
///  Lost <------'      (joins again through a new session)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// It takes attempts.
    Live,
    /// It takes no new attempts but serves what it holds.
    Draining,
    /// No session.
    Lost,
}

impl Worker {
    pub(super) fn is_connected(&self) -> bool {
        match self.session {
            Session::Live | Session::Draining => true,
            Session::Lost => false,
        }
    }

    /// Slots that this query could still get.
    pub(super) fn spare(&self) -> u32 {
        let taken = u32::try_from(self.occupied.len())
            .unwrap_or(u32::MAX)
            .saturating_add(self.granted);
        self.slots.saturating_sub(taken)
    }
}

impl Coordinator {
    /// Notes a sign of life; `None` if it comes from a session or a start of the worker that is over.
    pub(super) fn heard(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        let now = self.now;
        let worker = self.workers.get_mut(&id.name)?;
        if worker.id != *id || !worker.is_connected() {
            return None;
        }
        worker.last_heard = now;
        Some(worker)
    }

    pub(super) fn is_connected(&self, id: &WorkerId) -> bool {
        self.workers
            .get(&id.name)
            .is_some_and(|worker| worker.id == *id && worker.is_connected())
    }

    /// Whether attempts may be assigned to the worker.
    pub(super) fn is_usable(&self, worker: &Worker) -> bool {
        let takes = match worker.session {
            Session::Live => true,
            Session::Draining | Session::Lost => false,
        };
        takes && worker.slots > 0 && !self.is_excluded(worker)
    }

    pub(super) fn is_excluded(&self, worker: &Worker) -> bool {
        worker.failures >= self.policy.exclude_worker_after_failures.max(1)
    }

    pub(super) fn on_joined(
        &mut self,
        id: &WorkerId,
        slots: u32,
        location: NodeLocation,
        held: &[AttemptId],
    ) {
        let known = self.workers.get(&id.name);
        if known.is_some_and(|worker| worker.id.incarnation > id.incarnation) {
            // An older start of the same name: its process is gone or about to go.
            self.out.push(Action::DropWorker { worker: id.clone() });
            return;
        }
        if known.is_some_and(Worker::is_connected) {
            self.lose_worker(&id.name, "it began a new session");
        }
        let known = self.workers.get(&id.name).filter(|worker| worker.id == *id);
        let failures = known.map_or(0, |worker| worker.failures);
        let worker = Worker {
            id: id.clone(),
            session: Session::Live,
            location,
            slots,
            granted: 0,
            requested: 0,
            occupied: BTreeSet::new(),
            failures,
            last_error: None,
            last_heard: self.now,
        };
        self.workers.insert(id.name.clone(), worker);
        self.suspects.on_joined(id);
        self.resynchronise(id, held);
    }

    pub(super) fn on_lost(&mut self, id: &WorkerId, message: String) {
        match self.workers.get_mut(&id.name) {
            Some(worker) if worker.id == *id && worker.is_connected() => self.lose_worker(&id.name, &message),
            Some(worker) if worker.id.incarnation > id.incarnation => {}
            Some(worker) => worker.last_error = Some(message),
            None => {
                // It was never reached; its error is what the user must see when no worker comes.
                let worker = Worker {
                    id: id.clone(),
                    session: Session::Lost,
                    location: NodeLocation::default(),
                    slots: 0,
                    granted: 0,
                    requested: 0,
                    occupied: BTreeSet::new(),
                    failures: 0,
                    last_error: Some(message),
                    last_heard: self.now,
                };
                self.workers.insert(id.name.clone(), worker);
            }
        }
    }

    pub(super) fn on_drained(&mut self, id: &WorkerId) {
        if let Some(worker) = self.heard(id) {
            worker.session = Session::Draining;
        }
    }

    pub(super) fn on_granted(&mut self, id: &WorkerId, slots: u32) {
        if let Some(worker) = self.heard(id) {
            worker.granted = worker.granted.saturating_add(slots);
            worker.requested = worker.requested.saturating_sub(slots);
        }
    }

    /// Gives up workers that were silent for too long.
    pub(super) fn drop_silent_workers(&mut self) {
        if self.has_ended() {
            return;
        }
        let (now, timeout) = (self.now, self.policy.worker_liveness_timeout);
        let connected = self.workers.values().filter(|worker| worker.is_connected());
        let silent = connected.filter(|worker| worker.last_heard + timeout <= now);
        for id in silent.map(|worker| worker.id.clone()).collect::<Vec<_>>() {
            let message = format!("nothing was heard from it for {} ms", timeout.as_millis());
            self.out.push(Action::DropWorker { worker: id.clone() });
            self.lose_worker(&id.name, &message);
        }
    }

    /// Ends a worker's session: what ran there is lost, what it held cannot be read.
    pub(super) fn lose_worker(&mut self, name: &str, message: &str) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        // A worker that drains has said that it goes.
        let unannounced = match worker.session {
            Session::Live => true,
            Session::Draining | Session::Lost => false,
        };
        worker.session = Session::Lost;
        worker.granted = 0;
        worker.requested = 0;
        let occupied = std::mem::take(&mut worker.occupied);
        worker.last_error = Some(message.to_owned());
        let id = worker.id.clone();
        match self.state {
            QueryState::Running => {
                if unannounced {
                    self.suspect(&id, &occupied, message);
                }
                self.lose_work(&id, message);
            }
            // The winners' files are with the sink: workers no longer matter.
            QueryState::Committing { .. } | QueryState::Ended { .. } => {}
        }
    }
}
