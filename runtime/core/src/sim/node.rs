//! A worker: its stream table, its slots and its attempts.

mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::audit::Violation;
use super::defects::Defect;
use super::defects::apply_to_inputs;
use super::fetch::{ReaderId, Reading};
use super::model::{Row, sort_key};
use super::recovery::Records;
use super::session::ToWorker;
use super::world::{SimEvent, World};
use crate::coordinator::Event;
use crate::failure::AttemptFailure;
use crate::ids::{AttemptId, CoordinatorEpoch, Incarnation, StreamId, WorkerId};
use crate::leases::{SessionId, SlotLeases};
use crate::locality::NodeLocation;
use crate::map_output_tracker::MapOutputTracker;
use crate::message::{Assignment, ChunkHead, InputUpdate, ReaderRange, ReaderUpdate, StageLayout};
use crate::plan::Stage;
use crate::ranges::{RunSample, SortedRun};
use crate::reader::{self, Delivery};
use crate::stream::{self, StreamTable};

/// Some rows of a stream that become readable together.
#[derive(Debug, Clone)]
struct Frame {
    end: u64,
    rows: Vec<Row>,
}

/// An attempt at work.
pub struct Job {
    assignment: Assignment,
    pub reading: Reading,
    /// Frames to publish: partition, bytes, rows. `None` while it reads.
    frames: Option<VecDeque<(u32, u64, Vec<Row>)>>,
}

pub struct Node {
    pub id: WorkerId,
    pub alive: bool,
    pub frozen: bool,
    /// Whether it stays dead or frozen, whatever other faults are planned.
    pub gone: bool,
    pub draining: bool,
    /// What arrived while it was frozen.
    pub parked: Vec<SimEvent>,
    pub table: StreamTable,
    leases: SlotLeases,
    pub slots: u32,
    pub session: Option<u64>,
    /// The coordinator of that session, or of the last one.
    pub epoch: CoordinatorEpoch,
    /// What it keeps for a successor of the coordinator.
    records: Records,
    pub running: BTreeMap<AttemptId, Job>,
    /// What its session was told of outputs.
    outputs: MapOutputTracker,
    finished: BTreeSet<AttemptId>,
    store: BTreeMap<StreamId, Vec<Frame>>,
}

impl Node {
    pub fn new(name: &str, incarnation: Incarnation, slots: u32) -> Self {
        Self {
            id: WorkerId {
                name: name.to_owned(),
                incarnation,
            },
            alive: true,
            frozen: false,
            gone: false,
            draining: false,
            parked: Vec::new(),
            table: StreamTable::new(incarnation),
            leases: SlotLeases::new(slots),
            slots,
            session: None,
            epoch: CoordinatorEpoch(1),
            records: Records::default(),
            running: BTreeMap::new(),
            outputs: MapOutputTracker::default(),
            finished: BTreeSet::new(),
            store: BTreeMap::new(),
        }
    }

    /// The rows that become whole within a chunk.
    pub fn rows(&self, stream: StreamId, head: &ChunkHead) -> Vec<Row> {
        let frames = self.store.get(&stream).into_iter().flatten();
        let whole = frames.filter(|frame| head.start_offset < frame.end && frame.end <= head.end_offset);
        whole.flat_map(|frame| frame.rows.iter().copied()).collect()
    }

    /// The sorted run that the writer of a stream reports.
    fn sorted_run(&self, stage: &Stage, stream: StreamId) -> SortedRun {
        let mut run = SortedRun::default();
        for frame in self.store.get(&stream).into_iter().flatten() {
            if let Some(row) = frame.rows.first() {
                run.samples.push(RunSample {
                    key: sort_key(stage, stream.attempt, *row),
                    offset: run.end,
                });
            }
            run.end = frame.end;
        }
        run
    }

    fn table(&mut self, event: stream::Event) -> Vec<stream::Action> {
        self.table.handle(event)
    }

    fn retire(&mut self, attempt: AttemptId) {
        self.finished.remove(&attempt);
        self.records.outputs.remove(&attempt);
        self.store.retain(|stream, _| stream.attempt != attempt);
        self.table(stream::Event::AttemptRetired {
            query: World::query(),
            attempt,
        });
    }
}

impl World {
    pub fn node(&mut self, name: &str, incarnation: u64) -> Option<&mut Node> {
        self.nodes
            .get_mut(name)
            .filter(|node| node.alive && node.id.incarnation.0 == incarnation)
    }

    fn runs(&mut self, name: &str, incarnation: u64, attempt: AttemptId) -> bool {
        self.node(name, incarnation)
            .is_some_and(|node| node.running.contains_key(&attempt))
    }

    pub fn on_worker_message(
        &mut self,
        name: &str,
        session: u64,
        message: ToWorker,
    ) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.alive) else {
            self.break_session(name, session);
            return Ok(());
        };
        let begins = match message {
            // One of a coordinator that is gone leads to nobody.
            ToWorker::Hello(epoch) if epoch < self.epoch => return Ok(()),
            ToWorker::Hello(_) => node.session.is_none_or(|known| known < session),
            _ => false,
        };
        if !begins && node.session != Some(session) {
            return Ok(());
        }
        match message {
            ToWorker::Hello(epoch) => self.begin_session(name, session, epoch)?,
            ToWorker::DefineLayout(layout) => {
                node.records
                    .layouts
                    .insert(layout.stage, StageLayout::clone(&layout));
            }
            ToWorker::RequestSlots(slots, speculative) => {
                node.leases.request(SessionId(session), slots, speculative);
                self.grant(name);
            }
            ToWorker::ReleaseSlots(slots) => {
                node.leases.release(SessionId(session), slots);
                self.grant(name);
            }
            ToWorker::Assign(assignment) => self.assign(name, session, assignment)?,
            ToWorker::Inputs(updates, ranges) => self.update_inputs(name, updates, &ranges)?,
            ToWorker::Cancel(attempt) => self.end_attempt(name, attempt, AttemptFailure::Cancelled),
            ToWorker::Retire(attempt) => node.retire(attempt),
        }
        Ok(())
    }

    fn begin_session(&mut self, name: &str, session: u64, epoch: CoordinatorEpoch) -> Result<(), Violation> {
        if let Some(old) = self.nodes.get(name).and_then(|node| node.session) {
            self.end_session(name, old)?;
        }
        let Some(node) = self.nodes.get_mut(name) else {
            return Ok(());
        };
        node.session = Some(session);
        node.epoch = epoch;
        node.outputs = MapOutputTracker::default();
        let opened = stream::Event::QueryOpened {
            keeps_outputs: true,
            query: Self::query(),
            coordinator_epoch: epoch,
        };
        node.table(opened);
        let worker = node.id.clone();
        let joined = Event::WorkerJoined {
            worker: worker.clone(),
            slots: node.slots,
            location: NodeLocation {
                node: Some(name.to_owned()),
                zone: Some(format!("zone-{}", u32::from(name.ends_with(['1', '3'])))),
            },
            held: node.records.own(&node.finished, epoch),
            recovered: node.records.recovered(epoch),
        };
        let draining = node.draining;
        self.report(name, session, joined);
        if draining {
            self.report(name, session, Event::WorkerDrained { worker });
        }
        Ok(())
    }

    /// The worker's end: attempts of the session stop, finished output stays.
    pub fn end_session(&mut self, name: &str, session: u64) -> Result<(), Violation> {
        let Some(node) = self
            .nodes
            .get_mut(name)
            .filter(|node| node.session == Some(session))
        else {
            return Ok(());
        };
        node.session = None;
        for attempt in node.running.keys().copied().collect::<Vec<_>>() {
            node.running.remove(&attempt);
            node.retire(attempt);
            node.leases.finish(SessionId(session));
        }
        node.leases.close(SessionId(session));
        Ok(())
    }

    fn grant(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let worker = node.id.clone();
        let claimed = if self.plan.defect == Defect::GrantTwice {
            2
        } else {
            1
        };
        for (session, slots) in node.leases.grant() {
            let slots = slots * claimed;
            self.report(
                name,
                session.0,
                Event::SlotsGranted {
                    worker: worker.clone(),
                    slots,
                },
            );
        }
    }

    fn assign(&mut self, name: &str, session: u64, assignment: Assignment) -> Result<(), Violation> {
        let attempt = assignment.attempt;
        let Some(node) = self.nodes.get_mut(name) else {
            return Ok(());
        };
        if !node.leases.consume(SessionId(session)) {
            return Err(format!(
                "{attempt} was assigned to {name}, where the query has no slot"
            ));
        }
        let incarnation = node.id.incarnation.0;
        let opened = stream::Event::AttemptOpened {
            query: Self::query(),
            attempt,
            stream_epoch: assignment.stream_epoch,
            partitions: assignment.output_partitions,
        };
        node.table(opened);
        let mut inputs = assignment.inputs.clone();
        apply_to_inputs(self.plan.defect, &self.plan.graph, attempt, &mut inputs);
        let reading = Reading::new(&inputs, Delivery::Arrival);
        let scans = assignment.inputs.is_empty();
        node.running.insert(
            attempt,
            Job {
                assignment,
                reading,
                frames: None,
            },
        );
        if scans {
            self.start_writing(name, incarnation, attempt);
            return Ok(());
        }
        let known = node.outputs.open(attempt, &inputs);
        let known = known.into_iter().map(|update| (attempt, update)).collect();
        self.tell_readers(name, incarnation, known)?;
        self.tick_reader(&ReaderId::Attempt {
            name: name.to_owned(),
            incarnation,
            attempt,
        })
    }

    /// The worker is told of outputs, and passes it on to the attempts that read them.
    fn update_inputs(
        &mut self,
        name: &str,
        updates: Vec<InputUpdate>,
        ranges: &[ReaderRange],
    ) -> Result<(), Violation> {
        for update in updates {
            let Some(node) = self.nodes.get_mut(name) else {
                return Ok(());
            };
            let knows = node.outputs.get(update.map_attempt.task_id()).is_some();
            if knows && self.plan.defect == Defect::KeepFirstUpdate {
                continue;
            }
            let (incarnation, told) = (node.id.incarnation.0, node.outputs.update(update, ranges));
            self.tell_readers(name, incarnation, told)?;
        }
        Ok(())
    }

    fn tell_readers(
        &mut self,
        name: &str,
        incarnation: u64,
        told: Vec<(AttemptId, ReaderUpdate)>,
    ) -> Result<(), Violation> {
        for (attempt, update) in told {
            let reader = ReaderId::Attempt {
                name: name.to_owned(),
                incarnation,
                attempt,
            };
            self.notify_reader(&reader, reader::Event::InputUpdated(update), &[])?;
        }
        Ok(())
    }

    /// An attempt ends without success, if it still runs.
    pub fn end_attempt(&mut self, name: &str, attempt: AttemptId, failure: AttemptFailure) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let Some((_, session)) = node.running.remove(&attempt).zip(node.session) else {
            return;
        };
        node.outputs.close(attempt);
        node.retire(attempt);
        node.leases.finish(SessionId(session));
        let worker = node.id.clone();
        self.report(
            name,
            session,
            Event::AttemptFailed {
                worker,
                attempt,
                failure,
            },
        );
        self.grant(name);
    }
}
