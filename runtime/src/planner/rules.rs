//! Our rules among DataFusion's physical optimizer rules.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::CachedParquetMetaData;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use super::sample::SampleExec;
use super::scan::file_config;
use super::split::{Cuts, SplitTarget, SplittableFile, split_files};

/// Divides file scans into the splits that tasks will read, before any rule looks at partition counts. From
/// then on a scan's partitions are its tasks.
#[derive(Debug)]
pub(crate) struct SplitScans {
    target: SplitTarget,
    runtime: Arc<RuntimeEnv>,
}

impl SplitScans {
    pub(crate) fn new(target: SplitTarget, runtime: Arc<RuntimeEnv>) -> Self {
        Self { target, runtime }
    }

    fn split(&self, config: &FileScanConfig, is_sampled: bool) -> FileScanConfig {
        let files: Vec<&PartitionedFile> = config
            .file_groups
            .iter()
            .flat_map(|group| group.files())
            .collect();
        // Someone has divided them already; the ranges stay, each file group is a task.
        let divided = files.iter().any(|file| file.range.is_some());
        // An order of the whole scan does not survive new splits, and a claimed partitioning neither.
        let builder = FileScanConfigBuilder::from(config.clone())
            .with_output_ordering(Vec::new())
            .with_output_partitioning(None);
        if divided || files.is_empty() {
            return builder.build();
        }
        let source = config.file_source().file_type();
        let total = files.iter().map(|file| file.object_meta.size).sum();
        let splittable: Vec<SplittableFile> = files
            .iter()
            .map(|file| SplittableFile {
                size: file.object_meta.size,
                // A row's place counts from the beginning of its row group, or of its file.
                cuts: match source {
                    "parquet" => self.cuts(config, file),
                    _ if is_sampled => Cuts::Nowhere,
                    _ => self.cuts(config, file),
                },
            })
            .collect();
        let groups = split_files(&splittable, self.target.tasks_for(total))
            .into_iter()
            .map(|parts| {
                let files = parts.iter().filter_map(|part| {
                    let file = (*files.get(part.file)?).clone();
                    if part.start == 0 && part.end == file.object_meta.size {
                        return Some(file);
                    }
                    Some(file.with_range(i64::try_from(part.start).ok()?, i64::try_from(part.end).ok()?))
                });
                FileGroup::new(files.collect())
            })
            .collect();
        builder.with_file_groups(groups).build()
    }

    fn cuts(&self, config: &FileScanConfig, file: &PartitionedFile) -> Cuts {
        let source = config.file_source();
        if config.file_compression_type.is_compressed() || !source.supports_repartitioning() {
            return Cuts::Nowhere;
        }
        match source.file_type() {
            "parquet" => self.row_groups(file).map_or(Cuts::AnyByte, Cuts::RowGroups),
            // It has no footer that would tell where batches begin; the source does not say so of itself.
            "arrow_stream" => Cuts::Nowhere,
            _ => Cuts::AnyByte,
        }
    }

    /// Where the row groups of a Parquet file begin, if planning has read its footer. DataFusion gives a row
    /// group to the range that holds the first page of its first column.
    fn row_groups(&self, file: &PartitionedFile) -> Option<Vec<u64>> {
        let cache = self.runtime.cache_manager.get_file_metadata_cache();
        let entry = cache.get(&file.object_meta.location)?;
        if !entry.is_valid_for(&file.object_meta) {
            return None;
        }
        let footer = entry
            .file_metadata
            .as_any()
            .downcast_ref::<CachedParquetMetaData>()?;
        let mut starts = footer
            .parquet_metadata()
            .row_groups()
            .iter()
            .map(|group| {
                let first = group.columns().first()?;
                u64::try_from(first.dictionary_page_offset().unwrap_or(first.data_page_offset())).ok()
            })
            .collect::<Option<Vec<u64>>>()?;
        starts.sort_unstable();
        Some(starts)
    }
}

impl PhysicalOptimizerRule for SplitScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|plan| {
            if let Some(config) = file_config(&plan) {
                let scan = DataSourceExec::from_data_source(self.split(config, false));
                return Ok(Transformed::yes(scan as Arc<dyn ExecutionPlan>));
            }
            let sampled = plan.downcast_ref::<SampleExec>();
            let Some(config) = sampled.and_then(|sampled| file_config(sampled.scan())) else {
                return Ok(Transformed::no(plan));
            };
            let scan = DataSourceExec::from_data_source(self.split(config, true));
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            let sampled = plan.replace_children(vec![scan], options)?;
            Ok(Transformed::new(sampled, true, TreeNodeRecursion::Jump))
        })
        .data()
    }

    fn name(&self) -> &str {
        "split_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether a join of this type gives right rows when every task has the whole build (left) side and its own
/// part of the probe (right) side: no row of the build side may be emitted for lack of a match, nor once for
/// several tasks.
pub(crate) fn build_side_may_be_broadcast(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Inner
        | JoinType::Right
        | JoinType::RightSemi
        | JoinType::RightAnti
        | JoinType::RightMark => true,
        JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
            false
        }
    }
}

/// The largest probe side, in estimated bytes, that becomes a build side to keep a nested-loop join parallel.
const MAX_SWAPPED_BUILD_BYTES: usize = 64 << 20;

/// Hash joins of which the build side may not be broadcast are partitioned; nested-loop joins change sides.
/// Runs after join selection, which decides by size alone.
#[derive(Debug)]
pub(crate) struct PartitionUnsafeJoins;

impl PartitionUnsafeJoins {
    fn rewrite(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            let collects = *join.partition_mode() == PartitionMode::CollectLeft;
            // A null-aware anti join has to see the whole probe side in one task.
            if collects && !join.null_aware && !build_side_may_be_broadcast(*join.join_type()) {
                let partitioned = join
                    .builder()
                    .with_partition_mode(PartitionMode::Partitioned)
                    .build_exec()?;
                return Ok(Transformed::yes(partitioned));
            }
        } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>()
            && !build_side_may_be_broadcast(*join.join_type())
            && build_side_may_be_broadcast(join.join_type().swap())
            && is_small(join.right())
        {
            return Ok(Transformed::yes(join.swap_inputs()?));
        }
        Ok(Transformed::no(plan))
    }
}

fn is_small(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let statistics = StatisticsContext::new()
        .compute(plan.as_ref(), &StatisticsArgs::new())
        .unwrap_or_else(|_| Arc::new(Statistics::new_unknown(&plan.schema())));
    statistics
        .total_byte_size
        .get_value()
        .is_none_or(|bytes| *bytes <= MAX_SWAPPED_BUILD_BYTES)
}

impl PhysicalOptimizerRule for PartitionUnsafeJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(Self::rewrite).data()
    }

    fn name(&self) -> &str {
        "partition_unsafe_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
