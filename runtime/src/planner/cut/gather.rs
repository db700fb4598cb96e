//! Exchanges that DataFusion's own repartitioning operators stand for.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use sluice_core::ids::ExchangeId;
use sluice_core::plan::ExchangeKind;

use super::super::error::PlanError;
use super::super::leaf::{ReadMode, ShuffleReadExec};
use super::close::number;
use super::{Branch, Cutter, total_tasks, with_children};

impl Cutter<'_> {
    /// All rows in one task, in any order. `fetch`: no more than so many of them.
    pub(super) fn gather(
        &mut self,
        branches: Vec<Branch>,
        fetch: Option<usize>,
        why: &str,
    ) -> Result<Branch, PlanError> {
        // The limit stands on both sides of the cut: below to write no more than needed, above to be right.
        let mut branches: Vec<Branch> = branches
            .into_iter()
            .map(|branch| limited(branch, fetch))
            .collect();
        if total_tasks(&branches) == 1
            && let Some(branch) = branches.pop()
        {
            return Ok(branch);
        }
        let schema = schema_of(&branches)?;
        let exchange = self.close_all(branches, ExchangeKind::Forward, 1, &[], why)?;
        let plan = self.read(exchange, schema, ReadMode::Merged, Vec::new());
        Ok(limited(
            Branch {
                plan,
                tasks: 1,
                scans: Vec::new(),
            },
            fetch,
        ))
    }

    /// All rows in one task, merged in the order that each task's rows have.
    pub(super) fn merge_sorted(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        merge: &SortPreservingMergeExec,
    ) -> Result<Branch, PlanError> {
        let branches = self.visit(merge.input())?;
        self.merge_branches(plan, merge, branches)
    }

    /// The rows of sorted branches in one task.
    pub(super) fn merge_branches(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        merge: &SortPreservingMergeExec,
        branches: Vec<Branch>,
    ) -> Result<Branch, PlanError> {
        let mut branches: Vec<Branch> = branches
            .into_iter()
            .map(|branch| limited(branch, merge.fetch()))
            .collect();
        if total_tasks(&branches) == 1
            && let Some(branch) = branches.pop()
        {
            return Ok(branch);
        }
        let orderings = orderings_of(merge.input());
        let schema = schema_of(&branches)?;
        let streams = number(total_tasks(&branches))?;
        let why = format!("rows merge by {} in one task", merge.expr());
        let exchange = self.close_all(branches, ExchangeKind::Forward, 1, &[], &why)?;
        let read = self.read(exchange, schema, ReadMode::PerMapTask(streams), orderings);
        Ok(Branch {
            plan: with_children(plan, vec![read])?,
            tasks: 1,
            scans: Vec::new(),
        })
    }

    /// Rows of equal keys in one of `partitions` tasks. `ordering`: the order to keep while streams meet.
    pub(super) fn hash(
        &mut self,
        branches: Vec<Branch>,
        keys: &[Arc<dyn PhysicalExpr>],
        partitions: usize,
        ordering: Option<LexOrdering>,
        why: &str,
    ) -> Result<Branch, PlanError> {
        let schema = schema_of(&branches)?;
        let streams = total_tasks(&branches);
        // A single stream arrives in the order it was written in.
        let single = if streams == 1 {
            branches.first().map(|branch| orderings_of(&branch.plan))
        } else {
            None
        };
        let exchange = self.close_all(branches, ExchangeKind::Hash, partitions, keys, why)?;
        let plan = match (single, ordering) {
            (Some(orderings), _) => self.read(exchange, schema, ReadMode::Merged, orderings),
            (None, Some(ordering)) => {
                let mode = ReadMode::PerMapTask(number(streams)?);
                let read = self.read(exchange, schema, mode, vec![ordering.clone()]);
                Arc::new(SortPreservingMergeExec::new(ordering, read))
            }
            (None, None) => self.read(exchange, schema, ReadMode::Merged, Vec::new()),
        };
        Ok(Branch {
            plan,
            tasks: partitions,
            scans: Vec::new(),
        })
    }

    /// A leaf that reads `exchange`.
    pub(super) fn read(
        &self,
        exchange: ExchangeId,
        schema: SchemaRef,
        mode: ReadMode,
        orderings: Vec<LexOrdering>,
    ) -> Arc<dyn ExecutionPlan> {
        Arc::new(ShuffleReadExec::new(exchange.0, schema, mode, orderings))
    }
}

/// The schema that all branches write.
pub(super) fn schema_of(branches: &[Branch]) -> Result<SchemaRef, PlanError> {
    let first = branches
        .first()
        .ok_or_else(|| PlanError::internal("cut", "a union without branches"))?;
    Ok(first.plan.schema())
}

/// Every order that each partition of `plan` has.
fn orderings_of(plan: &Arc<dyn ExecutionPlan>) -> Vec<LexOrdering> {
    plan.equivalence_properties()
        .oeq_class()
        .iter()
        .cloned()
        .collect()
}

/// At most `fetch` rows of each task.
fn limited(branch: Branch, fetch: Option<usize>) -> Branch {
    match fetch {
        None => branch,
        Some(fetch) => {
            let plan = Arc::new(LocalLimitExec::new(Arc::clone(&branch.plan), fetch));
            Branch { plan, ..branch }
        }
    }
}
