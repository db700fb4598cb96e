//! Leaves rows out of a scan by the keys of runtime filters.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use sluice_core::key_filter::KeyLookup;

use super::bounds::within;
use super::lookup::{AdmittedExpr, admitted};
use super::scan;
use super::values::is_one_of;
use crate::planner::fixed_node::one_input;
use crate::planner::scan::ScanExec;
use crate::planner::shuffle_read_exec::InputProvider;

/// The metric of rows that were left out.
pub(crate) const ROWS_FILTERED: &str = "rows_filtered";
/// Rows after which a task decides whether to go on with a filter.
const TRIAL_ROWS: usize = 1 << 16;
/// It stops if the filter has dropped fewer than one row in this many.
const MIN_DROPPED_ONE_IN: usize = 8;
/// Rows are tested before their other columns are decoded if a filter admits at most one key in this many. TPC-H's lineitem at scale 10
/// takes a third less time so where one in 20,000 is admitted, as long with one in 500, and half as long again with one in 50: the
/// reader then decodes nearly every page, and skips through it row by row.
const LATE_ONE_IN: u64 = 1_000;

/// A filter and the column of the rows that has its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedFilter {
    pub(crate) filter: u32,
    pub(crate) column: usize,
    /// How many keys there would be at most without predicates, estimated; 0 if that is not known.
    pub(crate) of_keys: u64,
}

impl UsedFilter {
    /// Whether the filter admits so few keys that rows are tested before their other columns are decoded.
    fn tests_early(&self, lookup: &KeyLookup) -> bool {
        let keys = lookup.keys().and_then(|keys| u64::try_from(keys).ok());
        keys.is_some_and(|keys| keys.saturating_mul(LATE_ONE_IN) <= self.of_keys)
    }
}

/// Leaves out rows whose keys filters do not admit.
pub(crate) struct RuntimeFilterExec {
    input: Arc<dyn ExecutionPlan>,
    filters: Vec<UsedFilter>,
    /// The filters that the task has, with their columns; set when it begins.
    lookups: Vec<(usize, Arc<KeyLookup>)>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RuntimeFilterExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, filters: Vec<UsedFilter>) -> Self {
        // Filtering keeps all properties of the input but its number of rows.
        let properties = PlanProperties::new(
            input.equivalence_properties().clone(),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            filters,
            lookups: Vec::new(),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    pub(crate) fn filters(&self) -> &[UsedFilter] {
        &self.filters
    }

    /// The node with the filters of a task; its input alone if no filter drops rows.
    pub(crate) fn bound(&self, provider: &dyn InputProvider) -> Result<Arc<dyn ExecutionPlan>> {
        let known = self.filters.iter().filter_map(|used| {
            let lookup = provider.filter(used.filter)?;
            let drops_rows = !lookup.admits_everything() || lookup.bounds().is_some();
            drops_rows.then_some((*used, lookup))
        });
        let lookups: Vec<_> = known.collect();
        if lookups.is_empty() {
            return Ok(Arc::clone(&self.input));
        }
        let mut bound = Self::new(Arc::clone(&self.input), self.filters.clone());
        bound.input = scan::with_conditions(&self.input, bound.conditions(&lookups))?;
        let columns = lookups.into_iter().map(|(used, lookup)| (used.column, lookup));
        bound.lookups = columns.collect();
        Ok(Arc::new(bound))
    }

    /// What the filters know of the keys in their columns.
    fn conditions(&self, lookups: &[(UsedFilter, Arc<KeyLookup>)]) -> Vec<Arc<dyn PhysicalExpr>> {
        let schema = self.input.schema();
        let mut conditions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for (used, lookup) in lookups {
            let Some(field) = schema.fields().get(used.column) else {
                continue;
            };
            let column = Column::new(field.name(), used.column);
            if used.tests_early(lookup) {
                let dropped = MetricBuilder::new(&self.metrics).counter(ROWS_FILTERED, 0);
                let key = Arc::new(column.clone());
                conditions.push(Arc::new(AdmittedExpr::new(key, Arc::clone(lookup), dropped)));
            }
            let bounds = lookup.bounds();
            conditions.extend(bounds.and_then(|bounds| within(bounds, &column, field.data_type())));
            let values = lookup.values();
            conditions.extend(values.and_then(|values| is_one_of(values, &column, &schema)));
        }
        conditions
    }
}

impl fmt::Debug for RuntimeFilterExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeFilterExec")
            .field("filters", &self.filters)
            .field("bound", &!self.lookups.is_empty())
            .finish_non_exhaustive()
    }
}

impl DisplayAs for RuntimeFilterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RuntimeFilterExec:")?;
        let schema = self.input.schema();
        for (place, used) in self.filters.iter().enumerate() {
            let name = schema.fields().get(used.column).map_or("", |field| field.name());
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma} {name} in f{}", used.filter)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for RuntimeFilterExec {
    fn name(&self) -> &str {
        "RuntimeFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    one_input!(input, |node, input| Ok(Self {
        lookups: node.lookups.clone(),
        ..Self::new(input, node.filters.clone())
    }));

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    // Filters leave rows out in any order.
    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        // No row can match, so the input is not read.
        if self.lookups.iter().any(|(_, lookup)| lookup.admits_nothing()) {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        }
        let rows = self.input.execute(partition, context)?;
        let dropped = MetricBuilder::new(&self.metrics).counter(ROWS_FILTERED, partition);
        let lookups = self.lookups.iter();
        let mut filters: Vec<FilterTrial> = lookups
            .filter(|(_, lookup)| !lookup.admits_everything())
            .map(|(column, lookup)| FilterTrial::new(*column, Arc::clone(lookup)))
            .collect();
        let stream = rows.map(move |batch| filter_batch(batch?, &mut filters, &dropped));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// A filter in a task, and how many rows it has dropped.
struct FilterTrial {
    column: usize,
    lookup: Arc<KeyLookup>,
    tested: usize,
    dropped: usize,
    hashes: Vec<u64>,
}

impl FilterTrial {
    fn new(column: usize, lookup: Arc<KeyLookup>) -> Self {
        Self {
            column,
            lookup,
            tested: 0,
            dropped: 0,
            hashes: Vec::new(),
        }
    }

    fn is_worth_it(&self) -> bool {
        self.tested < TRIAL_ROWS || self.dropped * MIN_DROPPED_ONE_IN >= self.tested
    }

    fn admitted(&mut self, batch: &RecordBatch) -> Result<BooleanArray> {
        let keys = batch.columns().get(self.column).ok_or_else(|| {
            DataFusionError::Internal(format!("a runtime filter tests column {}", self.column))
        })?;
        let admitted = admitted(&self.lookup, keys, &mut self.hashes)?;
        self.tested += batch.num_rows();
        self.dropped += batch.num_rows() - admitted.true_count();
        Ok(admitted)
    }
}

fn filter_batch(mut batch: RecordBatch, filters: &mut [FilterTrial], dropped: &Count) -> Result<RecordBatch> {
    for filter in filters.iter_mut().filter(|filter| filter.is_worth_it()) {
        if batch.num_rows() == 0 {
            break;
        }
        let admitted = filter.admitted(&batch)?;
        if admitted.true_count() < batch.num_rows() {
            dropped.add(batch.num_rows() - admitted.true_count());
            batch = filter_record_batch(&batch, &admitted)?;
        }
    }
    Ok(batch)
}

/// Gives the filters of a plan to a task.
pub(crate) fn bind(
    plan: Arc<dyn ExecutionPlan>,
    provider: &Arc<dyn InputProvider>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        Ok(match node.downcast_ref::<RuntimeFilterExec>() {
            Some(filter) => Transformed::yes(filter.bound(provider.as_ref())?),
            None => Transformed::no(node),
        })
    })
    .data()
}

/// Puts filters above the scans of a plan; `of_scan` says which by the scan's number.
pub(super) fn above_scans<'a>(
    plan: Arc<dyn ExecutionPlan>,
    of_scan: &dyn Fn(u32) -> Option<&'a Vec<UsedFilter>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let filters = node
            .downcast_ref::<ScanExec>()
            .and_then(|scan| of_scan(scan.leaf()));
        Ok(match filters {
            Some(filters) => {
                let filtered: Arc<dyn ExecutionPlan> =
                    Arc::new(RuntimeFilterExec::new(node, filters.clone()));
                Transformed::yes(filtered)
            }
            None => Transformed::no(node),
        })
    })
    .data()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::physical_plan::metrics::Count;
    use sluice_core::key_filter::KeyFilter;

    use super::super::lookup::hash_keys;
    use crate::planner::shuffle_read_exec::{ReadMode, RowFacts, ShuffleReadExec};

    use super::*;

    fn batch(keys: impl IntoIterator<Item = Option<i64>>) -> RecordBatch {
        let keys: ArrayRef = Arc::new(keys.into_iter().collect::<Int64Array>());
        RecordBatch::try_from_iter_with_nullable([("k", keys, true)]).expect("a batch")
    }

    fn trial(keys: &RecordBatch) -> FilterTrial {
        let mut hashes = Vec::new();
        hash_keys(keys.column(0), &mut hashes).expect("keys have hashes");
        FilterTrial::new(0, Arc::new(KeyFilter::of(hashes).lookup()))
    }

    #[test]
    fn rows_without_a_match_and_null_keys_are_left_out() {
        let mut filters = [trial(&batch([Some(2), Some(4)]))];
        let dropped = Count::new();
        let rows = batch([Some(1), Some(2), None, Some(4), Some(2)]);
        let left = filter_batch(rows, &mut filters, &dropped).expect("it is filtered");
        let left = left.column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!((left, dropped.value()), (vec![2, 4, 2], 2));
    }

    #[tokio::test]
    async fn nothing_is_read_if_the_other_side_has_no_rows() {
        let facts = RowFacts::default();
        let schema = batch([]).schema();
        // A leaf without a reader: it fails when it is read.
        let leaf = ShuffleReadExec::try_new(0, &schema, ReadMode::Merged, facts).expect("a leaf");
        for (keys, reads) in [(batch([]), false), (batch([Some(1)]), true)] {
            let node = RuntimeFilterExec {
                lookups: vec![(0, trial(&keys).lookup)],
                ..RuntimeFilterExec::new(Arc::new(leaf.with_input_index(0)), Vec::new())
            };
            let rows = node.execute(0, Arc::new(TaskContext::default()));
            assert_eq!(rows.is_err(), reads);
        }
    }

    #[test]
    fn a_filter_that_leaves_out_next_to_nothing_is_given_up() {
        let all = batch((0..TRIAL_ROWS as i64).map(Some));
        let mut filters = [trial(&all)];
        let dropped = Count::new();
        let left = filter_batch(all, &mut filters, &dropped).expect("it is filtered");
        assert_eq!((left.num_rows(), dropped.value()), (TRIAL_ROWS, 0));
        assert!(!filters[0].is_worth_it());
        let others = batch([Some(-1), None]);
        let left = filter_batch(others, &mut filters, &dropped).expect("it is not filtered");
        assert_eq!((left.num_rows(), dropped.value()), (2, 0));
    }
}
