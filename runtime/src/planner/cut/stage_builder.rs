//! Stages are built: branches become stages that write an exchange.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::{Distribution, LexOrdering, OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use sluice_core::ids::{ExchangeId, StageId};
use sluice_core::locality::DataLocality;
use sluice_core::plan::{Determinism, Exchange, ExchangeKind, ReadKind, Split, Stage, StageInput};

use super::super::PlannedStage;
use super::super::determinism::{self, Source};
use super::super::empty_inputs::empty_ends;
use super::super::error::PlanError;
use super::super::fragment::{self, Fragment, OutputSpec, TaskSplits};
use super::super::label::{label, tables};
use super::super::round_trip;
use super::super::shuffle_read_exec::{ReadMode, ShuffleReadExec};
use super::super::sorted_joins::has_sortable_join;
use super::super::split_inputs::may_split;
use super::super::statement::MAX_EXPRESSION_DEPTH;
use super::super::swapped_joins::swappable_joins;
use super::{Branch, CutExchange, Cutter, total_tasks};

impl Cutter<'_> {
    /// Makes a stage of each branch; together they write one new exchange.
    pub(super) fn close_all(
        &mut self,
        branches: Vec<Branch>,
        kind: ExchangeKind,
        partitions: usize,
        keys: &[Arc<dyn PhysicalExpr>],
        why: &str,
    ) -> Result<ExchangeId, PlanError> {
        let output = OutputSpec {
            kind,
            keys: fragment::encode_keys(keys)?,
            partitions: to_u32(partitions)?.max(1),
        };
        self.close_into(branches, &output, keys, why)
    }

    /// Makes a stage of each branch, whose tasks write sorted runs of one new exchange.
    pub(super) fn close_runs(
        &mut self,
        branches: Vec<Branch>,
        ordering: &LexOrdering,
        why: &str,
    ) -> Result<ExchangeId, PlanError> {
        let output = OutputSpec {
            kind: ExchangeKind::Range,
            keys: fragment::encode_sort_keys(ordering)?,
            partitions: 1,
        };
        let keys: Vec<_> = ordering.iter().map(|key| Arc::clone(&key.expr)).collect();
        self.close_into(branches, &output, &keys, why)
    }

    fn close_into(
        &mut self,
        branches: Vec<Branch>,
        output: &OutputSpec,
        keys: &[Arc<dyn PhysicalExpr>],
        why: &str,
    ) -> Result<ExchangeId, PlanError> {
        let id = ExchangeId(to_u32(self.exchanges.len())?);
        let map_tasks = total_tasks(&branches);
        let mut writers = Vec::new();
        let mut determinism = Determinism::Determinate;
        for branch in branches {
            let schema = branch.plan.schema();
            let mut label = determinism::of(&branch.plan, &|exchange| self.source(exchange));
            if label >= Determinism::Unordered && determinism::inexact_keys(keys, &schema) {
                label = Determinism::Indeterminate;
            }
            determinism = determinism.max(label);
            writers.push(self.close(branch, id, label, output.clone())?);
        }
        let exchange = Exchange {
            id,
            kind: output.kind,
            partitions: output.partitions,
            writers,
            fetch: None,
        };
        self.exchanges.push(CutExchange {
            exchange,
            map_tasks,
            determinism,
            why: why.to_owned(),
        });
        Ok(id)
    }

    /// What the determinism of a reader of `exchange` depends on.
    fn source(&self, exchange: u32) -> Source {
        self.exchanges.get(exchange as usize).map_or(
            Source {
                streams: 0,
                writers: Determinism::Indeterminate,
            },
            |w| Source {
                streams: w.map_tasks,
                writers: w.determinism,
            },
        )
    }

    fn close(
        &mut self,
        branch: Branch,
        writes: ExchangeId,
        determinism: Determinism,
        output: OutputSpec,
    ) -> Result<StageId, PlanError> {
        let id = StageId(to_u32(self.stages.len())?);
        let plan = requirements_hold(branch.plan)?;
        check_depth(&plan)?;
        let label = label(&plan);
        let coalesces = branch.tasks > 1 && are_copies(&branch.scans) && self.may_interleave(&plan);
        let (plan, exchanges) = number_inputs(&plan)?;
        // What is not split is read by several tasks, and must be the same in each.
        let splits = coalesces && determinism != Determinism::Indeterminate;
        let inputs = exchanges.iter().zip(0..).map(|(exchange, number)| {
            Ok(StageInput {
                empty_ends: empty_ends(&plan, number),
                may_split: splits && may_split(&plan, number),
                ..self.input(*exchange)?
            })
        });
        let inputs = inputs.collect::<Result<_, PlanError>>()?;
        self.keep_merged_whole(&plan, &exchanges);
        let fragment = fragment::encode(&plan, self.context.session_config())?;
        self.check_decodes(&fragment, &plan)?;
        let mut tasks = vec![TaskSplits::default(); branch.tasks];
        let mut copied = BTreeSet::new();
        for (leaf, splits) in branch.scans {
            if splits.len() != branch.tasks {
                return Err(PlanError::internal(
                    "splits",
                    format!("scan {leaf} has {} splits", splits.len()),
                ));
            }
            if branch.tasks > 1 && splits.windows(2).all(|pair| pair.first() == pair.last()) {
                copied.insert(leaf);
            }
            for (task, split) in tasks.iter_mut().zip(splits) {
                task.splits.insert(leaf, split);
            }
        }
        self.stages.push(Stage {
            id,
            label,
            tasks: to_u32(branch.tasks)?,
            inputs,
            output: writes,
            determinism,
            coalesces,
            has_sortable_join: has_sortable_join(&plan)?,
            swappable_joins: swappable_joins(&plan),
            data: DataLocality::default(),
            files: Vec::new(),
        });
        self.planned.push(PlannedStage {
            fragment,
            output,
            filters: Vec::new(),
            tasks,
            tables: tables(&plan, &|leaf| !copied.contains(&leaf)),
            plan,
        });
        Ok(id)
    }

    /// Whether each leaf that reads partitions of a hash exchange takes their rows in any order.
    fn may_interleave(&self, plan: &Arc<dyn ExecutionPlan>) -> bool {
        if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
            let exchange = self.exchanges.get(read.input_index() as usize);
            let divided = exchange.is_some_and(|written| written.exchange.kind == ExchangeKind::Hash);
            return !divided || (read.mode() == ReadMode::Merged && read.facts().orderings.is_empty());
        }
        plan.children()
            .into_iter()
            .all(|child| self.may_interleave(child))
    }

    /// Lets stages whose tasks a merge counts have no more tasks than were planned.
    fn keep_merged_whole(&mut self, plan: &Arc<dyn ExecutionPlan>, exchanges: &[u32]) {
        if let Some(read) = plan.downcast_ref::<ShuffleReadExec>()
            && let ReadMode::PerMapTask(_) = read.mode()
        {
            let exchange = exchanges.get(read.input_index() as usize);
            let written = exchange.and_then(|exchange| self.exchanges.get(*exchange as usize));
            let writers = written.map(|written| written.exchange.writers.clone());
            self.keep_whole(&writers.unwrap_or_default());
        }
        for child in plan.children() {
            self.keep_merged_whole(child, exchanges);
        }
    }

    /// Lets these stages have no more tasks than were planned.
    pub(super) fn keep_whole(&mut self, stages: &[StageId]) {
        for stage in self.stages.iter_mut().filter(|stage| stages.contains(&stage.id)) {
            stage.inputs.iter_mut().for_each(|input| input.may_split = false);
        }
    }

    fn input(&self, exchange: u32) -> Result<StageInput, PlanError> {
        let written = self
            .exchanges
            .get(exchange as usize)
            .ok_or_else(|| PlanError::internal("inputs", format!("exchange {exchange} is not written")))?;
        let read = match written.exchange.kind {
            ExchangeKind::Hash => ReadKind::OwnPartition,
            ExchangeKind::Range => ReadKind::OwnRange,
            ExchangeKind::Forward | ExchangeKind::Broadcast => ReadKind::AllPartitions,
        };
        Ok(StageInput {
            exchange: written.exchange.id,
            read,
            empty_ends: false,
            may_split: false,
        })
    }

    /// A fragment that workers cannot decode is an error of the query, before anything runs.
    /// So is one that workers decode to something else.
    fn check_decodes(&self, fragment: &Fragment, plan: &Arc<dyn ExecutionPlan>) -> Result<(), PlanError> {
        match fragment::decode_empty(fragment, self.context) {
            Ok(decoded) => round_trip::check(plan, &decoded),
            Err(PlanError::Fragment { message, .. }) if message.contains("recursion limit") => {
                Err(PlanError::TooDeep {
                    what: "a stage has about a hundred levels of operators and expressions".into(),
                })
            }
            Err(error) => Err(PlanError::internal("fragment", error)),
        }
    }
}

/// Whether each task scans the same.
fn are_copies(scans: &[(u32, Vec<Split>)]) -> bool {
    let mut splits = scans.iter().flat_map(|(_, splits)| splits.windows(2));
    splits.all(|pair| pair.first() == pair.last())
}

/// Refuses expressions that grew deeper in planning than tasks evaluate: each level takes a part of the stack of
/// the thread that runs the task, see [`super::super::TASK_STACK_BYTES`].
fn check_depth(plan: &Arc<dyn ExecutionPlan>) -> Result<(), PlanError> {
    let mut deepest = 0;
    let walked = plan.apply(|node| {
        node.apply_expressions(&mut |root| {
            let mut open = vec![(Arc::clone(root), 1_usize)];
            while let Some((expression, depth)) = open.pop() {
                deepest = deepest.max(depth);
                open.extend(
                    expression
                        .children()
                        .into_iter()
                        .map(|child| (Arc::clone(child), depth + 1)),
                );
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    walked.map_err(|error| PlanError::internal("expressions", error))?;
    if deepest <= MAX_EXPRESSION_DEPTH {
        return Ok(());
    }
    Err(PlanError::TooDeep {
        what: format!(
            "an expression has {deepest} levels when planned, at most {MAX_EXPRESSION_DEPTH} are evaluated"
        ),
    })
}

/// The same plan, with sorts put back where an order does not survive the cut. Nothing is taken away: an order or a merge
/// that no operator asks for may be what the reader of the stage relies on.
pub(crate) fn requirements_hold(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let mut options = ConfigOptions::new();
    options.execution.target_partitions = 1;
    let check = |plan: &Arc<dyn ExecutionPlan>| SanityCheckPlan::new().optimize(Arc::clone(plan), &options);
    let plan = match check(&plan) {
        Ok(plan) => plan,
        Err(_) => plan
            .transform_up(inputs_as_required)
            .data()
            .and_then(|plan| check(&plan))
            .map_err(|error| PlanError::internal("requirements of a stage", error))?,
    };
    match plan.output_partitioning().partition_count() {
        1 => Ok(plan),
        partitions => Err(PlanError::internal(
            "partitions of a stage",
            format!("{} has {partitions}, a task runs a plan of one", plan.name()),
        )),
    }
}

/// A node over inputs in one partition and in the order that it requires.
fn inputs_as_required(
    node: Arc<dyn ExecutionPlan>,
) -> datafusion::error::Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let distributions = node.input_distribution_requirements();
    let orderings = node.required_input_ordering();
    let mut changed = false;
    let mut inputs = Vec::new();
    for (place, input) in node.children().into_iter().enumerate() {
        let mut input = Arc::clone(input);
        let together = match distributions.child_distribution(place) {
            None | Some(Distribution::UnspecifiedDistribution) => false,
            Some(_) => true,
        };
        if together && input.output_partitioning().partition_count() > 1 {
            input = Arc::new(CoalescePartitionsExec::new(input));
            changed = true;
        }
        if let Some(required) = orderings
            .get(place)
            .cloned()
            .flatten()
            .map(OrderingRequirements::into_single)
            && !input
                .equivalence_properties()
                .ordering_satisfy_requirement(required.iter().cloned())?
        {
            let apart = input.output_partitioning().partition_count() > 1;
            let sort = SortExec::new(required.into(), input).with_preserve_partitioning(apart);
            input = Arc::new(sort);
            changed = true;
        }
        inputs.push(input);
    }
    if !changed {
        return Ok(Transformed::no(node));
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Ok(Transformed::yes(node.replace_children(inputs, options)?))
}

/// Numbers the shuffle reads of a fragment from 0; tells the exchange of each.
fn number_inputs(plan: &Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, Vec<u32>), PlanError> {
    let mut exchanges: Vec<u32> = Vec::new();
    let mut places: BTreeMap<u32, u32> = BTreeMap::new();
    let numbered = Arc::clone(plan)
        .transform_up(|node| {
            let Some(read) = node.downcast_ref::<ShuffleReadExec>() else {
                return Ok(Transformed::no(node));
            };
            let exchange = read.input_index();
            let next = u32::try_from(exchanges.len()).unwrap_or(u32::MAX);
            let place = *places.entry(exchange).or_insert_with(|| {
                exchanges.push(exchange);
                next
            });
            Ok(Transformed::yes(
                Arc::new(read.with_input_index(place)) as Arc<dyn ExecutionPlan>
            ))
        })
        .data()
        .map_err(|error| PlanError::internal("inputs", error))?;
    Ok((numbered, exchanges))
}

pub(super) fn to_u32(count: usize) -> Result<u32, PlanError> {
    u32::try_from(count).map_err(|error| PlanError::internal("numbers", error))
}
