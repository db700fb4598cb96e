//! Where most of a task's input lies, and which worker the task prefers for that. `coordinator/README.md` has the rule.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::WorkerId;

/// Workers that are remembered of those that hold a part of an exchange.
const REMEMBERED: usize = 2;
/// The part of its input that a task must save by running at a worker, one divided by this.
const LEAST_PART_SAVED: u128 = 4;

/// When a task prefers the worker that holds most of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalityPolicy {
    /// Encoded bytes that a task must save by running there: what is fetched while a slot would be waited for.
    pub min_bytes: u64,
    /// How long slots are requested of preferred workers first, from when a stage may run.
    pub max_wait: Duration,
}

/// The bytes of a part of an exchange, and the workers that hold most of them. It remembers two workers, however many there are
/// (Misra and Gries, *Finding repeated elements*, 1982): each with at most what it holds, and of that at most a third of all bytes
/// is missing that neither is said to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    total: u64,
    largest: [Option<(Arc<WorkerId>, u64)>; REMEMBERED],
}

impl Holders {
    /// All bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Adds bytes that lie at a worker.
    pub fn add(&mut self, worker: &Arc<WorkerId>, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        self.count(worker, bytes);
    }

    /// Adds the bytes of another part.
    pub fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        for (worker, bytes) in other.largest.iter().flatten() {
            self.count(worker, *bytes);
        }
    }

    fn count(&mut self, worker: &Arc<WorkerId>, bytes: u64) {
        let mut known = self.largest.iter_mut().flatten();
        if let Some((_, held)) = known.find(|(known, _)| Arc::ptr_eq(known, worker) || known == worker) {
            *held = held.saturating_add(bytes);
            return;
        }
        let mut bytes = bytes;
        if self.largest.iter().all(Option::is_some) {
            // One of a third worker takes one of each.
            let least = self.largest.iter().flatten().map(|(_, held)| *held).min();
            let taken = least.unwrap_or_default().min(bytes);
            bytes -= taken;
            for entry in &mut self.largest {
                if let Some((_, held)) = entry {
                    *held -= taken;
                }
                entry.take_if(|(_, held)| *held == 0);
            }
        }
        if let Some(free) = self.largest.iter_mut().find(|entry| entry.is_none())
            && bytes > 0
        {
            *free = Some((Arc::clone(worker), bytes));
        }
    }

    /// The worker that holds most, and the bytes that a task saves by running there instead of at any other of so many
    /// workers; `None` if that is little. Nothing is saved where all hold equally much.
    fn preferred(&self, workers: usize, policy: &LocalityPolicy) -> Option<(&Arc<WorkerId>, u64)> {
        let (worker, held) = self.largest.iter().flatten().max_by_key(|(_, held)| *held)?;
        let others = u64::try_from(workers).unwrap_or(u64::MAX).checked_sub(1)?;
        let at_another = (self.total - held).checked_div(others)?;
        let saved = held.saturating_sub(at_another);
        let is_much = u128::from(saved) * LEAST_PART_SAVED >= u128::from(self.total);
        (is_much && saved >= policy.min_bytes.max(1)).then_some((worker, saved))
    }
}

/// By task, the worker that it prefers; empty if none prefers any. `inputs` are those of the tasks, `slots` those of the workers
/// that take attempts. No worker is preferred by more tasks than it would get if the tasks were spread evenly over the slots:
/// those that save most have it.
pub fn preferred_workers(
    inputs: &[Holders],
    slots: &BTreeMap<Arc<WorkerId>, u32>,
    policy: &LocalityPolicy,
) -> Vec<Option<Arc<WorkerId>>> {
    let tasks = inputs.len() as u64;
    let all: u64 = slots.values().map(|slots| u64::from(*slots)).sum();
    let even = |slots: &u32| (tasks * u64::from(*slots)).div_ceil(all.max(1));
    let mut room: BTreeMap<&WorkerId, u64> = slots.iter().map(|(id, slots)| (&**id, even(slots))).collect();
    let wish = |(task, input): (usize, &Holders)| {
        let (worker, saved) = input.preferred(slots.len(), policy)?;
        slots
            .contains_key(worker)
            .then(|| (Reverse(saved), task, Arc::clone(worker)))
    };
    let mut wishes: Vec<_> = inputs.iter().enumerate().filter_map(wish).collect();
    if wishes.is_empty() {
        return Vec::new();
    }
    wishes.sort();
    let mut preferred = vec![None; inputs.len()];
    for (_, task, worker) in wishes {
        if let Some(room) = room.get_mut(&*worker).filter(|room| **room > 0) {
            *room -= 1;
            if let Some(slot) = preferred.get_mut(task) {
                *slot = Some(worker);
            }
        }
    }
    preferred
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn worker(name: &str) -> Arc<WorkerId> {
        Arc::new(WorkerId {
            name: name.to_owned(),
            incarnation: Incarnation(1),
        })
    }

    fn holders(parts: &[(&str, u64)]) -> Holders {
        let mut holders = Holders::default();
        parts
            .iter()
            .for_each(|(name, bytes)| holders.add(&worker(name), *bytes));
        holders
    }

    fn policy(min_bytes: u64) -> LocalityPolicy {
        LocalityPolicy {
            min_bytes,
            max_wait: Duration::from_millis(100),
        }
    }

    #[test]
    fn a_task_prefers_the_worker_that_holds_clearly_more_than_others() {
        for (parts, workers, min_bytes, expected) in [
            // An equal share is no reason, with however many workers.
            (&[("a", 50), ("b", 50)][..], 2, 1, None),
            (&[("a", 10), ("b", 10), ("c", 10), ("d", 10)], 4, 1, None),
            (&[("a", 62), ("b", 38)], 2, 1, None),
            (&[("a", 63), ("b", 37)], 2, 1, Some(("a", 26))),
            (&[("b", 30), ("a", 70)], 2, 1, Some(("a", 40))),
            // 40 of 100, and ten others hold six each on average.
            (&[("a", 40), ("b", 20), ("c", 20), ("d", 20)], 11, 1, None),
            (
                &[("a", 50), ("b", 25), ("a", 10), ("c", 25)],
                11,
                1,
                Some(("a", 28)),
            ),
            (&[("a", 100)], 2, 100, Some(("a", 100))),
            (&[("a", 100)], 2, 101, None),
            // There is no choice.
            (&[("a", 100)], 1, 1, None),
            (&[], 2, 0, None),
            (&[("a", 0)], 2, 0, None),
        ] {
            let holders = holders(parts);
            let preferred = holders.preferred(workers, &policy(min_bytes));
            let preferred = preferred.map(|(worker, saved)| (worker.name.as_str(), saved));
            assert_eq!(preferred, expected, "{parts:?} on {workers} workers");
        }
    }

    #[test]
    fn a_worker_with_two_thirds_is_remembered_whatever_came_before() {
        // 40 workers with one byte each, and one with twice as much as all of them, in three orders.
        let small: Vec<String> = (0..40).map(|number| format!("w{number}")).collect();
        for at in [0, 20, 40] {
            let mut parts: Vec<(&str, u64)> = small.iter().map(|name| (name.as_str(), 1)).collect();
            parts.insert(at, ("large", 80));
            let all = holders(&parts);
            assert_eq!(all.total(), 120);
            let held = all
                .largest
                .iter()
                .flatten()
                .find(|(worker, _)| worker.name == "large");
            let held = held.map(|(_, bytes)| *bytes).expect("it is remembered");
            assert!((60..=80).contains(&held), "{held} at {at}");
            let mut merged = Holders::default();
            for half in parts.chunks(7) {
                merged.merge(&holders(half));
            }
            assert_eq!(merged.total(), 120);
            let (most, _) = merged.preferred(41, &policy(1)).expect("a preferred worker");
            assert_eq!(most.name, "large");
        }
    }

    #[test]
    fn no_worker_is_preferred_by_more_tasks_than_its_share() {
        let slots: BTreeMap<_, _> = [(worker("a"), 2), (worker("b"), 2)].into();
        let names = |inputs: &[Holders]| -> Vec<Option<String>> {
            let preferred = preferred_workers(inputs, &slots, &policy(1)).into_iter();
            preferred
                .map(|worker| worker.map(|worker| worker.name.clone()))
                .collect()
        };
        let a = Some("a".to_owned());
        let inputs = [20, 90, 10, 30].map(|bytes| holders(&[("a", bytes)]));
        assert_eq!(
            names(&inputs),
            [None, a.clone(), None, a.clone()],
            "those that save most"
        );
        assert_eq!(names(&inputs[..1]), [a], "one task has a share of one");
        assert_eq!(
            names(&[holders(&[("gone", 9)]), holders(&[])]),
            [] as [Option<String>; 0]
        );
    }
}
