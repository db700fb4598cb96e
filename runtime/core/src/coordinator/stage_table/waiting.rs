//! The tasks of a stage that wait, by the end of their backoff and by the worker that they prefer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::StageRun;
use crate::ids::{TaskId, WorkerId};
use crate::time::Instant;

/// A waiting task with the end of its backoff.
type Entry = (Instant, u32);

/// The waiting tasks of a stage.
#[derive(Debug, Default)]
pub(super) struct WaitingTasks {
    all: BTreeSet<Entry>,
    /// By task, the worker that it prefers; empty if no task prefers any.
    preferred: Vec<Option<Arc<WorkerId>>>,
    /// The waiting tasks that prefer a worker; empty if no task of the stage does.
    by_worker: BTreeMap<Arc<WorkerId>, BTreeSet<Entry>>,
    /// Those that prefer none, if some task of the stage does.
    others: BTreeSet<Entry>,
    /// Until when slots are requested of preferred workers first; set when the tasks may first start.
    preference_ends: Option<Instant>,
}

impl FromIterator<Entry> for WaitingTasks {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self {
            all: entries.into_iter().collect(),
            ..Self::default()
        }
    }
}

impl WaitingTasks {
    pub(super) fn insert(&mut self, entry: Entry) {
        self.all.insert(entry);
        if !self.preferred.is_empty() {
            self.index_of(entry.1).insert(entry);
        }
    }

    pub(super) fn remove(&mut self, entry: Entry) {
        self.all.remove(&entry);
        if !self.preferred.is_empty() {
            self.index_of(entry.1).remove(&entry);
        }
    }

    /// The index that has the task while it waits.
    fn index_of(&mut self, task: u32) -> &mut BTreeSet<Entry> {
        match self.preferred.get(task as usize).and_then(Option::as_ref) {
            Some(worker) => self.by_worker.entry(Arc::clone(worker)).or_default(),
            None => &mut self.others,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.all.iter().copied()
    }

    /// When the next backoff ends.
    pub(super) fn next_end(&self, now: Instant) -> Option<Instant> {
        let after_now = (
            std::ops::Bound::Excluded((now, u32::MAX)),
            std::ops::Bound::Unbounded,
        );
        self.all.range(after_now).next().map(|(until, _)| *until)
    }

    /// Says which workers the tasks of the stage prefer.
    fn prefer(&mut self, preferred: Vec<Option<Arc<WorkerId>>>) {
        let mut by_worker: BTreeMap<Arc<WorkerId>, BTreeSet<Entry>> = BTreeMap::new();
        let mut others = BTreeSet::new();
        if !preferred.is_empty() {
            for entry in &self.all {
                match preferred.get(entry.1 as usize).and_then(Option::as_ref) {
                    Some(worker) => by_worker.entry(Arc::clone(worker)).or_default().insert(*entry),
                    None => others.insert(*entry),
                };
            }
        }
        self.preferred = preferred;
        self.by_worker = by_worker;
        self.others = others;
        self.preference_ends = None;
    }
}

impl StageRun {
    /// The tasks whose backoff is over.
    pub(in crate::coordinator) fn due(&self, now: Instant) -> impl Iterator<Item = TaskId> {
        self.due_of(Some(&self.waiting.all), now)
    }

    /// Of those, the ones that prefer a worker.
    pub(in crate::coordinator) fn due_at(
        &self,
        worker: &WorkerId,
        now: Instant,
    ) -> impl Iterator<Item = TaskId> {
        self.due_of(self.waiting.by_worker.get(worker), now)
    }

    /// Of those, the ones that prefer no worker while others of the stage do.
    pub(in crate::coordinator) fn due_anywhere(&self, now: Instant) -> impl Iterator<Item = TaskId> {
        self.due_of(Some(&self.waiting.others), now)
    }

    fn due_of(&self, tasks: Option<&BTreeSet<Entry>>, now: Instant) -> impl Iterator<Item = TaskId> {
        let due = tasks
            .into_iter()
            .flat_map(move |tasks| tasks.range(..=(now, u32::MAX)));
        due.map(|(_, task)| TaskId {
            stage: self.id,
            task: *task,
        })
    }

    /// How many tasks have their backoff behind them, at most so many.
    pub(in crate::coordinator) fn due_count(&self, now: Instant, most: usize) -> usize {
        let all_due = self.waiting.all.last().is_none_or(|(until, _)| *until <= now);
        match all_due {
            true => self.waiting.all.len().min(most),
            false => self.due(now).take(most).count(),
        }
    }

    /// How many of them prefer each worker.
    pub(in crate::coordinator) fn due_by_worker(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (&Arc<WorkerId>, usize)> {
        let workers = self.waiting.by_worker.keys();
        let counts = workers.map(move |worker| (worker, self.due_at(worker, now).count()));
        counts.filter(|(_, count)| *count > 0)
    }

    /// The worker that a task prefers.
    pub(in crate::coordinator) fn preferred_worker(&self, task: u32) -> Option<&Arc<WorkerId>> {
        self.waiting.preferred.get(task as usize)?.as_ref()
    }

    /// Whether tasks of the stage wait.
    pub(in crate::coordinator) fn has_waiting(&self) -> bool {
        !self.waiting.all.is_empty()
    }

    /// Whether tasks of the stage prefer workers.
    pub(in crate::coordinator) fn has_preferences(&self) -> bool {
        !self.waiting.preferred.is_empty()
    }

    /// Says by task which worker it prefers, for this epoch of the stage.
    pub(in crate::coordinator) fn prefer(&mut self, preferred: Vec<Option<Arc<WorkerId>>>) {
        self.waiting.prefer(preferred);
    }

    /// The tasks may start: from now on their preferences end at `until`, unless they had begun to before.
    pub(in crate::coordinator) fn begin_preference(&mut self, until: Instant) {
        self.waiting.preference_ends.get_or_insert(until);
    }

    /// Whether slots are requested of preferred workers first.
    pub(in crate::coordinator) fn requests_preferred(&self, now: Instant) -> bool {
        self.has_preferences() && self.waiting.preference_ends.is_some_and(|until| now < until)
    }

    /// When slots are no longer requested of preferred workers first, if tasks wait for that.
    pub(in crate::coordinator) fn preference_ends(&self) -> Option<Instant> {
        self.waiting
            .preference_ends
            .filter(|_| !self.waiting.all.is_empty())
    }
}
