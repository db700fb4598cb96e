//! Runtime filters: which stages make a filter of the join keys that they write, and which scans of other stages use it.
//!
//! A join drops rows of one side that match none of the other. Where the other side is written by a stage of its own and has
//! been narrowed by a predicate, its keys are known before the rows of this side are read, shuffled and joined. This is
//! sideways information passing (Ullman's magic sets, the semi-join reduction of Bernstein and Chiu, 1981); Spark, Trino and
//! Impala do the same.
//!
//! Two questions decide it. Where do the keys of the narrowed side come from (`source`)? From the deepest stage above which
//! nothing narrows them further, because an early filter delays nobody. Where may rows be left out (`targets`)? In the scans
//! from which the other side's keys come, through operators that treat rows one by one or in whole groups.

mod bounds;
mod columns;
mod exec;
mod graph;
mod keys;
mod lookup;
mod make;
mod scan;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::TaskContext;
use sluice_core::ids::{FilterId, StageId};
use sluice_core::key_filter::BLOOM_WORDS;
use sluice_core::plan::RuntimeFilter;

pub(crate) use self::exec::{ROWS_FILTERED, RuntimeFilterExec, UsedFilter, bind};
use self::graph::Graph;
pub(crate) use self::make::FilterMaker;
use super::error::PlanError;
use super::fragment;
use super::{PlannedQuery, round_trip};

/// Most filters of one query. More would seldom drop further rows.
const MAX_FILTERS: usize = 16;
/// Most filters of one scan. Each costs a hash of every row.
const MAX_FILTERS_OF_SCAN: usize = 3;
/// Bytes of all reports of one filter to the coordinator.
const MAX_REPORTED_BYTES: u64 = 64 << 20;
/// The least that one task may report: 2,048 keys.
const MIN_TASK_BYTES: u64 = 16 << 10;
/// A scan waits for a filter as long as it would take to read the bytes that the filter may drop at this rate, per millisecond.
const BYTES_PER_MILLISECOND: f64 = 51_200.0;
/// No scan waits longer than that.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Whether and where runtime filters are used. An extension of the session's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeFilterPolicy {
    /// Whether there are any.
    pub enabled: bool,
    /// Scans of fewer bytes are not worth a filter.
    pub min_scan_bytes: u64,
}

impl Default for RuntimeFilterPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            min_scan_bytes: 8 << 20,
        }
    }
}

/// A filter that each task of a stage makes of the rows that it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeFilter {
    /// The column with the keys.
    pub column: u32,
    /// The most bytes of a task's filter. A larger one admits everything.
    pub max_bytes: u64,
}

/// A column of the rows that a stage writes.
type SourceColumn = (StageId, usize);
/// A scan of a stage, and one of its columns.
type ScanColumn = (StageId, u32, usize);

/// A filter that could be.
struct Candidate {
    source: SourceColumn,
    targets: Vec<ScanColumn>,
    /// Bytes that the source's side reads.
    source_bytes: u64,
    target_bytes: u64,
    /// The estimated part of all keys that the source writes, between 0 and 1.
    kept: f64,
    /// How many rows the table has from which the keys come, if that is known; else 0.
    of_keys: u64,
}

/// Adds runtime filters to a query that has been cut.
///
/// # Errors
/// A fragment cannot be encoded any more.
pub(super) fn add(
    query: &mut PlannedQuery,
    policy: RuntimeFilterPolicy,
    context: &TaskContext,
) -> Result<(), PlanError> {
    if !policy.enabled || query.graph.stages.len() < 3 {
        return Ok(());
    }
    let mut candidates = Graph::new(query).candidates(policy);
    candidates.sort_by_key(|candidate| (candidate.source_bytes, candidate.source));
    let mut used: BTreeMap<(StageId, u32), Vec<UsedFilter>> = BTreeMap::new();
    for candidate in candidates {
        accept(query, candidate, &mut used);
    }
    let stages: BTreeSet<StageId> = used.keys().map(|(stage, _)| *stage).collect();
    for stage in stages {
        let Some(planned) = query.stages.get_mut(stage.0 as usize) else {
            continue;
        };
        let of_stage = |leaf: u32| used.get(&(stage, leaf));
        let plan = exec::above_scans(Arc::clone(&planned.plan), &of_stage)
            .map_err(|error| PlanError::internal("runtime filters", error))?;
        let fragment = fragment::encode(&plan, context.session_config())?;
        round_trip::check(&plan, &fragment::decode_empty(&fragment, context)?)?;
        planned.plan = plan;
        planned.fragment = fragment;
    }
    Ok(())
}

/// Adds one filter, or its targets to the filter of the same keys, unless stages would wait for each other.
fn accept(
    query: &mut PlannedQuery,
    candidate: Candidate,
    used: &mut BTreeMap<(StageId, u32), Vec<UsedFilter>>,
) {
    let (source, column) = candidate.source;
    let mut targets = candidate.targets;
    targets.retain(|(stage, leaf, column)| {
        let of_scan = used.get(&(*stage, *leaf));
        let twice = of_scan.is_some_and(|of_scan| {
            of_scan.len() >= MAX_FILTERS_OF_SCAN || {
                let same = |filter: &UsedFilter| {
                    let made = query.graph.filters.get(filter.filter as usize);
                    filter.column == *column && made.is_some_and(|made| made.source == source)
                };
                of_scan.iter().any(same)
            }
        });
        !twice && !waits_for(query, source, *stage)
    });
    if targets.is_empty() || query.graph.filters.len() >= MAX_FILTERS {
        return;
    }
    let (Some(stage), Ok(column)) = (query.graph.stages.get(source.0 as usize), u32::try_from(column)) else {
        return;
    };
    let tasks = u64::from(stage.tasks.max(1));
    let Some(planned) = query.stages.get_mut(source.0 as usize) else {
        return;
    };
    let id = u32::try_from(query.graph.filters.len()).unwrap_or(u32::MAX);
    planned.filters.push(MadeFilter {
        column,
        max_bytes: (MAX_REPORTED_BYTES / tasks).clamp(MIN_TASK_BYTES, BLOOM_WORDS as u64 * 8),
    });
    let stages: BTreeSet<StageId> = targets.iter().map(|(stage, ..)| *stage).collect();
    query.graph.filters.push(RuntimeFilter {
        id: FilterId(id),
        source,
        targets: stages.into_iter().collect(),
        max_wait: max_wait(candidate.target_bytes, candidate.kept),
    });
    for (stage, leaf, column) in targets {
        let filter = UsedFilter {
            filter: id,
            column,
            of_keys: candidate.of_keys,
        };
        used.entry((stage, leaf)).or_default().push(filter);
    }
}

/// How long a scan of these bytes waits for a filter that admits an estimated part of its rows, at most.
fn max_wait(target_bytes: u64, kept: f64) -> Duration {
    let dropped = target_bytes as f64 * (1.0 - kept).clamp(0.0, 1.0);
    let wait = Duration::from_secs_f64(dropped / BYTES_PER_MILLISECOND / 1_000.0);
    wait.min(MAX_WAIT)
}

/// Whether `stage` cannot run before `other` has, or is it.
fn waits_for(query: &PlannedQuery, stage: StageId, other: StageId) -> bool {
    let mut open = vec![stage];
    let mut seen = BTreeSet::new();
    while let Some(stage) = open.pop() {
        if stage == other {
            return true;
        }
        if !seen.insert(stage) {
            continue;
        }
        let inputs = query.graph.stages.get(stage.0 as usize).into_iter();
        let exchanges = inputs.flat_map(|stage| stage.inputs.iter().map(|input| input.exchange));
        let exchanges = exchanges.filter_map(|id| query.graph.exchanges.get(id.0 as usize));
        open.extend(exchanges.flat_map(|exchange| exchange.writers.iter().copied()));
        let filters = query.graph.filters.iter();
        open.extend(
            filters
                .filter(|filter| filter.targets.contains(&stage))
                .map(|filter| filter.source),
        );
    }
    false
}
