//! The last status write of a query. The watch cache shows it a moment later.

use std::sync::Arc;

use kube::ResourceExt;
use sluice_crds::ShuffleQuery;
use tokio::time::Instant;

/// The last status write of a query.
pub(super) struct MutationCache {
    pub written_at: Instant,
    /// The result of the write, until the cache has it or something newer.
    pending: Option<PendingWrite>,
}

/// Resource versions have no order. The cache is stale if it shows a version that a write of ours replaced.
struct PendingWrite {
    query: Arc<ShuffleQuery>,
    replaced: Vec<String>,
}

impl MutationCache {
    /// `query` is the result of a write over the version `before`; `previous` is the write before it.
    pub fn new(previous: Option<Self>, before: &ShuffleQuery, query: &ShuffleQuery) -> Self {
        let mut replaced = previous
            .and_then(|previous| previous.pending)
            .map_or(Vec::new(), |pending| pending.replaced);
        replaced.extend(before.resource_version());
        let query = Arc::new(query.clone());
        let changed = query.resource_version() != before.resource_version();
        Self {
            written_at: Instant::now(),
            pending: changed.then_some(PendingWrite { query, replaced }),
        }
    }

    /// The newer one of `cached` and the last write. A write that is based on the older one would be a conflict.
    pub fn newest(&mut self, cached: Arc<ShuffleQuery>) -> Arc<ShuffleQuery> {
        let version = cached.resource_version().unwrap_or_default();
        if let Some(pending) = &self.pending
            && pending.replaced.contains(&version)
        {
            return pending.query.clone();
        }
        self.pending = None;
        cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: &str) -> ShuffleQuery {
        let mut query = ShuffleQuery::new("q", Default::default());
        query.metadata.resource_version = Some(version.to_owned());
        query
    }

    fn newest(cache: &mut MutationCache, cached: &str) -> String {
        let newest = cache.newest(Arc::new(version(cached)));
        newest.resource_version().unwrap()
    }

    #[test]
    fn the_last_write_replaces_a_stale_cache_and_no_other() {
        let mut cache = MutationCache::new(None, &version("a"), &version("b"));
        assert_eq!(newest(&mut cache, "a"), "b");
        let mut cache = MutationCache::new(Some(cache), &version("b"), &version("c"));
        for behind in ["a", "b"] {
            assert_eq!(newest(&mut cache, behind), "c");
        }
        // Somebody else's write.
        assert_eq!(newest(&mut cache, "d"), "d");
        assert_eq!(
            newest(&mut cache, "a"),
            "a",
            "the write is dropped once the cache has caught up"
        );
    }

    #[test]
    fn a_write_that_changed_nothing_is_not_remembered() {
        let mut cache = MutationCache::new(None, &version("a"), &version("a"));
        assert!(cache.pending.is_none());
        assert_eq!(newest(&mut cache, "b"), "b");
    }
}
