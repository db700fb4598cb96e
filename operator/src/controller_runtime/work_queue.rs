//! The queue of objects to reconcile, with two priorities: first in, first out within each.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Items that wait for their reconcile, or are being reconciled.
///
/// ```text
/// (unknown) --> Queued --> Processing --> (unknown)
///                  ^           |
///                  `-- Dirty <-'      it changed meanwhile
/// ```
pub struct WorkQueue<K> {
    high: VecDeque<K>,
    normal: VecDeque<K>,
    /// High-priority items taken since the last normal one.
    high_burst: u32,
    states: HashMap<K, ItemState>,
    limit: ConcurrencyLimit,
}

/// The priority of an item in the work queue, and of its writes in the rate limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Goes first, except that every fourth turn is a normal item's.
    High,
    /// All other items.
    Normal,
}

/// Most high-priority items that are taken in a row while normal items wait.
const MAX_HIGH_BURST: u32 = 3;

/// The priority of an item is that under which it was queued or taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItemState {
    Queued(Priority),
    Processing(Priority),
    /// It changed while it was being reconciled, and is queued again afterwards.
    Dirty(Priority),
}

/// How many items may be reconciled at a time, and how many are.
struct ConcurrencyLimit {
    total: usize,
    high: usize,
    normal: usize,
}

impl ConcurrencyLimit {
    fn has_room(&self, priority: Priority) -> bool {
        // Normal items keep their worker while they are rate-limited. A quarter is reserved, so that high-priority items, most of
        // which write nothing, are not throttled to the rate of writes.
        let reserved_for_high = self.total / 4;
        let any = self.high + self.normal < self.total;
        match priority {
            Priority::High => any,
            Priority::Normal => any && self.normal < self.total - reserved_for_high,
        }
    }

    fn in_use(&mut self, priority: Priority) -> &mut usize {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
        }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue. At most `concurrency` items are reconciled at a time, three quarters of them normal ones.
    pub fn new(concurrency: usize) -> Self {
        Self {
            high: VecDeque::new(),
            normal: VecDeque::new(),
            high_burst: 0,
            states: HashMap::new(),
            limit: ConcurrencyLimit {
                total: concurrency,
                high: 0,
                normal: 0,
            },
        }
    }

    /// Adds `key` at the end of the queue of its priority, unless it is queued already. A queued normal item that is added with
    /// high priority moves to the high-priority queue. An item that is being reconciled is queued again afterwards: it never
    /// runs twice at a time.
    pub fn add(&mut self, key: K, priority: Priority) {
        match (self.states.get(&key).copied(), priority) {
            (None, _) => {}
            (Some(ItemState::Queued(Priority::Normal)), Priority::High) => {
                self.normal.retain(|other| *other != key);
            }
            (Some(ItemState::Processing(taken_as)), _) => {
                self.states.insert(key, ItemState::Dirty(taken_as));
                return;
            }
            (Some(ItemState::Queued(_) | ItemState::Dirty(_)), _) => return,
        }
        self.states.insert(key.clone(), ItemState::Queued(priority));
        self.queued(priority).push_back(key);
    }

    fn queued(&mut self, priority: Priority) -> &mut VecDeque<K> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
        }
    }

    /// Takes the next item, if the concurrency limit has room for it. The item is being reconciled until [`Self::done`].
    pub fn take(&mut self) -> Option<K> {
        let order = if self.high_burst < MAX_HIGH_BURST {
            [Priority::High, Priority::Normal]
        } else {
            [Priority::Normal, Priority::High]
        };
        for priority in order {
            if self.limit.has_room(priority)
                && let Some(key) = self.queued(priority).pop_front()
            {
                self.high_burst = match priority {
                    Priority::High => self.high_burst.saturating_add(1),
                    Priority::Normal => 0,
                };
                *self.limit.in_use(priority) += 1;
                self.states.insert(key.clone(), ItemState::Processing(priority));
                return Some(key);
            }
        }
        None
    }

    /// Ends the reconcile of `key`. An item that changed meanwhile is queued again with `priority`.
    pub fn done(&mut self, key: &K, priority: Priority) {
        match self.states.remove(key) {
            Some(ItemState::Processing(taken_as)) => *self.limit.in_use(taken_as) -= 1,
            Some(ItemState::Dirty(taken_as)) => {
                *self.limit.in_use(taken_as) -= 1;
                self.add(key.clone(), priority);
            }
            // It was not taken.
            Some(ItemState::Queued(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_are_added_again_and_again_overtake_no_other() {
        let mut queue = WorkQueue::new(1);
        for busy in 0..100 {
            queue.add(busy, Priority::Normal);
        }
        // A hundred that change all the time, and one in their midst that changed once.
        for turn in 0..1_000 {
            if turn == 500 {
                queue.add(1_000, Priority::Normal);
            }
            let key = queue.take().expect("an item is queued");
            assert!(
                key != 1_000 || turn == 600,
                "after all that waited before it: {turn}"
            );
            assert!(key == 1_000 || turn != 600, "{key} has overtaken it");
            queue.add(key, Priority::Normal);
            queue.done(&key, Priority::Normal);
            if key == 1_000 {
                return;
            }
        }
        panic!("it never had its turn");
    }

    /// Takes the next item, and ends its reconcile.
    fn process<K: Clone + Eq + Hash>(queue: &mut WorkQueue<K>) -> Option<K> {
        let key = queue.take()?;
        queue.done(&key, Priority::Normal);
        Some(key)
    }

    #[test]
    fn high_priority_goes_first_and_leaves_every_fourth_turn() {
        let mut queue = WorkQueue::new(1);
        for other in ["a", "b"] {
            queue.add(other, Priority::Normal);
        }
        for high in ["1", "2", "3", "4", "5"] {
            queue.add(high, Priority::High);
        }
        let taken: Vec<_> = std::iter::from_fn(|| process(&mut queue)).collect();
        assert_eq!(taken, ["1", "2", "3", "a", "4", "5", "b"]);
        // The priority of a dirty item is decided when its reconcile ends.
        queue.add("a", Priority::Normal);
        assert_eq!(queue.take(), Some("a"));
        queue.add("b", Priority::Normal);
        queue.add("a", Priority::Normal);
        queue.done(&"a", Priority::High);
        assert_eq!(
            [process(&mut queue), process(&mut queue), process(&mut queue)],
            [Some("a"), Some("b"), None]
        );
    }

    /// The cache is late: a query that was just admitted is added as a normal item first, and as a high-priority one then.
    #[test]
    fn a_queued_item_whose_priority_rises_goes_first() {
        let mut queue = WorkQueue::new(1);
        for key in ["a", "b", "c"] {
            queue.add(key, Priority::Normal);
        }
        queue.add("c", Priority::High);
        queue.add("c", Priority::Normal);
        let taken: Vec<_> = std::iter::from_fn(|| process(&mut queue)).collect();
        assert_eq!(taken, ["c", "a", "b"]);
    }

    #[test]
    fn a_quarter_of_the_concurrency_is_reserved_for_high_priority() {
        for (concurrency, normal) in [(1, 1), (3, 3), (4, 3), (16, 12)] {
            let mut queue = WorkQueue::new(concurrency);
            for other in 0..100 {
                queue.add(other, Priority::Normal);
            }
            let taken: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
            assert_eq!(taken.len(), normal, "of {concurrency}");
        }
        let mut queue = WorkQueue::new(16);
        for other in 0..100 {
            queue.add(other, Priority::Normal);
        }
        while queue.take().is_some() {}
        // High-priority items get through, however long the normal ones take.
        for high in 100..200 {
            queue.add(high, Priority::High);
            assert_eq!(queue.take(), Some(high));
            queue.done(&high, Priority::High);
        }
        queue.add(200, Priority::High);
        queue.done(&0, Priority::Normal);
        assert_eq!(
            queue.take(),
            Some(12),
            "a queued high-priority item leaves normal ones their room"
        );
        // High-priority items may use all of the concurrency, and keep their count when they are dirty.
        let mut queue = WorkQueue::new(4);
        for high in 0..4 {
            queue.add(high, Priority::High);
            assert_eq!(queue.take(), Some(high));
            queue.add(high, Priority::Normal);
        }
        queue.add(4, Priority::High);
        assert_eq!(queue.take(), None);
        queue.done(&0, Priority::Normal);
        assert_eq!([queue.take(), queue.take()], [Some(0), None]);
    }

    #[test]
    fn no_item_is_queued_twice_or_runs_twice_at_a_time() {
        let mut queue = WorkQueue::new(2);
        queue.add("a", Priority::Normal);
        queue.add("a", Priority::Normal);
        queue.add("b", Priority::Normal);
        assert_eq!(queue.take(), Some("a"));
        // It changes while it is reconciled.
        queue.add("a", Priority::Normal);
        queue.add("a", Priority::Normal);
        assert_eq!(queue.take(), Some("b"));
        assert_eq!(queue.take(), None);
        queue.done(&"a", Priority::Normal);
        queue.done(&"b", Priority::Normal);
        assert_eq!(queue.take(), Some("a"));
        queue.done(&"a", Priority::Normal);
        assert_eq!(queue.take(), None);
    }
}
