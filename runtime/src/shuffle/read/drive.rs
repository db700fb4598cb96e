//! The task that owns a reader's state machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use sluice_core::failure::FetchError;
use sluice_core::ids::{StreamId, TaskId};
use sluice_core::message::{ChunkHead, FetchRequest, InputUpdate};
use sluice_core::reader::{Action, Config, Delivery, Event, FetchId, Reader};
use sluice_core::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::StreamMap;

use super::{Decoded, FetchTransport, ReadCounters, ReadFailed, ReadInput, ReadOrigin, map_tasks};
use crate::shuffle::frame::FrameDecoder;

type Target = mpsc::UnboundedSender<Result<Decoded, ReadFailed>>;
type Chunk = Result<(ChunkHead, Bytes), FetchError>;

pub(super) struct Drive {
    origin: ReadOrigin,
    machine: Reader,
    clock: tokio::time::Instant,
    inputs: Vec<Input>,
    transport: Arc<dyn FetchTransport>,
    /// Open responses; `None` is a response's end.
    fetches: StreamMap<FetchId, BoxStream<'static, Option<Chunk>>>,
    /// The chunk whose arrival is being handled.
    arrived: Option<(ChunkHead, Bytes)>,
    counters: Arc<ReadCounters>,
    reservation: MemoryReservation,
}

struct Input {
    format: Arc<crate::shuffle::frame::FrameFormat>,
    decoders: BTreeMap<StreamId, FrameDecoder>,
    /// The queue of each map task, or the one of all; closed when nothing more can come.
    targets: Vec<Option<Target>>,
    /// Map task to its queue and the number of its streams that have not ended, where each has its own.
    of_task: BTreeMap<TaskId, (usize, usize)>,
}

impl Input {
    fn new(input: &ReadInput, targets: Vec<Target>) -> Self {
        let streams = input.assigned.assigned_reduce_partitions.len();
        let of_task = match input.delivery {
            Delivery::PerStream => {
                map_tasks(&input.assigned).enumerate().map(|(at, task)| (task, (at, streams))).collect()
            }
            Delivery::Arrival | Delivery::InOrder => BTreeMap::new(),
        };
        let targets = targets.into_iter().map(Some).collect();
        Self { format: Arc::clone(&input.format), decoders: BTreeMap::new(), targets, of_task }
    }

    fn target(&self, task: TaskId) -> Option<&Target> {
        let at = self.of_task.get(&task).map_or(0, |(at, _)| *at);
        self.targets.get(at)?.as_ref()
    }

    /// A stream of the map task has ended: closes its queue with the last one.
    fn end_stream(&mut self, task: TaskId) {
        if let Some((at, left)) = self.of_task.get_mut(&task) {
            *left = left.saturating_sub(1);
            if *left == 0
                && let Some(target) = self.targets.get_mut(*at)
            {
                *target = None;
            }
        }
    }
}

impl Drive {
    pub(super) fn new(
        origin: ReadOrigin,
        config: Config,
        inputs: Vec<ReadInput>,
        targets: Vec<Vec<Target>>,
        transport: Arc<dyn FetchTransport>,
        counters: Arc<ReadCounters>,
        reservation: MemoryReservation,
    ) -> Self {
        let open = inputs.iter().zip(targets).map(|(input, targets)| Input::new(input, targets)).collect();
        let assigned: Vec<_> = inputs.into_iter().map(|input| (input.assigned, input.delivery)).collect();
        Self {
            origin,
            machine: Reader::new(config, &assigned),
            clock: tokio::time::Instant::now(),
            inputs: open,
            transport,
            fetches: StreamMap::new(),
            arrived: None,
            counters,
            reservation,
        }
    }

    /// Feeds the machine until all inputs have ended or it has failed.
    pub(super) async fn run(
        mut self,
        mut updates: mpsc::UnboundedReceiver<InputUpdate>,
        mut consumed: mpsc::UnboundedReceiver<(u32, StreamId, u64)>,
    ) {
        self.handle(Event::Ticked);
        let mut told = true;
        while !self.machine.is_done() {
            let deadline = self.machine.next_deadline().map(|due| self.clock + due.since(Instant(0)));
            tokio::select! {
                update = updates.recv(), if told => match update {
                    Some(update) => self.handle(Event::InputUpdated(update)),
                    None => told = false,
                },
                Some((input, stream, bytes)) = consumed.recv() => {
                    self.free(bytes);
                    self.handle(Event::BytesConsumed { input, stream, bytes });
                }
                Some((fetch, chunk)) = self.fetches.next(), if !self.fetches.is_empty() => self.take(fetch, chunk),
                () = sleep_to(deadline) => self.handle(Event::Ticked),
            }
        }
        // What waits in the queues stays charged until it is taken.
        while self.reservation.size() > 0 {
            let Some((_, _, bytes)) = consumed.recv().await else { return };
            self.free(bytes);
        }
    }

    fn free(&mut self, bytes: u64) {
        let held = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.reservation.size());
        self.reservation.shrink(held);
        self.counters.inflight_bytes.store(wide(self.reservation.size()), Ordering::Relaxed);
    }

    fn take(&mut self, fetch: FetchId, chunk: Option<Chunk>) {
        match chunk {
            Some(Ok((head, bytes))) => {
                self.arrived = Some((head, bytes));
                self.handle(Event::ChunkArrived { fetch, head });
                self.arrived = None;
            }
            Some(Err(error)) => {
                self.fetches.remove(&fetch);
                self.handle(Event::FetchEnded { fetch, error: Some(error) });
            }
            None => {
                self.fetches.remove(&fetch);
                self.handle(Event::FetchEnded { fetch, error: None });
            }
        }
        self.counters.queue_depth.store(u32::try_from(self.fetches.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    fn handle(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let elapsed = self.clock.elapsed().as_millis();
            let now = Instant(u64::try_from(elapsed).unwrap_or(u64::MAX));
            for action in self.machine.handle(now, event) {
                events.extend(self.carry_out(action));
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Fetch { fetch, worker, stream, min_stream_epoch, start_offset, max_bytes } => {
                let request = FetchRequest {
                    query: self.origin.query.clone(),
                    stream,
                    start_offset,
                    max_bytes,
                    layout_version: self.origin.layout_version,
                    min_stream_epoch,
                    coordinator_epoch: self.origin.coordinator_epoch,
                    worker_incarnation: worker.incarnation,
                };
                let response = self.transport.fetch(&worker, request);
                let response = response.map(Some).chain(stream::once(async { None }));
                self.fetches.insert(fetch, response.boxed());
                None
            }
            Action::CancelFetch { fetch } => {
                self.fetches.remove(&fetch);
                None
            }
            Action::Deliver { input, stream, start_offset, end_offset } => {
                self.deliver(input, stream, start_offset, end_offset)
            }
            Action::EndStream { input, stream } => {
                let open = self.input(input)?;
                let torn = open.decoders.remove(&stream).is_some_and(|decoder| decoder.finish().is_err());
                if torn {
                    return Some(Event::FrameRejected { stream });
                }
                open.end_stream(stream.attempt.task_id());
                None
            }
            Action::EndInput { input } => {
                self.input(input)?.targets.clear();
                None
            }
            Action::Fail { map_attempt, error } => {
                for target in self.inputs.iter().flat_map(|input| input.targets.iter().flatten()) {
                    // A queue that nobody reads any more needs no error.
                    let _ = target.send(Err(ReadFailed { map_attempt, error }));
                }
                None
            }
        }
    }

    fn input(&mut self, input: u32) -> Option<&mut Input> {
        self.inputs.get_mut(usize::try_from(input).ok()?)
    }

    fn deliver(&mut self, input: u32, stream: StreamId, start: u64, end: u64) -> Option<Event> {
        let (head, bytes) = self.arrived.clone()?;
        let from = usize::try_from(start.checked_sub(head.start_offset)?).ok()?;
        let to = usize::try_from(end.checked_sub(head.start_offset)?).ok()?;
        let part = bytes.get(from..to)?;
        let brought = end - start;
        let open = self.input(input)?;
        let format = Arc::clone(&open.format);
        let decoder = open.decoders.entry(stream).or_insert_with(|| FrameDecoder::new(format));
        let batches = match decoder.push(part) {
            Ok(batches) => batches,
            Err(error) => {
                tracing::warn!(%stream, %error, "rejected a frame");
                return Some(Event::FrameRejected { stream });
            }
        };
        self.counters.bytes.fetch_add(brought, Ordering::Relaxed);
        self.pass_on(input, stream, batches, brought)
    }

    /// Queues batches; the chunk's bytes are free once the last of them is taken. Without a batch they are the
    /// beginning of a frame, for which nobody can wait.
    fn pass_on(&mut self, input: u32, stream: StreamId, batches: Vec<RecordBatch>, brought: u64) -> Option<Event> {
        let last = batches.len().checked_sub(1);
        let Some(last) = last else { return Some(Event::BytesConsumed { input, stream, bytes: brought }) };
        // Charged without asking: the machine bounds what is fetched ahead.
        self.reservation.grow(usize::try_from(brought).unwrap_or(0));
        self.counters.inflight_bytes.store(wide(self.reservation.size()), Ordering::Relaxed);
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        self.counters.rows.fetch_add(wide(rows), Ordering::Relaxed);
        let target = self.input(input)?.target(stream.attempt.task_id()).cloned();
        for (at, batch) in batches.into_iter().enumerate() {
            let bytes = if at == last { brought } else { 0 };
            let sent = target.as_ref().is_some_and(|target| target.send(Ok(Decoded { batch, stream, bytes })).is_ok());
            if !sent && bytes > 0 {
                // Nobody wants these rows (a satisfied limit): they are as good as taken.
                self.free(bytes);
                return Some(Event::BytesConsumed { input, stream, bytes });
            }
        }
        None
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

async fn sleep_to(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
