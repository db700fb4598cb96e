//! Leases of slots: which to request, which to release, and what to do when none is granted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Coordinator;
use super::event::Action;
use super::poison::Start;
use super::worker_registry::{Worker, WorkerRegistry};
use crate::ids::{AttemptId, StageId, WorkerId};
use crate::plan::Stage;
use crate::time::Instant;

/// How long tasks wait for an even spread before the query requests all it could use of every worker. Longer than a round
/// trip, shorter than anyone notices.
const SPREAD_PATIENCE: Duration = Duration::from_millis(100);

/// How long tasks wait for a slot before a reader that waits for them gives up its own. Long enough for a free slot to be
/// granted.
const DEADLOCK_PATIENCE: Duration = Duration::from_millis(500);

/// The slots that the query leases of its workers.
#[derive(Debug, Default)]
pub(super) struct SlotBroker {
    /// By name of a worker with a session.
    accounts: BTreeMap<String, Account>,
    /// Since when tasks could run but found no slot.
    starved_since: Option<Instant>,
}

/// The slots of one session.
#[derive(Debug, Default)]
struct Account {
    /// Granted to this query and not consumed.
    granted: u32,
    /// Requested of the worker beyond those granted.
    requested: u32,
    /// Attempts assigned in this session whose end was not reported: each has a slot.
    occupied: BTreeSet<AttemptId>,
}

/// A task that could start now.
struct Runnable {
    stage: StageId,
    /// For a task that was lost with a worker: the workers where it may not run.
    away_from: Option<BTreeSet<String>>,
    /// The worker where it has just failed.
    failed_on: Option<WorkerId>,
}

impl Runnable {
    fn may_run_at(&self, worker: &Worker) -> bool {
        let away_from = self.away_from.as_ref();
        away_from.is_none_or(|hosts| !hosts.contains(worker.name()))
    }
}

impl SlotBroker {
    /// Opens the account of a new session.
    pub(super) fn open_account(&mut self, worker: &str) {
        self.accounts.insert(worker.to_owned(), Account::default());
    }

    /// Closes the account of a session that has ended; answers with the attempts that had a slot.
    pub(super) fn close_account(&mut self, worker: &str) -> BTreeSet<AttemptId> {
        let account = self.accounts.remove(worker);
        account.map(|account| account.occupied).unwrap_or_default()
    }

    /// The worker has granted this many more slots.
    pub(super) fn grant(&mut self, worker: &str, slots: u32) {
        if let Some(account) = self.accounts.get_mut(worker) {
            account.granted = account.granted.saturating_add(slots);
            account.requested = account.requested.saturating_sub(slots);
        }
    }

    /// Consumes a granted slot of the worker for an attempt.
    pub(super) fn consume(&mut self, worker: &str, attempt: AttemptId) {
        if let Some(account) = self.accounts.get_mut(worker) {
            account.granted = account.granted.saturating_sub(1);
            account.occupied.insert(attempt);
        }
    }

    /// An attempt has ended at the worker, to which its slot goes back.
    pub(super) fn vacate(&mut self, worker: &str, attempt: AttemptId, now: Instant) {
        let account = self.accounts.get_mut(worker);
        let was_occupied = account.is_some_and(|account| account.occupied.remove(&attempt));
        if was_occupied && self.starved_since.is_some() {
            // The worker has a free slot that it will grant soon: no reader has to give up its own.
            self.restart_patience(now);
        }
    }

    /// Restarts the wait of starving tasks, since a slot is about to become free.
    fn restart_patience(&mut self, now: Instant) {
        self.starved_since = Some(now);
    }

    /// Whether tasks have starved long enough for a reader to give up its slot.
    fn starved_for_long(&self, now: Instant) -> bool {
        self.starved_since
            .is_some_and(|since| since + DEADLOCK_PATIENCE <= now)
    }

    /// Slots of the worker that are granted and not consumed.
    pub(super) fn granted(&self, worker: &Worker) -> u32 {
        self.accounts
            .get(worker.name())
            .map_or(0, |account| account.granted)
    }

    /// Slots requested of each worker with a session, by name.
    #[cfg(test)]
    pub(super) fn requests(&self) -> impl Iterator<Item = u32> {
        self.accounts.values().map(|account| account.requested)
    }

    /// Attempts that have a slot at the worker.
    pub(super) fn occupied(&self, worker: &Worker) -> impl Iterator<Item = &AttemptId> {
        let account = self.accounts.get(worker.name());
        account.into_iter().flat_map(|account| &account.occupied)
    }

    /// How many attempts have a slot at the worker.
    pub(super) fn load(&self, worker: &Worker) -> usize {
        self.accounts
            .get(worker.name())
            .map_or(0, |account| account.occupied.len())
    }

    /// How many attempts have a slot anywhere.
    fn total_load(&self) -> usize {
        self.accounts.values().map(|account| account.occupied.len()).sum()
    }

    /// Slots of the worker that this query could still get.
    pub(super) fn spare(&self, worker: &Worker) -> u32 {
        let load = u32::try_from(self.load(worker)).unwrap_or(u32::MAX);
        worker
            .slots()
            .saturating_sub(load.saturating_add(self.granted(worker)))
    }

    /// When starving tasks make the query request more slots, or free one.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.starved_since
            .into_iter()
            .flat_map(|since| [since + SPREAD_PATIENCE, since + DEADLOCK_PATIENCE])
    }

    /// Releases granted slots that have no work.
    fn release_granted(&mut self, workers: &WorkerRegistry, out: &mut Vec<Action>) {
        for (name, account) in &mut self.accounts {
            if let Some(worker) = workers.get(name).filter(|_| account.granted > 0) {
                out.push(Action::ReleaseSlots {
                    worker: worker.id().clone(),
                    slots: account.granted,
                });
                account.granted = 0;
            }
        }
    }

    /// Records whether tasks starve for slots.
    fn note_starvation(&mut self, starves: bool, assigned: bool, now: Instant) {
        self.starved_since = match self.starved_since {
            Some(_) | None if !starves => None,
            Some(since) if !assigned => Some(since),
            Some(_) | None => Some(now),
        };
    }

    /// Sends each worker the number of slots requested of it, if it changed.
    fn update_requests(
        &mut self,
        runnable: &[Runnable],
        stages: &[Stage],
        workers: &WorkerRegistry,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let is_patient = self
            .starved_since
            .is_none_or(|since| now < since + SPREAD_PATIENCE);
        let shares = if is_patient {
            self.spread(runnable, stages, workers)
        } else {
            let all = |worker: &Worker| (worker.name().to_owned(), self.at_most(runnable, worker));
            workers.usable().map(all).collect()
        };
        for (name, account) in &mut self.accounts {
            let slots = shares.get(name).copied().unwrap_or(0);
            let Some(worker) = workers.get(name).filter(|_| account.requested != slots) else {
                continue;
            };
            account.requested = slots;
            out.push(Action::RequestSlots {
                worker: worker.id().clone(),
                slots,
            });
        }
    }

    /// How many of the tasks the worker could take. It takes at most one of those that were lost with a worker.
    fn at_most(&self, tasks: &[Runnable], worker: &Worker) -> u32 {
        let anywhere = tasks.iter().filter(|task| task.away_from.is_none()).count();
        let mut suspects = tasks.iter().filter(|task| task.away_from.is_some());
        let suspect = suspects.any(|task| task.may_run_at(worker));
        let tasks = u32::try_from(anywhere + usize::from(suspect)).unwrap_or(u32::MAX);
        tasks.min(self.spare(worker))
    }

    /// Spreads tasks over workers with spare slots: each to the worker with the best locality, then the fewest attempts of
    /// this query, then the fewest failures.
    fn spread(
        &self,
        tasks: &[Runnable],
        stages: &[Stage],
        workers: &WorkerRegistry,
    ) -> BTreeMap<String, u32> {
        let mut shares = BTreeMap::new();
        let mut with_suspect: BTreeSet<&str> = BTreeSet::new();
        for task in tasks {
            let data = &stages[task.stage.0 as usize].data;
            let dealt = |worker: &Worker| shares.get(worker.name()).copied().unwrap_or(0);
            let free = workers.usable().filter(|worker| {
                let apart = task.away_from.is_none() || !with_suspect.contains(worker.name());
                dealt(worker) < self.spare(worker) && apart && task.may_run_at(worker)
            });
            let least = free.min_by_key(|worker| {
                let running = self.load(worker).saturating_add(dealt(worker) as usize);
                let level = data.level_for(worker.location());
                let failed_here = task.failed_on.as_ref() == Some(worker.id());
                (failed_here, level, running, worker.failures(), worker.name())
            });
            let Some(worker) = least else {
                continue;
            };
            if task.away_from.is_some() {
                with_suspect.insert(worker.name());
            }
            *shares.entry(worker.name().to_owned()).or_insert(0) += 1;
        }
        shares
    }
}

impl Coordinator {
    /// Releases and requests slots, after everything that could start has started.
    pub(super) fn lease_slots(&mut self, assigned: bool) {
        self.slots.release_granted(&self.workers, &mut self.out);
        let runnable = self.runnable();
        self.slots
            .note_starvation(!runnable.is_empty(), assigned, self.now);
        self.update_slot_requests(&runnable);
        self.free_slot_of_waiting_reader();
    }

    /// Withdraws every request and gives back every granted slot.
    pub(super) fn return_leases(&mut self) {
        self.slots.release_granted(&self.workers, &mut self.out);
        self.update_slot_requests(&[]);
    }

    fn update_slot_requests(&mut self, runnable: &[Runnable]) {
        let (stages, workers) = (&self.graph.stages, &self.workers);
        self.slots
            .update_requests(runnable, stages, workers, self.now, &mut self.out);
    }

    /// The tasks that could start now, given slots; at most as many as slots could still come.
    fn runnable(&self) -> Vec<Runnable> {
        if self.workers.usable().next().is_none() {
            return Vec::new();
        }
        // At least 1, so that starvation is noticed even when all slots are taken.
        let spare = self.workers.usable().map(|worker| self.slots.spare(worker));
        let capacity = spare.fold(0, u32::saturating_add).max(1);
        let mut may_start = self.may_start();
        let due = self
            .schedulable()
            .flat_map(|stage| self.stages.get(stage).due(self.now));
        let tasks = due.filter_map(|task| {
            let away_from = match may_start(task) {
                Start::Anywhere => None,
                Start::AwayFrom(hosts) => Some(hosts),
                Start::No => return None,
            };
            Some(Runnable {
                stage: task.stage,
                away_from,
                failed_on: self.stages.task(task).and_then(|task| task.failed_on.clone()),
            })
        });
        tasks.take(capacity as usize).collect()
    }

    /// Breaks a deadlock: if tasks starve while every attempt of the query waits for what they make, the youngest of those
    /// attempts gives up its slot.
    fn free_slot_of_waiting_reader(&mut self) {
        if !self.slots.starved_for_long(self.now) || !self.all_wait_for_inputs() {
            return;
        }
        let reclaimable = self.stages.running_attempts().filter(|attempt| {
            self.workers
                .get(&attempt.worker.name)
                .is_some_and(|worker| self.workers.is_usable(worker))
        });
        if let Some(youngest) = reclaimable.max_by_key(|attempt| attempt.start) {
            let (worker, attempt) = (youngest.worker.clone(), youngest.id);
            self.cancel_attempt(worker, attempt);
            self.slots.restart_patience(self.now);
        }
    }

    /// Whether all running attempts wait for an input, and no cancelled attempt is about to free its slot.
    fn all_wait_for_inputs(&self) -> bool {
        let running = self.stages.running_attempts().count();
        let mut stages = self.stages.iter().filter(|stage| stage.is_running());
        let wait = stages.all(|stage| !self.inputs_done(stage.id()));
        running > 0 && self.slots.total_load() == running && wait
    }
}
