//! A task's part of a sampled table: its blocks one after another, with the place of each row.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use sluice_core::plan::FileRange;

use super::Sample;
use crate::planner::scan::scan_of_ranges;
use crate::source::{Decoder, parquet_group_starts};

/// What is read.
#[derive(Debug, Clone)]
enum Blocks {
    /// Ranges of files, each of whole blocks: row groups of Parquet, else whole files.
    Files {
        config: Arc<FileScanConfig>,
        ranges: Vec<FileRange>,
    },
    /// One part of a generated table.
    Part {
        plan: Arc<dyn ExecutionPlan>,
        name: String,
        part: u64,
    },
}

/// Reads the chosen rows of a task's split.
#[derive(Debug)]
pub(crate) struct SampledScan {
    blocks: Blocks,
    sample: Sample,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SampledScan {
    pub(crate) fn of_files(config: &FileScanConfig, ranges: &[FileRange], sample: Sample) -> Self {
        let schema = DataSourceExec::from_data_source(config.clone()).schema();
        let blocks = Blocks::Files {
            config: Arc::new(config.clone()),
            ranges: ranges.to_vec(),
        };
        Self::new(schema, blocks, sample)
    }

    /// `plan` generates part `part` of the table of this name.
    pub(crate) fn of_part(plan: Arc<dyn ExecutionPlan>, name: String, part: u64, sample: Sample) -> Self {
        let schema = plan.schema();
        Self::new(schema, Blocks::Part { plan, name, part }, sample)
    }

    fn new(schema: SchemaRef, blocks: Blocks, sample: Sample) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            blocks,
            sample,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

/// Rows that lie in a row, and the number of their block.
struct Block {
    number: u64,
    plan: Arc<dyn ExecutionPlan>,
}

/// The blocks of what is read, in order.
async fn blocks_of(blocks: Blocks, sample: Sample, context: &TaskContext) -> Result<Vec<Block>> {
    let (config, ranges) = match blocks {
        Blocks::Files { config, ranges } => (config, ranges),
        Blocks::Part { plan, name, part } => {
            let number = sample.block(&name, part);
            return Ok(vec![Block { number, plan }]);
        }
    };
    let store = context
        .runtime_env()
        .object_store(ObjectStoreUrl::local_filesystem())?;
    let decoder = Decoder::of(&config);
    let mut found = Vec::new();
    for range in ranges {
        let within = match &decoder {
            Decoder::Parquet { .. } => {
                let path = Path::parse(&range.file.path)
                    .map_err(|error| DataFusionError::ObjectStore(Box::new(error.into())))?;
                let starts = parquet_group_starts(&store, &path).await?;
                let here = starts
                    .into_iter()
                    .filter(|start| (range.start..range.end).contains(start));
                here.map(|start| FileRange {
                    file: range.file.clone(),
                    start,
                    end: start + 1,
                })
                .collect()
            }
            Decoder::Text(_) | Decoder::Other | Decoder::ArrowFile | Decoder::ArrowStream => vec![range],
        };
        for block in within {
            found.push(Block {
                number: sample.block(&block.file.path, block.start),
                plan: scan_of_ranges(&config, &[block])
                    .map_err(|error| DataFusionError::External(Box::new(error)))?,
            });
        }
    }
    Ok(found)
}

/// The chosen rows of one block.
fn chosen_rows(
    block: &Block,
    sample: Sample,
    context: Arc<TaskContext>,
) -> Result<impl stream::Stream<Item = Result<RecordBatch>> + Send + use<>> {
    let (number, mut first) = (block.number, 0_u64);
    let rows = block.plan.execute(0, context)?;
    Ok(rows.map(move |batch| {
        let batch = batch?;
        let chosen = sample.chosen(number, first, batch.num_rows());
        first += u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        Ok(filter_record_batch(&batch, &chosen)?)
    }))
}

impl DisplayAs for SampledScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SampledScan: {:?}", self.sample)
    }
}

impl ExecutionPlan for SampledScan {
    fn name(&self) -> &str {
        "SampledScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (blocks, sample) = (self.blocks.clone(), self.sample);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = stream::once(async move {
            let blocks = blocks_of(blocks, sample, &context).await?;
            let rows = stream::iter(blocks.into_iter().map(Ok::<_, DataFusionError>))
                .and_then(move |block| {
                    let rows = chosen_rows(&block, sample, Arc::clone(&context));
                    futures::future::ready(rows)
                })
                .try_flatten();
            Ok::<_, DataFusionError>(rows)
        })
        .try_flatten()
        .inspect_ok(move |batch| metrics.record_output(batch.num_rows()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
