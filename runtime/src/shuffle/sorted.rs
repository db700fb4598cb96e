//! Sorted runs of range exchanges: keys as bytes, samples of them while a run is written, and filtering by range while
//! a run is read.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use sluice_core::ranges::{KeyRange, MAX_SAMPLES, RunSample, SortedRun, cut_key};

#[cfg(test)]
mod tests;

/// The keys of an order as bytes that compare as rows do: Arrow's row format, cut.
#[derive(Clone)]
pub struct SortKeys {
    ordering: LexOrdering,
    converter: Arc<RowConverter>,
}

impl fmt::Debug for SortKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SortKeys").field(&self.ordering).finish()
    }
}

impl SortKeys {
    /// The keys of rows of `schema` that lie in this order.
    ///
    /// # Errors
    ///
    /// If a key has a type without row format.
    pub fn new(ordering: LexOrdering, schema: &Schema) -> Result<Self> {
        let fields = ordering.iter().map(|key| {
            let data_type = key.expr.data_type(schema)?;
            Ok(SortField::new_with_options(data_type, key.options))
        });
        let converter = RowConverter::new(fields.collect::<Result<_>>()?)?;
        Ok(Self {
            ordering,
            converter: Arc::new(converter),
        })
    }

    /// The key of a row, cut to its first bytes.
    ///
    /// # Errors
    ///
    /// If the batch does not have the columns.
    fn key(&self, batch: &RecordBatch, row: usize) -> Result<Vec<u8>> {
        let row = batch.slice(row, 1);
        let columns = self
            .ordering
            .iter()
            .map(|key| key.expr.evaluate(&row)?.into_array(1));
        let rows = self
            .converter
            .convert_columns(&columns.collect::<Result<Vec<_>>>()?)?;
        Ok(cut_key(rows.row(0).data()).to_vec())
    }

    /// The rows of a batch of the run of `map_task` that lie within `range`.
    ///
    /// # Errors
    ///
    /// If the batch does not have the columns.
    pub fn within(&self, batch: &RecordBatch, range: &KeyRange, map_task: u32) -> Result<RecordBatch> {
        let place = |row| -> Result<Ordering> { Ok(range.compare(&self.key(batch, row)?, map_task)) };
        let rows = batch.num_rows();
        if rows == 0 || (place(0)? == Ordering::Equal && place(rows - 1)? == Ordering::Equal) {
            return Ok(batch.clone());
        }
        let start = partition_point(rows, |row| Ok(place(row)? == Ordering::Less))?;
        let end = partition_point(rows, |row| Ok(place(row)? != Ordering::Greater))?;
        Ok(batch.slice(start, end.saturating_sub(start)))
    }
}

/// The first index below `count` where `holds` is false, given that it is false for all later ones.
fn partition_point(count: usize, holds: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The rows of a sorted run that lie within a range.
pub fn within(
    run: SendableRecordBatchStream,
    keys: SortKeys,
    range: KeyRange,
    map_task: u32,
) -> SendableRecordBatchStream {
    let schema = run.schema();
    let rows = run.map(move |batch| keys.within(&batch?, &range, map_task));
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// Samples a run while its frames are written: every frame, or every second, fourth and so on if there are many.
#[derive(Debug)]
pub struct RunSampler {
    keys: SortKeys,
    samples: Vec<RunSample>,
    frames: usize,
    stride: usize,
}

impl RunSampler {
    /// Before the first frame.
    pub fn new(keys: SortKeys) -> Self {
        Self {
            keys,
            samples: Vec::new(),
            frames: 0,
            stride: 1,
        }
    }

    /// Adds the next frame: these rows, starting at `offset`.
    ///
    /// # Errors
    ///
    /// If the batch does not have the columns.
    pub fn frame(&mut self, batch: &RecordBatch, offset: u64) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.frames.is_multiple_of(self.stride) {
            let key = self.keys.key(batch, 0)?;
            self.samples.push(RunSample { key, offset });
        }
        self.frames += 1;
        if self.samples.len() > MAX_SAMPLES {
            let mut place = 0;
            self.samples.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.stride *= 2;
        }
        Ok(())
    }

    /// The run, which ends at `end`.
    pub fn finish(self, end: u64) -> SortedRun {
        SortedRun {
            samples: self.samples,
            end,
        }
    }
}
