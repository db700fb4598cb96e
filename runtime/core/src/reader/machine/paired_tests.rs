//! Readers against stream tables: random chunk sizes, repeats, breaks, restarts and losses, and slow operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::event::{Action, Event, FetchId};
use super::*;
use crate::ids::{AttemptId, CoordinatorEpoch, Incarnation, QueryId, StageEpoch, StageId};
use crate::ids::{StreamEpoch, WorkerId};
use crate::message::{FetchRequest, InputUpdate, Writer};
use crate::stream::{self, StreamTable};

const TASKS: u32 = 5;
const PARTITIONS: [u32; 2] = [0, 2];

struct World {
    random: StdRng,
    now: Instant,
    reader: Reader,
    tables: Vec<StreamTable>,
    /// Open fetches and where they stand.
    open: BTreeMap<FetchId, FetchRequest>,
    /// By stream, the delivered end.
    delivered: BTreeMap<StreamId, u64>,
    ended: Vec<StreamId>,
    unconsumed: Vec<(u32, StreamId, u64)>,
    winners: BTreeMap<u32, AttemptId>,
    lengths: BTreeMap<StreamId, u64>,
    input_ended: bool,
    failed: Option<(AttemptId, FetchError)>,
    lost_some: bool,
    bound: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let delivery = [Delivery::Arrival, Delivery::PerStream, Delivery::InOrder][random.random_range(0..3)];
        let input = AssignedInput {
            writers: vec![Writer {
                stage: StageId(0),
                tasks: TASKS,
                only: None,
            }],
            assigned_reduce_partitions: PARTITIONS.to_vec(),
            range: None,
        };
        let config = Config {
            fetch_window: random.random_range(1..5),
            input_bytes: random.random_range(1..4 << 20),
            fetch_bytes: random.random_range(1..2 << 20),
            retry_base: Duration::from_millis(10),
            retry_limit: Duration::from_millis(100_000),
            silence_limit: Duration::from_millis(500),
        };
        let streams = u64::from(TASKS) * PARTITIONS.len() as u64;
        let beyond = match delivery {
            Delivery::Arrival => 0,
            Delivery::PerStream | Delivery::InOrder => streams * MIN_FETCH_BYTES,
        };
        let bound = config.input_bytes.max(MIN_FETCH_BYTES) + beyond;
        let query = QueryId::new("q").unwrap();
        let mut tables: Vec<StreamTable> = (0..3).map(|w| StreamTable::new(Incarnation(w))).collect();
        for table in &mut tables {
            let opened = stream::Event::QueryOpened {
                keeps_outputs: false,
                query: query.clone(),
                coordinator_epoch: CoordinatorEpoch(1),
            };
            table.handle(opened);
        }
        Self {
            random,
            now: Instant(0),
            reader: Reader::new(config, &[(input, delivery)]),
            tables,
            open: BTreeMap::new(),
            delivered: BTreeMap::new(),
            ended: Vec::new(),
            unconsumed: Vec::new(),
            winners: BTreeMap::new(),
            lengths: BTreeMap::new(),
            input_ended: false,
            failed: None,
            lost_some: false,
            bound,
        }
    }

    fn table(&mut self, map: AttemptId) -> &mut StreamTable {
        let index = (map.task + map.attempt) as usize % self.tables.len();
        &mut self.tables[index]
    }

    fn update(&mut self, map: AttemptId, state: InputState) {
        let worker = u64::from((map.task + map.attempt) % 3);
        let update = InputUpdate {
            map_attempt: map,
            stream_epoch: StreamEpoch(u64::from(map.attempt)),
            worker: Arc::new(WorkerId {
                name: format!("w{worker}"),
                incarnation: Incarnation(worker),
            }),
            state,
            filled_partitions: None,
        };
        self.handle(Event::InputUpdated(update.into()));
    }

    /// Runs an attempt of a map task to its end. Attempts of one task write streams of the same length.
    fn run_attempt(&mut self, task: u32, attempt: u32) {
        let map = AttemptId {
            stage: StageId(0),
            stage_epoch: StageEpoch(0),
            task,
            attempt,
        };
        let query = QueryId::new("q").unwrap();
        let opened = stream::Event::AttemptOpened {
            query: query.clone(),
            attempt: map,
            stream_epoch: StreamEpoch(u64::from(attempt)),
            partitions: 3,
        };
        self.table(map).handle(opened);
        for partition in PARTITIONS {
            let stream = StreamId {
                attempt: map,
                partition,
            };
            let frames = u64::from((task + partition) % 4);
            for _ in 0..frames {
                let committed = stream::Event::FrameCommitted {
                    query: query.clone(),
                    stream,
                    bytes: 300_000,
                    rows: 1,
                };
                self.table(map).handle(committed);
            }
            self.lengths.insert(stream, frames * 300_000);
        }
        let finalized = stream::Event::AttemptFinalized { query, attempt: map };
        self.table(map).handle(finalized);
        self.winners.insert(task, map);
        self.update(map, InputState::Won);
    }

    fn lose(&mut self, task: u32) {
        let Some(map) = self.winners.remove(&task) else {
            return;
        };
        let query = QueryId::new("q").unwrap();
        let retired = stream::Event::AttemptRetired { query, attempt: map };
        // The reader's fetches may hear of it first.
        self.lost_some = true;
        if self.random.random_bool(0.9) {
            self.update(map, InputState::Lost);
        }
        self.table(map).handle(retired);
        self.update(map, InputState::Lost);
        if self.random.random_bool(0.5) {
            self.run_attempt(task, map.attempt + 1);
        }
    }

    fn handle(&mut self, event: Event) {
        for action in self.reader.handle(self.now, event) {
            self.act(action);
        }
        let held: u64 = self.unconsumed.iter().map(|(_, _, bytes)| bytes).sum();
        assert!(held <= self.bound, "{held} bytes are held");
    }

    fn act(&mut self, action: Action) {
        assert!(self.failed.is_none(), "nothing follows a failure: {action:?}");
        match action {
            Action::Fetch {
                fetch,
                worker,
                stream,
                next_streams,
                min_stream_epoch,
                start_offset,
                max_bytes,
            } => {
                let request = FetchRequest {
                    query: QueryId::new("q").unwrap(),
                    stream,
                    next_streams: next_streams.into(),
                    start_offset,
                    max_bytes,
                    min_stream_epoch,
                    coordinator_epoch: CoordinatorEpoch(1),
                    worker_incarnation: worker.incarnation,
                };
                assert!(self.open.insert(fetch, request).is_none(), "fetch ids are new");
                assert!(self.open.len() <= 4 + 1);
            }
            Action::CancelFetch { fetch } => {
                self.open.remove(&fetch);
            }
            Action::Deliver {
                input,
                stream,
                start_offset,
                end_offset,
            } => {
                let end = self.delivered.entry(stream).or_default();
                assert_eq!(*end, start_offset, "in order, and once");
                *end = end_offset;
                self.unconsumed.push((input, stream, end_offset - start_offset));
            }
            Action::EndStream { stream, .. } => {
                self.ended.push(stream);
                // The response goes on with the next stream.
                self.open.retain(|_, request| {
                    if request.stream != stream {
                        return true;
                    }
                    request.advance()
                });
            }
            Action::EndInput { .. } => self.input_ended = true,
            Action::Fail { map_attempt, error } => self.failed = Some((map_attempt, error)),
        }
    }

    /// One random thing happens.
    fn step(&mut self) {
        self.now = Instant(self.now.0 + self.random.random_range(0..20));
        let keys: Vec<FetchId> = self.open.keys().copied().collect();
        match self.random.random_range(0..100) {
            0..2 => {
                let task = self.random.random_range(0..TASKS);
                self.lose(task);
            }
            2..6 => {
                for task in 0..TASKS {
                    if !self.winners.contains_key(&task) {
                        let next = self.lengths.keys().filter(|s| s.attempt.task == task).count() / 2;
                        return self.run_attempt(task, u32::try_from(next).unwrap());
                    }
                }
            }
            6..12 if !keys.is_empty() => {
                let fetch = keys[self.random.random_range(0..keys.len())];
                // The call breaks, or hangs for ever.
                self.open.remove(&fetch);
                if self.random.random_bool(0.5) {
                    let error = Some(FetchError::Unreachable);
                    self.handle(Event::FetchEnded { fetch, error });
                }
            }
            12..35 if !self.unconsumed.is_empty() => {
                let index = self.random.random_range(0..self.unconsumed.len());
                let (input, stream, bytes) = self.unconsumed.swap_remove(index);
                self.handle(Event::BytesConsumed { input, stream, bytes });
            }
            35..45 => self.handle(Event::Ticked),
            _ if !keys.is_empty() => {
                let fetch = keys[self.random.random_range(0..keys.len())];
                self.serve(fetch);
            }
            _ => {}
        }
    }

    fn serve(&mut self, fetch: FetchId) {
        let request = self.open[&fetch].clone();
        let map = request.stream.attempt;
        let arrived = stream::Event::FetchArrived {
            fetch: stream::FetchId(fetch.0),
            request,
        };
        match self.table(map).handle(arrived).remove(0) {
            stream::Action::ServeChunk { head, .. } => {
                let bytes = head.end_offset - head.start_offset;
                if let Some(open) = self.open.get_mut(&fetch) {
                    open.start_offset = head.end_offset;
                    open.max_bytes = open.max_bytes.saturating_sub(bytes);
                }
                self.handle(Event::ChunkArrived { fetch, head });
                if self.random.random_bool(0.1) {
                    self.handle(Event::ChunkArrived { fetch, head });
                }
                if self.open.get(&fetch).is_some_and(|open| open.max_bytes == 0) {
                    self.open.remove(&fetch);
                    self.handle(Event::FetchEnded { fetch, error: None });
                }
            }
            stream::Action::RefuseFetch { error, .. } => {
                self.open.remove(&fetch);
                let error = Some(error);
                self.handle(Event::FetchEnded { fetch, error });
            }
            other => panic!("a fetch is served or refused, not {other:?}"),
        }
    }

    fn run(mut self) -> (bool, bool) {
        let mut steps = 0;
        while !self.input_ended && self.failed.is_none() {
            self.step();
            steps += 1;
            assert!(steps < 100_000, "the reader hangs");
        }
        if let Some((map, error)) = self.failed {
            let begun = self.delivered.keys().any(|s| s.attempt == map)
                || self.ended.iter().any(|s| s.attempt == map);
            let legal = error == FetchError::StaleAttempt && self.lost_some;
            assert!(legal, "failed at {map} with {error}, begun: {begun}");
            return (false, self.lost_some);
        }
        assert!(self.reader.is_done());
        for task in 0..TASKS {
            for partition in PARTITIONS {
                let of_stream = |s: &&StreamId| s.attempt.task == task && s.partition == partition;
                let ended: Vec<_> = self.ended.iter().filter(of_stream).collect();
                assert_eq!(ended.len(), 1, "each stream ends once");
                let read: u64 = self
                    .delivered
                    .iter()
                    .filter(|(s, _)| of_stream(s))
                    .map(|(_, b)| b)
                    .sum();
                assert_eq!(Some(&read), self.lengths.get(ended[0]), "all bytes, once");
            }
            let of_task = self.ended.iter().filter(|s| s.attempt.task == task);
            let attempts: BTreeMap<_, _> = of_task.map(|s| (s.attempt, ())).collect();
            assert_eq!(attempts.len(), 1, "one attempt a map task");
        }
        (true, self.lost_some)
    }
}

#[test]
fn every_byte_of_one_attempt_a_map_task_comes_once() {
    let (mut read, mut read_with_losses, mut failed) = (0, 0, 0);
    for seed in 0..400 {
        match World::new(seed).run() {
            (true, lost) => {
                read += 1;
                read_with_losses += u32::from(lost);
            }
            (false, _) => failed += 1,
        }
    }
    // The seeds reach all three ends.
    assert!(
        read > 50 && read_with_losses > 20 && failed > 20,
        "{read} {read_with_losses} {failed}"
    );
}
