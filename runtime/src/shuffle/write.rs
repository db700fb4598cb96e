//! The writing side of an exchange: rows in, frames to the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow_ipc::writer::IpcWriteContext;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::ids::{AttemptId, QueryId, StreamId};
use sluice_core::message::MapOutputPartitionMeta;
use sluice_core::ranges::SortedRun;
use sluice_crds::shuffle_query::Compression;

use super::compact::{batch_bytes, compact};
use super::frame::{FrameEncoder, FrameError, FrameFormat};
use super::partition::{Partitioner, Partitioning};
use super::sorted::{RunSampler, SortKeys};
use super::store::{PendingAppend, StoreHandle};

#[cfg(test)]
mod tests;

/// Rows at which a frame is full.
const FRAME_ROWS: usize = 8192;
/// Bytes, before compression, at which a frame is full.
const FRAME_BYTES: usize = 1 << 20;

impl From<FrameError> for DataFusionError {
    fn from(error: FrameError) -> Self {
        match error {
            // A retry would have the same rows.
            FrameError::TooLong { .. } => Self::External(Box::new(AttemptFailure::BadInput {
                kind: BadInputKind::InvalidValue,
                message: error.to_string(),
            })),
            FrameError::Unencodable(error) => Self::ArrowError(Box::new(error), None),
            FrameError::ChecksumMismatch { .. }
            | FrameError::ChainMismatch { .. }
            | FrameError::Truncated { .. }
            | FrameError::Undecodable { .. } => Self::External(error.into()),
        }
    }
}

/// What one attempt writes to its exchange, and how.
#[derive(Debug, Clone)]
pub struct WriteSpec {
    pub query: QueryId,
    /// The attempt; it must be open at the store.
    pub attempt: AttemptId,
    /// Of all batches.
    pub schema: SchemaRef,
    /// How rows find their partition.
    pub partitioning: Partitioning,
    /// Compression of the frames.
    pub compression: Compression,
    /// The most buffered bytes of incomplete frames, over all partitions.
    pub buffer_bytes: usize,
    /// The order of the rows, if they are a sorted run of a range exchange, which has one partition.
    pub sorted_by: Option<SortKeys>,
}

/// What was written so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteCounts {
    pub rows: u64,
    /// Bytes of encoded frames.
    pub bytes: u64,
}

/// The whole output of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShuffleOutput {
    /// One entry per partition that has bytes.
    pub outputs: Vec<MapOutputPartitionMeta>,
    /// Key samples, if the output is a sorted run.
    pub run: Option<SortedRun>,
    /// How much it is.
    pub counts: WriteCounts,
}

/// Splits rows by partition, buffers them until a frame is full, and appends frames to the store. Rows keep their order
/// within a partition.
pub struct ShuffleWriter {
    store: StoreHandle,
    query: QueryId,
    attempt: AttemptId,
    partitioner: Partitioner,
    format: Arc<FrameFormat>,
    partitions: BTreeMap<u32, PartitionBuffer>,
    buffered_bytes: usize,
    buffer_bytes: usize,
    reservation: MemoryReservation,
    context: IpcWriteContext,
    /// The frame that the store has not confirmed yet; the next one is encoded meanwhile.
    appending: Option<PendingAppend>,
    counts: WriteCounts,
    sampler: Option<RunSampler>,
}

/// Rows of one partition whose frame is not full yet.
struct PartitionBuffer {
    encoder: FrameEncoder,
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl ShuffleWriter {
    /// A writer for an attempt. Reserves memory for buffered rows from `pool`.
    ///
    /// # Errors
    ///
    /// If the schema cannot be written, or there are no partitions.
    pub fn new(spec: &WriteSpec, store: StoreHandle, pool: &Arc<dyn MemoryPool>) -> Result<Self> {
        Ok(Self {
            store,
            query: spec.query.clone(),
            attempt: spec.attempt,
            partitioner: Partitioner::new(&spec.partitioning)?,
            format: Arc::new(FrameFormat::new(Arc::clone(&spec.schema), spec.compression)?),
            partitions: BTreeMap::new(),
            buffered_bytes: 0,
            buffer_bytes: spec.buffer_bytes,
            reservation: MemoryConsumer::new("shuffle write").register(pool),
            context: IpcWriteContext::default(),
            appending: None,
            counts: WriteCounts::default(),
            sampler: spec.sorted_by.clone().map(RunSampler::new),
        })
    }

    /// What was appended to the store so far.
    pub fn counts(&self) -> WriteCounts {
        self.counts
    }

    /// Writes the rows of a batch. Waits while the store is full and spills.
    ///
    /// # Errors
    ///
    /// If keys cannot be computed or rows not encoded, if memory and spill space are used up, or the attempt was
    /// retired.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        for (partition, part) in self.partitioner.split(batch)? {
            let part = compact(&part)?;
            let bytes = batch_bytes(&part);
            if self.reservation.try_grow(bytes).is_err() {
                self.flush_all().await?;
                self.reservation.try_grow(bytes)?;
            }
            self.buffered_bytes += bytes;
            let format = &self.format;
            let buffer = self
                .partitions
                .entry(partition)
                .or_insert_with(|| PartitionBuffer {
                    encoder: FrameEncoder::new(Arc::clone(format)),
                    batches: Vec::new(),
                    rows: 0,
                    bytes: 0,
                });
            buffer.rows += part.num_rows();
            buffer.bytes += bytes;
            buffer.batches.push(part);
            if buffer.rows >= FRAME_ROWS || buffer.bytes >= FRAME_BYTES {
                self.flush(partition).await?;
            }
        }
        while self.buffered_bytes > self.buffer_bytes {
            let largest = self.partitions.iter().max_by_key(|(_, buffer)| buffer.bytes);
            let Some((&partition, _)) = largest else {
                break;
            };
            self.flush(partition).await?;
        }
        Ok(())
    }

    /// Writes buffered rows and finalizes the attempt.
    ///
    /// # Errors
    ///
    /// As `write`.
    pub async fn finish(mut self) -> Result<ShuffleOutput> {
        self.flush_all().await?;
        self.await_append().await?;
        let outputs = self.store.finalize(self.query.clone(), self.attempt).await?;
        let end = self.counts.bytes;
        Ok(ShuffleOutput {
            outputs,
            run: self.sampler.map(|sampler| sampler.finish(end)),
            counts: self.counts,
        })
    }

    async fn flush_all(&mut self) -> Result<()> {
        let partitions: Vec<u32> = self.partitions.keys().copied().collect();
        for partition in partitions {
            self.flush(partition).await?;
        }
        Ok(())
    }

    /// Waits for the store's confirmation of the last frame.
    async fn await_append(&mut self) -> Result<()> {
        match self.appending.take() {
            Some(last) => Ok(last.wait().await?),
            None => Ok(()),
        }
    }

    async fn flush(&mut self, partition: u32) -> Result<()> {
        let Some(buffer) = self.partitions.get_mut(&partition) else {
            return Ok(());
        };
        let parts = std::mem::take(&mut buffer.batches);
        let bytes = std::mem::take(&mut buffer.bytes);
        buffer.rows = 0;
        let stream = StreamId {
            attempt: self.attempt,
            partition,
        };
        for batch in split_into_frames(self.format.schema(), parts) {
            let frame = buffer.encoder.encode(&batch, &mut self.context)?;
            let rows = batch.num_rows() as u64;
            if let Some(sampler) = &mut self.sampler {
                sampler.frame(&batch, self.counts.bytes)?;
            }
            self.counts.rows += rows;
            self.counts.bytes += frame.len() as u64;
            if let Some(previous) = self.appending.take() {
                previous.wait().await?;
            }
            let query = self.query.clone();
            self.appending = Some(self.store.begin_append(query, stream, frame, rows).await?);
        }
        self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
        self.reservation.shrink(bytes);
        Ok(())
    }
}

/// The rows of the parts, in order, as batches of about a frame each.
fn split_into_frames(schema: &SchemaRef, mut parts: Vec<RecordBatch>) -> Vec<RecordBatch> {
    if parts.len() > 1 {
        // Concatenated dictionaries may overflow their keys, and strings their offsets: keep the parts separate then.
        if let Ok(whole) = concat_batches(schema, &parts) {
            parts = vec![whole];
        }
    }
    parts.iter().flat_map(cut).collect()
}

/// Cuts a batch that is much longer than a frame.
fn cut(batch: &RecordBatch) -> Vec<RecordBatch> {
    let (rows, bytes) = (batch.num_rows(), batch_bytes(batch));
    let frames = (bytes / FRAME_BYTES).max(rows / FRAME_ROWS);
    if frames < 2 || rows < 2 {
        return vec![batch.clone()];
    }
    let step = rows.div_ceil(frames);
    let starts = (0..rows).step_by(step);
    starts
        .map(|start| batch.slice(start, step.min(rows - start)))
        .collect()
}
