//! What the reconciler knows of each query before the watch cache shows it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mutation_cache::MutationCache;

/// The memo of one query. Each assumption holds until the watch cache shows it.
#[derive(Default)]
pub(super) struct QueryMemo {
    /// The query was admitted, and the cache may not show it yet.
    pub assumed_admission: bool,
    /// The query gave its admission up or left the queue, and the cache may not show it yet.
    pub released_admission: bool,
    /// The coordinator whose pod was created, and which the cache may not show yet.
    pub expected_pod: Option<u64>,
    /// The uid of the ConfigMap with the coordinators' input, which this operator created or read.
    pub input_uid: Option<String>,
    /// The last status write.
    pub last_write: Option<MutationCache>,
}

/// The memos of all queries, by uid.
#[derive(Default)]
pub(super) struct QueryMemos {
    memos: Mutex<HashMap<String, QueryMemo>>,
}

impl QueryMemos {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<String, QueryMemo>> {
        self.memos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the memo of a query, if there is one.
    pub fn with<T>(&self, uid: &str, read: impl FnOnce(&mut QueryMemo) -> T) -> Option<T> {
        self.lock().get_mut(uid).map(read)
    }

    /// Changes the memo of a query, which begins empty.
    pub fn update(&self, uid: &str, change: impl FnOnce(&mut QueryMemo)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    /// Drops the memo of a query that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}
