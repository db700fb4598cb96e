//! The order of a query's rows: where they are many, tasks share the merge by ranges of the sort keys.

use std::sync::Arc;

use arrow::row::{RowConverter, SortField};
use datafusion::arrow::datatypes::Schema;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

use super::super::broadcast::estimated_bytes;
use super::super::error::PlanError;
use super::super::shuffle_read_exec::ReadMode;
use super::gather::{read, schema_of, shared_facts, sorted};
use super::stage_builder::to_u32;
use super::{Branch, Cutter, operator, total_tasks, with_children};

/// When tasks share the merge of sorted rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMerge {
    /// From so many bytes on, by estimate: below, one task is done before several would have begun.
    pub min_bytes: u64,
}

impl Default for SharedMerge {
    fn default() -> Self {
        Self { min_bytes: 16 << 20 }
    }
}

/// Operators that give a row for each row, in its order.
const ROW_WISE: &[&str] = &["ProjectionExec", "CoalesceBatchesExec", "CooperativeExec"];

impl Cutter<'_> {
    /// Cuts a plan whose rows leave the query in the order of `plan`, if there are many: its tasks each have a range of
    /// them, in the order of their numbers. `None`: nothing was cut.
    pub(super) fn ordered_root(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Vec<Branch>>, PlanError> {
        if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
            let shared = merge.fetch().is_none()
                && have_row_format(merge.expr(), &plan.schema())
                && estimated_bytes(merge.input()).is_none_or(|bytes| bytes >= self.shared_merge.min_bytes);
            return if shared {
                self.merge_ranges(merge).map(|branch| Some(vec![branch]))
            } else {
                Ok(None)
            };
        }
        match plan.children().as_slice() {
            [child] if ROW_WISE.contains(&operator(plan)) => {
                let Some(branches) = self.ordered_root(child)? else {
                    return Ok(None);
                };
                let above = branches.into_iter().map(|branch| {
                    Ok(Branch {
                        plan: with_children(plan, vec![branch.plan])?,
                        ..branch
                    })
                });
                above.collect::<Result<_, _>>().map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Each task merges a range of all sorted runs.
    fn merge_ranges(&mut self, merge: &SortPreservingMergeExec) -> Result<Branch, PlanError> {
        let ordering = merge.expr();
        let branches = self.visit(merge.input())?.into_iter();
        let sorted = branches.map(|branch| sorted(branch, ordering, None));
        let mut branches = sorted.collect::<Result<Vec<_>, _>>()?;
        if total_tasks(&branches) == 1
            && let Some(branch) = branches.pop()
        {
            return Ok(branch);
        }
        let tasks = self.partitions;
        if tasks == 1 {
            return self.merge_branches(merge, branches);
        }
        let mode = ReadMode::PerMapTask(to_u32(total_tasks(&branches))?);
        let facts = shared_facts(&branches, mode, Some(ordering))?;
        let schema = schema_of(&branches)?;
        let why = format!("rows are divided by ranges of {ordering}");
        let exchange = self.close_runs(branches, ordering, &why)?;
        let read = read(exchange, &schema, mode, facts)?;
        Ok(Branch {
            plan: Arc::new(SortPreservingMergeExec::new(ordering.clone(), read)),
            tasks,
            scans: Vec::new(),
        })
    }
}

/// Whether keys of the order can be compared as bytes.
fn have_row_format(ordering: &LexOrdering, schema: &Schema) -> bool {
    let fields = ordering.iter().map(|key| {
        let data_type = key.expr.data_type(schema)?;
        Ok(SortField::new_with_options(data_type, key.options))
    });
    let fields = fields.collect::<datafusion::error::Result<Vec<_>>>();
    fields.is_ok_and(|fields| RowConverter::supports_fields(&fields))
}
