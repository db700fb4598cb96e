//! Recursive queries: all of one runs in one task.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use sluice_core::plan::Split;

use super::super::error::PlanError;
use super::super::recursion::WorkTablePlaceholder;
use super::super::sample::SampleExec;
use super::{Branch, Cutter, check_limits, with_children};

/// What is known inside a recursive query.
#[derive(Default)]
struct RecursionScope {
    /// The recursive queries around, innermost last: name and columns.
    queries: Vec<(String, SchemaRef)>,
    scans: Vec<(u32, Vec<Split>)>,
}

impl Cutter<'_> {
    /// A recursive query with everything below it: each round needs all rows of the round before, and starts
    /// its inputs anew.
    pub(super) fn recursive(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Branch, PlanError> {
        self.note(
            plan,
            "each round of a recursive query needs all rows of the round before",
        );
        let mut scope = RecursionScope::default();
        let plan = self.local(plan, &mut scope)?;
        Ok(Branch {
            plan,
            tasks: 1,
            scans: scope.scans,
        })
    }

    /// The same plan without cuts, each scan reading all of its table.
    fn local(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        scope: &mut RecursionScope,
    ) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        check_limits(plan)?;
        if let Some(work) = plan.downcast_ref::<WorkTableExec>() {
            return work_table(work, scope);
        }
        if plan.children().is_empty() {
            let branch = self.leaf_in_one_task(plan)?;
            scope.scans.extend(branch.scans);
            return Ok(branch.plan);
        }
        if let Some(sampled) = plan.downcast_ref::<SampleExec>() {
            let branch = self.sampled_in_one_task(sampled)?;
            scope.scans.extend(branch.scans);
            return Ok(branch.plan);
        }
        if let Some(query) = plan.downcast_ref::<RecursiveQueryExec>() {
            let first = self.local(query.static_term(), scope)?;
            scope.queries.push((query.name().to_owned(), plan.schema()));
            let again = self.local(query.recursive_term(), scope)?;
            scope.queries.pop();
            return with_children(plan, vec![one_partition(first), one_partition(again)]);
        }
        let mut children = Vec::new();
        for child in plan.children() {
            children.push(self.local(child, scope)?);
        }
        if plan.downcast_ref::<RepartitionExec>().is_some()
            && let Some(child) = children.pop()
        {
            return Ok(one_partition(child));
        }
        if plan.downcast_ref::<InterleaveExec>().is_some() {
            let union =
                UnionExec::try_new(children).map_err(|error| PlanError::internal("recursion", error))?;
            return Ok(one_partition(union));
        }
        // Sides that were partitioned alike are one partition each.
        if plan.downcast_ref::<HashJoinExec>().is_some() || plan.downcast_ref::<SortMergeJoinExec>().is_some()
        {
            children = children.into_iter().map(one_partition).collect();
        }
        with_children(plan, children)
    }
}

fn one_partition(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() == 1 {
        return plan;
    }
    Arc::new(CoalescePartitionsExec::new(plan))
}

fn work_table(work: &WorkTableExec, scope: &RecursionScope) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let query = scope.queries.iter().rev().find(|(name, _)| name == work.name());
    let (_, schema) = query
        .ok_or_else(|| PlanError::internal("recursion", format!("{} is no query around it", work.name())))?;
    Ok(Arc::new(WorkTablePlaceholder::try_new(work, Arc::clone(schema))?))
}
