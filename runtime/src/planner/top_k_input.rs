//! The input of `ORDER BY … LIMIT`, narrowed. DataFusion's TopK retains the whole batch of each row that it keeps, or the
//! buffers of its texts, and is charged for it: a few rows would need the memory of all rows that were read with them.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::row::{OwnedRow, Row, RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::fixed_node::one_input;
use crate::shuffle::compact::compact;

/// Batches of more bytes are narrowed: the copy of a few rows is worth it.
const LARGE_BATCH: usize = 64 << 10;

/// The same plan with a [`TopKInputExec`] below each sort that keeps its first rows.
///
/// DataFusion's TopK compares later rows with the last of the first so far by expressions. To these a NULL within a list or a
/// struct comes first, whatever the order of the sort, so that rows are lost. Where such are keys, a sort without TopK orders
/// what is left.
pub(super) fn narrow_inputs(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let Some(sort) = node.downcast_ref::<SortExec>() else {
            return Ok(Transformed::no(node));
        };
        let Some(fetch) = sort.fetch() else {
            return Ok(Transformed::no(node));
        };
        let schema = sort.input().schema();
        let has_nested_key = sort.expr().iter().any(|key| {
            let data_type = key.expr.data_type(&schema);
            data_type.is_ok_and(|data_type| data_type.is_nested())
        });
        let narrowed = Arc::new(TopKInputExec {
            input: Arc::clone(sort.input()),
            order: sort.expr().clone(),
            fetch,
            large_batch: if has_nested_key { 0 } else { LARGE_BATCH },
        });
        if has_nested_key {
            let sorted = SortExec::new(sort.expr().clone(), narrowed)
                .with_preserve_partitioning(sort.preserve_partitioning());
            return Ok(Transformed::yes(Arc::new(LocalLimitExec::new(
                Arc::new(sorted),
                fetch,
            ))));
        }
        // The sort keeps the filter that it shares with scans.
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        Ok(Transformed::yes(node.replace_children(vec![narrowed], options)?))
    })
    .data()
}

/// Hands on the rows of each large batch that may be among the first, in their order, as a batch of their own. Rows behind
/// as many others as are wanted are not among them.
#[derive(Debug)]
struct TopKInputExec {
    input: Arc<dyn ExecutionPlan>,
    order: LexOrdering,
    fetch: usize,
    /// Bytes of a batch from which on it is narrowed.
    large_batch: usize,
}

impl DisplayAs for TopKInputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopKInputExec: fetch={}", self.fetch)
    }
}

impl ExecutionPlan for TopKInputExec {
    fn name(&self) -> &str {
        "TopKInputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    one_input!(input, |node, input| Ok(Self {
        input,
        order: node.order.clone(),
        fetch: node.fetch,
        large_batch: node.large_batch,
    }));

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let consumer = MemoryConsumer::new(format!("TopK input[{partition}]"));
        let memory = consumer.register(context.memory_pool());
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let fields = self.order.iter().map(|key| {
            let data_type = key.expr.data_type(&schema)?;
            Ok(SortField::new_with_options(data_type, key.options))
        });
        let keys = RowConverter::new(fields.collect::<Result<Vec<_>>>()?)?;
        let mut first = FirstRows {
            order: self.order.clone(),
            fetch: self.fetch,
            large_batch: self.large_batch,
            keys,
            first: BinaryHeap::new(),
            bytes: 0,
            memory,
        };
        let narrowed = rows.map(move |batch| first.of_batch(batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, narrowed)))
    }
}

/// What is known of the first rows.
struct FirstRows {
    order: LexOrdering,
    fetch: usize,
    large_batch: usize,
    keys: RowConverter,
    /// The keys of the first rows so far, the last of them on top.
    first: BinaryHeap<OwnedRow>,
    /// Bytes of these keys.
    bytes: usize,
    memory: MemoryReservation,
}

impl FirstRows {
    /// The rows of a batch that are among the first so far.
    fn of_batch(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.fetch == 0 || get_record_batch_memory_size(&batch) <= self.large_batch {
            return Ok(batch);
        }
        let rows = batch.num_rows();
        let columns = self
            .order
            .iter()
            .map(|key| key.expr.evaluate(&batch)?.into_array(rows));
        let encoded = self.keys.convert_columns(&columns.collect::<Result<Vec<_>>>()?)?;
        let mut kept: Vec<u32> = Vec::new();
        for (row, key) in (0_u32..).zip(encoded.iter()) {
            if self.keep(key) {
                kept.push(row);
            }
        }
        // Later rows of the same batch may have come before them.
        if let Some(last) = self.first.peek().filter(|_| self.first.len() == self.fetch) {
            kept.retain(|row| encoded.row(*row as usize) <= last.row());
        }
        self.memory.try_resize(self.bytes)?;
        let narrowed = take_record_batch(&batch, &UInt32Array::from(kept))?;
        Ok(compact(&narrowed)?)
    }

    /// Whether a row is among the first so far.
    fn keep(&mut self, key: Row<'_>) -> bool {
        let size = |key: &OwnedRow| size_of::<OwnedRow>() + key.row().as_ref().len();
        if self.first.len() == self.fetch {
            match self.first.peek_mut() {
                Some(last) if key < last.row() => self.bytes -= size(&PeekMut::pop(last)),
                _ => return false,
            }
        }
        let key = key.owned();
        self.bytes += size(&key);
        self.first.push(key);
        true
    }
}
