//! The runtime filters of one session, within the worker's budget for plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_core::key_filter::{KeyFilter, KeyLookup};

use super::stages::FragmentBudget;

/// Most filters that a session keeps.
const MAX_FILTERS: usize = 64;

/// The filters that a session has defined. One that finds no room is left out: scans then leave out fewer rows.
pub(super) struct SessionFilters {
    known: BTreeMap<u32, (u64, Arc<KeyLookup>)>,
    budget: FragmentBudget,
}

/// The filters of one attempt, by number.
pub(super) type AttemptFilters = BTreeMap<u32, Arc<KeyLookup>>;

impl SessionFilters {
    pub(super) fn new(budget: &FragmentBudget) -> Self {
        Self {
            known: BTreeMap::new(),
            budget: budget.clone(),
        }
    }

    /// Adds a filter, unless it is known or there is no room for it.
    pub(super) fn define(&mut self, filter: u32, keys: &KeyFilter) {
        if self.known.contains_key(&filter) || self.known.len() >= MAX_FILTERS {
            return;
        }
        let lookup = keys.lookup();
        let bytes = lookup.bytes();
        if self.budget.reserve(bytes).is_ok() {
            self.known.insert(filter, (bytes, Arc::new(lookup)));
        }
    }

    /// The filters of an attempt that this session has.
    pub(super) fn of_attempt(&self, filters: &[u32]) -> AttemptFilters {
        let known = |filter: &u32| Some((*filter, Arc::clone(&self.known.get(filter)?.1)));
        filters.iter().filter_map(known).collect()
    }
}

impl Drop for SessionFilters {
    fn drop(&mut self) {
        let bytes = self.known.values().map(|(bytes, _)| bytes).sum();
        self.budget.release(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_room_in_the_budget_and_are_left_out_without_it() {
        let budget = FragmentBudget::new(1_000);
        let mut filters = SessionFilters::new(&budget);
        let keys = KeyFilter::of(vec![7]);
        for filter in 0..4 {
            filters.define(filter, &keys);
            filters.define(filter, &keys);
        }
        let known = filters.of_attempt(&[0, 1, 2, 9]);
        assert_eq!(
            known.keys().copied().collect::<Vec<_>>(),
            [0],
            "each takes 512 bytes"
        );
        assert!(
            known
                .values()
                .all(|lookup| lookup.admits(7) && !lookup.admits(u64::MAX))
        );
        drop(filters);
        assert!(budget.reserve(1_000).is_ok(), "all of it came back");
    }
}
