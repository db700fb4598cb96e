//! Writes an attempt's rows to its exchange, or to files of the sink.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr;
use futures::StreamExt;
use sluice_core::failure::AttemptFailure;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId, StreamEpoch};
use sluice_core::key_filter::KeyFilter;
use sluice_core::message::MapOutputPartitionMeta;
use sluice_core::ranges::SortedRun;
use sluice_crds::shuffle_query::Compression;

use super::Shared;
use super::attempt::AttemptJob;
use super::counters::Counters;
use crate::planner::{FilterMaker, MadeFilter, OutputSpec, decode_schema};
use crate::shuffle::partition::Partitioning;
use crate::shuffle::sorted::SortKeys;
use crate::shuffle::write::{ShuffleWriter, WriteSpec};
use crate::sink::Sink;

/// One attempt may buffer this fraction of the shuffle store's memory until its frames are full.
const WRITE_BUFFER_SHARE: usize = 8;

/// Writes the output of one attempt.
pub(super) struct OutputWriter {
    shared: Arc<Shared>,
    query: QueryId,
    coordinator_epoch: CoordinatorEpoch,
    attempt: AttemptId,
    stream_epoch: StreamEpoch,
    partitions: u32,
    partitioning: Partitioning,
    sorted_by: Option<SortKeys>,
    compression: Compression,
    sink: Option<Sink>,
    counters: Arc<Counters>,
    filters: Vec<MadeFilter>,
}

/// The output of an attempt in its exchange.
pub(super) struct AttemptOutput {
    /// One entry per partition that has bytes.
    pub(super) outputs: Vec<MapOutputPartitionMeta>,
    /// Key samples, if the output is a sorted run.
    pub(super) run: Option<SortedRun>,
    /// The runtime filters of its rows.
    pub(super) filters: Vec<KeyFilter>,
}

impl OutputWriter {
    pub(super) fn new(job: &AttemptJob, context: &TaskContext) -> Result<Self, AttemptFailure> {
        let refused = |message: String| AttemptFailure::Refused { message };
        let schema = decode_schema(&job.stage.fragment.output).map_err(|error| refused(error.to_string()))?;
        let partitioning = job.stage.output.partitioning(&schema, context);
        let partitioning = partitioning.map_err(|error| refused(error.to_string()))?;
        let partitioning = shuffle_partitioning(partitioning, &job.stage.output);
        let sorted_by = job.stage.output.sorted_by(&schema, context);
        let sorted_by = sorted_by.map_err(|error| refused(error.to_string()))?;
        let keys = sorted_by
            .map(|ordering| SortKeys::new(ordering, &schema))
            .transpose();
        let sorted_by = keys.map_err(|error| refused(error.to_string()))?;
        if partitioning.partitions() > job.assignment.output_partitions {
            return Err(refused(
                "the assignment has fewer partitions than the fragment".into(),
            ));
        }
        Ok(Self {
            shared: Arc::clone(&job.shared),
            query: job.query.clone(),
            coordinator_epoch: job.coordinator_epoch,
            attempt: job.assignment.attempt,
            stream_epoch: job.assignment.stream_epoch,
            partitions: job.assignment.output_partitions,
            partitioning,
            sorted_by,
            compression: job.stage.compression,
            sink: job.stage.sink.clone(),
            counters: Arc::clone(&job.counters),
            filters: job.stage.filters.clone(),
        })
    }

    /// Writes all rows.
    pub(super) async fn run(
        self,
        rows: SendableRecordBatchStream,
        classify: impl Fn(DataFusionError) -> AttemptFailure,
    ) -> Result<AttemptOutput, AttemptFailure> {
        let store = &self.shared.store;
        let opened = store
            .open_attempt(
                self.query.clone(),
                self.attempt,
                self.stream_epoch,
                self.partitions,
            )
            .await;
        opened.map_err(|error| classify(error.into()))?;
        if let Some(sink) = &self.sink {
            self.write_files(sink, rows, &classify).await?;
            let finalized = store.finalize(self.query.clone(), self.attempt).await;
            let outputs = finalized.map_err(|error| classify(error.into()))?;
            return Ok(AttemptOutput {
                outputs,
                run: None,
                filters: Vec::new(),
            });
        }
        self.write_exchange(rows, &classify).await
    }

    async fn write_exchange(
        &self,
        mut rows: SendableRecordBatchStream,
        classify: &impl Fn(DataFusionError) -> AttemptFailure,
    ) -> Result<AttemptOutput, AttemptFailure> {
        let memory = &self.shared.memory;
        let buffer = memory.store_bytes() / WRITE_BUFFER_SHARE;
        let spec = WriteSpec {
            query: self.query.clone(),
            attempt: self.attempt,
            schema: rows.schema(),
            partitioning: self.partitioning.clone(),
            compression: self.compression,
            buffer_bytes: buffer,
            sorted_by: self.sorted_by.clone(),
        };
        let store = self.shared.store.clone();
        let mut writer =
            ShuffleWriter::new(&spec, store, &memory.query_pool(&self.query)).map_err(classify)?;
        let mut filters = FilterMaker::new(&self.filters);
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(classify)?;
            self.counters.note_output(batch.num_rows());
            filters.add(&batch).map_err(classify)?;
            writer.write(batch).await.map_err(classify)?;
            let counts = writer.counts();
            self.counters.set_written(counts.rows, counts.bytes);
        }
        let written = writer.finish().await.map_err(classify)?;
        self.counters
            .set_written(written.counts.rows, written.counts.bytes);
        Ok(AttemptOutput {
            outputs: written.outputs,
            run: written.run,
            filters: filters.finish().map_err(classify)?,
        })
    }

    async fn write_files(
        &self,
        sink: &Sink,
        mut rows: SendableRecordBatchStream,
        classify: &impl Fn(DataFusionError) -> AttemptFailure,
    ) -> Result<(), AttemptFailure> {
        let pool = self.shared.memory.query_pool(&self.query);
        let (epoch, schema) = (self.coordinator_epoch, rows.schema());
        let mut writer = sink.open(&self.query, epoch, self.attempt, &schema, &pool)?;
        let mut written = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(classify)?;
            self.counters.note_output(batch.num_rows());
            writer.write(&batch)?;
            written += u64::try_from(batch.num_rows()).unwrap_or(0);
            self.counters.set_written(written, 0);
        }
        let done = writer.finish()?;
        self.counters.set_written(done.rows, done.bytes);
        Ok(())
    }
}

fn shuffle_partitioning(partitioning: physical_expr::Partitioning, output: &OutputSpec) -> Partitioning {
    let partitions = output.partitions;
    match partitioning {
        physical_expr::Partitioning::Hash(keys, _) => Partitioning::Hash { keys, partitions },
        _ => Partitioning::Single,
    }
}
