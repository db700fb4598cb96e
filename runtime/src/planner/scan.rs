//! The leaf of a fragment that scans a table: a placeholder that a split fills.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use sluice_core::plan::{FileRange, Split};

use super::error::PlanError;
use super::sample::{Sample, SampledScan};
use crate::source::tpch::TpchScanExec;
use crate::source::{CheckedScan, Decoder, input_file, object_meta};

/// Scans a table: the placeholder in a fragment that a split fills. The source inside it reads nothing until then.
#[derive(Debug)]
pub struct ScanExec {
    leaf: u32,
    /// For people; it does not travel.
    table: Option<String>,
    statistics: KnownRows,
    source: Arc<dyn ExecutionPlan>,
    /// Which of the rows are read, if not all.
    sample: Option<Sample>,
}

/// What planning knows of the rows of all splits. It does not travel, so the full form of a scan leaves it out.
#[derive(Clone, Default)]
struct KnownRows(Option<Arc<Statistics>>);

impl fmt::Debug for KnownRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownRows")
    }
}

impl ScanExec {
    /// Scan `leaf` of the query, reading through `source` (one partition).
    pub fn new(leaf: u32, source: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            leaf,
            table: None,
            statistics: KnownRows::default(),
            source,
            sample: None,
        }
    }

    /// The same scan of some of the rows.
    pub(crate) fn sampled(&self, sample: Option<Sample>) -> Self {
        Self {
            leaf: self.leaf,
            table: self.table.clone(),
            statistics: self.statistics.clone(),
            source: Arc::clone(&self.source),
            sample,
        }
    }

    /// Which of the rows are read, if not all.
    pub(crate) fn sample(&self) -> Option<Sample> {
        self.sample
    }

    /// The same scan of a table with a name.
    pub(crate) fn of_table(mut self, table: Option<String>) -> Self {
        self.table = table;
        self
    }

    /// The same scan with what is known of its rows.
    pub(crate) fn with_statistics(mut self, statistics: Arc<Statistics>) -> Self {
        self.statistics = KnownRows(Some(statistics));
        self
    }

    /// The table's name, while planning.
    pub(crate) fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// The scan's number in the query; splits name it.
    pub fn leaf(&self) -> u32 {
        self.leaf
    }

    /// What reads the rows.
    pub fn source(&self) -> &Arc<dyn ExecutionPlan> {
        &self.source
    }

    /// A fresh source that reads `split`.
    pub(crate) fn filled(&self, split: &Split) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        match split {
            Split::Whole => Ok(Arc::clone(&self.source)),
            Split::Files(ranges) => {
                let config = file_config(&self.source).ok_or_else(|| {
                    PlanError::fragment("split", format!("scan {} reads no files", self.leaf))
                })?;
                match self.sample {
                    None => scan_of_ranges(config, ranges),
                    Some(sample) => Ok(Arc::new(SampledScan::of_files(config, ranges, sample))),
                }
            }
            Split::Tpch {
                part: split_part,
                parts,
            } => {
                let scan = self.source.downcast_ref::<TpchScanExec>().ok_or_else(|| {
                    PlanError::fragment("split", format!("scan {} generates no rows", self.leaf))
                })?;
                let part = scan
                    .with_part(*split_part, *parts)
                    .map_err(|error| PlanError::fragment("split", error))?;
                let Some(sample) = self.sample else {
                    return Ok(Arc::new(part));
                };
                let name = format!("tpch {} {} {parts}", scan.table().name(), scan.scale_factor());
                Ok(Arc::new(SampledScan::of_part(
                    Arc::new(part),
                    name,
                    (*split_part).into(),
                    sample,
                )))
            }
        }
    }
}

/// A scan that reads these ranges.
pub(crate) fn scan_of_ranges(
    config: &FileScanConfig,
    ranges: &[FileRange],
) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let decoder = Decoder::of(config);
    let files = ranges
        .iter()
        .map(|range| partitioned_file(range, &decoder))
        .collect::<Result<Vec<_>, _>>()?;
    let config = FileScanConfigBuilder::from(config.clone())
        .with_file_groups(vec![FileGroup::new(files)])
        .build();
    let scan = DataSourceExec::from_data_source(config);
    Ok(Arc::new(CheckedScan::new(scan, decoder, ranges)))
}

/// The file scan that `plan` is, if it is one.
pub(crate) fn file_config(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?
        .data_source()
        .downcast_ref::<FileScanConfig>()
}

/// What people call the table that a file scan reads: its name, else the folder of its first file.
pub(crate) fn table_name(config: &FileScanConfig) -> Option<String> {
    let first = config.file_groups.iter().flat_map(|group| group.files()).next()?;
    if let Some(table) = &first.table_reference {
        return Some(table.table().to_owned());
    }
    let parts: Vec<_> = first.object_meta.location.parts().collect();
    let folder = parts.len().checked_sub(2).and_then(|place| parts.get(place))?;
    Some(folder.as_ref().to_owned())
}

/// The ranges of one file group.
pub(crate) fn ranges(group: &FileGroup) -> Result<Vec<FileRange>, PlanError> {
    group.files().iter().map(file_range).collect()
}

fn file_range(file: &PartitionedFile) -> Result<FileRange, PlanError> {
    if !file.partition_values.is_empty() {
        return Err(PlanError::Unsupported {
            what: format!("columns from the folder names of {}", file.object_meta.location),
            fix: "declare the table on the folder that holds the files".into(),
        });
    }
    let meta = &file.object_meta;
    let (start, end) = match &file.range {
        None => (0, meta.size),
        Some(range) => (
            u64::try_from(range.start).map_err(|error| PlanError::internal("split", error))?,
            u64::try_from(range.end).map_err(|error| PlanError::internal("split", error))?,
        ),
    };
    let file = input_file(meta).ok_or_else(|| PlanError::Unsupported {
        what: format!(
            "the modification time {} of {}",
            meta.last_modified, meta.location
        ),
        fix: "give the file a time between 1678 and 2262".into(),
    })?;
    Ok(FileRange { file, start, end })
}

fn partitioned_file(range: &FileRange, decoder: &Decoder) -> Result<PartitionedFile, PlanError> {
    let file = &range.file;
    let invalid = |message: &str| PlanError::fragment("split", format!("file {}: {message}", file.path));
    if range.start > range.end || range.end > file.size {
        return Err(invalid(&format!(
            "bytes {}..{} are not within its {} bytes",
            range.start, range.end, file.size
        )));
    }
    let whole = PartitionedFile::from(object_meta(file).ok_or_else(|| invalid("it has no valid path"))?);
    // Text has a range in any case: without one it would be read to its end, which may never come while somebody
    // appends to it.
    if range.start == 0 && range.end == file.size && !matches!(decoder, Decoder::Text(_)) {
        return Ok(whole);
    }
    let start = i64::try_from(range.start).map_err(|error| invalid(&error.to_string()))?;
    let end = i64::try_from(range.end).map_err(|error| invalid(&error.to_string()))?;
    Ok(whole.with_range(start, end))
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: leaf={}, ", self.leaf)?;
        if let Some(sample) = self.sample {
            write!(f, "{:?} {} %, ", sample.method, sample.percent)?;
        }
        self.source.fmt_as(format, f)
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.source.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.source.apply_expressions(f)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        debug_assert_eq!(self.source.output_partitioning().partition_count(), 1);
        Err(DataFusionError::Internal(format!(
            "scan {} of the task has no split",
            self.leaf
        )))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let known = self.statistics.0.clone();
        Ok(known.unwrap_or_else(|| Arc::new(Statistics::new_unknown(&self.schema()))))
    }
}
