//! Joins: which side goes where.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use sluice_core::plan::{ExchangeKind, Split};

use super::super::broadcast::JoinSizes;
use super::super::determinism;
use super::super::error::PlanError;
use super::super::rules::build_side_may_be_broadcast;
use super::super::scan::ScanExec;
use super::super::shuffle_read_exec::ReadMode;
use super::gather::{read, schema_of, shared_facts};
use super::{Branch, Cutter, operator, total_tasks, with_children};

impl Cutter<'_> {
    pub(super) fn hash_join(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        join: &HashJoinExec,
    ) -> Result<Vec<Branch>, PlanError> {
        match join.partition_mode() {
            PartitionMode::Partitioned => self.co_partitioned(plan),
            PartitionMode::CollectLeft | PartitionMode::Auto if join.null_aware => {
                let reason =
                    "a null-aware anti join (NOT IN over nullable columns) must see all rows of both sides";
                Ok(vec![self.join_in_one_task(plan, reason)?])
            }
            PartitionMode::CollectLeft | PartitionMode::Auto => {
                self.nested_loop_join(plan, *join.join_type())
            }
        }
    }

    /// A join that compares every row of its probe side with the whole build side.
    pub(super) fn nested_loop_join(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        join_type: JoinType,
    ) -> Result<Vec<Branch>, PlanError> {
        if build_side_may_be_broadcast(join_type) {
            return self.broadcast_join(plan);
        }
        let reason = format!("a {join_type} join without equal keys must see all rows of its right side");
        Ok(vec![self.join_in_one_task(plan, &reason)?])
    }

    /// Every task of the probe side reads all rows of the build side: from an exchange, or those of a small table from
    /// the table itself.
    pub(super) fn broadcast_join(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Branch>, PlanError> {
        let [build, probe] = sides(plan)?;
        // The coalesce above the build side is what the broadcast replaces.
        let build = match build.downcast_ref::<CoalescePartitionsExec>() {
            Some(coalesce) if coalesce.fetch().is_none() => coalesce.input(),
            _ => build,
        };
        let build = self.visit(build)?;
        let probes = self.visit(probe)?;
        if let Some(build) = read_by_each_task(&build) {
            return probes
                .into_iter()
                .map(|probe| joined(plan, copied(build, probe.tasks), probe))
                .collect();
        }
        if let ([probe], 1) = (probes.as_slice(), total_tasks(&probes)) {
            let build = self.gather(build, None, "the build side of a join meets in one task")?;
            return Ok(vec![joined(plan, build, probe.clone())?]);
        }
        let schema = schema_of(&build)?;
        let facts = shared_facts(&build, ReadMode::Merged, None)?;
        let why = why_broadcast(plan);
        let exchange = self.close_all(build, ExchangeKind::Broadcast, 1, &[], &why)?;
        probes
            .into_iter()
            .map(|probe| {
                let read = read(exchange, &schema, ReadMode::Merged, facts.clone())?;
                Ok(Branch {
                    plan: with_children(plan, vec![read, probe.plan])?,
                    ..probe
                })
            })
            .collect()
    }

    /// Partition i of one side joins partition i of the other.
    pub(super) fn co_partitioned(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Branch>, PlanError> {
        let mut inputs = Vec::new();
        for side in sides(plan)? {
            let branches = self.visit(side)?;
            inputs.push(self.one_branch(branches, side, plan)?);
        }
        let mut inputs = self.aligned(inputs, plan)?;
        match (inputs.pop(), inputs.pop()) {
            (Some(right), Some(left)) => Ok(vec![joined(plan, left, right)?]),
            _ => Err(PlanError::internal("join", "a join has two sides")),
        }
    }

    /// Both sides gathered in one task.
    fn join_in_one_task(&mut self, plan: &Arc<dyn ExecutionPlan>, reason: &str) -> Result<Branch, PlanError> {
        let [build, probe] = sides(plan)?;
        let build = self.visit(build)?;
        let build = self.gather(build, None, "the build side of a join meets in one task")?;
        let probes = self.visit(probe)?;
        if total_tasks(&probes) > 1 {
            self.note(plan, reason);
        }
        let probe = self.gather_in_order(probe, probes, "the join runs in one task")?;
        joined(plan, build, probe)
    }
}

/// Why the build side of a join is broadcast, with the sizes that this was decided by.
fn why_broadcast(plan: &Arc<dyn ExecutionPlan>) -> String {
    let why = "every task of the join needs the whole build side";
    let sizes = plan.downcast_ref::<HashJoinExec>().and_then(JoinSizes::of);
    match sizes {
        Some(sizes) => format!("{why} (by estimate {})", sizes.text()),
        None => why.to_owned(),
    }
}

/// The largest build side, in bytes of its tables, that each task of a join reads for itself. A stage costs a round
/// trip of every task, and all that read it wait for it.
const MAX_COPY_BYTES: u64 = 4 << 20;

/// What a task may read and do once more than another without any difference in its rows, and at little cost.
const REPEATABLE: &[&str] = &[
    "ScanExec",
    "FilterExec",
    "ProjectionExec",
    "HashJoinExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
];

/// The build side, if it is so small a part of the plan that every task can do it for itself: one task that scans small
/// tables, filters them and joins them with each other.
fn read_by_each_task(build: &[Branch]) -> Option<&Branch> {
    match build {
        [branch] if branch.tasks == 1 => {
            let bytes = repeated_bytes(&branch.plan, &branch.scans)?;
            (bytes <= MAX_COPY_BYTES).then_some(branch)
        }
        _ => None,
    }
}

/// The bytes that one more run of a plan reads; `None` if they are not known, or it should not run more than once.
fn repeated_bytes(plan: &Arc<dyn ExecutionPlan>, scans: &[(u32, Vec<Split>)]) -> Option<u64> {
    // Volatile expressions would give each task other rows.
    let repeatable = REPEATABLE.contains(&operator(plan)) && plan.fetch().is_none();
    if !repeatable || determinism::has_volatile(plan) {
        return None;
    }
    if let Some(scan) = plan.downcast_ref::<ScanExec>() {
        let (_, splits) = scans.iter().find(|(leaf, _)| *leaf == scan.leaf())?;
        return scanned_bytes(scan, splits);
    }
    let children = plan.children().into_iter();
    children
        .map(|child| repeated_bytes(child, scans))
        .try_fold(0, |sum: u64, bytes| Some(sum.saturating_add(bytes?)))
}

fn scanned_bytes(scan: &ScanExec, splits: &[Split]) -> Option<u64> {
    if scan.source().fetch().is_some() {
        return None;
    }
    match splits {
        [Split::Files(ranges)] => Some(ranges.iter().map(|range| range.end - range.start).sum()),
        [Split::Tpch { .. }] => {
            let statistics = StatisticsContext::new()
                .compute(scan.source().as_ref(), &StatisticsArgs::new())
                .ok()?;
            u64::try_from(*statistics.total_byte_size.get_value()?).ok()
        }
        _ => None,
    }
}

/// The same branch of one task in `tasks` tasks that all read the same.
fn copied(branch: &Branch, tasks: usize) -> Branch {
    let copies = |splits: &[Split]| splits.iter().cycle().take(tasks).cloned().collect();
    Branch {
        plan: Arc::clone(&branch.plan),
        tasks,
        scans: branch
            .scans
            .iter()
            .map(|(leaf, splits)| (*leaf, copies(splits)))
            .collect(),
    }
}

/// The build side and the probe side of a join.
fn sides(plan: &Arc<dyn ExecutionPlan>) -> Result<[&Arc<dyn ExecutionPlan>; 2], PlanError> {
    match plan.children().as_slice() {
        [left, right] => Ok([left, right]),
        _ => Err(PlanError::internal("join", "a join has two sides")),
    }
}

/// Both sides in the tasks of `right`; they run equally many.
fn joined(plan: &Arc<dyn ExecutionPlan>, left: Branch, right: Branch) -> Result<Branch, PlanError> {
    let mut scans = left.scans;
    scans.extend(right.scans);
    Ok(Branch {
        plan: with_children(plan, vec![left.plan, right.plan])?,
        tasks: right.tasks,
        scans,
    })
}
