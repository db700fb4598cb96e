//! How tasks are spread over the free slots of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::worker_registry::Worker;
use crate::ids::{StageId, WorkerId};
use crate::locality::{DataLocality, LocalityLevel};
use crate::plan::Stage;

/// Tasks of one stage that could start now and are alike.
pub(super) struct Runnable {
    pub(super) stage: StageId,
    /// How many, at least one.
    pub(super) count: u32,
    /// For a task that was lost with a worker, and for a duplicate: the workers where it may not run. Each other worker is dealt
    /// one of those at a time.
    pub(super) away_from: Option<BTreeSet<String>>,
    /// The worker where it has just failed.
    pub(super) failed_on: Option<WorkerId>,
    /// The worker that they prefer, and what is near it.
    pub(super) preferred: Option<(Arc<WorkerId>, DataLocality)>,
}

impl Runnable {
    /// So many tasks that may run at any worker; `None` if there are none.
    pub(super) fn anywhere(stage: StageId, count: usize) -> Option<Self> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        (count > 0).then_some(Self {
            stage,
            count,
            away_from: None,
            failed_on: None,
            preferred: None,
        })
    }

    /// The same tasks, preferring a worker.
    pub(super) fn preferring(self, worker: &Arc<WorkerId>, near: DataLocality) -> Self {
        Self {
            preferred: Some((Arc::clone(worker), near)),
            ..self
        }
    }

    /// Whether it may run at any worker, and none is worse than the others.
    pub(super) fn runs_anywhere(&self) -> bool {
        self.away_from.is_none() && self.failed_on.is_none()
    }

    fn may_run_at(&self, worker: &Worker) -> bool {
        let away_from = self.away_from.as_ref();
        away_from.is_none_or(|hosts| !hosts.contains(worker.name()))
    }
}

/// A worker with spare slots.
pub(super) struct Offer<'a> {
    worker: &'a Worker,
    /// Attempts that have a slot there, and tasks that were dealt to it.
    running: u32,
    /// Slots that are left.
    spare: u32,
    dealt: u32,
    /// Whether a task was dealt to it that was lost with a worker.
    has_suspect: bool,
}

impl<'a> Offer<'a> {
    pub(super) fn new(worker: &'a Worker, load: u32, spare: u32) -> Self {
        Self {
            worker,
            running: load,
            spare,
            dealt: 0,
            has_suspect: false,
        }
    }

    pub(super) fn name(&self) -> &'a str {
        self.worker.name()
    }

    /// How many of the tasks the worker could take. It takes at most one of those that were lost with a worker.
    pub(super) fn at_most(&self, tasks: &[Runnable]) -> u32 {
        let anywhere = tasks.iter().filter(|task| task.away_from.is_none());
        let anywhere = anywhere.map(|task| task.count).fold(0, u32::saturating_add);
        let mut suspects = tasks.iter().filter(|task| task.away_from.is_some());
        let suspect = suspects.any(|task| task.may_run_at(self.worker));
        anywhere.saturating_add(suspect.into()).min(self.spare)
    }

    fn deal(&mut self, tasks: u32) {
        self.running = self.running.saturating_add(tasks);
        self.spare = self.spare.saturating_sub(tasks);
        self.dealt = self.dealt.saturating_add(tasks);
    }

    /// How many tasks bring it to this number of running ones.
    fn up_to(&self, level: u32) -> u32 {
        level.saturating_sub(self.running).min(self.spare)
    }
}

/// Spreads tasks over workers with spare slots: those that prefer a worker go there as long as it has slots. The others go to
/// the worker with the best locality, then the fewest attempts of this query, then the fewest failures, then the first name.
/// `offers` are in the order of their names.
pub(super) fn spread(
    tasks: &[Runnable],
    stages: &[Stage],
    mut offers: Vec<Offer<'_>>,
) -> BTreeMap<String, u32> {
    // What is preferred comes before what could go elsewhere.
    let preferred: Vec<u32> = tasks
        .iter()
        .map(|task| deal_preferred(task, &mut offers))
        .collect();
    for (task, dealt) in tasks.iter().zip(preferred) {
        let declared = &stages[task.stage.0 as usize].data;
        let near = task.preferred.as_ref().map(|(_, near)| near);
        let data = near.filter(|_| declared.is_anywhere()).unwrap_or(declared);
        if task.runs_anywhere() {
            fill_by_level(task.count - dealt, data, &mut offers);
        } else {
            deal_one(task, data, &mut offers);
        }
    }
    let dealt = offers.iter().filter(|offer| offer.dealt > 0);
    dealt
        .map(|offer| (offer.name().to_owned(), offer.dealt))
        .collect()
}

/// Deals tasks to the worker that they prefer, as long as it has slots. Returns how many.
fn deal_preferred(task: &Runnable, offers: &mut [Offer<'_>]) -> u32 {
    let Some((worker, _)) = &task.preferred else {
        return 0;
    };
    let found = offers.binary_search_by(|offer| offer.name().cmp(&worker.name));
    let offer = found.ok().and_then(|index| offers.get_mut(index));
    let Some(offer) = offer.filter(|offer| *offer.worker.id() == **worker) else {
        return 0;
    };
    let dealt = task.count.min(offer.spare);
    offer.deal(dealt);
    dealt
}

/// Deals a task that may not run everywhere, or better not.
fn deal_one(task: &Runnable, data: &DataLocality, offers: &mut [Offer<'_>]) {
    let is_suspect = task.away_from.is_some();
    let free = offers.iter_mut().filter(|offer| {
        let apart = !is_suspect || !offer.has_suspect;
        offer.spare > 0 && apart && task.may_run_at(offer.worker)
    });
    let least = free.min_by_key(|offer| {
        let level = data.level_for(offer.worker.location());
        let failed_here = task.failed_on.as_ref() == Some(offer.worker.id());
        (
            failed_here,
            level,
            offer.running,
            offer.worker.failures(),
            offer.worker.name(),
        )
    });
    if let Some(offer) = least {
        offer.deal(1);
        offer.has_suspect |= is_suspect;
    }
}

/// Deals tasks that are alike: to the workers of the best locality level as long as they have slots, then to those of the
/// next one.
fn fill_by_level(tasks: u32, data: &DataLocality, offers: &mut [Offer<'_>]) {
    let levels = [LocalityLevel::Node, LocalityLevel::Zone, LocalityLevel::Elsewhere];
    let mut left = tasks;
    for level in levels {
        if left == 0 {
            return;
        }
        let at_level =
            |offer: &&mut Offer<'_>| offer.spare > 0 && data.level_for(offer.worker.location()) == level;
        left -= fill(left, offers.iter_mut().filter(at_level).collect());
    }
}

/// Deals tasks one by one to the worker with the fewest running ones. Returns how many were dealt. All workers fill up to one
/// level; the rest goes above it, one for each worker.
fn fill(tasks: u32, mut offers: Vec<&mut Offer<'_>>) -> u32 {
    let dealt = |offers: &[&mut Offer<'_>], level: u32| -> u64 {
        offers.iter().map(|offer| u64::from(offer.up_to(level))).sum()
    };
    // The highest level that the tasks suffice for.
    let full = offers
        .iter()
        .map(|offer| offer.running.saturating_add(offer.spare));
    let (mut level, mut above) = (0, full.max().unwrap_or(0));
    while level < above {
        let middle = level + (above - level).div_ceil(2);
        if dealt(&offers, middle) <= u64::from(tasks) {
            level = middle;
        } else {
            above = middle - 1;
        }
    }
    let mut left = tasks;
    for offer in &mut offers {
        let up_to = offer.up_to(level);
        offer.deal(up_to);
        left -= up_to;
    }
    offers.retain(|offer| offer.running <= level && offer.spare > 0);
    // They are in the order of their names, which the sort keeps.
    offers.sort_by_key(|offer| offer.worker.failures());
    for offer in offers.iter_mut().take(left as usize) {
        offer.deal(1);
        left -= 1;
    }
    tasks - left
}
