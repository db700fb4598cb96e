//! Sessions between the coordinator and its workers: in order, until one message is lost.

use std::sync::Arc;

use rand::Rng;

use super::audit::Violation;
use super::plan::LATEST_REPEAT;
use super::world::{SimEvent, World};
use crate::coordinator::Event;
use crate::ids::{AttemptId, CoordinatorEpoch, Incarnation, WorkerId};
use crate::message::{Assignment, InputUpdate, ReaderRange, StageLayout};

/// What a coordinator says in a session.
#[derive(Debug, Clone)]
pub enum ToWorker {
    Hello(CoordinatorEpoch),
    /// Keep the layout of a stage.
    DefineLayout(Arc<StageLayout>),
    /// How many, and how many of them for duplicates alone.
    RequestSlots(u32, u32),
    ReleaseSlots(u32),
    Assign(Assignment),
    Inputs(Vec<InputUpdate>, Vec<ReaderRange>),
    Cancel(AttemptId),
    Retire(AttemptId),
}

/// The coordinator's end of the session with one worker.
#[derive(Debug, Default)]
pub struct Link {
    /// The session begun last; none of it counts once it is down.
    pub session: u64,
    pub is_open: bool,
    /// Who answered.
    pub joined: Option<WorkerId>,
    /// When the last message of the session arrives, each way.
    to_worker: u64,
    to_coordinator: u64,
}

impl World {
    /// The coordinator's shell opens a session, and dials again if that fails.
    pub fn connect(&mut self, name: String) -> Result<(), Violation> {
        self.next_session += 1;
        let session = self.next_session;
        if let Some(link) = self.links.get_mut(&name) {
            *link = Link {
                session,
                is_open: true,
                joined: None,
                to_worker: self.now,
                to_coordinator: self.now,
            };
        }
        if !self.nodes.get(&name).is_some_and(|node| node.alive) {
            let delay = self.delay();
            self.after(delay, SimEvent::BrokenAtCoordinator { name, session });
            return Ok(());
        }
        self.send(&name, ToWorker::Hello(self.epoch));
        self.after(3_000, SimEvent::ConnectTimedOut { name, session });
        Ok(())
    }

    /// Sends in the worker's session, if there is one.
    pub fn send(&mut self, name: &str, message: ToWorker) {
        let lost = self.chance(self.plan.session_loss);
        let at = self.now + self.delay();
        let Some(link) = self.links.get_mut(name).filter(|link| link.is_open) else {
            return;
        };
        let session = link.session;
        if self.broken.contains(&session) {
            return;
        }
        link.to_worker = link.to_worker.max(at);
        let at = link.to_worker;
        if lost {
            self.break_session(name, session);
            return;
        }
        self.at(
            at,
            SimEvent::ToWorker {
                name: name.to_owned(),
                session,
                message,
            },
        );
    }

    /// Sends from the worker's end of a session.
    pub fn report(&mut self, name: &str, session: u64, event: Event) {
        let lost = self.chance(self.plan.session_loss);
        let repeated = self.chance(self.plan.repeat);
        let mut at = self.now + self.delay();
        if self.broken.contains(&session) {
            return;
        }
        if let Some(link) = self.links.get_mut(name).filter(|link| link.session == session) {
            link.to_coordinator = link.to_coordinator.max(at);
            at = link.to_coordinator;
        }
        if lost {
            self.break_session(name, session);
            return;
        }
        let is_end = matches!(
            event,
            Event::AttemptSucceeded { .. } | Event::AttemptFailed { .. }
        );
        if is_end && repeated {
            // Session 0: a stray message that the coordinator gets whatever happened to the session.
            let late = self.rng.random_range(1..LATEST_REPEAT);
            let (name, event) = (name.to_owned(), event.clone());
            self.at(
                at + late,
                SimEvent::ToCoordinator {
                    name,
                    session: 0,
                    event,
                },
            );
        }
        self.at(
            at,
            SimEvent::ToCoordinator {
                name: name.to_owned(),
                session,
                event,
            },
        );
    }

    /// Nothing more is sent in the session; both ends notice some time.
    pub fn break_session(&mut self, name: &str, session: u64) {
        if !self.broken.insert(session) {
            return;
        }
        let name = name.to_owned();
        let (first, second) = (self.delay() * 3, self.delay() * 3);
        self.after(
            first,
            SimEvent::BrokenAtCoordinator {
                name: name.clone(),
                session,
            },
        );
        self.after(second, SimEvent::BrokenAtWorker { name, session });
    }

    pub fn on_coordinator_message(
        &mut self,
        name: &str,
        session: u64,
        event: Event,
    ) -> Result<(), Violation> {
        let counts = session == 0
            || self
                .links
                .get(name)
                .is_some_and(|link| link.is_open && link.session == session);
        if !counts {
            return Ok(());
        }
        if let Event::WorkerJoined { worker, .. } = &event {
            let joined = Some(worker.clone());
            if let Some(link) = self.links.get_mut(name) {
                link.joined = joined;
            }
        }
        self.notify_coordinator(event)
    }

    /// No answer to the hello: the worker may be frozen.
    pub fn on_connect_timed_out(&mut self, name: &str, session: u64) -> Result<(), Violation> {
        if self.links.get(name).is_some_and(|link| link.joined.is_none()) {
            self.broken.insert(session);
            return self.on_broken_at_coordinator(name, session);
        }
        Ok(())
    }

    pub fn on_broken_at_coordinator(&mut self, name: &str, session: u64) -> Result<(), Violation> {
        let Some(link) = self
            .links
            .get_mut(name)
            .filter(|link| link.is_open && link.session == session)
        else {
            return Ok(());
        };
        link.is_open = false;
        let unknown = WorkerId {
            name: name.to_owned(),
            incarnation: Incarnation(0),
        };
        let worker = link.joined.clone().unwrap_or(unknown);
        let again = self.rng.random_range(50..600);
        self.after(
            again,
            SimEvent::Connect {
                name: name.to_owned(),
            },
        );
        self.notify_coordinator(Event::WorkerLost {
            worker,
            message: "connection reset".to_owned(),
        })
    }

    /// The coordinator drops a worker.
    pub fn drop_link(&mut self, name: &str) {
        let Some(link) = self.links.get_mut(name) else {
            return;
        };
        link.is_open = false;
        let session = link.session;
        self.broken.insert(session);
        let delay = self.delay();
        self.after(
            delay,
            SimEvent::BrokenAtWorker {
                name: name.to_owned(),
                session,
            },
        );
        let again = self.rng.random_range(50..600);
        self.after(
            again,
            SimEvent::Connect {
                name: name.to_owned(),
            },
        );
    }

    pub fn beat(&mut self, name: String, incarnation: u64) -> Result<(), Violation> {
        if let Some(node) = self.node(&name, incarnation) {
            let (worker, session) = (node.id.clone(), node.session);
            if let Some(session) = session {
                self.report(&name, session, Event::WorkerHeard { worker });
            }
            self.after(600, SimEvent::Beat { name, incarnation });
        }
        Ok(())
    }
}
