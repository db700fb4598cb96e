//! The physical leaf that generates rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, internal_err, plan_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream,
};
use futures::stream::{self, TryStreamExt};
use serde::{Deserialize, Serialize};
use sluice_crds::shuffle_query::TpchTable;

use super::rows::{Batches, batches, comment_bytes, is_scale_factor, plan_parts, row_count, schema};

/// Bytes of the view that a string column holds for each row.
const VIEW_BYTES: usize = 16;

/// Generates the rows of one TPC-H table. As planned it has one partition for each part; with a part assigned
/// ([`Self::with_part`]) it has one partition, which is that part.
#[derive(Debug, Clone)]
pub struct TpchScanExec {
    spec: Spec,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What is generated; also the encoding, so that a decoded scan cannot differ from the encoded one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Spec {
    table: TpchTable,
    /// The bits of the scale factor: text would round it, and another scale factor has other rows.
    scale_factor: u64,
    /// Columns in the order of the output; `None` is all of them.
    projection: Option<Vec<usize>>,
    /// Rows after which a partition may end.
    limit: Option<usize>,
    parts: u32,
    /// The assigned part, from 0; `None` in a planned scan.
    part: Option<u32>,
}

impl TpchScanExec {
    /// A scan in `parts` parts, as it is planned.
    ///
    /// # Errors
    ///
    /// If the scale factor is out of bounds, there is no part, or a projected column does not exist.
    pub fn try_new(
        table: TpchTable,
        scale_factor: f64,
        parts: u32,
        projection: Option<Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Self> {
        Self::from_spec(Spec {
            table,
            scale_factor: scale_factor.to_bits(),
            projection,
            limit,
            parts,
            part: None,
        })
    }

    fn from_spec(spec: Spec) -> Result<Self> {
        let scale_factor = f64::from_bits(spec.scale_factor);
        if !is_scale_factor(scale_factor) {
            return plan_err!("TPC-H tables of scale factor {scale_factor} cannot be generated");
        }
        if spec.parts == 0 || i32::try_from(spec.parts).is_err() {
            return plan_err!("a TPC-H table cannot be read in {} parts", spec.parts);
        }
        if spec.part.is_some_and(|part| part >= spec.parts) {
            return plan_err!(
                "part {:?} of a TPC-H table of {} parts does not exist",
                spec.part,
                spec.parts
            );
        }
        let schema = projected_schema(spec.table, spec.projection.as_deref())?;
        let partitions = match spec.part {
            Some(_) => 1,
            None => usize::try_from(spec.parts).unwrap_or(1),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            spec,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The one-partition instance that generates part `part` (from 0) of `parts`.
    ///
    /// # Errors
    ///
    /// If there is no such part.
    pub fn with_part(&self, part: u32, parts: u32) -> Result<Self> {
        Self::from_spec(Spec {
            part: Some(part),
            parts,
            ..self.spec.clone()
        })
    }

    /// The same scan in the parts that the table's size alone gives, whatever the partitions of a query.
    ///
    /// # Errors
    ///
    /// As [`Self::try_new`].
    pub fn in_natural_parts(&self) -> Result<Self> {
        Self::from_spec(Spec {
            parts: plan_parts(self.spec.table, self.scale_factor(), 1),
            part: None,
            ..self.spec.clone()
        })
    }

    /// Which table it generates.
    pub fn table(&self) -> TpchTable {
        self.spec.table
    }

    /// The scale factor.
    pub fn scale_factor(&self) -> f64 {
        f64::from_bits(self.spec.scale_factor)
    }

    /// In how many parts the table is read.
    pub fn parts(&self) -> u32 {
        self.spec.parts
    }

    /// The assigned part; `None` in a planned scan.
    pub fn part(&self) -> Option<u32> {
        self.spec.part
    }

    /// Bytes from which [`Self::decode`] makes the same scan.
    ///
    /// # Errors
    ///
    /// If the scan cannot be written as JSON, which its fields rule out.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.spec).map_err(|error| DataFusionError::External(Box::new(error)))
    }

    /// The scan that was encoded.
    ///
    /// # Errors
    ///
    /// If the bytes are not those of a scan.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let spec =
            serde_json::from_slice(bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Self::from_spec(spec)
    }

    #[cfg(test)]
    pub(super) fn spec(&self) -> impl PartialEq + fmt::Debug {
        self.spec.clone()
    }

    /// Rows of one partition, or of all.
    fn rows(&self, partition: Option<usize>) -> Precision<usize> {
        let (rows, exact) = row_count(self.spec.table, self.scale_factor());
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let parts = usize::try_from(self.spec.parts).unwrap_or(1);
        if self.spec.part.is_none() && partition.is_none() && self.spec.limit.is_none() {
            return if exact {
                Precision::Exact(rows)
            } else {
                Precision::Inexact(rows)
            };
        }
        let read_parts = if self.spec.part.is_some() || partition.is_some() {
            1
        } else {
            parts
        };
        let part_rows = (rows / parts).min(self.spec.limit.unwrap_or(usize::MAX));
        Precision::Inexact(part_rows.saturating_mul(read_parts))
    }
}

fn projected_schema(table: TpchTable, projection: Option<&[usize]>) -> Result<SchemaRef> {
    match projection {
        Some(columns) => Ok(Arc::new(schema(table).project(columns)?)),
        None => Ok(schema(table)),
    }
}

/// Bytes of one row in memory, about.
pub(super) fn row_bytes(table: TpchTable, schema: &Schema) -> usize {
    let column_bytes = |name: &str, data_type: &DataType| match data_type.primitive_width() {
        Some(width) => width,
        None if name.ends_with("_comment") => VIEW_BYTES + comment_bytes(table),
        None => VIEW_BYTES,
    };
    schema
        .fields()
        .iter()
        .map(|field| column_bytes(field.name(), field.data_type()))
        .sum()
}

impl DisplayAs for TpchScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.schema();
        let columns: Vec<_> = columns
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        write!(
            f,
            "TpchScanExec: table={}, scale_factor={}, parts={}",
            self.spec.table.name(),
            self.scale_factor(),
            self.spec.parts,
        )?;
        if let Some(part) = self.spec.part {
            write!(f, ", part={part}")?;
        }
        if let Some(limit) = self.spec.limit {
            write!(f, ", limit={limit}")?;
        }
        write!(f, ", projection=[{}]", columns.join(", "))
    }
}

impl ExecutionPlan for TpchScanExec {
    fn name(&self) -> &'static str {
        "TpchScanExec"
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

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = self.properties.partitioning.partition_count();
        if partition >= partitions {
            return internal_err!("{} has {partitions} partitions, not {partition}", self.name());
        }
        let spec = self.spec.clone();
        let part = match spec.part {
            Some(part) => part,
            None => u32::try_from(partition).unwrap_or(u32::MAX),
        };
        let batch_rows = context
            .session_config()
            .batch_size()
            .min(spec.limit.unwrap_or(usize::MAX));
        let scale_factor = self.scale_factor();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        // The first generator of a process builds the pool of text: that is no work for an async thread.
        let opened = async move {
            let open = move || batches(spec.table, scale_factor, part, spec.parts, batch_rows);
            let batches = tokio::task::spawn_blocking(open)
                .await
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok::<_, DataFusionError>(Generation {
                batches,
                projection: spec.projection,
                rows_left: spec.limit.unwrap_or(usize::MAX),
                metrics,
            })
        };
        let rows = stream::once(opened)
            .map_ok(|generation| stream::try_unfold(generation, Generation::next))
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let schema = self.schema();
        let mut statistics = Statistics::new_unknown(&schema);
        let rows = self.rows(args.partition());
        let row_bytes = row_bytes(self.spec.table, &schema);
        statistics.num_rows = rows;
        statistics.total_byte_size = rows.map(|rows| rows.saturating_mul(row_bytes)).to_inexact();
        for column in &mut statistics.column_statistics {
            column.null_count = Precision::Exact(0);
        }
        Ok(Arc::new(statistics))
    }
}

/// One partition while it is generated.
struct Generation {
    batches: Batches,
    projection: Option<Vec<usize>>,
    rows_left: usize,
    metrics: BaselineMetrics,
}

impl Generation {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        if self.rows_left == 0 {
            return Ok(None);
        }
        // A batch is milliseconds of work that waits for nothing: without this a task would hold its thread.
        tokio::task::yield_now().await;
        let timer = self.metrics.elapsed_compute().timer();
        let batch = self.batches.next().transpose()?;
        drop(timer);
        let Some(batch) = batch else {
            return Ok(None);
        };
        let batch = match &self.projection {
            Some(columns) => batch.project(columns)?,
            None => batch,
        };
        let batch = batch.slice(0, batch.num_rows().min(self.rows_left));
        self.rows_left -= batch.num_rows();
        self.metrics.record_output(batch.num_rows());
        Ok(Some((batch, self)))
    }
}
