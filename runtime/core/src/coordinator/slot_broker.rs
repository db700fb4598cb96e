//! Leases of slots: which to request, which to release, and what to do when none is granted.
//!
//! What an event costs does not depend on how many workers there are, as long as more tasks wait than slots are free: sums
//! and the names of accounts that changed are kept up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use super::Coordinator;
use super::attempts::TaskRun;
use super::event::Action;
use super::poison::Start;
use super::spread::{Offer, Runnable, spread};
use super::worker_registry::{Worker, WorkerRegistry};
use crate::ids::{AttemptId, StageId, WorkerId};
use crate::plan::Stage;
use crate::time::Instant;

/// How long tasks wait for an even spread before the query requests all it could use of every worker. Longer than a round
/// trip, shorter than anyone notices.
const SPREAD_DELAY: Duration = Duration::from_millis(100);

/// How long tasks wait for a slot before a reader that waits for them gives up its own. Long enough for a free slot to be
/// granted.
const DEADLOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// The slots that the query leases of its workers.
#[derive(Debug, Default)]
pub(super) struct SlotBroker {
    /// By name of a worker with a session. Changed by [`Self::change`] alone, which keeps the sums.
    accounts: BTreeMap<String, Account>,
    /// Accounts with granted slots.
    with_grants: BTreeSet<String>,
    /// Accounts of which slots are requested.
    with_requests: BTreeSet<String>,
    /// Accounts that changed since the requests were last updated.
    changed: BTreeSet<String>,
    /// Whether the requests were last updated so that each usable worker is asked for all its spare slots.
    asks_for_all: bool,
    /// The stage for whose tasks workers were chosen last, and whether by what they prefer, as long as nothing but grants and
    /// their use has changed since: then the choice still holds for the tasks that are left.
    dealt: Option<(StageId, bool)>,
    sums: Sums,
    /// Whether nothing but duplicates could run.
    speculative: bool,
    /// Since when tasks could run but found no slot.
    starved_since: Option<Instant>,
}

/// Sums over all accounts, or what one of them adds to them.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// Workers to which attempts may be assigned.
    usable: u64,
    /// Their spare slots.
    spare: u64,
    /// Attempts that have a slot.
    occupied: u64,
    /// Slots that are requested.
    requested: u64,
}

/// The slots of one session.
#[derive(Debug, Default)]
struct Account {
    /// The worker's slots in all.
    slots: u32,
    /// Whether attempts may be assigned to the worker.
    usable: bool,
    /// Granted to this query and not consumed.
    granted: u32,
    /// Requested of the worker beyond those granted.
    requested: u32,
    /// Whether those are for duplicates alone.
    speculative: bool,
    /// Attempts assigned in this session whose end was not reported: each has a slot.
    occupied: BTreeSet<AttemptId>,
}

impl Account {
    fn load(&self) -> u32 {
        u32::try_from(self.occupied.len()).unwrap_or(u32::MAX)
    }

    /// Whether just that is requested.
    fn is_requested(&self, slots: u32, speculative: bool) -> bool {
        self.requested == slots && (slots == 0 || self.speculative == speculative)
    }

    /// Slots that this query could still get; none of a worker that takes no attempts.
    fn spare(&self) -> u32 {
        let taken = self.load().saturating_add(self.granted);
        if self.usable {
            self.slots.saturating_sub(taken)
        } else {
            0
        }
    }

    fn sums(&self) -> Sums {
        Sums {
            usable: u64::from(self.usable),
            spare: u64::from(self.spare()),
            occupied: self.occupied.len() as u64,
            requested: u64::from(self.requested),
        }
    }
}

impl SlotBroker {
    /// Changes an account, if there is one, and keeps sums and sets.
    fn change<R>(&mut self, name: &str, change: impl FnOnce(&mut Account) -> R) -> Option<R> {
        let account = self.accounts.get_mut(name)?;
        let before = account.sums();
        let result = change(account);
        let after = account.sums();
        let (granted, requested) = (account.granted > 0, account.requested > 0);
        self.count(before, after);
        for (set, belongs) in [
            (&mut self.with_grants, granted),
            (&mut self.with_requests, requested),
            (&mut self.changed, true),
        ] {
            match (belongs, set.contains(name)) {
                (true, false) => drop(set.insert(name.to_owned())),
                (false, true) => drop(set.remove(name)),
                (true, true) | (false, false) => {}
            }
        }
        Some(result)
    }

    fn count(&mut self, before: Sums, after: Sums) {
        let moved = |sum: u64, before: u64, after: u64| sum.saturating_sub(before).saturating_add(after);
        self.sums = Sums {
            usable: moved(self.sums.usable, before.usable, after.usable),
            spare: moved(self.sums.spare, before.spare, after.spare),
            occupied: moved(self.sums.occupied, before.occupied, after.occupied),
            requested: moved(self.sums.requested, before.requested, after.requested),
        };
    }

    /// Opens the account of a new session with a worker that has so many slots.
    pub(super) fn open_account(&mut self, worker: &str, slots: u32) {
        self.close_account(worker);
        let account = Account {
            slots,
            ..Account::default()
        };
        self.accounts.insert(worker.to_owned(), account);
        self.dealt = None;
        self.changed.insert(worker.to_owned());
    }

    /// Closes the account of a session that has ended; answers with the attempts that had a slot.
    pub(super) fn close_account(&mut self, worker: &str) -> BTreeSet<AttemptId> {
        let Some(account) = self.accounts.remove(worker) else {
            return BTreeSet::new();
        };
        self.dealt = None;
        self.count(account.sums(), Sums::default());
        for set in [&mut self.with_grants, &mut self.with_requests, &mut self.changed] {
            set.remove(worker);
        }
        account.occupied
    }

    /// Records whether attempts may be assigned to the worker.
    pub(super) fn set_usable(&mut self, worker: &str, usable: bool) {
        self.dealt = None;
        self.change(worker, |account| account.usable = usable);
    }

    /// The worker has granted this many more slots.
    pub(super) fn grant(&mut self, worker: &str, slots: u32) {
        self.change(worker, |account| {
            account.granted = account.granted.saturating_add(slots);
            account.requested = account.requested.saturating_sub(slots);
        });
    }

    /// Consumes a granted slot of the worker for an attempt.
    pub(super) fn consume(&mut self, worker: &str, attempt: AttemptId) {
        self.change(worker, |account| {
            account.granted = account.granted.saturating_sub(1);
            account.occupied.insert(attempt);
        });
    }

    /// An attempt has ended at the worker, to which its slot goes back.
    pub(super) fn vacate(&mut self, worker: &str, attempt: AttemptId, now: Instant) {
        self.dealt = None;
        let was_occupied = self.change(worker, |account| account.occupied.remove(&attempt));
        if was_occupied == Some(true) && self.starved_since.is_some() {
            // The worker has a free slot that it will grant soon: no reader has to give up its own.
            self.restart_starvation(now);
        }
    }

    /// Restarts the wait of starving tasks, since a slot is about to become free.
    pub(super) fn restart_starvation(&mut self, now: Instant) {
        self.starved_since = Some(now);
    }

    /// Whether tasks have starved long enough for a reader or a duplicate to give up its slot.
    pub(super) fn has_starved(&self, now: Instant) -> bool {
        self.starved_since
            .is_some_and(|since| since + DEADLOCK_TIMEOUT <= now)
    }

    /// Whether attempts may be assigned to any worker.
    pub(super) fn has_usable_worker(&self) -> bool {
        self.sums.usable > 0
    }

    /// The names of workers with granted slots that are not consumed, in order.
    pub(super) fn with_grants(&self) -> impl Iterator<Item = &str> {
        self.with_grants.iter().map(String::as_str)
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

    /// When starving tasks make the query request more slots, or free one.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.starved_since
            .into_iter()
            .flat_map(|since| [since + SPREAD_DELAY, since + DEADLOCK_TIMEOUT])
    }

    /// Releases granted slots that have no work.
    fn release_granted(&mut self, workers: &WorkerRegistry, out: &mut Vec<Action>) {
        for name in mem::take(&mut self.with_grants) {
            self.dealt = None;
            let slots = self.change(&name, |account| mem::take(&mut account.granted));
            if let Some((worker, slots)) = workers.get(&name).zip(slots) {
                out.push(Action::ReleaseSlots {
                    worker: worker.id().clone(),
                    slots,
                });
            }
        }
    }

    /// Records whether tasks starve for slots, or duplicates while no task does. Neither inherits the other's wait.
    fn note_starvation(&mut self, starves: bool, speculative: bool, assigned: bool, now: Instant) {
        let turned = mem::replace(&mut self.speculative, speculative) != speculative;
        self.starved_since = match self.starved_since {
            Some(_) | None if !starves => None,
            Some(since) if !assigned && !turned => Some(since),
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
        let tasks: u64 = runnable.iter().map(|run| u64::from(run.count)).sum();
        let asks_for_all = tasks >= self.sums.spare && runnable.iter().all(Runnable::runs_anywhere);
        let is_of = |stage: StageId| {
            runnable
                .iter()
                .all(|run| run.stage == stage && run.runs_anywhere())
        };
        let stage = runnable.first().map(|run| run.stage);
        let prefers = runnable.iter().any(|run| run.preferred.is_some());
        let alike = stage.filter(|stage| is_of(*stage)).map(|stage| (stage, prefers));
        let is_dealt = alike.is_some() && alike == self.dealt && tasks == self.sums.requested;
        if is_dealt && !asks_for_all && self.is_patient(now) {
            // Each of the others was given one of the slots that were requested for it.
            self.changed.clear();
            return;
        }
        self.dealt = alike.filter(|_| !asks_for_all);
        // As many tasks as slots, or none: nobody has to be chosen, and accounts that did not change have their request.
        let changes = match (asks_for_all, tasks) {
            (true, _) if self.asks_for_all => {
                let names = mem::take(&mut self.changed).into_iter();
                let spare = names.map(|name| (self.accounts.get(&name).map_or(0, Account::spare), name));
                spare.map(|(spare, name)| (name, spare)).collect()
            }
            (true, _) => self.changes(|_, account| account.spare()),
            (false, 0) => self.with_requests.iter().map(|name| (name.clone(), 0)).collect(),
            (false, _) => {
                // Both are in the order of their names.
                let mut shares = self.shares(runnable, stages, workers, now).into_iter().peekable();
                self.changes(|name, _| shares.next_if(|(of, _)| of == name).map_or(0, |(_, slots)| slots))
            }
        };
        let speculative = self.speculative;
        for (name, slots) in changes {
            let account = self.accounts.get(&name);
            let changes = account.is_some_and(|account| !account.is_requested(slots, speculative));
            let Some(worker) = workers.get(&name).filter(|_| changes) else {
                continue;
            };
            out.push(Action::RequestSlots {
                worker: worker.id().clone(),
                slots,
                speculative_slots: if speculative { slots } else { 0 },
            });
            self.change(&name, |account| {
                account.requested = slots;
                account.speculative = speculative;
            });
        }
        self.asks_for_all = asks_for_all;
        self.changed.clear();
    }

    /// The accounts of which so many slots are to be requested, and that is not what was requested last.
    fn changes(&self, mut wanted: impl FnMut(&str, &Account) -> u32) -> Vec<(String, u32)> {
        let accounts = self.accounts.iter().filter_map(|(name, account)| {
            let slots = wanted(name, account);
            (!account.is_requested(slots, self.speculative)).then(|| (name.clone(), slots))
        });
        accounts.collect()
    }

    /// Whether starving tasks wait for an even spread.
    fn is_patient(&self, now: Instant) -> bool {
        self.starved_since.is_none_or(|since| now < since + SPREAD_DELAY)
    }

    /// How many slots to request of each worker, by name.
    fn shares(
        &self,
        runnable: &[Runnable],
        stages: &[Stage],
        workers: &WorkerRegistry,
        now: Instant,
    ) -> BTreeMap<String, u32> {
        let offers = self.offers(workers);
        if self.is_patient(now) {
            return spread(runnable, stages, offers);
        }
        let all = offers
            .iter()
            .map(|offer| (offer.name().to_owned(), offer.at_most(runnable)));
        all.collect()
    }

    /// The workers with spare slots, by name.
    fn offers<'a>(&self, workers: &'a WorkerRegistry) -> Vec<Offer<'a>> {
        // Both are in the order of their names.
        let mut known = workers.all();
        let offer = |(name, account): (&String, &Account)| {
            let worker = known.find(|worker| worker.name() == name)?;
            (account.spare() > 0).then(|| Offer::new(worker, account.load(), account.spare()))
        };
        self.accounts.iter().filter_map(offer).collect()
    }
}

impl Coordinator {
    /// Releases and requests slots, after everything that could start has started.
    pub(super) fn lease_slots(&mut self, assigned: bool) {
        self.slots.release_granted(&self.workers, &mut self.out);
        let mut runnable = self.runnable();
        let speculative = runnable.is_empty();
        if speculative {
            runnable = self.runnable_duplicates();
        }
        self.slots
            .note_starvation(!runnable.is_empty(), speculative, assigned, self.now);
        self.update_slot_requests(&runnable);
        self.free_slot_of_waiting_reader();
        if !speculative {
            self.free_slot_of_duplicate();
        }
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
        let mut all = Vec::new();
        if !self.slots.has_usable_worker() {
            return all;
        }
        // At least 1, so that starvation is noticed even when all slots are taken.
        let mut left = usize::try_from(self.slots.sums.spare.max(1)).unwrap_or(usize::MAX);
        let mut may_start = self.may_start();
        for id in self.schedulable() {
            let stage = self.stages.get(id);
            if self.suspects.is_empty() && !self.has_failed_tasks(id) {
                let count = stage.due_count(self.now, left);
                left -= count;
                // With as many tasks as slots, each worker is asked for all it has.
                if left > 0 && stage.requests_preferred(self.now) {
                    let preferring = stage.due_by_worker(self.now);
                    let preferring = preferring.filter_map(|(worker, count)| {
                        let tasks = Runnable::anywhere(id, count)?;
                        Some(tasks.preferring(worker, self.near_preferred(worker)))
                    });
                    all.extend(preferring);
                    let others = stage.due_anywhere(self.now).count();
                    all.extend(Runnable::anywhere(id, others));
                } else {
                    all.extend(Runnable::anywhere(id, count));
                }
                continue;
            }
            for task in stage.due(self.now) {
                if left == 0 {
                    break;
                }
                let away_from = match may_start(task) {
                    Start::Anywhere => None,
                    Start::AwayFrom(hosts) => Some(hosts),
                    Start::No => continue,
                };
                left -= 1;
                let failed_on = self.stages.task(task).and_then(TaskRun::failed_on).cloned();
                all.push(Runnable {
                    stage: id,
                    count: 1,
                    away_from,
                    failed_on,
                    preferred: None,
                });
            }
        }
        all
    }

    /// Breaks a deadlock: if tasks starve while every attempt of the query waits for what they make, the youngest of those
    /// attempts gives up its slot.
    fn free_slot_of_waiting_reader(&mut self) {
        if !self.slots.has_starved(self.now) || !self.all_wait_for_inputs() {
            return;
        }
        let reclaimable = self.stages.running_attempts().filter(|attempt| {
            self.workers
                .get(&attempt.worker.name)
                .is_some_and(|worker| self.workers.is_usable(worker))
        });
        if let Some(youngest) = reclaimable.max_by_key(|attempt| attempt.start) {
            let (worker, attempt) = (WorkerId::clone(&youngest.worker), youngest.id);
            self.cancel_attempt(worker, attempt);
            self.slots.restart_starvation(self.now);
        }
    }

    /// Whether all running attempts wait for an input, and no cancelled attempt is about to free its slot.
    fn all_wait_for_inputs(&self) -> bool {
        let mut stages = self.stages.iter().filter(|stage| stage.is_running());
        let wait = stages.all(|stage| !self.inputs_done(stage.id()));
        let running = || self.stages.running_attempts().count() as u64;
        wait && self.slots.sums.occupied > 0 && self.slots.sums.occupied == running()
    }
}
