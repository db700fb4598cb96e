//! Recursive queries: the place in a recursive term that reads the rows of the round before.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::error::PlanError;
use super::fixed_node::fixed_node;

/// Stands for a `WorkTableExec` in a fragment that is being encoded: that node does not tell its projection.
#[derive(Debug)]
pub(crate) struct WorkTablePlaceholder {
    table: String,
    table_schema: SchemaRef,
    projection: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl WorkTablePlaceholder {
    /// The placeholder of `work`, which reads some columns of the recursive query `table_schema`.
    pub(crate) fn try_new(work: &WorkTableExec, table_schema: SchemaRef) -> Result<Self, PlanError> {
        let projection = work
            .schema()
            .fields()
            .iter()
            .map(|field| {
                let mut places = table_schema
                    .fields()
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| other.name() == field.name())
                    .map(|(place, _)| place);
                match (places.next(), places.next()) {
                    (Some(place), None) => Ok(place),
                    _ => Err(PlanError::Unsupported {
                        what: format!(
                            "the column {} of the recursive query {}",
                            field.name(),
                            work.name()
                        ),
                        fix: "name each of its columns once, as WITH RECURSIVE t(a, b) AS …".into(),
                    }),
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            table: work.name().to_owned(),
            table_schema,
            projection,
            properties: Arc::clone(ExecutionPlan::properties(work)),
        })
    }

    /// The name of the recursive query.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// All of its columns.
    pub(crate) fn table_schema(&self) -> &SchemaRef {
        &self.table_schema
    }

    /// Those that are read.
    pub(crate) fn projection(&self) -> &[usize] {
        &self.projection
    }
}

impl DisplayAs for WorkTablePlaceholder {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkTableExec: name={}", self.table)
    }
}

impl ExecutionPlan for WorkTablePlaceholder {
    fn name(&self) -> &str {
        "WorkTablePlaceholder"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fixed_node!();

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Err(DataFusionError::Internal(format!(
            "the work table of {} was never bound",
            self.table
        )))
    }
}
