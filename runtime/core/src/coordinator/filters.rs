//! Runtime filters: what their sources have reported, which stages wait for them, and which stages start without them.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::Coordinator;
use crate::ids::{StageId, TaskId};
use crate::key_filter::KeyFilter;
use crate::message::AssignedFilter;
use crate::plan::{RuntimeFilter, StageGraph};
use crate::snapshot::FilterSnapshot;
use crate::time::Instant;

/// All runtime filters of a query, and the stages that use them.
#[derive(Debug)]
pub(super) struct RuntimeFilters {
    filters: Vec<(RuntimeFilter, FilterState)>,
    targets: BTreeMap<StageId, Target>,
}

/// What is known of a filter.
///
/// ```text
/// Collecting -> Complete
///     ^____________|      (its source starts over)
/// ```
#[derive(Debug)]
enum FilterState {
    /// Some task of the source has not won yet.
    Collecting {
        /// The tasks whose keys are in it. One that runs again writes the same keys.
        tasks: BTreeSet<u32>,
        keys: KeyFilter,
    },
    /// It has the keys of all rows of its source.
    Complete(Arc<KeyFilter>),
}

impl Default for FilterState {
    fn default() -> Self {
        Self::Collecting {
            tasks: BTreeSet::new(),
            keys: KeyFilter::default(),
        }
    }
}

/// A stage that uses filters.
#[derive(Debug, Default)]
struct Target {
    max_wait: Duration,
    /// How long it has waited while the query had nothing else to start.
    waited: Duration,
    /// Since when it waits so.
    since: Option<Instant>,
    /// The filters of this stage epoch and how many are missing, decided with its first assignment: all its attempts use the
    /// same.
    decided: Option<(Vec<AssignedFilter>, u32)>,
}

impl RuntimeFilters {
    pub(super) fn new(graph: &StageGraph) -> Self {
        let mut targets: BTreeMap<StageId, Target> = BTreeMap::new();
        for filter in &graph.filters {
            for stage in &filter.targets {
                let target = targets.entry(*stage).or_default();
                target.max_wait = target.max_wait.max(filter.max_wait);
            }
        }
        let filters = graph.filters.iter().cloned();
        Self {
            filters: filters.map(|filter| (filter, FilterState::default())).collect(),
            targets,
        }
    }

    /// Adds the keys that a task of a source wrote. `tasks` is how many tasks its stage has. A filter that was not reported
    /// admits everything.
    pub(super) fn add(&mut self, task: TaskId, reported: Vec<KeyFilter>, tasks: u32) {
        let mut reported = reported.into_iter();
        let made = self
            .filters
            .iter_mut()
            .filter(|(filter, _)| filter.source == task.stage);
        for (_, state) in made {
            let more = reported.next().unwrap_or_else(KeyFilter::everything);
            let FilterState::Collecting { tasks: known, keys } = state else {
                continue;
            };
            if known.insert(task.task) {
                *keys = mem::take(keys).union(more);
            }
            if known.len() >= tasks as usize {
                *state = FilterState::Complete(Arc::new(mem::take(keys)));
            }
        }
    }

    /// Completes the filters of a stage that writes no rows: no row finds a match.
    pub(super) fn complete_empty(&mut self, stage: StageId) {
        let made = self.filters.iter_mut();
        for (_, state) in made.filter(|(filter, _)| filter.source == stage) {
            *state = FilterState::Complete(Arc::new(KeyFilter::default()));
        }
    }

    /// Forgets the keys and the decision of a stage that starts over.
    pub(super) fn reset(&mut self, stage: StageId) {
        let made = self
            .filters
            .iter_mut()
            .filter(|(filter, _)| filter.source == stage);
        made.for_each(|(_, state)| *state = FilterState::default());
        if let Some(target) = self.targets.get_mut(&stage) {
            target.decided = None;
        }
    }

    /// Decides, once in a stage epoch, which filters a stage uses: the complete ones.
    pub(super) fn decide(&mut self, stage: StageId) {
        let (mut known, mut missing) = (Vec::new(), 0);
        for (filter, state) in self.used_by(stage) {
            match state {
                FilterState::Complete(keys) => known.push(AssignedFilter {
                    id: filter.id,
                    keys: Arc::clone(keys),
                }),
                FilterState::Collecting { .. } => missing += 1,
            }
        }
        if let Some(target) = self.targets.get_mut(&stage) {
            target.decided.get_or_insert((known, missing));
        }
    }

    /// The filters that attempts of the stage use.
    pub(super) fn assigned(&self, stage: StageId) -> Vec<AssignedFilter> {
        let target = self.targets.get(&stage);
        let decided = target.and_then(|target| target.decided.clone());
        decided.map_or_else(Vec::new, |(filters, _)| filters)
    }

    /// Whether the stage may not start yet, because a filter that it uses is still being made.
    pub(super) fn is_awaited(&self, stage: StageId) -> bool {
        let waits = |target: &Target| target.decided.is_none() && target.waited < target.max_wait;
        self.targets.get(&stage).is_some_and(waits)
            && self.used_by(stage).any(|(_, state)| match state {
                FilterState::Collecting { .. } => true,
                FilterState::Complete(_) => false,
            })
    }

    fn used_by(&self, stage: StageId) -> impl Iterator<Item = &(RuntimeFilter, FilterState)> {
        let uses = move |(filter, _): &&(RuntimeFilter, FilterState)| filter.targets.contains(&stage);
        self.filters.iter().filter(uses)
    }

    /// Adds up how long stages wait. `idle` are those for which nothing else could start.
    fn count_waits(&mut self, idle: &BTreeSet<StageId>, now: Instant) {
        for (stage, target) in &mut self.targets {
            if let Some(since) = target.since.take() {
                target.waited += now.since(since);
            }
            target.since = idle.contains(stage).then_some(now);
        }
    }

    /// When a stage has waited long enough.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let ends = |target: &Target| Some(target.since? + target.max_wait.saturating_sub(target.waited));
        self.targets.values().filter_map(ends)
    }

    /// What status shows of the stage's filters; `None` if it neither makes nor uses any.
    pub(super) fn observe(&self, stage: StageId) -> Option<FilterSnapshot> {
        let made = self.filters.iter().filter(|(filter, _)| filter.source == stage);
        let made = u32::try_from(made.count()).unwrap_or(u32::MAX);
        let target = self.targets.get(&stage);
        if made == 0 && target.is_none() {
            return None;
        }
        let decided = target.and_then(|target| target.decided.as_ref());
        let (used, missed) = decided.map_or((0, 0), |(known, missing)| (known.len(), *missing));
        let waited = target.map_or(Duration::ZERO, |target| target.waited);
        Some(FilterSnapshot {
            made,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            missed,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Coordinator {
    /// Counts how long stages wait for filters while the query has nothing else to start: only that delays it.
    pub(super) fn count_filter_waits(&mut self) {
        if self.graph.filters.is_empty() {
            return;
        }
        let (awaited, startable): (Vec<StageId>, Vec<StageId>) = self
            .stages
            .schedulable(&self.topology)
            .partition(|stage| self.filters.is_awaited(*stage));
        let has_work = |stage: &StageId| self.stages.get(*stage).due(self.now).next().is_some();
        let idle = if startable.iter().any(has_work) {
            BTreeSet::new()
        } else {
            awaited.into_iter().collect()
        };
        self.filters.count_waits(&idle, self.now);
    }
}
