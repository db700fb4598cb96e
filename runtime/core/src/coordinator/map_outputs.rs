//! Who is told where the outputs of map tasks are. A worker is told of all outputs of a stage once in a session, before its
//! first attempt that reads the stage, and then of each change. All its attempts take from that what they read, so that what
//! is said does not grow with the product of map tasks and readers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Coordinator;
use super::attempts::Winner;
use super::event::Action;
use crate::ids::{ExchangeId, StageId, TaskId, WorkerId};
use crate::message::{AssignedRange, InputState, InputUpdate, ReaderRange, RunBytes};
use crate::plan::StageGraph;

/// What all that read a stage are told of its outputs.
type Announcement = Arc<Vec<InputUpdate>>;

/// The workers that are told of the outputs of each stage.
#[derive(Debug)]
pub(super) struct Subscriptions {
    by_stage: Vec<Subscribers>,
}

#[derive(Debug, Clone, Default)]
struct Subscribers {
    workers: BTreeSet<Arc<WorkerId>>,
    /// All outputs as they stand, for the next worker: made for the first one, until anything changes or there is no other.
    all: Option<Announcement>,
}

impl Subscriptions {
    pub(super) fn new(graph: &StageGraph) -> Self {
        Self {
            by_stage: vec![Subscribers::default(); graph.stages.len()],
        }
    }

    fn of(&mut self, stage: StageId) -> &mut Subscribers {
        &mut self.by_stage[stage.0 as usize]
    }

    /// Ends the subscriptions of a session.
    pub(super) fn end_session(&mut self, worker: &WorkerId) {
        for subscribers in &mut self.by_stage {
            subscribers.workers.remove(worker);
        }
    }

    /// Ends all subscriptions to a stage that starts over: nobody reads it until all its tasks have won again, and who does then
    /// is told of all of them at once.
    pub(super) fn end_all(&mut self, stage: StageId) {
        *self.of(stage) = Subscribers::default();
    }
}

impl Coordinator {
    /// Tells a worker where the outputs are that an attempt of `reader` there is about to read, unless it was told before.
    pub(super) fn subscribe(&mut self, worker: &Arc<WorkerId>, reader: StageId) {
        for stage in &self.topology.inputs[reader.0 as usize] {
            let subscribers = self.subscriptions.of(*stage);
            if subscribers.workers.contains(worker) {
                continue;
            }
            subscribers.workers.insert(Arc::clone(worker));
            let winners = self.stages.winners([stage]);
            let all = || Arc::new(winners.map(|winner| winner.update(InputState::Won)).collect());
            let updates = Arc::clone(subscribers.all.get_or_insert_with(all));
            if subscribers.workers.len() >= self.workers.sessions() {
                subscribers.all = None;
            }
            if !updates.is_empty() {
                self.out.push(Action::UpdateInputs {
                    worker: WorkerId::clone(worker),
                    updates,
                    ranges: Vec::new(),
                });
            }
        }
    }

    /// Tells all who may read the output of an attempt whether it counts: the workers that know the outputs of its stage, and
    /// the client.
    pub(super) fn notify_readers(&mut self, winner: &Winner, state: InputState) {
        let stage = winner.id.stage;
        if self.topology.roots.contains(&stage) && !self.policy.sink {
            self.out.push(Action::UpdateResult {
                updates: vec![winner.update(state)],
            });
        }
        let mut ranges = self.ranges_at_work(winner);
        let subscribers = self.subscriptions.of(stage);
        subscribers.all = None;
        let updates = Arc::new(vec![winner.update(state)]);
        for worker in &subscribers.workers {
            self.out.push(Action::UpdateInputs {
                worker: WorkerId::clone(worker),
                updates: Arc::clone(&updates),
                ranges: ranges.remove(worker.as_ref()).unwrap_or_default(),
            });
        }
    }

    /// Where the ranges of attempts at work lie in the output of an attempt, by their workers.
    fn ranges_at_work(&self, winner: &Winner) -> BTreeMap<WorkerId, Vec<ReaderRange>> {
        let mut ranges: BTreeMap<WorkerId, Vec<ReaderRange>> = BTreeMap::new();
        let consumers = self.topology.consumers[winner.id.stage.0 as usize].iter();
        let of_runs = consumers.filter(|stage| winner.run().is_some() && self.range_input(**stage).is_some());
        let readers = of_runs.flat_map(|stage| self.stages.get(*stage).running_attempts());
        for attempt in readers {
            if let Some(run) = self.run_bytes(attempt.id.task_id(), winner) {
                let of_worker = ranges.entry(WorkerId::clone(&attempt.worker)).or_default();
                let reader = attempt.id;
                of_worker.push(ReaderRange { reader, run });
            }
        }
        ranges
    }

    /// Where the range of a reading task lies in a winner's run.
    fn run_bytes(&self, reader: TaskId, winner: &Winner) -> Option<RunBytes> {
        let bytes = self.bytes_for(reader, winner)?;
        let map_attempt = winner.id;
        Some(RunBytes { map_attempt, bytes })
    }

    /// What a task takes of the sorted runs of an exchange, and where that lies in those that have won.
    pub(super) fn assigned_range(&self, task: TaskId, exchange: ExchangeId) -> Option<AssignedRange> {
        let keys = self.layouts.range_of(task)?.clone();
        let writers: Vec<StageId> = self.writers(exchange).collect();
        let winners = self.stages.winners(&writers);
        let runs = winners
            .filter_map(|winner| self.run_bytes(task, winner))
            .collect();
        Some(AssignedRange { keys, runs })
    }
}
