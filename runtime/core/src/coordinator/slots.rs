//! Leases: which slots to ask for, which to give back, and what to do when none comes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Coordinator;
use super::event::Action;
use super::poison::Start;
use super::workers::Worker;
use crate::ids::{StageId, WorkerId};

/// How long tasks wait for the slots that would spread them best before the query asks every worker for all it
/// could use. Longer than a round trip, shorter than anyone notices.
pub(super) const SPREAD_PATIENCE: Duration = Duration::from_millis(100);

/// How long tasks wait for a slot before the query takes one back from a reader that waits for them. Long enough
/// for a free slot to be granted.
pub(super) const DEADLOCK_PATIENCE: Duration = Duration::from_millis(500);

/// A task that could start now.
pub(super) struct Runnable {
    stage: StageId,
    /// Of a task that was lost with a worker: where it may not run.
    away_from: Option<BTreeSet<String>>,
    /// Where it has just failed.
    failed_on: Option<WorkerId>,
}

impl Runnable {
    fn may_run_at(&self, worker: &Worker) -> bool {
        let away_from = self.away_from.as_ref();
        away_from.is_none_or(|hosts| !hosts.contains(&worker.id.name))
    }
}

/// How many of the tasks the worker could take: of those that were lost with a worker, one.
fn at_most(tasks: &[Runnable], worker: &Worker) -> u32 {
    let anywhere = tasks.iter().filter(|task| task.away_from.is_none()).count();
    let mut suspects = tasks.iter().filter(|task| task.away_from.is_some());
    let suspect = suspects.any(|task| task.may_run_at(worker));
    let tasks = u32::try_from(anywhere + usize::from(suspect)).unwrap_or(u32::MAX);
    tasks.min(worker.spare())
}

impl Coordinator {
    /// Settles the leases after everything that could start has started.
    pub(super) fn lease_slots(&mut self, assigned: bool) {
        self.release_granted();
        let runnable = self.runnable();
        self.starved_since = match self.starved_since {
            _ if runnable.is_empty() => None,
            Some(since) if !assigned => Some(since),
            Some(_) | None => Some(self.now),
        };
        self.update_slot_requests(&runnable);
        self.free_slot_of_waiting_reader();
    }

    /// Withdraws every request and gives back every granted slot.
    pub(super) fn return_leases(&mut self) {
        self.release_granted();
        self.update_slot_requests(&[]);
    }

    /// What is still granted has no work: nothing can run, or the worker may not run it.
    fn release_granted(&mut self) {
        for worker in self.workers.values_mut().filter(|worker| worker.granted > 0) {
            self.out.push(Action::ReleaseSlots {
                worker: worker.id.clone(),
                slots: worker.granted,
            });
            worker.granted = 0;
        }
    }

    /// The tasks that could start now, given slots; at most as many as slots could still come.
    fn runnable(&self) -> Vec<Runnable> {
        let usable = || self.workers.values().filter(|worker| self.is_usable(worker));
        if usable().next().is_none() {
            return Vec::new();
        }
        // At least 1: that tasks starve must show even when all slots are taken.
        let capacity = usable().map(Worker::spare).fold(0, u32::saturating_add).max(1);
        let mut may_start = self.may_start();
        let due = self.schedulable().flat_map(|stage| self.due(stage));
        let tasks = due.filter_map(|task| {
            let away_from = match may_start(task) {
                Start::Anywhere => None,
                Start::AwayFrom(hosts) => Some(hosts),
                Start::No => return None,
            };
            Some(Runnable {
                stage: task.stage,
                away_from,
                failed_on: self.task(task).and_then(|task| task.failed_on.clone()),
            })
        });
        tasks.take(capacity as usize).collect()
    }

    /// Tells each worker the number of slots that it should lease to the query, where it changed.
    fn update_slot_requests(&mut self, runnable: &[Runnable]) {
        let patient = self
            .starved_since
            .is_none_or(|since| self.now < since + SPREAD_PATIENCE);
        let shares = if patient {
            self.spread(runnable)
        } else {
            let usable = self.workers.values().filter(|worker| self.is_usable(worker));
            usable
                .map(|worker| (worker.id.name.clone(), at_most(runnable, worker)))
                .collect()
        };
        for (name, worker) in &mut self.workers {
            let slots = shares.get(name).copied().unwrap_or(0);
            if worker.is_connected() && worker.requested != slots {
                worker.requested = slots;
                self.out.push(Action::RequestSlots {
                    worker: worker.id.clone(),
                    slots,
                });
            }
        }
    }

    /// Deals tasks to workers one by one, each to the nearest to its data that could have a slot for it; among equals to
    /// the one that has the fewest of this query, then to the one that failed least.
    fn spread(&self, tasks: &[Runnable]) -> BTreeMap<String, u32> {
        let mut shares = BTreeMap::new();
        let mut with_suspect: BTreeSet<&str> = BTreeSet::new();
        for task in tasks {
            let data = &self.graph.stages[task.stage.0 as usize].data;
            let load = |name: &String| shares.get(name).copied().unwrap_or(0);
            let usable = self.workers.iter().filter(|(_, worker)| self.is_usable(worker));
            let free = usable.filter(|(name, worker)| {
                let apart = task.away_from.is_none() || !with_suspect.contains(name.as_str());
                load(name) < worker.spare() && apart && task.may_run_at(worker)
            });
            let least = free.min_by_key(|(name, worker)| {
                let running = worker.occupied.len().saturating_add(load(name) as usize);
                let level = data.level_for(&worker.location);
                let failed_here = task.failed_on.as_ref() == Some(&worker.id);
                (failed_here, level, running, worker.failures, *name)
            });
            let Some((name, _)) = least else {
                continue;
            };
            if task.away_from.is_some() {
                with_suspect.insert(name);
            }
            *shares.entry(name.clone()).or_insert(0) += 1;
        }
        shares
    }

    /// When tasks starve and every attempt of the query waits for what such tasks make, none would ever end: the
    /// youngest of them gives its slot up.
    fn free_slot_of_waiting_reader(&mut self) {
        let Some(since) = self.starved_since else {
            return;
        };
        if self.now < since + DEADLOCK_PATIENCE || !self.all_wait_for_inputs() {
            return;
        }
        let attempts = self
            .stages
            .iter()
            .flat_map(|stage| &stage.tasks)
            .filter_map(|task| task.running());
        let reclaimable = attempts.filter(|attempt| {
            self.workers
                .get(&attempt.worker.name)
                .is_some_and(|worker| self.is_usable(worker))
        });
        if let Some(youngest) = reclaimable.max_by_key(|attempt| attempt.start) {
            let task = youngest.id.task_id();
            self.cancel_and_requeue(task);
            self.starved_since = Some(self.now);
        }
    }

    /// Whether all running attempts miss an input, and no cancelled one is about to free its slot.
    fn all_wait_for_inputs(&self) -> bool {
        let stages = || (0..).map(StageId).zip(&self.stages);
        let running: usize = stages().map(|(_, stage)| stage.running.len()).sum();
        let occupied: usize = self.workers.values().map(|worker| worker.occupied.len()).sum();
        let wait = stages().all(|(id, stage)| stage.running.is_empty() || !self.inputs_done(id));
        running > 0 && occupied == running && wait
    }
}
