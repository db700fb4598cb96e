//! A node that gives rows the schema their reader expects.

use std::fmt;
use std::sync::Arc;

use super::fixed_node::one_input;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;

/// Gives the rows of a union's branch the union's schema: the same types under other names, with other
/// nullability or metadata. All writers of an exchange then write the same schema.
#[derive(Debug)]
pub struct SchemaExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SchemaExec {
    /// `input` under `schema`, which must have the same number of columns.
    ///
    /// # Errors
    /// The orderings of `input` do not hold for `schema`.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Result<Self> {
        let equivalence = match input
            .equivalence_properties()
            .clone()
            .with_new_schema(Arc::clone(&schema))
        {
            Ok(equivalence) => equivalence,
            // Names took part in an ordering: forget it, the rows are the same.
            Err(_) => EquivalenceProperties::new(schema),
        };
        let properties = PlanProperties::new(
            equivalence,
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self {
            input,
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for SchemaExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaExec")
    }
}

impl ExecutionPlan for SchemaExec {
    fn name(&self) -> &str {
        "SchemaExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    one_input!(input, |node, input| Self::try_new(input, node.schema()));

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let rows = self.input.execute(partition, context)?;
        let target = Arc::clone(&schema);
        let stream = rows.map(move |batch| {
            let batch = batch?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(
                Arc::clone(&target),
                batch.columns().to_vec(),
                &options,
            )?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}
