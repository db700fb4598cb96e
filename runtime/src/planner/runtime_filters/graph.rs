//! Follows the keys of joins through the stages of a query: to the stage that writes them, and to the scans.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use sluice_core::ids::{ExchangeId, StageId};
use sluice_core::plan::{Determinism, Exchange, Split};

use super::columns::{EquiJoin, origin, prunable_columns};
use super::{Candidate, RuntimeFilterPolicy, ScanColumn, SourceColumn};
use crate::planner::PlannedQuery;
use crate::planner::scan::ScanExec;
use crate::planner::shuffle_read_exec::ShuffleReadExec;

/// The assumed size of a part of a generated table, bytes.
const BYTES_OF_PART: u64 = 8 << 20;

/// The part of the rows that a predicate keeps if nothing is known of them: what DataFusion assumes of a predicate that it cannot
/// estimate.
const UNKNOWN_PREDICATE: f64 = 0.2;
/// The largest part that a predicate is estimated to keep.
const MAX_KEPT: f64 = 0.99;

/// The stages of a query, as keys are followed through them.
pub(super) struct Graph<'a> {
    query: &'a PlannedQuery,
    /// How many leaves read each exchange.
    readers: BTreeMap<ExchangeId, usize>,
    /// Per stage, whether it and its inputs write the same rows in each run.
    same_rows: Vec<bool>,
    /// Per stage, the estimated part of the rows that predicates keep, its own and those of its inputs.
    kept: Vec<f64>,
    /// Per stage, the bytes that it and its inputs scan.
    bytes: Vec<u64>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(query: &'a PlannedQuery) -> Self {
        let mut graph = Self {
            query,
            readers: BTreeMap::new(),
            same_rows: Vec::new(),
            kept: Vec::new(),
            bytes: Vec::new(),
        };
        for (stage, planned) in query.graph.stages.iter().zip(&query.stages) {
            graph.count_readers(stage.id, &planned.plan);
            let inputs: Vec<usize> = graph.inputs_of(stage.id).map(|input| input.0 as usize).collect();
            let all = |flags: &[bool]| {
                inputs
                    .iter()
                    .all(|input| flags.get(*input).copied().unwrap_or(false))
            };
            let same = stage.determinism != Determinism::Indeterminate && all(&graph.same_rows);
            let kept = graph.kept(stage.id, &planned.plan);
            let below: u64 = inputs.iter().filter_map(|input| graph.bytes.get(*input)).sum();
            let own: u64 = planned
                .tasks
                .iter()
                .flat_map(|task| task.splits.values())
                .map(split_bytes)
                .sum();
            graph.same_rows.push(same);
            graph.kept.push(kept);
            graph.bytes.push(below.saturating_add(own));
        }
        graph
    }

    fn count_readers(&mut self, stage: StageId, plan: &Arc<dyn ExecutionPlan>) {
        if let Some(read) = plan.downcast_ref::<ShuffleReadExec>()
            && let Some(exchange) = self.exchange(stage, read)
        {
            let id = exchange.id;
            *self.readers.entry(id).or_default() += 1;
        }
        for child in plan.children() {
            self.count_readers(stage, child);
        }
    }

    fn plan(&self, stage: StageId) -> Option<&'a Arc<dyn ExecutionPlan>> {
        Some(&self.query.stages.get(stage.0 as usize)?.plan)
    }

    /// The exchange that a leaf of a stage reads.
    fn exchange(&self, stage: StageId, read: &ShuffleReadExec) -> Option<&'a Exchange> {
        let stage = self.query.graph.stages.get(stage.0 as usize)?;
        let input = stage.inputs.get(read.input_index() as usize)?;
        self.query.graph.exchanges.get(input.exchange.0 as usize)
    }

    fn inputs_of(&self, stage: StageId) -> impl Iterator<Item = StageId> {
        let stage = self.query.graph.stages.get(stage.0 as usize);
        let inputs = stage.into_iter().flat_map(|stage| &stage.inputs);
        let exchanges = inputs.filter_map(|input| self.query.graph.exchanges.get(input.exchange.0 as usize));
        exchanges.flat_map(|exchange| exchange.writers.iter().copied())
    }

    /// The possible filters of all joins.
    pub(super) fn candidates(&self, policy: RuntimeFilterPolicy) -> Vec<Candidate> {
        let mut found = Vec::new();
        for stage in &self.query.graph.stages {
            if let Some(plan) = self.plan(stage.id) {
                self.visit(stage.id, plan, policy, &mut found);
            }
        }
        found
    }

    fn visit(
        &self,
        stage: StageId,
        plan: &Arc<dyn ExecutionPlan>,
        policy: RuntimeFilterPolicy,
        found: &mut Vec<Candidate>,
    ) {
        let children = plan.children();
        if let (Some(join), [left, right]) = (EquiJoin::of(plan), children.as_slice()) {
            for (left_key, right_key) in join.keys() {
                let sides = [
                    (0, (*left, left_key), (*right, right_key)),
                    (1, (*right, right_key), (*left, left_key)),
                ];
                let possible = sides.into_iter().filter_map(|(side, from, to)| {
                    join.drops_unmatched(1 - side)
                        .then(|| self.candidate(stage, from, to, policy))
                        .flatten()
                });
                // The side that reads less is known earlier.
                found.extend(possible.min_by_key(|candidate| candidate.source_bytes));
            }
        }
        for child in children {
            self.visit(stage, child, policy, found);
        }
    }

    /// The filter of a join's key from one side to the other.
    fn candidate(
        &self,
        stage: StageId,
        (from, from_key): (&Arc<dyn ExecutionPlan>, usize),
        (to, to_key): (&Arc<dyn ExecutionPlan>, usize),
        policy: RuntimeFilterPolicy,
    ) -> Option<Candidate> {
        let schema = from.schema();
        let key_type = schema.fields().get(from_key)?.data_type();
        if !has_hashable_keys(key_type) {
            return None;
        }
        let source = self.source(stage, from, from_key)?;
        let mut targets = Vec::new();
        self.targets(stage, (to, to_key), 0, &mut targets);
        let written = self.plan(source.0)?.schema();
        let source_type = written.fields().get(source.1)?.data_type();
        targets.retain(|target| {
            self.bytes_of_scan(*target) >= policy.min_scan_bytes
                && self.type_of(*target).as_ref() == Some(source_type)
        });
        let target_bytes = targets.iter().map(|target| self.bytes_of_scan(*target)).max()?;
        Some(Candidate {
            source,
            targets,
            source_bytes: self.bytes.get(source.0.0 as usize).copied().unwrap_or(u64::MAX),
            target_bytes,
            kept: self.kept.get(source.0.0 as usize).copied().unwrap_or(1.0),
            of_keys: self.rows_of_table(source).unwrap_or_default(),
        })
    }

    /// The stage that writes the keys of a column: the deepest one above which nothing narrows them further.
    fn source(&self, stage: StageId, plan: &Arc<dyn ExecutionPlan>, column: usize) -> Option<SourceColumn> {
        let (mut stage, mut plan, mut column) = (stage, Arc::clone(plan), column);
        let mut best = None;
        loop {
            let (read, at, narrows) = self.descend(stage, &plan, column)?;
            if best.is_some() && narrows {
                return best;
            }
            let exchange = self.exchange(stage, &read)?;
            let [writer] = exchange.writers.as_slice() else {
                return best;
            };
            let writer_index = writer.0 as usize;
            if !*self.same_rows.get(writer_index)? || *self.kept.get(writer_index)? >= 1.0 {
                return best;
            }
            best = Some((*writer, at));
            (stage, column) = (*writer, at);
            plan = Arc::clone(self.plan(stage)?);
            if !self.comes_from_exchange(stage, &plan, column) {
                return best;
            }
        }
    }

    /// How many rows the table has from which a column of a stage comes.
    fn rows_of_table(&self, (mut stage, mut column): SourceColumn) -> Option<u64> {
        let mut plan = Arc::clone(self.plan(stage)?);
        loop {
            if plan.downcast_ref::<ScanExec>().is_some() {
                return u64::try_from(rows_of(&plan)?).ok();
            }
            if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
                let [writer] = self.exchange(stage, read)?.writers.as_slice() else {
                    return None;
                };
                stage = *writer;
                plan = Arc::clone(self.plan(stage)?);
                continue;
            }
            let next = origin(&plan, column)?;
            let child = Arc::clone(plan.children().get(next.child)?);
            (plan, column) = (child, next.column);
        }
    }

    fn comes_from_exchange(&self, stage: StageId, plan: &Arc<dyn ExecutionPlan>, column: usize) -> bool {
        self.descend(stage, plan, column).is_some()
    }

    /// The leaf from which a column comes, its column there, and whether an operator on the way narrows its values.
    fn descend(
        &self,
        stage: StageId,
        plan: &Arc<dyn ExecutionPlan>,
        column: usize,
    ) -> Option<(ShuffleReadExec, usize, bool)> {
        let (mut plan, mut column, mut narrows) = (Arc::clone(plan), column, false);
        loop {
            if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
                return Some((read.with_input_index(read.input_index()), column, narrows));
            }
            let next = origin(&plan, column)?;
            let others = plan.children().into_iter().enumerate();
            narrows |= is_predicate(&plan)
                || others
                    .filter(|(child, _)| *child != next.child)
                    .any(|(_, other)| self.kept(stage, other) < 1.0);
            let child = Arc::clone(plan.children().get(next.child)?);
            (plan, column) = (child, next.column);
        }
    }

    /// The estimated part of the rows of a plan that predicates keep, its own and those of what it reads; 1 without any.
    fn kept(&self, stage: StageId, plan: &Arc<dyn ExecutionPlan>) -> f64 {
        if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
            let exchange = self.exchange(stage, read).into_iter();
            let writers = exchange.flat_map(|exchange| &exchange.writers);
            let kept = writers.filter_map(|writer| self.kept.get(writer.0 as usize).copied());
            return kept.reduce(f64::min).unwrap_or(1.0);
        }
        let children = plan.children().into_iter();
        let below: f64 = children.map(|child| self.kept(stage, child)).product();
        below * kept_by(plan)
    }

    /// The scans in which rows may be left out by a column of `plan`. `steps` counts the exchanges and joins on the way:
    /// without any, the join itself is as cheap as a filter.
    fn targets(
        &self,
        stage: StageId,
        (plan, column): (&Arc<dyn ExecutionPlan>, usize),
        steps: usize,
        found: &mut Vec<ScanColumn>,
    ) {
        if let Some(scan) = plan.downcast_ref::<ScanExec>() {
            if steps > 0 {
                found.push((stage, scan.leaf(), column));
            }
            return;
        }
        if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
            let Some(exchange) = self.exchange(stage, read) else {
                return;
            };
            // Other readers of the exchange may need the rows.
            if self.readers.get(&exchange.id) != Some(&1) {
                return;
            }
            for writer in &exchange.writers {
                if let Some(plan) = self.plan(*writer) {
                    self.targets(*writer, (plan, column), steps + 1, found);
                }
            }
            return;
        }
        let joins = usize::from(plan.children().len() > 1);
        for next in prunable_columns(plan, column) {
            if let Some(child) = plan.children().get(next.child) {
                self.targets(stage, (child, next.column), steps + joins, found);
            }
        }
    }

    fn bytes_of_scan(&self, (stage, leaf, _): ScanColumn) -> u64 {
        let planned = self.query.stages.get(stage.0 as usize).into_iter();
        let splits = planned.flat_map(|planned| {
            planned
                .tasks
                .iter()
                .filter_map(move |task| task.splits.get(&leaf))
        });
        splits.map(split_bytes).fold(0, u64::saturating_add)
    }

    fn type_of(&self, (stage, leaf, column): ScanColumn) -> Option<DataType> {
        let schema = scan_of(self.plan(stage)?, leaf)?.schema();
        Some(schema.fields().get(column)?.data_type().clone())
    }
}

fn scan_of(plan: &Arc<dyn ExecutionPlan>, leaf: u32) -> Option<&Arc<dyn ExecutionPlan>> {
    if plan
        .downcast_ref::<ScanExec>()
        .is_some_and(|scan| scan.leaf() == leaf)
    {
        return Some(plan);
    }
    plan.children().into_iter().find_map(|child| scan_of(child, leaf))
}

fn split_bytes(split: &Split) -> u64 {
    match split {
        Split::Files(ranges) => ranges.iter().map(|range| range.end - range.start).sum(),
        Split::Tpch { .. } => BYTES_OF_PART,
        Split::Whole => 0,
    }
}

/// The estimated part of its input's rows that an operator's predicate keeps: below 1 for a predicate, 1 for any other operator.
fn kept_by(plan: &Arc<dyn ExecutionPlan>) -> f64 {
    if !is_predicate(plan) {
        return 1.0;
    }
    let rows = |plan: &Arc<dyn ExecutionPlan>| Some(rows_of(plan)? as f64);
    let input = plan
        .children()
        .into_iter()
        .find_map(rows)
        .filter(|rows| *rows > 0.0);
    let kept = input.and_then(|input| Some(rows(plan)? / input));
    kept.unwrap_or(UNKNOWN_PREDICATE).clamp(0.0, MAX_KEPT)
}

/// How many rows an operator puts out, if that is known or estimated.
fn rows_of(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    statistics.ok()?.num_rows.get_value().copied()
}

/// Whether an operator drops rows by their values.
fn is_predicate(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<FilterExec>().is_some()
}

/// Whether equal keys of the type have equal hashes. Floating-point numbers are left out: 0.0 and -0.0 are equal, and NaNs
/// have many forms.
fn has_hashable_keys(key: &DataType) -> bool {
    match key {
        DataType::Dictionary(_, values) => has_hashable_keys(values),
        other => {
            other.is_integer()
                || other.is_temporal()
                || other.is_string()
                || other.is_binary()
                || other.is_decimal()
                || *other == DataType::Boolean
        }
    }
}
