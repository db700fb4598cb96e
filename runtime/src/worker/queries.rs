//! Which session serves which query at this worker, and when a query's data may go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::leases::SessionId;
use tokio_util::sync::CancellationToken;

/// The sessions of this worker by query.
#[derive(Clone, Default)]
pub(super) struct Queries {
    sessions: Arc<Mutex<Sessions>>,
}

/// How many queries' last epochs are remembered after their end, so that a coordinator that was cut off for long is
/// still known to be superseded.
const MAX_REMEMBERED: usize = 1024;

#[derive(Default)]
struct Sessions {
    last: u64,
    current: BTreeMap<QueryId, Current>,
    /// The last epochs of queries that have ended here, the oldest first.
    ended: VecDeque<(QueryId, CoordinatorEpoch)>,
}

struct Current {
    session: SessionId,
    epoch: CoordinatorEpoch,
    replaced: CancellationToken,
    stopped: CancellationToken,
}

/// A session's place among the sessions of its query.
#[derive(Debug)]
pub(super) struct Entered {
    /// Its number at this worker.
    pub(super) session: SessionId,
    /// To be cancelled when the session and those before it have stopped all their attempts.
    pub(super) stopped: CancellationToken,
    /// The same of the session before it, and whether that was of an earlier coordinator.
    pub(super) before: Option<(CancellationToken, bool)>,
}

impl Queries {
    /// Makes a new session the query's current one and cuts the one before it. `None` if a coordinator of a later
    /// term was here.
    pub(super) fn enter(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        replaced: CancellationToken,
    ) -> Option<Entered> {
        let mut sessions = self.lock();
        if sessions.latest(query).is_some_and(|latest| latest > epoch) {
            return None;
        }
        sessions.last += 1;
        let session = SessionId(sessions.last);
        let stopped = CancellationToken::new();
        let current = Current {
            session,
            epoch,
            replaced,
            stopped: stopped.clone(),
        };
        let before = sessions.current.insert(query.clone(), current);
        let before = before.map(|before| {
            before.replaced.cancel();
            (before.stopped, before.epoch < epoch)
        });
        Some(Entered {
            session,
            stopped,
            before,
        })
    }

    /// Forgets the query, but for its epoch, if `session` is still its current one; says whether it was.
    pub(super) fn leave(&self, query: &QueryId, session: SessionId) -> bool {
        let mut sessions = self.lock();
        let current = sessions
            .current
            .get(query)
            .is_some_and(|current| current.session == session);
        if current && let Some(left) = sessions.current.remove(query) {
            sessions.ended.retain(|(ended, _)| ended != query);
            sessions.ended.push_back((query.clone(), left.epoch));
            if sessions.ended.len() > MAX_REMEMBERED {
                sessions.ended.pop_front();
            }
        }
        current
    }

    /// The latest coordinator epoch of a query that was here.
    pub(super) fn latest(&self, query: &QueryId) -> Option<CoordinatorEpoch> {
        self.lock().latest(query)
    }

    /// Whether the query has a session, or data that waits for one.
    pub(super) fn is_here(&self, query: &QueryId) -> bool {
        self.lock().current.contains_key(query)
    }

    /// How many such queries there are.
    pub(super) fn count(&self) -> usize {
        self.lock().current.len()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn latest(&self, query: &QueryId) -> Option<CoordinatorEpoch> {
        let current = self.current.get(query).map(|current| current.epoch);
        let ended = || self.ended.iter().find(|(ended, _)| ended == query);
        current.or_else(|| ended().map(|(_, epoch)| *epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_session_replaces_an_earlier_one_and_an_older_term_is_refused() {
        let queries = Queries::default();
        let query = QueryId::new("q").expect("a legal id");
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let one = queries
            .enter(&query, CoordinatorEpoch(1), first.clone())
            .expect("the first enters");
        let two = queries
            .enter(&query, CoordinatorEpoch(2), second.clone())
            .expect("a later term enters");
        assert!(first.is_cancelled() && !second.is_cancelled());
        let (_, superseded) = two.before.expect("there was one before");
        assert!(superseded && one.before.is_none());
        assert!(
            queries
                .enter(&query, CoordinatorEpoch(1), CancellationToken::new())
                .is_none()
        );
        assert!(
            !queries.leave(&query, one.session),
            "the replaced session must not retire the query"
        );
        assert!(queries.leave(&query, two.session));
        assert!(!queries.is_here(&query) && queries.count() == 0);
        let late = queries.enter(&query, CoordinatorEpoch(1), CancellationToken::new());
        assert!(
            late.is_none(),
            "the end of the query does not bring the old term back"
        );
        assert_eq!(queries.latest(&query), Some(CoordinatorEpoch(2)));
    }
}
