//! The client that reads the result, as the shell of the coordinator does it: rows leave the query as they come, from
//! whatever root attempt. A reader that cannot read on is followed by another one, which drops what has left already.
//! Only rows that have left and must not be followed by the rest of their attempt, or count no more, end the query.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;

use super::audit::Violation;
use super::fetch::{ReaderId, Reading};
use super::model::Row;
use super::plan::Sabotage;
use super::world::{Happening, World};
use crate::coordinator::Event;
use crate::failure::FetchError;
use crate::ids::{AttemptId, StreamId, TaskId};
use crate::message::{AssignedInput, InputState, InputUpdate, Writer};
use crate::reader::{self, Delivery};

/// What the reader has delivered and nobody has taken.
#[derive(Debug)]
enum Delivered {
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
    /// What it was last told, by root task.
    pub told: BTreeMap<TaskId, InputUpdate>,
    /// In the order of their arrival.
    queue: VecDeque<Delivered>,
    /// Rows that were taken from this reader.
    seen: BTreeMap<StreamId, usize>,
    /// Rows that left the query, by root attempt.
    pub left: BTreeMap<AttemptId, Vec<Row>>,
    /// The attempt of which all rows have left, by root task.
    pub whole: BTreeMap<TaskId, AttemptId>,
    /// Readers that failed after rows of other attempts had left.
    pub went_on: u32,
}

impl Client {
    fn has_rows_of(&self, attempt: AttemptId) -> bool {
        self.left.get(&attempt).is_some_and(|rows| !rows.is_empty())
    }

    /// The attempt of which rows have left, but perhaps not all: the client needs the rest of that one.
    fn begun(&self, task: TaskId) -> Option<AttemptId> {
        let mut attempts = self.left.keys().filter(|attempt| attempt.task_id() == task);
        let begun = attempts.find(|attempt| self.has_rows_of(**attempt));
        begun.copied().filter(|_| !self.whole.contains_key(&task))
    }

    /// Lets rows of a stream leave, those of them that have not left before.
    fn hand_out(&mut self, stream: StreamId, rows: &[Row], again: bool) {
        let (attempt, seen) = (stream.attempt, self.seen.entry(stream).or_default());
        let before = *seen;
        *seen += rows.len();
        let whole = self.whole.contains_key(&attempt.task_id());
        let left = self.left.entry(attempt).or_default();
        let known = left.len().saturating_sub(before);
        let new = if again { Some(rows) } else { rows.get(known..) };
        if again || !whole {
            left.extend(new.unwrap_or_default());
        }
    }

    /// Notes the ends of streams whose rows have all left.
    fn settle(&mut self) {
        while let Some(Delivered::End { stream }) = self.queue.front() {
            let attempt = stream.attempt;
            self.whole.entry(attempt.task_id()).or_insert(attempt);
            self.queue.pop_front();
        }
    }
}

impl World {
    pub fn open_client(&mut self) {
        let result = &self.plan.graph.exchanges[self.plan.graph.result.0 as usize];
        let writer = |stage: &crate::ids::StageId| Writer {
            stage: *stage,
            tasks: self.plan.graph.stages[stage.0 as usize].tasks,
        };
        let input = AssignedInput {
            writers: result.writers.iter().map(writer).collect(),
            assigned_reduce_partitions: vec![0],
        };
        let client = &mut self.client;
        client.generation += 1;
        client.reading = Some(Reading::new(&[input], Delivery::Arrival));
        client.queue.clear();
        client.seen.clear();
        let reader = ReaderId::Client(client.generation);
        for task in client.told.keys().copied().collect::<Vec<_>>() {
            let reader = reader.clone();
            self.after(0, Happening::ToldAgain { reader, task });
        }
        self.after(0, Happening::ReaderTick { reader });
    }

    /// The client hears of root attempts.
    pub fn update_client(&mut self, update: InputUpdate) -> Result<(), Violation> {
        let attempt = update.map_attempt;
        self.client.told.insert(attempt.task_id(), update.clone());
        match update.state {
            InputState::Superseded => {
                // No row of it counts, even if all have left.
                let rows_left = self.client.has_rows_of(attempt);
                self.fail_client(attempt, FetchError::StaleAttempt, rows_left);
                Ok(())
            }
            InputState::Won | InputState::Lost | InputState::Open => {
                let reader = ReaderId::Client(self.client.generation);
                self.tell_reader(&reader, reader::Event::InputUpdated(update), &[])
            }
        }
    }

    /// The reader has delivered a chunk.
    pub fn queue_for_client(&mut self, stream: StreamId, bytes: u64, rows: &[Row]) {
        let rows = rows.to_vec();
        self.client
            .queue
            .push_back(Delivered::Chunk { stream, bytes, rows });
        let delay = self.rng.random_range(0..self.plan.client_pause);
        let generation = self.client.generation;
        self.after(delay, Happening::ClientTakes { generation });
    }

    /// The reader has delivered the last chunk of a stream.
    pub fn end_for_client(&mut self, stream: StreamId) {
        self.client.queue.push_back(Delivered::End { stream });
        self.client.settle();
    }

    /// Rows of the oldest chunk leave the query.
    pub fn client_takes(&mut self, generation: u32) -> Result<(), Violation> {
        let client = &mut self.client;
        if generation != client.generation || client.reading.is_none() {
            return Ok(());
        }
        let Some(Delivered::Chunk { stream, bytes, rows }) = client.queue.pop_front() else {
            return Err("the client takes a chunk that was not delivered".to_owned());
        };
        let begun = client.begun(stream.attempt.task_id());
        if let Some(begun) = begun.filter(|begun| *begun != stream.attempt) {
            self.fail_client(begun, FetchError::StaleAttempt, true);
            return Ok(());
        }
        client.hand_out(stream, &rows, self.plan.sabotage == Sabotage::HandOutAgain);
        client.settle();
        let input = 0;
        let consumed = reader::Event::BytesConsumed { input, stream, bytes };
        self.tell_reader(&ReaderId::Client(generation), consumed, &[])
    }

    /// Ends the client once the last row has left.
    pub fn finish_client(&mut self) {
        if self.client.queue.is_empty() {
            self.client.reading = None;
            self.say_as_client(Event::ResultDelivered);
        }
    }

    /// The reader cannot read an attempt.
    pub fn on_client_failed(&mut self, attempt: AttemptId, error: FetchError) {
        let rows_left = self.client.begun(attempt.task_id()) == Some(attempt);
        self.fail_client(attempt, error, rows_left);
    }

    /// Another reader goes on, unless rows have left that the attempt's other rows should follow.
    fn fail_client(&mut self, map_attempt: AttemptId, error: FetchError, rows_left: bool) {
        let client = &mut self.client;
        if client.reading.take().is_none() {
            return;
        }
        let any = client.left.values().any(|rows| !rows.is_empty());
        let rows_left = rows_left || (any && self.plan.sabotage == Sabotage::GiveUpForAnyRow);
        if !rows_left {
            client.went_on += u32::from(any);
            // The next reader waits for what the coordinator has to say of it.
            let told = client.told.get_mut(&map_attempt.task_id());
            if let Some(told) = told.filter(|told| told.map_attempt == map_attempt) {
                if told.state == InputState::Superseded {
                    client.whole.remove(&map_attempt.task_id());
                }
                told.state = InputState::Lost;
            }
            self.open_client();
        }
        self.say_as_client(Event::ResultFetchFailed {
            map_attempt,
            error,
            rows_left,
        });
    }

    /// The client lives beside the coordinator: what it says is heard at once, after what was said before.
    fn say_as_client(&mut self, event: Event) {
        let (name, session) = ("client".to_owned(), 0);
        self.after(0, Happening::ToCoordinator { name, session, event });
    }
}
