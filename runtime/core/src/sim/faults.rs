//! Faults of workers.

use rand::Rng;

use super::audit::Violation;
use super::node::Node;
use super::plan::Fault;
use super::world::{SimEvent, World};
use crate::coordinator::{Event, MAX_WORKERS_LOST_WITH_TASK};
use crate::ids::Incarnation;

impl World {
    pub fn apply_fault(&mut self, name: String, fault: Fault) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&name).filter(|node| !node.gone) else {
            return Ok(());
        };
        match fault {
            Fault::Vanish { frozen } => self.vanish(&name, frozen),
            Fault::Crash { .. } | Fault::Freeze { .. } | Fault::Disconnect | Fault::Drain if !node.alive => {}
            Fault::Crash { back_after } => {
                self.crash(&name);
                self.after(back_after, SimEvent::Restart { name });
            }
            Fault::Freeze { span } => {
                if !node.frozen {
                    node.frozen = true;
                    self.after(span, SimEvent::Thaw { name });
                }
            }
            Fault::Disconnect => {
                if let Some(session) = node.session {
                    self.break_session(&name, session);
                }
            }
            Fault::Drain => {
                node.draining = true;
                let (worker, session) = (node.id.clone(), node.session);
                if let Some(session) = session {
                    self.report(&name, session, Event::WorkerDrained { worker });
                }
                // A drained worker is replaced some time later.
                self.after(
                    2_000,
                    SimEvent::Fault {
                        name,
                        fault: Fault::Crash { back_after: 100 },
                    },
                );
            }
        }
        Ok(())
    }

    /// The poisoned task runs.
    pub fn poisoned(&mut self, name: &str) -> Result<(), Violation> {
        let Some(node) = self.nodes.get(name) else {
            return Ok(());
        };
        // A draining worker ends anyway.
        if !node.draining {
            self.killed.push(node.id.clone());
        }
        self.crash(name);
        let back_after = self.rng.random_range(50..4_000);
        self.after(
            back_after,
            SimEvent::Restart {
                name: name.to_owned(),
            },
        );
        if self.killed.len() > MAX_WORKERS_LOST_WITH_TASK {
            return Err(format!("one task has killed {:?}", self.killed));
        }
        Ok(())
    }

    fn crash(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        node.alive = false;
        node.frozen = false;
        node.parked.clear();
        if let Some(session) = node.session {
            self.break_session(name, session);
        }
    }

    fn vanish(&mut self, name: &str, frozen: bool) {
        if frozen {
            if let Some(node) = self.nodes.get_mut(name) {
                node.frozen = node.alive;
            }
        } else {
            self.crash(name);
        }
        if let Some(node) = self.nodes.get_mut(name) {
            node.gone = true;
        }
    }

    pub fn restart(&mut self, name: String) -> Result<(), Violation> {
        if let Some(node) = self.nodes.get_mut(&name).filter(|node| !node.alive && !node.gone) {
            let incarnation = node.id.incarnation.0 + 1;
            *node = Node::new(&name, Incarnation(incarnation), node.slots);
            self.after(100, SimEvent::Beat { name, incarnation });
        }
        Ok(())
    }

    /// Everything that arrived meanwhile happens now, in order.
    pub fn thaw(&mut self, name: &str) -> Result<(), Violation> {
        if let Some(node) = self.nodes.get_mut(name).filter(|node| !node.gone) {
            node.frozen = false;
            for parked in std::mem::take(&mut node.parked) {
                self.after(0, parked);
            }
        }
        Ok(())
    }
}
