//! The task that feeds events to a `Reader` and executes its actions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{self, Duration};

use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use sluice_core::failure::FetchError;
use sluice_core::ids::{CoordinatorEpoch, QueryId, StreamId};
use sluice_core::message::{ChunkHead, FetchRequest, ReaderUpdate};
use sluice_core::reader::{Action, Event, FetchId, Reader};
use sluice_core::time::Instant;
use tokio::sync::{mpsc, oneshot};

use super::queue::QueueItem;
use super::{FetchTransport, ReadCounters, ReadFailed, StreamKey};

type Sender = mpsc::UnboundedSender<QueueItem>;

/// The driver's ends of the queues: per input either one for all streams (`None`) or one per stream.
pub struct QueueSenders {
    senders: Vec<BTreeMap<Option<StreamKey>, Sender>>,
    reservation: Arc<MemoryReservation>,
}

impl QueueSenders {
    pub fn new(
        senders: Vec<BTreeMap<Option<StreamKey>, Sender>>,
        reservation: Arc<MemoryReservation>,
    ) -> Self {
        Self { senders, reservation }
    }

    fn send(&self, input: u32, stream: StreamId, item: QueueItem) {
        let Some(senders) = self.senders.get(input as usize) else {
            return;
        };
        let key = (stream.attempt.task_id(), stream.partition);
        let sender = senders.get(&None).or_else(|| senders.get(&Some(key)));
        let bytes = match &item {
            QueueItem::Bytes { bytes, .. } => bytes.len(),
            QueueItem::StreamEnded { .. } | QueueItem::Ended | QueueItem::Failed(_) => 0,
        };
        self.reservation.grow(bytes);
        // Operators that need no more rows (LIMIT) drop their end.
        if sender.is_none_or(|sender| sender.send(item).is_err()) {
            self.reservation.shrink(bytes);
        }
    }

    fn end_stream(&self, input: u32, stream: StreamId) {
        self.send(input, stream, QueueItem::StreamEnded { stream });
        let senders = self.senders.get(input as usize);
        if senders.is_some_and(|senders| !senders.contains_key(&None)) {
            self.send(input, stream, QueueItem::Ended);
        }
    }

    fn end_input(&self, input: u32) {
        let sender = self.senders.get(input as usize).and_then(|s| s.get(&None));
        if let Some(sender) = sender {
            let _ = sender.send(QueueItem::Ended);
        }
    }

    fn fail(&self, failed: ReadFailed) {
        for sender in self.senders.iter().flat_map(BTreeMap::values) {
            let _ = sender.send(QueueItem::Failed(failed));
        }
    }
}

/// An item of an open fetch: a chunk, or `None` at its end.
type FetchArrival = (FetchId, Option<Result<(ChunkHead, Bytes), FetchError>>);

pub struct ReadDriver {
    pub reader: Reader,
    pub query: QueryId,
    pub coordinator_epoch: CoordinatorEpoch,
    pub transport: Arc<dyn FetchTransport>,
    pub queues: QueueSenders,
    pub counters: Arc<ReadCounters>,
    /// Memory of the reader's and the queues' bookkeeping.
    pub _tables: MemoryReservation,
}

/// The open fetches, and senders that keep them open.
#[derive(Default)]
struct OpenFetches {
    arrivals: SelectAll<BoxStream<'static, FetchArrival>>,
    open: BTreeMap<FetchId, oneshot::Sender<()>>,
}

impl ReadDriver {
    /// Runs until all inputs have ended, the read has failed, or all streams are dropped.
    pub async fn run(
        mut self,
        mut updates: mpsc::UnboundedReceiver<ReaderUpdate>,
        mut returned: mpsc::UnboundedReceiver<Event>,
    ) {
        let started = time::Instant::now();
        let mut calls = OpenFetches::default();
        let mut updates_open = true;
        let mut event = (Event::Ticked, None);
        loop {
            let now = Instant(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
            let (event_now, bytes) = event;
            for action in self.reader.handle(now, event_now) {
                self.act(action, bytes.as_ref(), &mut calls);
            }
            if self.reader.is_done() {
                return;
            }
            let wait = self.reader.next_deadline().map(|deadline| deadline.since(now));
            event = tokio::select! {
                update = updates.recv(), if updates_open => match update {
                    Some(update) => (Event::InputUpdated(update), None),
                    None => {
                        // The session is gone; known inputs can still be read.
                        updates_open = false;
                        (Event::Ticked, None)
                    }
                },
                event = returned.recv() => match event {
                    Some(event) => (event, None),
                    None => return,
                },
                Some((fetch, arrival)) = calls.arrivals.next() => match arrival {
                    Some(Ok((head, bytes))) => (self.check_chunk(fetch, head, &bytes), Some(bytes)),
                    Some(Err(error)) => {
                        calls.open.remove(&fetch);
                        (Event::FetchEnded { fetch, error: Some(error) }, None)
                    }
                    None => {
                        calls.open.remove(&fetch);
                        (Event::FetchEnded { fetch, error: None }, None)
                    }
                },
                () = sleep(wait) => (Event::Ticked, None),
            };
        }
    }

    /// Checks that a chunk's head matches its bytes.
    fn check_chunk(&self, fetch: FetchId, head: ChunkHead, bytes: &Bytes) -> Event {
        if head.end_offset.checked_sub(head.start_offset) == Some(bytes.len() as u64) {
            self.counters.chunk_came(bytes.len());
            return Event::ChunkArrived { fetch, head };
        }
        let error = Some(FetchError::Corrupt);
        Event::FetchEnded { fetch, error }
    }

    fn act(&self, action: Action, bytes: Option<&Bytes>, calls: &mut OpenFetches) {
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
                    query: self.query.clone(),
                    stream,
                    next_streams: next_streams.into(),
                    start_offset,
                    max_bytes,
                    min_stream_epoch,
                    coordinator_epoch: self.coordinator_epoch,
                    worker_incarnation: worker.incarnation,
                };
                calls.start(fetch, self.transport.fetch(&worker, request));
            }
            Action::CancelFetch { fetch } => {
                calls.open.remove(&fetch);
            }
            Action::Deliver {
                input,
                stream,
                start_offset: offset,
                end_offset: _,
            } => {
                if let Some(bytes) = bytes.cloned() {
                    let item = QueueItem::Bytes {
                        stream,
                        offset,
                        bytes,
                    };
                    self.queues.send(input, stream, item);
                }
            }
            Action::EndStream { input, stream } => self.queues.end_stream(input, stream),
            Action::EndInput { input } => self.queues.end_input(input),
            Action::Fail { map_attempt, error } => self.queues.fail(ReadFailed { map_attempt, error }),
        }
    }
}

impl OpenFetches {
    /// Adds a fetch. Dropping its entry in `open` cancels it.
    fn start(
        &mut self,
        fetch: FetchId,
        response: BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>>,
    ) {
        let (wanted, given_up) = oneshot::channel();
        self.open.insert(fetch, wanted);
        let arrivals = response.map(move |chunk| (fetch, Some(chunk)));
        let arrivals = arrivals.chain(stream::iter([(fetch, None)]));
        self.arrivals.push(arrivals.take_until(given_up).boxed());
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
