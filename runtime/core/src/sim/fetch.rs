//! Readers, of attempts and of the client, and the fetches between them and the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;

use super::audit::Violation;
use super::defects::Defect;
use super::limit;
use super::model::{Row, sort_key};
use super::node::Node;
use super::world::{SimEvent, World};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, CoordinatorEpoch, StreamId, TaskId, WorkerId};
use crate::message::{AssignedInput, ChunkHead, FetchRequest, Writer};
use crate::plan::StageGraph;
use crate::ranges::KeyRange;
use crate::reader::{self, Config, Delivery, FetchId, Reader};
use crate::stream;
use crate::time::Instant;

/// Who reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderId {
    Attempt {
        name: String,
        incarnation: u64,
        attempt: AttemptId,
    },
    /// The client's reader, which starts anew when it fails.
    Client(u32),
}

/// What comes back of a fetch.
#[derive(Debug, Clone)]
pub enum Answer {
    Chunk { head: ChunkHead, rows: Vec<Row> },
    End { error: Option<FetchError> },
}

/// A reader and what it took.
pub struct Reading {
    reader: Reader,
    /// By input, the map tasks that it must read, in order.
    tasks: Vec<Vec<TaskId>>,
    /// By input, the rows to keep.
    ranges: Vec<Option<KeyRange>>,
    /// By input and stream.
    pub taken: Vec<BTreeMap<StreamId, Vec<Row>>>,
    tick_at: Option<u64>,
}

impl Reading {
    pub fn new(inputs: &[AssignedInput], delivery: Delivery) -> Self {
        let config = Config {
            fetch_window: 4,
            input_bytes: 256 << 10,
            fetch_bytes: 64 << 10,
            retry_base: Duration::from_millis(40),
            retry_limit: Duration::from_millis(1_500),
            silence_limit: Duration::from_millis(800),
        };
        let with_delivery: Vec<_> = inputs.iter().map(|input| (input.clone(), delivery)).collect();
        Self {
            reader: Reader::new(config, &with_delivery),
            tasks: inputs
                .iter()
                .map(|input| input.writers.iter().flat_map(Writer::map_tasks).collect())
                .collect(),
            ranges: inputs
                .iter()
                .map(|input| Some(input.range.clone()?.keys))
                .collect(),
            taken: vec![BTreeMap::new(); inputs.len()],
            tick_at: None,
        }
    }

    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// The rows of each input that lie in the reader's range.
    pub fn rows(&self, graph: &StageGraph) -> Vec<Vec<Row>> {
        (0..)
            .zip(&self.taken)
            .map(|(input, streams)| {
                let own = |(stream, rows): (&StreamId, &Vec<Row>)| self.within(graph, input, *stream, rows);
                streams.iter().flat_map(own).collect()
            })
            .collect()
    }

    /// Those of the rows of a stream that lie in the reader's range.
    fn within(&self, graph: &StageGraph, input: usize, stream: StreamId, rows: &[Row]) -> Vec<Row> {
        let Some(range) = &self.ranges[input] else {
            return rows.to_vec();
        };
        let attempt = stream.attempt;
        let stage = &graph.stages[attempt.stage.0 as usize];
        let position = (0_u32..)
            .zip(&self.tasks[input])
            .find(|(_, task)| **task == attempt.task_id());
        let map_task = position.map_or(u32::MAX, |(position, _)| position);
        let own = |row: &Row| range.compare(&sort_key(stage, attempt, *row), map_task).is_eq();
        rows.iter().copied().filter(own).collect()
    }
}

impl Node {
    /// The chunks of a response, one of each stream, while there is room; then its end.
    fn respond(&mut self, fetch: FetchId, mut request: FetchRequest) -> Result<Vec<Answer>, Violation> {
        let mut answers = Vec::new();
        loop {
            let event = stream::Event::FetchArrived {
                fetch: stream::FetchId(fetch.0),
                request: request.clone(),
            };
            let head = match self.table.handle(event).pop() {
                Some(stream::Action::ServeChunk { stream, head, .. }) => {
                    let rows = self.rows(stream, &head);
                    answers.push(Answer::Chunk { head, rows });
                    head
                }
                Some(stream::Action::RefuseFetch { error, .. }) => {
                    answers.push(Answer::End { error: Some(error) });
                    return Ok(answers);
                }
                other => return Err(format!("a fetch was answered with {other:?}")),
            };
            let bytes = head.end_offset - head.start_offset;
            request.max_bytes = request.max_bytes.saturating_sub(bytes);
            let ended = head.finalized && head.end_offset == head.watermark_offset;
            let room = ended && request.max_bytes > 0;
            if !room || !request.advance() {
                answers.push(Answer::End { error: None });
                return Ok(answers);
            }
        }
    }
}

impl World {
    pub fn reading(&mut self, id: &ReaderId) -> Option<&mut Reading> {
        match id {
            ReaderId::Attempt {
                name,
                incarnation,
                attempt,
            } => {
                let node = self.nodes.get_mut(name).filter(|node| node.alive)?;
                let same = node.id.incarnation.0 == *incarnation;
                node.running
                    .get_mut(attempt)
                    .filter(|_| same)
                    .map(|job| &mut job.reading)
            }
            ReaderId::Client(generation) if *generation == self.client.generation => {
                self.client.reading.as_mut()
            }
            ReaderId::Client(_) => None,
        }
    }

    /// Hands an event to a reader, if it is still there, and carries out its actions. `rows` are those of a chunk.
    pub fn notify_reader(
        &mut self,
        id: &ReaderId,
        event: reader::Event,
        rows: &[Row],
    ) -> Result<(), Violation> {
        let now = self.now;
        let Some(reading) = self.reading(id) else {
            return Ok(());
        };
        let actions = reading.reader.handle(Instant(now), event);
        let deadline = reading.reader.next_deadline().map(|at| at.0.max(now + 1));
        if let Some(at) = deadline.filter(|at| reading.tick_at.is_none_or(|planned| planned > *at)) {
            reading.tick_at = Some(at);
            self.at(at, SimEvent::ReaderTick { reader: id.clone() });
        }
        for action in actions {
            self.perform_for_reader(id, action, rows)?;
        }
        let is_done = self.reading(id).is_some_and(|reading| reading.is_done());
        match id {
            ReaderId::Attempt {
                name,
                incarnation,
                attempt,
            } if is_done => {
                self.start_writing(name, *incarnation, *attempt);
                Ok(())
            }
            ReaderId::Client(_) if is_done => {
                self.finish_client();
                Ok(())
            }
            ReaderId::Attempt { .. } | ReaderId::Client(_) => Ok(()),
        }
    }

    pub fn tick_reader(&mut self, id: &ReaderId) -> Result<(), Violation> {
        if let Some(reading) = self.reading(id) {
            reading.tick_at = None;
        }
        self.notify_reader(id, reader::Event::Ticked, &[])
    }

    /// The coordinator for which a reader reads.
    fn epoch_of(&self, id: &ReaderId) -> CoordinatorEpoch {
        match id {
            ReaderId::Client(_) => self.epoch,
            ReaderId::Attempt { name, .. } => self.nodes.get(name).map_or(self.epoch, |node| node.epoch),
        }
    }

    fn perform_for_reader(
        &mut self,
        id: &ReaderId,
        action: reader::Action,
        rows: &[Row],
    ) -> Result<(), Violation> {
        match action {
            reader::Action::Fetch {
                fetch,
                worker,
                stream,
                next_streams,
                min_stream_epoch,
                start_offset,
                max_bytes,
            } => {
                let coordinator_epoch = self.epoch_of(id);
                let request = FetchRequest {
                    query: Self::query(),
                    stream,
                    next_streams: next_streams.into(),
                    start_offset,
                    max_bytes,
                    min_stream_epoch,
                    coordinator_epoch,
                    worker_incarnation: worker.incarnation,
                };
                self.send_fetch(id, fetch, worker, request);
            }
            reader::Action::CancelFetch { fetch: _ } => {}
            reader::Action::Deliver {
                input,
                stream,
                start_offset,
                end_offset,
            } => {
                let lose = self.plan.defect == Defect::LoseChunk && !rows.is_empty();
                let bytes = end_offset - start_offset;
                self.consume(id, input, stream, bytes, rows);
                if let Some(reading) = self.reading(id).filter(|_| !lose) {
                    reading.taken[input as usize]
                        .entry(stream)
                        .or_default()
                        .extend(rows);
                }
            }
            reader::Action::EndStream { input, stream } => {
                if let Some(reading) = self.reading(id) {
                    reading.taken[input as usize].entry(stream).or_default();
                }
                match id {
                    ReaderId::Client(_) => self.end_for_client(stream),
                    ReaderId::Attempt { .. } => {}
                }
            }
            reader::Action::EndInput { input } => {
                let Some(reading) = self.reading(id) else {
                    return Ok(());
                };
                let input = input as usize;
                let tasks: BTreeSet<TaskId> = reading.tasks[input].iter().copied().collect();
                let (taken, ranges) = (reading.taken[input].clone(), reading.ranges[input].is_some());
                // What an attempt reads for a coordinator that is gone counts for nobody.
                if self.epoch_of(id) == self.epoch {
                    self.audit.on_input_read(&tasks, &taken, ranges)?;
                }
                self.check_range(id, input, &taken)?;
                if let ReaderId::Attempt { attempt, .. } = id {
                    let graph = &self.plan.graph;
                    let exchange = graph.stages[attempt.stage.0 as usize].inputs[input].exchange;
                    let rows = taken.values().map(|rows| rows.len() as u64).sum();
                    limit::check_limit_read(graph, exchange, &tasks, rows)?;
                }
            }
            reader::Action::Fail { map_attempt, error } => self.fail_reader(id, map_attempt, error),
        }
        Ok(())
    }

    /// Checks that the reader took all rows of its range from each sorted run.
    fn check_range(
        &mut self,
        id: &ReaderId,
        input: usize,
        taken: &BTreeMap<StreamId, Vec<Row>>,
    ) -> Result<(), Violation> {
        let graph = self.plan.graph.clone();
        let published = self.audit.published.clone();
        let Some(reading) = self.reading(id) else {
            return Ok(());
        };
        for (stream, rows) in taken {
            let all = published.get(stream).map(Vec::as_slice).unwrap_or_default();
            let wanted = reading.within(&graph, input, *stream, all);
            if reading.within(&graph, input, *stream, rows) != wanted {
                return Err(format!("a reader did not take its range of {stream}"));
            }
        }
        Ok(())
    }

    fn send_fetch(&mut self, id: &ReaderId, fetch: FetchId, worker: WorkerId, request: FetchRequest) {
        if !self.chance(self.plan.fetch_loss) {
            let delay = self.delay();
            let from = id.clone();
            self.after(
                delay,
                SimEvent::Request {
                    from,
                    fetch,
                    worker,
                    request,
                },
            );
        }
    }

    /// The operators or the client consume delivered bytes a little later.
    fn consume(&mut self, id: &ReaderId, input: u32, stream: StreamId, bytes: u64, rows: &[Row]) {
        match id {
            ReaderId::Client(_) => self.queue_for_client(stream, bytes, rows),
            ReaderId::Attempt { .. } => {
                let delay = self.rng.random_range(0..20);
                let reader = id.clone();
                self.after(
                    delay,
                    SimEvent::Consumed {
                        reader,
                        input,
                        stream,
                        bytes,
                    },
                );
            }
        }
    }

    fn fail_reader(&mut self, id: &ReaderId, map_attempt: AttemptId, error: FetchError) {
        match id {
            ReaderId::Attempt { name, attempt, .. } => {
                let failure = AttemptFailure::FetchFailed { map_attempt, error };
                self.end_attempt(name, *attempt, failure);
            }
            ReaderId::Client(_) => self.on_client_failed(map_attempt, error),
        }
    }

    /// A fetch arrives at a worker, whose stream table answers.
    pub fn serve(
        &mut self,
        from: ReaderId,
        fetch: FetchId,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> Result<(), Violation> {
        let lost = self.chance(self.plan.fetch_loss);
        let repeated = self.chance(self.plan.repeat);
        let delay = self.delay();
        let Some(node) = self.nodes.get_mut(&worker.name).filter(|node| node.alive) else {
            let answer = Answer::End {
                error: Some(FetchError::Unreachable),
            };
            self.after(
                delay,
                SimEvent::Answered {
                    to: from,
                    fetch,
                    answer,
                },
            );
            return Ok(());
        };
        let answers = node.respond(fetch, request)?;
        if lost {
            return Ok(());
        }
        for answer in answers.clone() {
            self.sequenced(delay, from.clone(), fetch, answer);
        }
        // Chunks come again, after the end.
        for answer in answers.into_iter().filter(|_| repeated) {
            self.sequenced(delay * 2, from.clone(), fetch, answer);
        }
        Ok(())
    }

    fn sequenced(&mut self, delay: u64, to: ReaderId, fetch: FetchId, answer: Answer) {
        self.after(delay, SimEvent::Answered { to, fetch, answer });
    }

    pub fn on_answer(&mut self, to: &ReaderId, fetch: FetchId, answer: Answer) -> Result<(), Violation> {
        match answer {
            Answer::Chunk { head, rows } => {
                self.notify_reader(to, reader::Event::ChunkArrived { fetch, head }, &rows)
            }
            Answer::End { error } => self.notify_reader(to, reader::Event::FetchEnded { fetch, error }, &[]),
        }
    }
}
