//! Exchanges that DataFusion's own repartitioning operators stand for.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{AcrossPartitions, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use sluice_core::ids::ExchangeId;
use sluice_core::plan::ExchangeKind;

use super::super::error::PlanError;
use super::super::shuffle_read_exec::{ReadMode, RowFacts, ShuffleReadExec};
use super::stage_builder::to_u32;
use super::{Branch, Cutter, total_tasks};

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
        let facts = shared_facts(&branches, ReadMode::Merged, None)?;
        let exchange = self.close_all(branches, ExchangeKind::Forward, 1, &[], why)?;
        self.set_fetch(exchange, fetch);
        Ok(limited(
            Branch {
                plan: read(exchange, &schema, ReadMode::Merged, facts)?,
                tasks: 1,
                scans: Vec::new(),
            },
            fetch,
        ))
    }

    /// Any `fetch` rows of the exchange are enough: its only reader is a limit.
    fn set_fetch(&mut self, exchange: ExchangeId, fetch: Option<usize>) {
        if let Some(written) = self.exchanges.get_mut(exchange.0 as usize) {
            written.exchange.fetch = fetch.map(|rows| rows as u64);
        }
    }

    /// All rows of `plan`, whose branches these are, in one task; in its order, if it has one.
    pub(super) fn gather_in_order(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        branches: Vec<Branch>,
        why: &str,
    ) -> Result<Branch, PlanError> {
        match plan.output_ordering() {
            Some(ordering) => self.merge(branches, ordering, None, why),
            None => self.gather(branches, None, why),
        }
    }

    /// All rows in one task, merged in the order that each task's rows have.
    pub(super) fn merge_sorted(&mut self, merge: &SortPreservingMergeExec) -> Result<Branch, PlanError> {
        let branches = self.visit(merge.input())?;
        self.merge_branches(merge, branches)
    }

    /// The rows of sorted branches in one task.
    pub(super) fn merge_branches(
        &mut self,
        merge: &SortPreservingMergeExec,
        branches: Vec<Branch>,
    ) -> Result<Branch, PlanError> {
        let why = format!("rows merge by {} in one task", merge.expr());
        self.merge(branches, merge.expr(), merge.fetch(), &why)
    }

    fn merge(
        &mut self,
        branches: Vec<Branch>,
        ordering: &LexOrdering,
        fetch: Option<usize>,
        why: &str,
    ) -> Result<Branch, PlanError> {
        let sorted = branches.into_iter().map(|branch| {
            let branch = sorted(branch, ordering, fetch)?;
            Ok(limited(branch, fetch))
        });
        let mut branches = sorted.collect::<Result<Vec<_>, PlanError>>()?;
        if total_tasks(&branches) == 1
            && let Some(branch) = branches.pop()
        {
            return Ok(branch);
        }
        let mode = ReadMode::PerMapTask(to_u32(total_tasks(&branches))?);
        let facts = shared_facts(&branches, mode, Some(ordering))?;
        let schema = schema_of(&branches)?;
        let exchange = self.close_all(branches, ExchangeKind::Forward, 1, &[], why)?;
        let read = read(exchange, &schema, mode, facts)?;
        Ok(Branch {
            plan: Arc::new(SortPreservingMergeExec::new(ordering.clone(), read).with_fetch(fetch)),
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
        if let Some(ordering) = ordering.filter(|_| streams > 1) {
            let sorted = branches.into_iter().map(|branch| sorted(branch, &ordering, None));
            let branches = sorted.collect::<Result<Vec<_>, _>>()?;
            let mode = ReadMode::PerMapTask(to_u32(streams)?);
            let facts = shared_facts(&branches, mode, Some(&ordering))?;
            let exchange = self.close_all(branches, ExchangeKind::Hash, partitions, keys, why)?;
            let read = read(exchange, &schema, mode, facts)?;
            return Ok(Branch {
                plan: Arc::new(SortPreservingMergeExec::new(ordering, read)),
                tasks: partitions,
                scans: Vec::new(),
            });
        }
        // A single stream arrives in the order it was written in.
        let facts = shared_facts(&branches, ReadMode::Merged, None)?;
        let exchange = self.close_all(branches, ExchangeKind::Hash, partitions, keys, why)?;
        Ok(Branch {
            plan: read(exchange, &schema, ReadMode::Merged, facts)?,
            tasks: partitions,
            scans: Vec::new(),
        })
    }
}

/// A leaf that reads `exchange`.
pub(super) fn read(
    exchange: ExchangeId,
    schema: &SchemaRef,
    mode: ReadMode,
    facts: RowFacts,
) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let leaf = ShuffleReadExec::try_new(exchange.0, schema, mode, facts)
        .map_err(|error| PlanError::internal("shuffle read", error))?;
    Ok(Arc::new(leaf))
}

/// The schema that all branches write.
pub(super) fn schema_of(branches: &[Branch]) -> Result<SchemaRef, PlanError> {
    let first = branches
        .first()
        .ok_or_else(|| PlanError::internal("cut", "a union without branches"))?;
    Ok(first.plan.schema())
}

/// What holds for the rows of every branch when they are read in this mode; `ordering`, which each of them has, first.
pub(super) fn shared_facts(
    branches: &[Branch],
    mode: ReadMode,
    ordering: Option<&LexOrdering>,
) -> Result<RowFacts, PlanError> {
    let mut facts = RowFacts::default();
    let Some((first, others)) = branches.split_first() else {
        return Ok(facts);
    };
    let apart = match mode {
        ReadMode::PerMapTask(_) => true,
        ReadMode::Merged => total_tasks(branches) == 1,
    };
    let properties = first.plan.equivalence_properties();
    if apart {
        facts.orderings.extend(ordering.cloned());
        // Streams apart are merged, and a merge would claim every ordering that each of them has.
        let others_hold = matches!(mode, ReadMode::Merged);
        for candidate in properties.oeq_class().iter().filter(|_| others_hold) {
            let mut held = true;
            for branch in others {
                held &= is_sorted(&branch.plan, candidate)?;
            }
            if held && !facts.orderings.contains(candidate) {
                facts.orderings.push(candidate.clone());
            }
        }
    }
    for constant in properties.constants() {
        let Some(column) = constant.expr.downcast_ref::<Column>() else {
            continue;
        };
        let all: Option<Vec<AcrossPartitions>> = branches
            .iter()
            .map(|branch| {
                let properties = branch.plan.equivalence_properties();
                properties.is_expr_constant(&constant.expr)
            })
            .collect();
        match all.as_deref() {
            Some([AcrossPartitions::Uniform(Some(value)), rest @ ..])
                if rest
                    .iter()
                    .all(|other| *other == AcrossPartitions::Uniform(Some(value.clone()))) =>
            {
                facts.constants.push((column.index(), Some(value.clone())));
            }
            Some(_) if apart => facts.constants.push((column.index(), None)),
            Some(_) | None => {}
        }
    }
    for class in properties.eq_group().iter() {
        let columns: Vec<_> = class.iter().filter(|part| part.is::<Column>()).collect();
        let Some((same, rest)) = columns.split_first() else {
            continue;
        };
        let held = rest.iter().filter(|column| {
            others.iter().all(|branch| {
                let group = branch.plan.equivalence_properties().eq_group();
                group.exprs_equal(same, column)
            })
        });
        let indices: Vec<usize> = std::iter::once(same)
            .chain(held)
            .filter_map(|column| column.downcast_ref::<Column>().map(Column::index))
            .collect();
        if indices.len() > 1 {
            facts.equal.push(indices);
        }
    }
    Ok(facts)
}

/// Whether the rows of each partition of `plan` are known to have this order.
fn is_sorted(plan: &Arc<dyn ExecutionPlan>, ordering: &LexOrdering) -> Result<bool, PlanError> {
    plan.equivalence_properties()
        .ordering_satisfy(ordering.iter().cloned())
        .map_err(|error| PlanError::internal("order", error))
}

/// The same rows in this order. The plan that was cut had it; a cut below may have taken it away.
pub(super) fn sorted(
    branch: Branch,
    ordering: &LexOrdering,
    fetch: Option<usize>,
) -> Result<Branch, PlanError> {
    if is_sorted(&branch.plan, ordering)? {
        return Ok(branch);
    }
    let plan = SortExec::new(ordering.clone(), Arc::clone(&branch.plan)).with_fetch(fetch);
    Ok(Branch {
        plan: Arc::new(plan),
        ..branch
    })
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
