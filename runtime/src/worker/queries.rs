//! Which session serves which query at this worker, and when a query's data may go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::leases::SessionId;
use tokio_util::sync::CancellationToken;

/// The sessions of this worker by query.
#[derive(Clone, Default)]
pub(super) struct Queries {
    sessions: Arc<Mutex<Sessions>>,
}

#[derive(Default)]
struct Sessions {
    last: u64,
    current: BTreeMap<QueryId, Current>,
}

struct Current {
    session: SessionId,
    epoch: CoordinatorEpoch,
    replaced: CancellationToken,
}

impl Queries {
    /// Makes a new session the query's current one and cuts the one before it. `None` if a coordinator of a later
    /// term was here.
    pub(super) fn enter(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        replaced: CancellationToken,
    ) -> Option<SessionId> {
        let mut sessions = self.lock();
        if sessions
            .current
            .get(query)
            .is_some_and(|current| current.epoch > epoch)
        {
            return None;
        }
        sessions.last += 1;
        let session = SessionId(sessions.last);
        let before = sessions.current.insert(
            query.clone(),
            Current {
                session,
                epoch,
                replaced,
            },
        );
        if let Some(before) = before {
            before.replaced.cancel();
        }
        Some(session)
    }

    /// Forgets the query if `session` is still its current one; says whether it was.
    pub(super) fn leave(&self, query: &QueryId, session: SessionId) -> bool {
        let mut sessions = self.lock();
        let current = sessions
            .current
            .get(query)
            .is_some_and(|current| current.session == session);
        if current {
            sessions.current.remove(query);
        }
        current
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(
            queries
                .enter(&query, CoordinatorEpoch(1), CancellationToken::new())
                .is_none()
        );
        assert!(
            !queries.leave(&query, one),
            "the replaced session must not retire the query"
        );
        assert!(queries.leave(&query, two));
    }
}
