//! The loss of the coordinator, what workers keep for its successor, and what that begins with.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::audit::{Audit, Violation};
use super::client::Client;
use super::world::{SimEvent, World};
use crate::coordinator::{Coordinator, Event};
use crate::ids::{AttemptId, CoordinatorEpoch, StageId};
use crate::message::{FinishedOutput, Recovered, StageLayout};
use crate::plan::StageGraph;

/// What a worker keeps beside its outputs.
#[derive(Debug, Default)]
pub struct Records {
    pub layouts: BTreeMap<StageId, StageLayout>,
    /// The report of each output, and the coordinator that started its attempt.
    pub outputs: BTreeMap<AttemptId, (CoordinatorEpoch, FinishedOutput)>,
}

impl Records {
    pub fn keep(&mut self, epoch: CoordinatorEpoch, output: FinishedOutput) {
        self.outputs.insert(output.attempt, (epoch, output));
    }

    /// Those of the outputs whose attempts this coordinator started.
    pub fn own(&self, finished: &BTreeSet<AttemptId>, epoch: CoordinatorEpoch) -> Vec<AttemptId> {
        let started = |attempt: &&AttemptId| {
            let of = self.outputs.get(attempt);
            of.is_some_and(|(of, _)| *of == epoch)
        };
        finished.iter().filter(started).copied().collect()
    }

    /// What earlier coordinators have left.
    pub fn recovered(&self, epoch: CoordinatorEpoch) -> Recovered {
        let earlier = self.outputs.values().filter(|(of, _)| *of < epoch);
        Recovered {
            layouts: self.layouts.values().cloned().collect(),
            outputs: earlier.map(|(_, output)| output.clone()).collect(),
            discarded: 0,
        }
    }
}

impl World {
    /// The process of the coordinator dies with its end of all sessions, and with the client. Another one takes over.
    pub fn lose_coordinator(&mut self) -> Result<(), Violation> {
        self.epoch.0 += 1;
        self.forget_messages_to_coordinator();
        self.coordinator = Self::new_coordinator(&self.plan, self.epoch, self.now)?;
        self.audit.on_coordinator_lost(&self.plan.graph);
        self.visible = None;
        self.staged.clear();
        for name in self.links.keys().cloned().collect::<Vec<_>>() {
            let Some(link) = self.links.get_mut(&name) else {
                continue;
            };
            let session = link.session;
            link.is_open = false;
            link.joined = None;
            self.broken.insert(session);
            let latest = if self.rng.random_bool(0.3) { 2_000 } else { 200 };
            let (ends, dialled) = (self.delay() * 3, self.rng.random_range(1..latest));
            let broken = SimEvent::BrokenAtWorker {
                name: name.clone(),
                session,
            };
            self.after(ends, broken);
            self.after(dialled, SimEvent::Connect { name });
        }
        self.client = Client::after(&self.client);
        if !self.plan.policy.sink {
            self.open_client();
        }
        self.after(0, SimEvent::CoordinatorTick);
        Ok(())
    }
}

/// Lets outputs of earlier coordinators look as if they were of the layouts that this one has decided.
pub fn relabel(coordinator: &Coordinator, event: &mut Event) {
    let Event::WorkerJoined { recovered, .. } = event else {
        return;
    };
    recovered.layouts.clear();
    for output in &mut recovered.outputs {
        let layout = coordinator.layout_id(output.attempt.stage);
        output.layout = layout.unwrap_or(output.layout);
    }
}

impl Audit {
    /// A new coordinator knows nothing of what the one before it did, except that no attempt is numbered twice.
    pub fn on_coordinator_lost(&mut self, graph: &StageGraph) {
        let fresh = Self::of(graph, self.speculates);
        let before = std::mem::replace(self, fresh);
        self.published = before.published;
        self.next_attempt = before.next_attempt;
        self.ran_again = before.ran_again;
        self.division = before.division.succeeded(graph);
    }

    /// Takes note of the outputs that a coordinator takes over.
    pub fn on_recovered(&mut self, worker: &str, attempt: AttemptId) {
        self.succeeded.insert(attempt);
        self.told.on_succeeded(attempt);
        self.assigned.insert(attempt, worker.to_owned());
        self.kept.insert(attempt, worker.to_owned());
        self.division.on_recovered(attempt);
    }
}
