//! The input of `ORDER BY … LIMIT`, narrowed. DataFusion's TopK retains the whole batch of each row that it keeps, and is
//! charged for it: a few wide rows would need the memory of all rows that were read with them.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::LexOrdering;
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
const LARGE_BATCH: usize = 1 << 20;

/// The same plan with a [`TopKInputExec`] below each sort that keeps its first rows.
pub(super) fn narrow_inputs(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let Some(sort) = node.downcast_ref::<SortExec>() else {
            return Ok(Transformed::no(node));
        };
        let Some(fetch) = sort.fetch() else {
            return Ok(Transformed::no(node));
        };
        let narrowed = Arc::new(TopKInputExec {
            input: Arc::clone(sort.input()),
            order: sort.expr().clone(),
            fetch,
        });
        // The sort keeps the filter that it shares with scans.
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        Ok(Transformed::yes(node.replace_children(vec![narrowed], options)?))
    })
    .data()
}

/// Hands on the rows of each large batch that may be among the first, in their order, as a batch of their own.
#[derive(Debug)]
struct TopKInputExec {
    input: Arc<dyn ExecutionPlan>,
    order: LexOrdering,
    fetch: usize,
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
    }));

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let fields = self.order.iter().map(|key| {
            let data_type = key.expr.data_type(&schema)?;
            Ok(SortField::new_with_options(data_type, key.options))
        });
        let keys = RowConverter::new(fields.collect::<Result<Vec<_>>>()?)?;
        let (order, fetch) = (self.order.clone(), self.fetch);
        let narrowed = rows.map(move |batch| narrow(batch?, &order, &keys, fetch));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, narrowed)))
    }
}

fn narrow(batch: RecordBatch, order: &LexOrdering, keys: &RowConverter, fetch: usize) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    if fetch == 0 || rows <= fetch || get_record_batch_memory_size(&batch) <= LARGE_BATCH {
        return Ok(batch);
    }
    let columns = order
        .iter()
        .map(|key| key.expr.evaluate(&batch)?.into_array(rows));
    let encoded = keys.convert_columns(&columns.collect::<Result<Vec<_>>>()?)?;
    let mut first: Vec<usize> = (0..rows).collect();
    first.select_nth_unstable_by(fetch - 1, |one, two| encoded.row(*one).cmp(&encoded.row(*two)));
    first.truncate(fetch);
    first.sort_unstable();
    let indices = first.into_iter().map(|row| u32::try_from(row).ok());
    let indices: UInt32Array = indices.collect();
    Ok(compact(&take_record_batch(&batch, &indices)?)?)
}
