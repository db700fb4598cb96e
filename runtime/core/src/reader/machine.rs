//! The machine of a shuffle read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::event::{Action, Event, FetchId};
use super::input::{Delivery, Input, Phase, RetryState, Source, to_u32};
use super::open_fetch::{Key, OpenFetch};
use super::verdict::Verdict;
use crate::failure::FetchError;
use crate::ids::{StreamId, TaskId, WorkerId};
use crate::message::{AssignedInput, ChunkHead, InputState, ReaderUpdate};
use crate::time::Instant;

#[cfg(test)]
mod paired_tests;
#[cfg(test)]
mod tests;

/// The least bytes that a fetch asks for, unless nothing else is held.
pub const MIN_FETCH_BYTES: u64 = 64 << 10;

/// The bounds of one reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Streams fetched at once, over all inputs; at least one.
    pub fetch_window: u32,
    /// Bytes of one input that may be on their way or wait for the operators. A stream that the operators wait for
    /// may go beyond it by `MIN_FETCH_BYTES` at a time.
    pub input_bytes: u64,
    /// The most bytes that one fetch asks for.
    pub fetch_bytes: u64,
    /// The wait after the first failed fetch of a stream; it doubles with each further failure, up to 16 times.
    pub retry_base: Duration,
    /// How long a stream is tried again without a byte coming before the attempt fails.
    pub retry_limit: Duration,
    /// How long an open fetch may be silent before it counts as broken.
    pub silence_limit: Duration,
}

/// The inputs of one reduce attempt. It fetches only streams of attempts that have won. What it delivers of a map task comes
/// from one attempt, each byte once, in order.
///
/// States of a map task, per input:
///
/// ```text
/// unknown <-> has a source (an attempt has won; no byte of it delivered) -> partly read -> read
///                                                                          \
///                                                                           `-> Fail (superseded or lost)
/// ```
///
/// Once it is read, its rows count, whatever happens to the attempt.
#[derive(Debug)]
pub struct Reader {
    config: Config,
    inputs: Vec<Input>,
    fetches: BTreeMap<FetchId, OpenFetch>,
    next_fetch: u64,
    /// Streams that wait for their next retry.
    waits: BTreeSet<(Instant, Key)>,
    started: bool,
    failed: bool,
}

impl Reader {
    /// A reader of these inputs; an index into them is the input's number.
    pub fn new(config: Config, inputs: &[(AssignedInput, Delivery)]) -> Self {
        let inputs = inputs
            .iter()
            .map(|(input, delivery)| Input::new(input, *delivery));
        Self {
            config,
            inputs: inputs.collect(),
            fetches: BTreeMap::new(),
            next_fetch: 0,
            waits: BTreeSet::new(),
            started: false,
            failed: false,
        }
    }

    /// When `Ticked` must come at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        if !self.started {
            return Some(Instant::default());
        }
        let wait = self.waits.first().map(|(until, _)| *until);
        let silent = self
            .fetches
            .values()
            .map(|f| f.last_chunk + self.config.silence_limit);
        wait.into_iter().chain(silent).min()
    }

    /// Whether all inputs have ended or the attempt has failed.
    pub fn is_done(&self) -> bool {
        self.failed || self.inputs.iter().all(|input| input.ended)
    }

    /// Handles one event and returns the actions to carry out, in order.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.failed {
            return actions;
        }
        self.started = true;
        match event {
            Event::InputUpdated(update) => {
                for input in 0..self.inputs.len() {
                    self.on_update(input, &update, &mut actions);
                }
            }
            Event::ChunkArrived { fetch, head } => self.on_chunk(now, fetch, &head, &mut actions),
            Event::FetchEnded { fetch, error } => self.on_fetch_ended(now, fetch, error, &mut actions),
            Event::FrameRejected { stream } => self.fail(stream, FetchError::Corrupt, &mut actions),
            Event::BytesConsumed { input, stream, bytes } => self.on_consumed(input, stream, bytes),
            Event::Ticked => self.on_tick(now, &mut actions),
        }
        self.end_inputs(&mut actions);
        self.fill_window(now, &mut actions);
        actions
    }

    fn on_update(&mut self, index: usize, told: &ReaderUpdate, actions: &mut Vec<Action>) {
        let update = told.update.as_ref();
        let task = update.map_attempt.task_id();
        let input = self.inputs.get(index).filter(|_| !self.failed);
        let Some(entry) = input.and_then(|input| input.tasks.get(&task)) else {
            // The task belongs to another input, or was read already and its rows count.
            return;
        };
        let update_source = Source {
            attempt: update.map_attempt,
            stream_epoch: update.stream_epoch,
            worker: Arc::clone(&update.worker),
            range: told.range,
            filled: update.filled_partitions.clone(),
        };
        let source = entry.source.as_ref();
        let same = source.is_some_and(|source| source.attempt == update.map_attempt);
        let older = source.is_some_and(|source| update.stream_epoch < source.stream_epoch);
        match update.state {
            InputState::Superseded | InputState::Lost => {
                if same && !older {
                    self.clear_source(index, task, actions);
                }
            }
            InputState::Won => {
                if older || source == Some(&update_source) {
                    return;
                }
                if same {
                    self.move_source(index, task, update_source, actions);
                    return;
                }
                if source.is_some() {
                    self.clear_source(index, task, actions);
                }
                if let Some(input) = self.inputs.get_mut(index).filter(|_| !self.failed) {
                    input.set_source(task, update_source);
                    for stream in input.end_complete(task) {
                        actions.push(Action::EndStream {
                            input: to_u32(index),
                            stream,
                        });
                    }
                }
            }
        }
    }

    /// The same attempt is served by another worker or under another epoch: the same bytes, so the cursors stay.
    fn move_source(&mut self, index: usize, task: TaskId, source: Source, actions: &mut Vec<Action>) {
        self.cancel_task(index, task, actions);
        let Some(input) = self.inputs.get_mut(index) else {
            return;
        };
        let Some(entry) = input.tasks.get_mut(&task) else {
            return;
        };
        entry.source = Some(source);
        let partitions: Vec<u32> = entry.streams.keys().copied().collect();
        for partition in partitions {
            if let Some(stream) = input.stream_mut(task, partition) {
                stream.retry_state = None;
                if stream.phase != Phase::Ended {
                    stream.phase = Phase::Ready;
                }
            }
            input.enqueue(task, partition);
        }
    }

    fn clear_source(&mut self, index: usize, task: TaskId, actions: &mut Vec<Action>) {
        let Some(input) = self.inputs.get(index) else {
            return;
        };
        if let Some(id) = input.stream_id(task, 0).filter(|_| input.is_partly_read(task)) {
            return self.fail(id, FetchError::StaleAttempt, actions);
        }
        self.cancel_task(index, task, actions);
        if let Some(input) = self.inputs.get_mut(index) {
            input.clear_source(task);
        }
    }

    /// Cancels the open fetches and the waits of a map task. Streams of others that such a fetch was to bring are fetched again.
    fn cancel_task(&mut self, index: usize, task: TaskId, actions: &mut Vec<Action>) {
        let of_task = |key: &Key| key.0 == index && key.1 == task;
        let open = self.fetches.iter();
        let open = open.filter(|(_, fetch)| fetch.keys().iter().any(of_task));
        let open: Vec<FetchId> = open.map(|(&id, _)| id).collect();
        for id in open {
            let keys = self.close_fetch(id).map(|fetch| fetch.keys());
            actions.push(Action::CancelFetch { fetch: id });
            for key in keys.into_iter().flatten().filter(|key| !of_task(key)) {
                self.ready(key);
            }
        }
        self.waits.retain(|(_, key)| !of_task(key));
    }

    fn close_fetch(&mut self, id: FetchId) -> Option<OpenFetch> {
        let fetch = self.fetches.remove(&id)?;
        if let Some(input) = self.inputs.get_mut(fetch.input) {
            input.reserved = input.reserved.saturating_sub(fetch.reserved);
            input.in_flight = input.in_flight.saturating_sub(1);
        }
        Some(fetch)
    }

    fn on_chunk(&mut self, now: Instant, id: FetchId, head: &ChunkHead, actions: &mut Vec<Action>) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        let (index, task, partition) = (fetch.input, head.stream.attempt.task_id(), head.stream.partition);
        let Some(input) = self.inputs.get_mut(index) else {
            return;
        };
        let source = input.tasks.get(&task).and_then(|entry| entry.source.clone());
        let Some((source, stream)) = source.zip(input.stream_mut(task, partition)) else {
            return;
        };
        let stream_id = StreamId {
            attempt: source.attempt,
            partition,
        };
        let Some(verdict) = fetch.check(head, source.attempt, source.stream_epoch, stream.cursor) else {
            return;
        };
        fetch.last_chunk = now;
        let bytes = head.end_offset.saturating_sub(head.start_offset);
        match verdict {
            Verdict::Next => {}
            Verdict::Repeated => return,
            Verdict::Gap => return self.retry_fetch(now, id, actions),
            Verdict::Wrong(error) => return self.fail(stream_id, error, actions),
        }
        let empty = input.take_empty(task).into_iter();
        actions.extend(empty.map(|stream| Action::EndStream {
            input: to_u32(index),
            stream,
        }));
        let Some(stream) = input.stream_mut(task, partition) else {
            return;
        };
        if bytes > 0 {
            stream.cursor = head.end_offset;
            stream.held = stream.held.saturating_add(bytes);
            stream.retry_state = None;
            fetch.reserved -= bytes;
            fetch.progressed = true;
            actions.push(Action::Deliver {
                input: to_u32(index),
                stream: stream_id,
                start_offset: head.start_offset,
                end_offset: head.end_offset,
            });
        }
        let at_end = head.finalized && head.end_offset == head.watermark_offset;
        let (complete, cut_short) = (stream.is_complete(), stream.is_cut_short());
        input.reserved = input.reserved.saturating_sub(bytes);
        input.held = input.held.saturating_add(bytes);
        if at_end && cut_short {
            // The stream is shorter than the one from which the range was computed.
            return self.fail(stream_id, FetchError::Corrupt, actions);
        }
        if at_end || complete {
            input.end_stream(task, partition);
            fetch.progressed = true;
            fetch.streams.pop_front();
            if fetch.streams.is_empty() {
                self.close_fetch(id);
            }
            actions.push(Action::EndStream {
                input: to_u32(index),
                stream: stream_id,
            });
        }
    }

    fn on_fetch_ended(
        &mut self,
        now: Instant,
        id: FetchId,
        error: Option<FetchError>,
        actions: &mut Vec<Action>,
    ) {
        let Some(fetch) = self.close_fetch(id) else {
            return;
        };
        match error {
            None if fetch.progressed => fetch.keys().into_iter().for_each(|key| self.ready(key)),
            None => self.retry_all(now, &fetch.keys(), FetchError::Unreachable, actions),
            Some(error) if error.is_transient() => self.retry_all(now, &fetch.keys(), error, actions),
            Some(error) => {
                // Those before it have come to their ends.
                let input = self.inputs.get(fetch.input).zip(fetch.streams.front());
                let stream = input.and_then(|(input, (task, partition))| input.stream_id(*task, *partition));
                if let Some(stream) = stream {
                    self.fail(stream, error, actions);
                }
            }
        }
    }

    /// Gives up an open fetch and schedules retries of what it should have brought.
    fn retry_fetch(&mut self, now: Instant, id: FetchId, actions: &mut Vec<Action>) {
        if let Some(fetch) = self.close_fetch(id) {
            actions.push(Action::CancelFetch { fetch: id });
            self.retry_all(now, &fetch.keys(), FetchError::Unreachable, actions);
        }
    }

    fn retry_all(&mut self, now: Instant, keys: &[Key], error: FetchError, actions: &mut Vec<Action>) {
        for key in keys {
            if !self.failed {
                self.retry(now, *key, error, actions);
            }
        }
    }

    fn ready(&mut self, (index, task, partition): Key) {
        let Some(input) = self.inputs.get_mut(index) else {
            return;
        };
        if let Some(stream) = input.stream_mut(task, partition) {
            stream.phase = Phase::Ready;
        }
        input.enqueue(task, partition);
    }

    /// Schedules a retry of a stream, or fails if it was retried for too long.
    fn retry(&mut self, now: Instant, key: Key, error: FetchError, actions: &mut Vec<Action>) {
        let (index, task, partition) = key;
        let Some(input) = self.inputs.get_mut(index) else {
            return;
        };
        let id = input.stream_id(task, partition);
        let Some((stream, id)) = input.stream_mut(task, partition).zip(id) else {
            return;
        };
        let limit = self.config.retry_limit;
        let retry = stream.retry_state.get_or_insert(RetryState {
            since: now,
            failures: 0,
        });
        if now.since(retry.since) >= limit {
            return self.fail(id, error, actions);
        }
        let wait = self.config.retry_base.saturating_mul(1 << retry.failures.min(4));
        retry.failures += 1;
        // The last retry comes at the limit, not long after it. A wait is never empty.
        let until = (now + wait).min(retry.since + limit).max(Instant(now.0 + 1));
        stream.phase = Phase::Waiting(until);
        self.waits.insert((until, key));
    }

    fn on_consumed(&mut self, index: u32, id: StreamId, bytes: u64) {
        let Some(input) = self.inputs.get_mut(index as usize) else {
            return;
        };
        input.held = input.held.saturating_sub(bytes);
        let task = id.attempt.task_id();
        if let Some(stream) = input.stream_mut(task, id.partition) {
            stream.held = stream.held.saturating_sub(bytes);
            input.enqueue(task, id.partition);
        }
    }

    fn on_tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some((until, key)) = self.waits.pop_first() {
            if until > now {
                self.waits.insert((until, key));
                break;
            }
            self.ready(key);
        }
        let limit = self.config.silence_limit;
        let silent = self
            .fetches
            .iter()
            .filter(|(_, fetch)| fetch.last_chunk + limit <= now);
        let silent: Vec<FetchId> = silent.map(|(&id, _)| id).collect();
        silent
            .into_iter()
            .for_each(|id| self.retry_fetch(now, id, actions));
    }

    fn end_inputs(&mut self, actions: &mut Vec<Action>) {
        if self.failed {
            return;
        }
        for (index, input) in self.inputs.iter_mut().enumerate() {
            if input.tasks.is_empty() && !input.ended {
                input.ended = true;
                actions.push(Action::EndInput { input: to_u32(index) });
            }
        }
    }

    /// Opens fetches while the window has room. The input with the fewest open fetches goes first, so that none starves beside
    /// another with many streams.
    fn fill_window(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let window = self.config.fetch_window.max(1) as usize;
        while !self.failed && self.fetches.len() < window {
            let candidates = self.inputs.iter_mut().enumerate().filter_map(|(index, input)| {
                let next = input.next_fetch(&self.config)?;
                Some((input.in_flight, index, next, input))
            });
            let Some((_, index, (task, partition, grant), input)) =
                candidates.min_by_key(|(in_flight, index, ..)| (*in_flight, *index))
            else {
                return;
            };
            let Some(source) = input.tasks.get(&task).and_then(|entry| entry.source.clone()) else {
                return;
            };
            let fetch = FetchId(self.next_fetch);
            let Some(stream) = input.stream_mut(task, partition) else {
                return;
            };
            let start_offset = stream.cursor;
            let mut streams = VecDeque::from(input.streams_after(task, partition));
            let next_streams = streams
                .iter()
                .filter_map(|(task, partition)| input.next_stream(*task, *partition));
            let next_streams = next_streams.collect();
            streams.push_front((task, partition));
            for (task, partition) in &streams {
                input.set_fetching(*task, *partition, fetch);
            }
            input.reserved = input.reserved.saturating_add(grant);
            input.in_flight += 1;
            self.next_fetch += 1;
            let open = OpenFetch {
                input: index,
                streams,
                reserved: grant,
                progressed: false,
                last_chunk: now,
            };
            self.fetches.insert(fetch, open);
            actions.push(Action::Fetch {
                fetch,
                worker: WorkerId::clone(&source.worker),
                stream: StreamId {
                    attempt: source.attempt,
                    partition,
                },
                next_streams,
                min_stream_epoch: source.stream_epoch,
                start_offset,
                max_bytes: grant,
            });
        }
    }

    fn fail(&mut self, stream: StreamId, error: FetchError, actions: &mut Vec<Action>) {
        self.failed = true;
        actions.push(Action::Fail {
            map_attempt: stream.attempt,
            error,
        });
    }
}
