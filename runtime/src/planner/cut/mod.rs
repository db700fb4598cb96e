//! Cutting: a physical plan of DataFusion becomes stages with exchanges between them.
//!
//! A plan of n partitions becomes n tasks that each execute a one-partition instance of it. Where rows change
//! partitions (hash repartition, coalesce, sort-preserving merge, the build side of a join) the plan is cut:
//! what lies below closes into stages that write an exchange, a [`ShuffleReadExec`] takes its place above.
//!
//! A union is not a place where rows meet: its branches go on side by side, each with its own copy of the
//! operators above, and close as stages of their own at the next cut.

mod gather;
mod join;
pub(super) mod order;
mod recursive;
mod scan;
mod stage_builder;

use std::sync::Arc;

use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, Partitioning, PhysicalExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use sluice_core::plan::{Determinism, Exchange, ExchangeKind, Split, Stage, StageGraph};

use self::order::SharedMerge;
pub(super) use self::stage_builder::requirements_hold;
use super::error::PlanError;
use super::sample::SampleExec;
use super::schema_exec::SchemaExec;
use super::{PlanNote, PlannedQuery, PlannedStage};

/// Part of a plan that becomes one stage, as far as it is known: a one-partition instance of the operators,
/// and the tasks that run it.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    plan: Arc<dyn ExecutionPlan>,
    /// How many tasks run it, at least 1.
    tasks: usize,
    /// For each scan leaf its number and the split of each task.
    scans: Vec<(u32, Vec<Split>)>,
}

/// What is known of an exchange when its readers are cut.
#[derive(Debug, Clone)]
struct CutExchange {
    exchange: Exchange,
    /// Map tasks over all writing stages.
    map_tasks: usize,
    /// The least determinate of the writing stages.
    determinism: Determinism,
    /// Why it was cut there.
    why: String,
}

/// Cuts one plan.
pub(crate) struct Cutter<'a> {
    context: &'a TaskContext,
    stages: Vec<Stage>,
    planned: Vec<PlannedStage>,
    exchanges: Vec<CutExchange>,
    notes: Vec<PlanNote>,
    next_leaf: u32,
    /// How many tasks share what is divided, at least 1.
    partitions: usize,
    shared_merge: SharedMerge,
}

/// Cuts `plan`, a physical plan made in a session of [`super::session_state`], into stages. `context` is that
/// session's. The result counts as ordered if the plan's output is.
///
/// # Errors
/// [`PlanError::Unsupported`] for an operator that does not travel; [`PlanError::TooDeep`] for a stage that is
/// nested deeper than its encoding allows.
pub fn cut(plan: &Arc<dyn ExecutionPlan>, context: &TaskContext) -> Result<PlannedQuery, PlanError> {
    let config = context.session_config();
    let mut cutter = Cutter {
        context,
        stages: Vec::new(),
        planned: Vec::new(),
        exchanges: Vec::new(),
        notes: Vec::new(),
        next_leaf: 0,
        partitions: config.target_partitions().max(1),
        shared_merge: config
            .get_extension::<SharedMerge>()
            .map_or_else(SharedMerge::default, |given| *given),
    };
    let (branches, ordered) = match cutter.ordered_root(plan)? {
        Some(branches) => (branches, true),
        None => {
            let branches = cutter.visit(plan)?;
            match plan.output_ordering() {
                Some(ordering) if total_tasks(&branches) == 1 => {
                    let branches = branches.into_iter();
                    let sorted = branches.map(|branch| gather::sorted(branch, ordering, None));
                    (sorted.collect::<Result<_, _>>()?, true)
                }
                Some(_) | None => (branches, false),
            }
        }
    };
    let result = cutter.close_all(branches, ExchangeKind::Forward, 1, &[], "the query's result")?;
    if ordered {
        let roots = cutter.stages.iter().filter(|stage| stage.output == result);
        let roots: Vec<_> = roots.map(|stage| stage.id).collect();
        cutter.keep_whole(&roots);
    }
    let exchanges: Vec<Exchange> = cutter
        .exchanges
        .iter()
        .map(|written| written.exchange.clone())
        .collect();
    let reasons = cutter
        .exchanges
        .iter()
        .map(|written| written.why.clone())
        .collect();
    Ok(PlannedQuery {
        join_orders: Vec::new(),
        graph: StageGraph {
            stages: cutter.stages,
            exchanges,
            result,
            ordered,
            filters: Vec::new(),
        },
        stages: cutter.planned,
        schema: plan.schema(),
        notes: cutter.notes,
        reasons,
    })
}

fn total_tasks(branches: &[Branch]) -> usize {
    branches.iter().map(|branch| branch.tasks).sum()
}

/// A node with other children.
fn with_children(
    plan: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    Arc::clone(plan)
        .replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
        .map_err(|error| PlanError::internal("cut", format!("{}: {error}", plan.name())))
}

/// The name of a node without its mode: DataFusion calls a sort with a limit `SortExec(TopK)`.
pub(crate) fn operator(plan: &Arc<dyn ExecutionPlan>) -> &str {
    plan.name().split('(').next().unwrap_or_default()
}

/// Operators that treat each partition of their one input for itself, as far as they require no other
/// distribution of it.
const PARTITION_WISE: &[&str] = &[
    "FilterExec",
    "ProjectionExec",
    "AggregateExec",
    "SortExec",
    "PartialSortExec",
    "LocalLimitExec",
    "GlobalLimitExec",
    "BoundedWindowAggExec",
    "WindowAggExec",
    "UnnestExec",
    "CooperativeExec",
    "CoalesceBatchesExec",
    "AsyncFuncExec",
    "BufferExec",
    "OpaqueExec",
];

impl Cutter<'_> {
    /// Cuts what lies at and below `plan`. The branches together have its rows.
    fn visit(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Branch>, PlanError> {
        check_limits(plan)?;
        let branches = self.visit_node(plan)?;
        // The operators above were planned for one partition and would each take a part for the whole.
        if plan.output_partitioning().partition_count() == 1 && total_tasks(&branches) > 1 {
            self.note(plan, "it was planned for one partition");
            let branch = self.gather_in_order(plan, branches, "an operator needs all rows")?;
            return Ok(vec![branch]);
        }
        Ok(branches)
    }

    fn visit_node(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Branch>, PlanError> {
        if plan.downcast_ref::<DataSourceExec>().is_some() || plan.children().is_empty() {
            return Ok(vec![self.leaf(plan)?]);
        }
        if let Some(sampled) = plan.downcast_ref::<SampleExec>() {
            return Ok(vec![self.sampled(sampled)?]);
        }
        if let Some(repartition) = plan.downcast_ref::<RepartitionExec>() {
            return self.repartition(plan, repartition);
        }
        if let Some(coalesce) = plan.downcast_ref::<CoalescePartitionsExec>() {
            let branches = self.visit(coalesce.input())?;
            let branch = self.gather(branches, coalesce.fetch(), "all rows meet in one task")?;
            return Ok(vec![branch]);
        }
        if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
            return Ok(vec![self.merge_sorted(merge)?]);
        }
        if plan.downcast_ref::<UnionExec>().is_some() {
            return self.union(plan);
        }
        if plan.downcast_ref::<InterleaveExec>().is_some() {
            return self.interleave(plan);
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            return self.hash_join(plan, join);
        }
        if plan.downcast_ref::<CrossJoinExec>().is_some() {
            return self.broadcast_join(plan);
        }
        if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            return self.nested_loop_join(plan, *join.join_type());
        }
        if plan.downcast_ref::<SortMergeJoinExec>().is_some() {
            return self.co_partitioned(plan);
        }
        if plan.downcast_ref::<RecursiveQueryExec>().is_some() {
            return Ok(vec![self.recursive(plan)?]);
        }
        match plan.children().as_slice() {
            [child] if PARTITION_WISE.contains(&operator(plan)) => self.partition_wise(plan, child),
            _ => Ok(vec![self.in_one_task(
                plan,
                "it is not known how its partitions depend on each other",
            )?]),
        }
    }

    /// An operator on top of each branch of its input.
    fn partition_wise(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        child: &Arc<dyn ExecutionPlan>,
    ) -> Result<Vec<Branch>, PlanError> {
        let mut branches = self.visit(child)?;
        let requirements = plan.input_distribution_requirements();
        let apart = match requirements.child_distribution(0) {
            None | Some(Distribution::UnspecifiedDistribution) => true,
            Some(Distribution::SinglePartition) => total_tasks(&branches) == 1,
            // Rows of equal keys meet within a branch only.
            Some(_) => branches.len() == 1,
        };
        if !apart {
            self.note(plan, "its rows come from several branches of a union");
            branches = vec![self.gather_in_order(child, branches, "an operator needs all rows")?];
        }
        branches
            .into_iter()
            .map(|branch| {
                Ok(Branch {
                    plan: with_children(plan, vec![branch.plan])?,
                    ..branch
                })
            })
            .collect()
    }

    /// The branches of a union side by side, each under the union's schema.
    fn union(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Branch>, PlanError> {
        let mut all = Vec::new();
        for child in plan.children() {
            for branch in self.visit(child)? {
                all.push(under_schema(branch, plan)?);
            }
        }
        Ok(all)
    }

    /// Partition i of an interleave is partition i of each input: they meet in task i.
    fn interleave(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Branch>, PlanError> {
        let mut inputs = Vec::new();
        for child in plan.children() {
            let branches = self.visit(child)?;
            inputs.push(self.one_branch(branches, child, plan)?);
        }
        let inputs = self.aligned(inputs, plan)?;
        let tasks = inputs.first().map_or(1, |branch| branch.tasks);
        let mut scans = Vec::new();
        let mut plans = Vec::new();
        for branch in inputs {
            let branch = under_schema(branch, plan)?;
            plans.push(branch.plan);
            scans.extend(branch.scans);
        }
        let union = UnionExec::try_new(plans).map_err(|error| PlanError::internal("interleave", error))?;
        Ok(vec![Branch {
            plan: Arc::new(CoalescePartitionsExec::new(union)),
            tasks,
            scans,
        }])
    }

    fn repartition(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        repartition: &RepartitionExec,
    ) -> Result<Vec<Branch>, PlanError> {
        let branches = self.visit(repartition.input())?;
        match repartition.partitioning() {
            Partitioning::Hash(keys, partitions) => {
                let partitions = (*partitions).max(1);
                if partitions == 1 {
                    return Ok(vec![self.gather(branches, None, "there is one partition")?]);
                }
                let why = format!("rows of equal {} meet in one task", expressions(keys));
                let ordering = repartition
                    .preserve_order()
                    .then(|| plan.output_ordering().cloned())
                    .flatten();
                self.hash(branches, keys, partitions, ordering, &why)
                    .map(|branch| vec![branch])
            }
            // Put in for parallelism alone: splits give that.
            Partitioning::RoundRobinBatch(_) | Partitioning::UnknownPartitioning(_) => Ok(branches),
            Partitioning::Range(_) => {
                self.note(plan, "range repartitioning is not distributed");
                Ok(vec![self.gather(
                    branches,
                    None,
                    "range repartitioning runs in one task",
                )?])
            }
        }
    }

    /// The one branch that rows of `input` come from; gathers them if they are more.
    fn one_branch(
        &mut self,
        mut branches: Vec<Branch>,
        input: &Arc<dyn ExecutionPlan>,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<Branch, PlanError> {
        match (branches.pop(), branches.is_empty()) {
            (Some(branch), true) => Ok(branch),
            (last, _) => {
                branches.extend(last);
                self.note(plan, "an input has several branches of a union");
                self.gather_in_order(input, branches, "an operator needs all rows")
            }
        }
    }

    /// Inputs that run in the same tasks. Where their numbers differ all of them are gathered.
    fn aligned(
        &mut self,
        inputs: Vec<Branch>,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<Vec<Branch>, PlanError> {
        let tasks = inputs.first().map_or(1, |branch| branch.tasks);
        if inputs.iter().all(|branch| branch.tasks == tasks) {
            return Ok(inputs);
        }
        self.note(plan, "its inputs are partitioned differently");
        inputs
            .into_iter()
            .map(|branch| {
                let input = Arc::clone(&branch.plan);
                self.gather_in_order(&input, vec![branch], "an operator needs all rows")
            })
            .collect()
    }

    /// Runs one operator in a single task, its inputs gathered: the smallest part that is safe.
    fn in_one_task(&mut self, plan: &Arc<dyn ExecutionPlan>, reason: &str) -> Result<Branch, PlanError> {
        self.note(plan, reason);
        let mut children = Vec::new();
        let mut scans = Vec::new();
        for child in plan.children() {
            let branches = self.visit(child)?;
            let branch = self.gather_in_order(child, branches, "an operator runs in one task")?;
            children.push(branch.plan);
            scans.extend(branch.scans);
        }
        Ok(Branch {
            plan: with_children(plan, children)?,
            tasks: 1,
            scans,
        })
    }

    fn note(&mut self, plan: &Arc<dyn ExecutionPlan>, reason: &str) {
        let operator = operator(plan).trim_end_matches("Exec").to_owned();
        let note = PlanNote {
            operator,
            reason: reason.to_owned(),
        };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// `branch` under the schema of `plan`.
fn under_schema(branch: Branch, plan: &Arc<dyn ExecutionPlan>) -> Result<Branch, PlanError> {
    let schema = plan.schema();
    if branch.plan.schema() == schema {
        return Ok(branch);
    }
    let renamed =
        SchemaExec::try_new(branch.plan, schema).map_err(|error| PlanError::internal("union", error))?;
    Ok(Branch {
        plan: Arc::new(renamed),
        ..branch
    })
}

/// The largest number of rows that a limit or offset can name: fragments carry it in 32 bits.
const MAX_LIMIT: usize = u32::MAX as usize;

fn check_limits(plan: &Arc<dyn ExecutionPlan>) -> Result<(), PlanError> {
    let skip = plan
        .downcast_ref::<GlobalLimitExec>()
        .map_or(0, GlobalLimitExec::skip);
    let local = plan
        .downcast_ref::<LocalLimitExec>()
        .map_or(0, LocalLimitExec::fetch);
    let soft = plan
        .downcast_ref::<AggregateExec>()
        .and_then(|aggregate| aggregate.limit_options().map(|options| options.limit()))
        .unwrap_or(0);
    let largest = plan.fetch().unwrap_or(0).max(skip).max(local).max(soft);
    if largest > MAX_LIMIT {
        return Err(PlanError::Unsupported {
            what: format!("a LIMIT or OFFSET of {largest} rows"),
            fix: format!("use at most {MAX_LIMIT} rows in sum, or no limit"),
        });
    }
    Ok(())
}

/// Expressions as a reader of `explain` wants them: `l_orderkey, l_suppkey`.
fn expressions(keys: &[Arc<dyn PhysicalExpr>]) -> String {
    let texts: Vec<String> = keys
        .iter()
        .map(|key| {
            key.downcast_ref::<Column>()
                .map_or_else(|| key.to_string(), |column| column.name().into())
        })
        .collect();
    texts.join(", ")
}
