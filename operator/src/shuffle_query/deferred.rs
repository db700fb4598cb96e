//! Statuses that have given way to more urgent ones of other queries.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::progress::Urgency;

/// Since when the status of a query gives way, by the query's unique id.
#[derive(Default)]
pub(super) struct Deferred(Mutex<HashMap<String, Instant>>);

impl Deferred {
    fn since(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a status of this urgency, for which there is no turn to spare `now`, has given way for long enough to get one
    /// all the same.
    pub fn is_over(&self, uid: &str, urgency: Urgency, now: Instant) -> bool {
        let Some(patience) = urgency.patience() else {
            return false;
        };
        let since = *self.since().entry(uid.to_owned()).or_insert(now);
        now.duration_since(since) >= patience
    }

    /// A status of the query was written, or none will be.
    pub fn forget(&self, uid: &str) {
        self.since().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_step_gives_way_for_a_while_and_counters_for_as_long_as_they_must() {
        let deferred = Deferred::default();
        let start = Instant::now();
        let over = |uid: &str, urgency, seconds| {
            deferred.is_over(uid, urgency, start + Duration::from_secs(seconds))
        };
        for urgency in [Urgency::Progress, Urgency::Stage] {
            assert!(!over("a", urgency, 0));
            assert!(!over("a", urgency, 3_600));
        }
        assert!(!over("a", Urgency::Step, 100), "it begins to wait only now");
        assert!(!over("a", Urgency::Step, 109));
        assert!(!over("b", Urgency::Step, 109), "another query");
        assert!(over("a", Urgency::Step, 110));
        deferred.forget("a");
        assert!(!over("a", Urgency::Step, 111));
        assert!(over("b", Urgency::Step, 119));
    }
}
