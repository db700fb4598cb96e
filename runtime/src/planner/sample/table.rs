//! Sampled tables while a query is planned.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, SubqueryAlias, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};

use super::Sample;
use crate::planner::error::PlanError;
use crate::planner::fixed_node::one_input;
use crate::planner::scan::file_config;
use crate::planner::statement::Sampled;
use crate::source::tpch::TpchScanExec;

/// Puts sampled tables in the places of those that the statement marks.
///
/// # Errors
/// [`PlanError::Clause`] for a sample of something that is no table.
pub(crate) fn sample_tables(
    plan: LogicalPlan,
    samples: &[Sampled],
) -> std::result::Result<LogicalPlan, PlanError> {
    if samples.is_empty() {
        return Ok(plan);
    }
    let mut refused = None;
    let sampled = plan.transform_down_with_subqueries(|node| {
        let LogicalPlan::SubqueryAlias(alias) = &node else {
            return Ok(Transformed::no(node));
        };
        let Some(sampled) = samples
            .iter()
            .find(|sampled| alias.alias.table() == sampled.marker)
        else {
            return Ok(Transformed::no(node));
        };
        let LogicalPlan::TableScan(scan) = alias.input.as_ref() else {
            refused.get_or_insert_with(|| sampled.no_table());
            return Ok(Transformed::no(node));
        };
        let mut scan = scan.clone();
        scan.source = provider_as_source(Arc::new(SampledTable {
            table: source_as_provider(&scan.source)?,
            sample: sampled.sample,
        }));
        let alias = SubqueryAlias::try_new(Arc::new(LogicalPlan::TableScan(scan)), alias.alias.clone())?;
        Ok(Transformed::new(
            LogicalPlan::SubqueryAlias(alias),
            true,
            TreeNodeRecursion::Jump,
        ))
    });
    match refused {
        Some(refused) => Err(refused),
        None => sampled
            .map(|plan| plan.data)
            .map_err(|error| PlanError::internal("sample", error)),
    }
}

/// A table of which some rows are read. Conditions are not pushed into it: a row's place counts those before it.
#[derive(Debug)]
struct SampledTable {
    table: Arc<dyn TableProvider>,
    sample: Sample,
}

#[async_trait]
impl TableProvider for SampledTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut scan = self.table.scan(state, projection, &[], None).await?;
        if let Some(generated) = scan.downcast_ref::<TpchScanExec>() {
            scan = Arc::new(generated.in_natural_parts()?);
        } else if scan.downcast_ref::<EmptyExec>().is_some() {
            return Ok(scan);
        } else if file_config(&scan).is_none() {
            return Err(DataFusionError::Plan(format!(
                "TABLESAMPLE of {}, whose rows have no places: sample a table of files",
                scan.name()
            )));
        }
        Ok(Arc::new(SampleExec::new(scan, self.sample)))
    }
}

/// A sampled scan in a plan that is not cut yet.
#[derive(Debug)]
pub(crate) struct SampleExec {
    scan: Arc<dyn ExecutionPlan>,
    sample: Sample,
    properties: Arc<PlanProperties>,
}

impl SampleExec {
    fn new(scan: Arc<dyn ExecutionPlan>, sample: Sample) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.schema()),
            scan.output_partitioning().clone(),
            scan.pipeline_behavior(),
            scan.boundedness(),
        );
        Self {
            scan,
            sample,
            properties: Arc::new(properties),
        }
    }

    pub(crate) fn scan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.scan
    }

    pub(crate) fn sample(&self) -> Sample {
        self.sample
    }
}

impl DisplayAs for SampleExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SampleExec: {:?}", self.sample)
    }
}

impl ExecutionPlan for SampleExec {
    fn name(&self) -> &str {
        "SampleExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    one_input!(scan, |node, scan| Ok(Self::new(scan, node.sample)));

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Err(DataFusionError::Internal("a sample was never cut".into()))
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let Some(all) = inputs.first() else {
            return Ok(Arc::new(Statistics::new_unknown(&self.schema())));
        };
        let share = |count: usize| (count as f64 * self.sample.percent / 100.0) as usize;
        let mut some = all.as_ref().clone().to_inexact();
        some.num_rows = some.num_rows.map(share).to_inexact();
        some.total_byte_size = some.total_byte_size.map(share).to_inexact();
        Ok(Arc::new(some))
    }
}
