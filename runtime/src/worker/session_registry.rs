//! Which session serves which query at this worker, and when a query's data may be deleted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_core::failure::FetchError;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::leases::SessionId;
use sluice_proto::auth::{AuthError, FetchKey};
use sluice_proto::refuse_fetch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The sessions of this worker, by query.
#[derive(Clone, Default)]
pub(super) struct SessionRegistry {
    sessions: Arc<Mutex<Sessions>>,
}

/// Ended queries whose last epoch is remembered, so that a coordinator that was cut off for long is still known to be
/// superseded.
const MAX_REMEMBERED: usize = 1024;

#[derive(Default)]
struct Sessions {
    last: u64,
    current: BTreeMap<QueryId, CurrentSession>,
    /// The last epochs of ended queries, oldest first.
    ended: VecDeque<(QueryId, CoordinatorEpoch)>,
}

struct CurrentSession {
    session: SessionId,
    epoch: CoordinatorEpoch,
    /// The key for fetches of the query's data here. All sessions of one coordinator share it, because readers keep it.
    fetch_key: FetchKey,
    replaced: CancellationToken,
    stopped: CancellationToken,
}

/// A session that was opened, and its predecessor.
#[derive(Debug)]
pub(super) struct OpenedSession {
    pub(super) session: SessionId,
    /// The key for fetches of the query's data here.
    pub(super) fetch_key: FetchKey,
    /// To be cancelled once this session and all earlier ones have stopped their attempts.
    pub(super) stopped: CancellationToken,
    /// The same token of the previous session, and whether that was of an earlier coordinator.
    pub(super) previous: Option<(CancellationToken, bool)>,
}

impl SessionRegistry {
    /// Makes a new session the query's current one and cancels the previous one. `None` if a coordinator of a later
    /// epoch had a session.
    pub(super) fn open(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        replaced: CancellationToken,
    ) -> Option<OpenedSession> {
        let mut sessions = self.lock();
        if sessions.latest_epoch(query).is_some_and(|latest| latest > epoch) {
            return None;
        }
        sessions.last += 1;
        let session = SessionId(sessions.last);
        let stopped = CancellationToken::new();
        let previous = sessions.current.get(query);
        let fetch_key = previous
            .filter(|previous| previous.epoch == epoch)
            .map_or_else(new_fetch_key, |previous| previous.fetch_key.clone());
        let current = CurrentSession {
            session,
            epoch,
            fetch_key: fetch_key.clone(),
            replaced,
            stopped: stopped.clone(),
        };
        let previous = sessions.current.insert(query.clone(), current);
        let previous = previous.map(|previous| {
            previous.replaced.cancel();
            (previous.stopped, previous.epoch < epoch)
        });
        Some(OpenedSession {
            session,
            fetch_key,
            stopped,
            previous,
        })
    }

    /// Removes the query, except its epoch, if `session` is still its current one. Returns whether it was.
    pub(super) fn close(&self, query: &QueryId, session: SessionId) -> bool {
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

    /// Admits a fetch with the key of the query's session, unless its coordinator is superseded. An `open` worker,
    /// which checks no tokens, also admits fetches without a key.
    ///
    /// # Errors
    /// The refusal. A query that is not here has nothing to read and nothing to protect.
    pub(super) fn admit_fetch(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        (shown, open): (Option<&FetchKey>, bool),
    ) -> Result<(), Status> {
        let sessions = self.lock();
        if sessions.latest_epoch(query).is_some_and(|latest| latest > epoch) {
            return Err(refuse_fetch(FetchError::StaleCoordinator));
        }
        let current = sessions.current.get(query);
        let current = current.ok_or_else(|| refuse_fetch(FetchError::UnknownStream))?;
        let opens = current.fetch_key.opens(shown) || (open && shown.is_none());
        if current.epoch != epoch || !opens {
            return Err(AuthError::WrongFetchKey.into());
        }
        Ok(())
    }

    /// Whether the query has a session, or data whose lease runs.
    pub(super) fn has_query(&self, query: &QueryId) -> bool {
        self.lock().current.contains_key(query)
    }

    /// The number of such queries.
    pub(super) fn count(&self) -> usize {
        self.lock().current.len()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key of 244 random bits.
fn new_fetch_key() -> FetchKey {
    let mut bytes = [0; 32];
    let (first, second) = bytes.split_at_mut(16);
    first.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    second.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    FetchKey::new(bytes)
}

impl Sessions {
    fn latest_epoch(&self, query: &QueryId) -> Option<CoordinatorEpoch> {
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
        let queries = SessionRegistry::default();
        let query = QueryId::new("q").expect("a legal id");
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let one = queries
            .open(&query, CoordinatorEpoch(1), first.clone())
            .expect("the first enters");
        let two = queries
            .open(&query, CoordinatorEpoch(2), second.clone())
            .expect("a later epoch enters");
        assert!(first.is_cancelled() && !second.is_cancelled());
        let (_, superseded) = two.previous.expect("there was one before");
        assert!(superseded && one.previous.is_none());
        assert!(
            queries
                .open(&query, CoordinatorEpoch(1), CancellationToken::new())
                .is_none()
        );
        assert!(
            !queries.close(&query, one.session),
            "the replaced session must not retire the query"
        );
        assert!(queries.close(&query, two.session));
        assert!(!queries.has_query(&query) && queries.count() == 0);
        let late = queries.open(&query, CoordinatorEpoch(1), CancellationToken::new());
        assert!(
            late.is_none(),
            "the end of the query does not bring the old epoch back"
        );
        assert_eq!(queries.lock().latest_epoch(&query), Some(CoordinatorEpoch(2)));
    }

    #[test]
    fn a_fetch_shows_the_key_of_the_querys_session_at_this_worker() {
        let (here, elsewhere) = (SessionRegistry::default(), SessionRegistry::default());
        let enter = |queries: &SessionRegistry, id: &str, epoch| {
            let query = QueryId::new(id).expect("a legal id");
            let opened = queries.open(&query, CoordinatorEpoch(epoch), CancellationToken::new());
            opened.expect("it enters").fetch_key
        };
        let admit = |id: &str, epoch, key: Option<&FetchKey>| {
            let query = QueryId::new(id).expect("a legal id");
            here.admit_fetch(&query, CoordinatorEpoch(epoch), (key, false))
                .map_err(|status| status.code())
        };
        let (own, other) = (enter(&here, "q", 1), enter(&here, "other", 1));
        let replayed = enter(&elsewhere, "q", 1);
        assert_eq!(admit("q", 1, Some(&own)), Ok(()));
        for key in [None, Some(&other), Some(&replayed)] {
            assert_eq!(admit("q", 1, key), Err(tonic::Code::PermissionDenied));
        }
        assert_eq!(
            admit("q", 2, Some(&own)),
            Err(tonic::Code::PermissionDenied),
            "a forged epoch"
        );
        let query = QueryId::new("q").expect("a legal id");
        let open = |key| here.admit_fetch(&query, CoordinatorEpoch(1), (key, true)).ok();
        assert_eq!((open(None), open(Some(&other))), (Some(()), None));
        assert_eq!(enter(&here, "q", 1), own, "its readers hold the key");
        let later = enter(&here, "q", 2);
        assert_eq!(admit("q", 2, Some(&later)), Ok(()));
        assert_eq!(admit("q", 2, Some(&own)), Err(tonic::Code::PermissionDenied));
        let query = QueryId::new("q").expect("a legal id");
        let stale = here.admit_fetch(&query, CoordinatorEpoch(1), (Some(&own), false));
        let stale = stale.expect_err("superseded");
        assert_eq!(sluice_proto::fetch_error_of(&stale), FetchError::StaleCoordinator);
    }
}
