//! The queues between the driver of a read and its operators: encoded bytes, decoded on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, Stream, TryStreamExt};
use sluice_core::failure::FetchError;
use sluice_core::ids::StreamId;
use sluice_core::reader::Event;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{ReadCounters, ReadFailed};
use crate::shuffle::frame::{FrameDecoder, FrameFormat};

/// What the driver queues.
#[derive(Debug)]
pub enum QueueItem {
    /// The next bytes of a stream and their offset.
    Bytes {
        stream: StreamId,
        offset: u64,
        bytes: Bytes,
    },
    /// The stream was read to its end.
    StreamEnded { stream: StreamId },
    /// The queue is complete.
    Ended,
    /// The read has failed.
    Failed(ReadFailed),
}

/// What comes out of a queue.
#[derive(Debug)]
pub enum Part {
    /// The next rows of a stream.
    Rows { stream: StreamId, batch: RecordBatch },
    /// All rows of the stream were read.
    End { stream: StreamId },
}

/// The operators' end.
pub struct Queue {
    input: u32,
    receiver: mpsc::UnboundedReceiver<QueueItem>,
    returns: mpsc::UnboundedSender<Event>,
    counters: Arc<ReadCounters>,
    reservation: Arc<MemoryReservation>,
    decoders: BTreeMap<StreamId, FrameDecoder>,
    ready: VecDeque<(StreamId, RecordBatch)>,
}

impl Queue {
    pub fn new(
        input: u32,
        receiver: mpsc::UnboundedReceiver<QueueItem>,
        returns: mpsc::UnboundedSender<Event>,
        counters: &Arc<ReadCounters>,
        reservation: &Arc<MemoryReservation>,
    ) -> Self {
        Self {
            input,
            receiver,
            returns,
            counters: Arc::clone(counters),
            reservation: Arc::clone(reservation),
            decoders: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next part; `None` at the end.
    async fn next(&mut self, format: &Arc<FrameFormat>) -> Result<Option<Part>, DataFusionError> {
        loop {
            if let Some((stream, batch)) = self.ready.pop_front() {
                self.counters
                    .rows
                    .fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                return Ok(Some(Part::Rows { stream, batch }));
            }
            match self.receiver.recv().await {
                Some(QueueItem::Bytes {
                    stream,
                    offset,
                    bytes,
                }) => self.decode(stream, offset, &bytes, format)?,
                Some(QueueItem::StreamEnded { stream }) => {
                    if let Some(decoder) = self.decoders.remove(&stream) {
                        self.reservation.shrink(decoder.pending_bytes());
                        if let Err(error) = decoder.finish() {
                            return Err(self.reject(stream, &error));
                        }
                    }
                    return Ok(Some(Part::End { stream }));
                }
                Some(QueueItem::Ended) => return Ok(None),
                Some(QueueItem::Failed(failed)) => return Err(failed.into()),
                None => {
                    let message = "a shuffle read was given up while rows were wanted of it";
                    return Err(DataFusionError::Execution(message.to_owned()));
                }
            }
        }
    }

    fn decode(
        &mut self,
        stream: StreamId,
        offset: u64,
        bytes: &Bytes,
        format: &Arc<FrameFormat>,
    ) -> Result<(), DataFusionError> {
        let decoder = self.decoders.entry(stream);
        let decoder = decoder.or_insert_with(|| FrameDecoder::starting_at(Arc::clone(format), offset));
        let before = decoder.pending_bytes() + bytes.len();
        let batches = decoder.push(bytes);
        // Bytes of an incomplete frame stay reserved.
        let after = decoder.pending_bytes();
        self.reservation.shrink(before.saturating_sub(after));
        // The driver may have ended.
        let _ = self.returns.send(Event::BytesConsumed {
            input: self.input,
            stream,
            bytes: bytes.len() as u64,
        });
        match batches {
            Ok(batches) => {
                let batches = batches.into_iter().filter(|batch| batch.num_rows() > 0);
                self.ready.extend(batches.map(|batch| (stream, batch)));
                Ok(())
            }
            Err(error) => Err(self.reject(stream, &error)),
        }
    }

    fn reject(&self, stream: StreamId, error: &dyn std::error::Error) -> DataFusionError {
        tracing::warn!(%stream, %error, "a fetched frame was rejected");
        let _ = self.returns.send(Event::FrameRejected { stream });
        let map_attempt = stream.attempt;
        let error = FetchError::Corrupt;
        ReadFailed { map_attempt, error }.into()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let pending = self.decoders.values().map(FrameDecoder::pending_bytes);
        self.reservation.shrink(pending.sum());
        self.receiver.close();
        while let Ok(item) = self.receiver.try_recv() {
            if let QueueItem::Bytes { bytes, .. } = item {
                self.reservation.shrink(bytes.len());
            }
        }
    }
}

/// The batches of the queues, one queue after the other.
pub fn decoded(
    schema: SchemaRef,
    format: Arc<FrameFormat>,
    queues: Vec<Queue>,
    driver: Arc<AbortOnDropHandle<()>>,
) -> SendableRecordBatchStream {
    let batches = parts(format, queues, driver).try_filter_map(|part| {
        let batch = match part {
            Part::Rows { batch, .. } => Some(batch),
            Part::End { .. } => None,
        };
        std::future::ready(Ok(batch))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

/// The parts of the queues, one queue after the other.
pub fn parts(
    format: Arc<FrameFormat>,
    queues: Vec<Queue>,
    driver: Arc<AbortOnDropHandle<()>>,
) -> impl Stream<Item = Result<Part, DataFusionError>> + Send + 'static {
    let start = (VecDeque::from(queues), format, driver);
    stream::try_unfold(start, |(mut queues, format, driver)| async move {
        while let Some(queue) = queues.front_mut() {
            if let Some(part) = queue.next(&format).await? {
                return Ok(Some((part, (queues, format, driver))));
            }
            queues.pop_front();
        }
        Ok(None)
    })
}
