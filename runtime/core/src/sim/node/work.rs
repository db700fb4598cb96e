//! The work of an attempt in the simulator: rows in, rows out, its end.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;

use crate::coordinator::Event;
use crate::failure::{AttemptFailure, Resource};
use crate::ids::{AttemptId, StreamId};
use crate::leases::SessionId;
use crate::message::{FinishedOutput, MapOutputPartitionMeta};
use crate::metrics::AttemptMetrics;
use crate::plan::ExchangeKind;
use crate::sim::audit::Violation;
use crate::sim::defects::Defect;
use crate::sim::filters;
use crate::sim::limit;
use crate::sim::model::{Row, compute, mix, route, sort_key};
use crate::sim::world::{SimEvent, World};
use crate::stream;

use super::Frame;

impl World {
    /// All inputs are read: computes the output and begins to publish it.
    pub fn start_writing(&mut self, name: &str, incarnation: u64, attempt: AttemptId) {
        let stage = self.plan.graph.stages[attempt.stage.0 as usize].clone();
        let repeat_row = self.plan.defect == Defect::RepeatRow;
        let Some(job) = self
            .nodes
            .get_mut(name)
            .and_then(|node| node.running.get_mut(&attempt))
        else {
            return;
        };
        if job.frames.is_some() {
            return;
        }
        let graph = &self.plan.graph;
        let mut inputs = filters::join(graph, &stage, job.reading.rows(graph));
        if self.plan.defect == Defect::KeepForeignRows {
            inputs = job
                .reading
                .taken
                .iter()
                .map(|streams| streams.values().flatten().copied().collect())
                .collect();
        }
        limit::take(graph, &stage, attempt, &mut inputs);
        let mut rows = compute(&stage, attempt.task, &inputs);
        filters::apply(&job.assignment.filters, &mut rows);
        limit::scan(graph, &stage, attempt, &mut rows);
        if repeat_row {
            rows.extend(rows.first().copied());
        }
        if graph.exchanges[stage.output.0 as usize].kind == ExchangeKind::Range {
            // Rows of one key are in another order in each attempt.
            let number = u64::from(attempt.attempt);
            rows.sort_by_key(|row| (sort_key(&stage, attempt, *row), mix(*row, number)));
        }
        let mut partitions: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
        for row in rows {
            let partition = route(&stage, attempt, row, job.assignment.output_partitions);
            partitions.entry(partition).or_default().push(row);
        }
        let mut frames = VecDeque::new();
        for (partition, rows) in partitions {
            let per_frame = self.rng.random_range(1..5);
            for some in rows.chunks(per_frame) {
                frames.push_back((partition, self.rng.random_range(1..90_000), some.to_vec()));
            }
        }
        job.frames = Some(frames);
        let pause = self.rng.random_range(1..60) * self.slowness(name);
        self.after(
            pause,
            SimEvent::Work {
                name: name.to_owned(),
                incarnation,
                attempt,
            },
        );
    }

    /// One step of an attempt that writes: a frame, or the end.
    pub fn work(&mut self, name: &str, incarnation: u64, attempt: AttemptId) -> Result<(), Violation> {
        if self.plan.poison == Some(attempt.task_id()) && self.runs(name, incarnation, attempt) {
            return self.poisoned(name);
        }
        if self.chance(self.plan.failure) || self.plan.defect == Defect::FailAttempts {
            let message = "put in by the simulator".to_owned();
            let failure = if self.rng.random_bool(0.5) {
                AttemptFailure::Failed { message }
            } else {
                AttemptFailure::ResourcesContended {
                    resource: Resource::Memory,
                    message,
                }
            };
            if self.node(name, incarnation).is_some() {
                self.end_attempt(name, attempt, failure);
            }
            return Ok(());
        }
        if self.overflows(name, incarnation, attempt) {
            let failure = AttemptFailure::ResourcesExhausted {
                resource: Resource::Memory,
                message: "its hash join does not fit".to_owned(),
            };
            self.end_attempt(name, attempt, failure);
            return Ok(());
        }
        if self.chance(self.plan.hang) {
            self.hung += 1;
            return Ok(());
        }
        let pause = self.rng.random_range(1..40) * self.slowness(name);
        let Some(node) = self.node(name, incarnation) else {
            return Ok(());
        };
        let Some(frames) = node.running.get_mut(&attempt).and_then(|job| job.frames.as_mut()) else {
            return Ok(());
        };
        let Some((partition, bytes, rows)) = frames.pop_front() else {
            return self.finish(name, attempt);
        };
        let stream = StreamId { attempt, partition };
        let stored = node.store.entry(stream).or_default();
        let end = stored.last().map_or(0, |frame| frame.end) + bytes;
        let count = rows.len() as u64;
        stored.push(Frame { end, rows });
        let committed = stream::Event::FrameCommitted {
            query: Self::query(),
            stream,
            bytes,
            rows: count,
        };
        node.table(committed);
        self.after(
            pause,
            SimEvent::Work {
                name: name.to_owned(),
                incarnation,
                attempt,
            },
        );
        Ok(())
    }

    /// How many times as long the work of a worker takes.
    fn slowness(&self, name: &str) -> u64 {
        let slow = self
            .plan
            .slow_worker
            .filter(|(worker, _)| name == format!("w{worker}"));
        slow.map_or(1, |(_, times)| times)
    }

    /// Whether the attempt has a hash join that does not fit into memory.
    fn overflows(&mut self, name: &str, incarnation: u64, attempt: AttemptId) -> bool {
        let stage = &self.plan.graph.stages[attempt.stage.0 as usize];
        let fits = !stage.has_sortable_join || mix(u64::from(attempt.task), 7).is_multiple_of(3);
        let node = self.node(name, incarnation);
        let job = node.and_then(|node| node.running.get(&attempt));
        !fits && job.is_some_and(|job| !job.assignment.sort_joins)
    }

    fn finish(&mut self, name: &str, attempt: AttemptId) -> Result<(), Violation> {
        let stage = &self.plan.graph.stages[attempt.stage.0 as usize];
        let is_root = stage.output == self.plan.graph.result;
        let sorts = self.plan.graph.exchanges[stage.output.0 as usize].kind == ExchangeKind::Range;
        let defect = self.plan.defect;
        let Some(node) = self.nodes.get_mut(name) else {
            return Ok(());
        };
        let Some(session) = node.session else {
            return Err(format!("{attempt} runs without a session"));
        };
        let finalized = stream::Event::AttemptFinalized {
            query: Self::query(),
            attempt,
        };
        let mut reported = None;
        for action in node.table(finalized) {
            match action {
                stream::Action::ReportOutputs { outputs, .. } => reported = Some(report(defect, outputs)),
                other => return Err(format!("the end of {attempt} was answered with {other:?}")),
            }
        }
        let outputs = reported.ok_or_else(|| format!("{attempt} ended without a report"))?;
        let job = node.running.remove(&attempt);
        node.outputs.close(attempt);
        let layout = job.map(|job| job.assignment.layout).unwrap_or_default();
        node.finished.insert(attempt);
        node.leases.finish(SessionId(session));
        let mut all = Vec::new();
        let streams = node.store.iter().filter(|(stream, _)| stream.attempt == attempt);
        for (stream, frames) in streams {
            let rows = frames.iter().flat_map(|frame| frame.rows.iter().copied());
            let rows: Vec<Row> = rows.collect();
            all.extend(rows.iter().copied());
            if is_root && node.epoch == self.epoch {
                self.staged.insert(attempt, rows.clone());
            }
            self.audit.published.insert(*stream, rows);
        }
        let whole = StreamId {
            attempt,
            partition: 0,
        };
        let run = sorts.then(|| node.sorted_run(stage, whole));
        let worker = node.id.clone();
        let metrics = AttemptMetrics {
            rows_out: all.len() as u64,
            ..AttemptMetrics::default()
        };
        if self.plan.defect == Defect::DropKeys {
            all.truncate(1);
        }
        let filters = filters::made(&self.plan.graph, attempt.stage, &all);
        let report = FinishedOutput {
            attempt,
            layout,
            outputs,
            run,
            filters,
            metrics,
        };
        node.records.keep(node.epoch, report.clone());
        if defect != Defect::DropSuccess {
            self.report(name, session, Event::succeeded(worker, report));
        }
        self.grant(name);
        Ok(())
    }
}

/// What is reported of outputs: that they have no rows, if that is the defect.
fn report(defect: Defect, mut outputs: Vec<MapOutputPartitionMeta>) -> Vec<MapOutputPartitionMeta> {
    if defect == Defect::ReportNoRows {
        outputs.iter_mut().for_each(|output| output.rows = 0);
    }
    outputs
}
