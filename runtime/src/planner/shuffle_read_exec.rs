//! The leaf of a fragment that reads an exchange.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use sluice_core::key_filter::KeyLookup;

use super::fixed_node::fixed_node;

/// What a task reads through its shuffle-read leaves. The worker's shuffle reader implements it.
pub trait InputProvider: Send + Sync {
    /// Opens one stream of rows. Called once for each stream of each leaf when the task starts to run it.
    ///
    /// # Errors
    /// Any error ends the attempt; a typed one keeps its type as the source of an external error.
    fn open(&self, stream: InputStream, context: &Arc<TaskContext>) -> Result<SendableRecordBatchStream>;

    /// The keys of a runtime filter, if the task has it. No task needs one.
    fn filter(&self, _filter: u32) -> Option<Arc<KeyLookup>> {
        None
    }
}

/// One stream of rows of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputStream {
    /// The input: its place in the stage's `inputs`.
    pub input: usize,
    /// `None`: the rows of all map tasks, as they come. `Some(i)`: those of map task `i` alone in the order
    /// written; map tasks count from 0 over the exchange's writing stages in order, then their tasks.
    pub map_task: Option<u32>,
}

/// How a leaf hands over the streams of its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// One partition: the streams of all map tasks interleaved.
    Merged,
    /// One partition for each of so many map tasks (at least 1), for a merge that keeps their order.
    PerMapTask(u32),
}

/// What is known of the rows of an exchange beyond their schema. Operators above were planned with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowFacts {
    /// The orders that each partition of the leaf has.
    pub orderings: Vec<LexOrdering>,
    /// Columns with one value in each partition of the leaf, and that value where it is known to be the same in all.
    pub constants: Vec<(usize, Option<ScalarValue>)>,
    /// Sets of columns that are equal in each row.
    pub equal: Vec<Vec<usize>>,
}

impl RowFacts {
    fn properties(&self, schema: &SchemaRef) -> Result<EquivalenceProperties> {
        let orderings = self.orderings.iter().cloned();
        let mut properties = EquivalenceProperties::new_with_orderings(Arc::clone(schema), orderings);
        for columns in &self.equal {
            for pair in columns.windows(2) {
                if let [left, right] = pair {
                    properties.add_equal_conditions(column(schema, *left)?, column(schema, *right)?)?;
                }
            }
        }
        for (index, value) in &self.constants {
            let across = match value {
                Some(value) => AcrossPartitions::Uniform(Some(value.clone())),
                None => AcrossPartitions::Heterogeneous,
            };
            properties.add_constants([ConstExpr::new(column(schema, *index)?, across)])?;
        }
        Ok(properties)
    }
}

fn column(schema: &SchemaRef, index: usize) -> Result<Arc<dyn PhysicalExpr>> {
    let field = schema
        .fields()
        .get(index)
        .ok_or_else(|| DataFusionError::Internal(format!("an exchange has no column {index}")))?;
    Ok(Arc::new(Column::new(field.name(), index)))
}

/// Reads an exchange: the assignment fills this leaf of a fragment with streams.
pub struct ShuffleReadExec {
    /// Which input of the stage; while a stage is being cut, which exchange.
    input_index: u32,
    mode: ReadMode,
    facts: RowFacts,
    provider: Option<Arc<dyn InputProvider>>,
    properties: Arc<PlanProperties>,
}

impl ShuffleReadExec {
    /// A leaf that reads input `input_index` with rows of `schema`, of which `facts` hold.
    ///
    /// # Errors
    /// `facts` name columns that `schema` does not have.
    pub fn try_new(input_index: u32, schema: &SchemaRef, mode: ReadMode, facts: RowFacts) -> Result<Self> {
        let partitions = match mode {
            ReadMode::Merged => 1,
            ReadMode::PerMapTask(tasks) => tasks.max(1) as usize,
        };
        let properties = PlanProperties::new(
            facts.properties(schema)?,
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            input_index,
            mode,
            facts,
            provider: None,
            properties: Arc::new(properties),
        })
    }

    /// The input's place in the stage's `inputs`.
    pub fn input_index(&self) -> u32 {
        self.input_index
    }

    /// How the leaf hands over streams.
    pub fn mode(&self) -> ReadMode {
        self.mode
    }

    /// What is known of the rows.
    pub fn facts(&self) -> &RowFacts {
        &self.facts
    }

    /// The same leaf of another input.
    pub(crate) fn with_input_index(&self, input_index: u32) -> Self {
        Self {
            input_index,
            mode: self.mode,
            facts: self.facts.clone(),
            provider: None,
            properties: Arc::clone(&self.properties),
        }
    }

    /// The same leaf, filled: it reads from `provider`.
    pub(crate) fn bound(&self, provider: Arc<dyn InputProvider>) -> Self {
        Self {
            provider: Some(provider),
            ..self.with_input_index(self.input_index)
        }
    }
}

impl fmt::Debug for ShuffleReadExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShuffleReadExec")
            .field("input_index", &self.input_index)
            .field("mode", &self.mode)
            .field("facts", &self.facts)
            .field("bound", &self.provider.is_some())
            .finish()
    }
}

impl DisplayAs for ShuffleReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            ReadMode::Merged => write!(f, "ShuffleReadExec: input={}", self.input_index),
            ReadMode::PerMapTask(tasks) => {
                write!(f, "ShuffleReadExec: input={}, streams={tasks}", self.input_index)
            }
        }
    }
}

impl ExecutionPlan for ShuffleReadExec {
    fn name(&self) -> &str {
        "ShuffleReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fixed_node!();

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(provider) = &self.provider else {
            return Err(DataFusionError::Internal(format!(
                "input {} of the task has no reader",
                self.input_index
            )));
        };
        let map_task = match self.mode {
            ReadMode::Merged if partition == 0 => None,
            ReadMode::PerMapTask(tasks) if partition < tasks as usize => u32::try_from(partition).ok(),
            ReadMode::Merged | ReadMode::PerMapTask(_) => {
                return Err(DataFusionError::Internal(format!(
                    "input {} of the task has no partition {partition}",
                    self.input_index
                )));
            }
        };
        provider.open(
            InputStream {
                input: self.input_index as usize,
                map_task,
            },
            &context,
        )
    }
}
