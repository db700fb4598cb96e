//! The client that reads the result, as the shell of the coordinator does it. Rows are delivered as they come, from any root
//! attempt, and a reader that fails is replaced by another one. `ResultCursor` decides which rows are delivered and when a
//! failure ends the query; what the client records beside it is checked by `audit`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;

use super::audit::Violation;
use super::defects::Defect;
use super::fetch::{ReaderId, Reading};
use super::model::Row;
use super::world::{SimEvent, World};
use crate::coordinator::Event;
use crate::failure::FetchError;
use crate::ids::{AttemptId, StageId, StreamId, TaskId};
use crate::message::{AssignedInput, InputState, InputUpdate, Writer};
use crate::reader::{self, Delivery};
use crate::result_cursor::{PartiallyDelivered, ResultCursor};

/// What the reader has delivered and nobody has taken.
#[derive(Debug)]
enum Queued {
    Chunk {
        stream: StreamId,
        bytes: u64,
        rows: Vec<Row>,
    },
    End {
        stream: StreamId,
    },
}

#[derive(Default)]
pub struct Client {
    /// The number of its reader.
    pub generation: u32,
    /// Its reader, unless it is done or has given up.
    pub reading: Option<Reading>,
    /// How many tasks a root stage has, if it was told.
    tasks: BTreeMap<StageId, u32>,
    /// The last update, by root task.
    pub last_updates: BTreeMap<TaskId, InputUpdate>,
    /// In the order of their arrival.
    queue: VecDeque<Queued>,
    /// The machine that decides which rows leave.
    cursor: ResultCursor,
    /// Rows that left the query, by root attempt.
    pub left: BTreeMap<AttemptId, Vec<Row>>,
    /// Root attempts that a reader has read to their ends.
    pub ended: BTreeSet<AttemptId>,
    /// Readers that failed after rows of other attempts had left.
    pub went_on: u32,
}

impl Client {
    /// A client that begins anew after this one is gone: nothing that comes for its readers is for the new one.
    pub fn after(before: &Self) -> Self {
        Self {
            generation: before.generation,
            ..Self::default()
        }
    }

    /// Takes rows of a stream, and delivers those that were not delivered before.
    fn deliver(&mut self, stream: StreamId, rows: &[Row], again: bool) -> Result<(), PartiallyDelivered> {
        let before = self.cursor.take(stream.attempt, rows.len() as u64)?;
        let before = if again { 0 } else { before as usize };
        let left = self.left.entry(stream.attempt).or_default();
        left.extend(rows.get(before..).unwrap_or_default());
        Ok(())
    }

    /// Takes the ends of streams whose rows were all taken.
    fn take_ends(&mut self) -> Result<(), PartiallyDelivered> {
        while let Some(Queued::End { stream }) = self.queue.front() {
            let attempt = stream.attempt;
            self.queue.pop_front();
            self.ended.insert(attempt);
            self.cursor.end(attempt)?;
        }
        Ok(())
    }
}

impl World {
    pub fn open_client(&mut self) {
        let result = &self.plan.graph.exchanges[self.plan.graph.result.0 as usize];
        let writer = |stage: &StageId| Writer {
            stage: *stage,
            tasks: match self.client.tasks.get(stage) {
                Some(told) => *told,
                None => self.plan.graph.stages[stage.0 as usize].tasks,
            },
            only: None,
        };
        let input = AssignedInput {
            writers: result.writers.iter().map(writer).collect(),
            assigned_reduce_partitions: vec![0],
            range: None,
        };
        let delivery = if self.plan.graph.ordered {
            Delivery::InOrder
        } else {
            Delivery::Arrival
        };
        let client = &mut self.client;
        client.generation += 1;
        client.reading = Some(Reading::new(&[input], delivery));
        client.queue.clear();
        client.cursor.restart();
        let reader = ReaderId::Client(client.generation);
        for task in client.last_updates.keys().copied().collect::<Vec<_>>() {
            let reader = reader.clone();
            self.after(0, SimEvent::RepeatUpdate { reader, task });
        }
        self.after(0, SimEvent::ReaderTick { reader });
    }

    /// The client is told how many tasks a root stage has. Another reader waits for just those.
    pub fn set_result_tasks(&mut self, writer: &Writer) {
        self.client.tasks.insert(writer.stage, writer.tasks);
        if self.client.reading.is_some() {
            self.open_client();
        }
    }

    /// The client gets an update about a root attempt.
    pub fn update_client(&mut self, update: InputUpdate) -> Result<(), Violation> {
        let attempt = update.map_attempt;
        self.client.last_updates.insert(attempt.task_id(), update.clone());
        match update.state {
            InputState::Superseded => {
                let partially_delivered = self.client.cursor.supersede(attempt).is_err();
                self.fail_client(attempt, FetchError::StaleAttempt, partially_delivered);
                Ok(())
            }
            InputState::Won | InputState::Lost => {
                let reader = ReaderId::Client(self.client.generation);
                self.notify_reader(&reader, reader::Event::InputUpdated(update.into()), &[])
            }
        }
    }

    /// The reader has delivered a chunk.
    pub fn queue_for_client(&mut self, stream: StreamId, bytes: u64, rows: &[Row]) {
        let rows = rows.to_vec();
        self.client.queue.push_back(Queued::Chunk { stream, bytes, rows });
        let delay = self.rng.random_range(0..self.plan.client_pause);
        let generation = self.client.generation;
        self.after(delay, SimEvent::ClientTakes { generation });
    }

    /// The reader has delivered the last chunk of a stream.
    pub fn end_for_client(&mut self, stream: StreamId) {
        self.client.queue.push_back(Queued::End { stream });
        if let Err(PartiallyDelivered(attempt)) = self.client.take_ends() {
            self.fail_client(attempt, FetchError::StaleAttempt, true);
        }
    }

    /// Rows of the oldest chunk leave the query.
    pub fn client_takes(&mut self, generation: u32) -> Result<(), Violation> {
        let client = &mut self.client;
        if generation != client.generation || client.reading.is_none() {
            return Ok(());
        }
        let Some(Queued::Chunk { stream, bytes, rows }) = client.queue.pop_front() else {
            return Err("the client takes a chunk that was not delivered".to_owned());
        };
        let again = self.plan.defect == Defect::DeliverAgain;
        let taken = client.deliver(stream, &rows, again);
        if let Err(PartiallyDelivered(attempt)) = taken.and_then(|()| client.take_ends()) {
            self.fail_client(attempt, FetchError::StaleAttempt, true);
            return Ok(());
        }
        let input = 0;
        let consumed = reader::Event::BytesConsumed { input, stream, bytes };
        self.notify_reader(&ReaderId::Client(generation), consumed, &[])
    }

    /// Ends the client once the last row has left.
    pub fn finish_client(&mut self) {
        if self.client.queue.is_empty() {
            self.client.reading = None;
            self.send_as_client(Event::ResultDelivered);
        }
    }

    /// The reader cannot read an attempt.
    pub fn on_client_failed(&mut self, attempt: AttemptId, error: FetchError) {
        let partially_delivered = self.client.cursor.is_partially_delivered(attempt);
        self.fail_client(attempt, error, partially_delivered);
    }

    /// Starts another reader, unless the attempt was partially delivered.
    fn fail_client(&mut self, map_attempt: AttemptId, error: FetchError, partially_delivered: bool) {
        let client = &mut self.client;
        if client.reading.take().is_none() {
            return;
        }
        let any = client.left.values().any(|rows| !rows.is_empty());
        let partially_delivered = partially_delivered || (any && self.plan.defect == Defect::FailForAnyRow);
        if !partially_delivered {
            client.went_on += u32::from(any);
            // The next reader waits for the coordinator's next update about it.
            let told = client.last_updates.get_mut(&map_attempt.task_id());
            if let Some(told) = told.filter(|told| told.map_attempt == map_attempt) {
                told.state = InputState::Lost;
            }
            self.open_client();
        }
        self.send_as_client(Event::ResultFetchFailed {
            map_attempt,
            error,
            partially_delivered,
        });
    }

    /// The client runs in the coordinator's process: its events arrive at once, in order.
    fn send_as_client(&mut self, event: Event) {
        let (name, session) = ("client".to_owned(), 0);
        self.after(0, SimEvent::ToCoordinator { name, session, event });
    }
}
