//! Leaves: what a plan reads, and the splits of its tasks.

use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use sluice_core::plan::Split;

use super::super::error::PlanError;
use super::super::sample::{Sample, SampleExec};
use super::super::scan::{ScanExec, file_config, ranges, table_name};
use super::{Branch, Cutter};
use crate::source::tpch::TpchScanExec;

impl Cutter<'_> {
    /// A scan in as many tasks as it has partitions; anything else that has no input in one task.
    pub(super) fn leaf(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Branch, PlanError> {
        if let Some(config) = file_config(plan) {
            let splits = config
                .file_groups
                .iter()
                .map(|group| Ok(Split::Files(ranges(group)?)))
                .collect::<Result<Vec<_>, PlanError>>()?;
            return self.files(plan, config, splits);
        }
        if let Some(scan) = plan.downcast_ref::<TpchScanExec>() {
            return self.generated(scan, scan.parts());
        }
        whole(plan)
    }

    /// A sampled scan in as many tasks as it has partitions.
    pub(super) fn sampled(&mut self, sampled: &SampleExec) -> Result<Branch, PlanError> {
        let all = self.leaf(sampled.scan())?;
        with_sample(all, sampled.sample())
    }

    /// The same in one task. Parts of a generated table are places of rows: it has one only if that is all of it.
    pub(super) fn sampled_in_one_task(&mut self, sampled: &SampleExec) -> Result<Branch, PlanError> {
        if sampled.scan().output_partitioning().partition_count() > 1
            && sampled.scan().downcast_ref::<TpchScanExec>().is_some()
        {
            return Err(PlanError::Unsupported {
                what: "TABLESAMPLE of a generated table in several parts within a recursive query".into(),
                fix: "sample it in a query of its own".into(),
            });
        }
        let all = self.leaf_in_one_task(sampled.scan())?;
        with_sample(all, sampled.sample())
    }

    /// The same in one task, whatever its partitions.
    pub(super) fn leaf_in_one_task(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Branch, PlanError> {
        if let Some(config) = file_config(plan) {
            let mut all = Vec::new();
            for group in &config.file_groups {
                all.extend(ranges(group)?);
            }
            return self.files(plan, config, vec![Split::Files(all)]);
        }
        if let Some(scan) = plan.downcast_ref::<TpchScanExec>() {
            return self.generated(scan, 1);
        }
        whole(plan)
    }

    /// A generated table in `parts` parts.
    fn generated(&mut self, scan: &TpchScanExec, parts: u32) -> Result<Branch, PlanError> {
        let leaf = self.next_leaf;
        self.next_leaf += 1;
        // The placeholder has one partition; the split says which part that is.
        let placeholder = scan
            .with_part(0, parts)
            .map_err(|error| PlanError::internal("scan", error))?;
        let splits: Vec<Split> = (0..parts).map(|part| Split::Tpch { part, parts }).collect();
        let table = Some(scan.table().name().to_owned());
        let whole = StatisticsContext::new().compute(scan, &StatisticsArgs::new());
        let whole = whole.map_err(|error| PlanError::internal("scan", error))?;
        let scan = ScanExec::new(leaf, Arc::new(placeholder)).of_table(table);
        Ok(Branch {
            plan: Arc::new(scan.with_statistics(whole)),
            tasks: splits.len(),
            scans: vec![(leaf, splits)],
        })
    }

    /// Files in these splits, read by `plan`.
    fn files(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        config: &FileScanConfig,
        splits: Vec<Split>,
    ) -> Result<Branch, PlanError> {
        let leaf = self.next_leaf;
        self.next_leaf += 1;
        // Files travel with the splits; their statistics serve planning alone.
        let table = config.file_source().table_schema().table_schema();
        let placeholder = FileScanConfigBuilder::from(config.clone())
            .with_file_groups(vec![FileGroup::new(Vec::new())])
            .with_statistics(Statistics::new_unknown(table))
            .build();
        let source = DataSourceExec::from_data_source(placeholder);
        if splits.is_empty() {
            return Ok(one_task(Arc::new(EmptyExec::new(source.schema()))));
        }
        let whole = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
        let whole = whole.map_err(|error| PlanError::internal("scan", error))?;
        let scan = ScanExec::new(leaf, source).of_table(table_name(config));
        Ok(Branch {
            plan: Arc::new(scan.with_statistics(whole)),
            tasks: splits.len(),
            scans: vec![(leaf, splits)],
        })
    }
}

fn with_sample(all: Branch, sample: Sample) -> Result<Branch, PlanError> {
    let scan = all.plan.downcast_ref::<ScanExec>();
    let scan =
        scan.ok_or_else(|| PlanError::internal("sample", format!("{} is no scan", all.plan.name())))?;
    Ok(Branch {
        plan: Arc::new(scan.sampled(Some(sample))),
        ..all
    })
}

fn one_task(plan: Arc<dyn ExecutionPlan>) -> Branch {
    Branch {
        plan,
        tasks: 1,
        scans: Vec::new(),
    }
}

/// A leaf that travels inside its fragment: literal rows, generated series.
fn whole(plan: &Arc<dyn ExecutionPlan>) -> Result<Branch, PlanError> {
    let empty = plan.downcast_ref::<EmptyExec>().is_some();
    Ok(one_task(match plan.output_partitioning().partition_count() {
        0 => Arc::new(EmptyExec::new(plan.schema())),
        _ if empty => Arc::new(EmptyExec::new(plan.schema())),
        1 => Arc::clone(plan),
        _ => Arc::new(CoalescePartitionsExec::new(Arc::clone(plan))),
    }))
}
