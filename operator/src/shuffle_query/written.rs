//! What this operator wrote of a query last: the cache shows it a moment later.

use std::sync::Arc;

use kube::ResourceExt;
use sluice_crds::ShuffleQuery;
use tokio::time::Instant;

/// The last write of a query's status.
pub(super) struct Written {
    /// When it was.
    pub at: Instant,
    /// What it made of the query, until the cache has that or something newer.
    ahead: Option<Ahead>,
}

/// Resource versions cannot be compared: the cache is behind where it shows one that is known to be over.
struct Ahead {
    query: Arc<ShuffleQuery>,
    over: Vec<String>,
}

impl Written {
    /// `query` was written over the version `before`; `known` is the write before this one.
    pub fn new(known: Option<Self>, before: &ShuffleQuery, query: &ShuffleQuery) -> Self {
        let mut over = known
            .and_then(|known| known.ahead)
            .map_or(Vec::new(), |ahead| ahead.over);
        over.extend(before.resource_version());
        let query = Arc::new(query.clone());
        let changed = query.resource_version() != before.resource_version();
        Self {
            at: Instant::now(),
            ahead: changed.then_some(Ahead { query, over }),
        }
    }

    /// The newer one of `cached` and what was written: a decision from an older one would be refused as a conflict.
    pub fn freshest(&mut self, cached: Arc<ShuffleQuery>) -> Arc<ShuffleQuery> {
        let version = cached.resource_version().unwrap_or_default();
        if let Some(ahead) = &self.ahead
            && ahead.over.contains(&version)
        {
            return ahead.query.clone();
        }
        self.ahead = None;
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

    fn fresh(written: &mut Written, cached: &str) -> String {
        let freshest = written.freshest(Arc::new(version(cached)));
        freshest.resource_version().unwrap()
    }

    #[test]
    fn a_cache_that_is_behind_is_not_believed_and_one_that_is_ahead_is() {
        let mut written = Written::new(None, &version("a"), &version("b"));
        assert_eq!(fresh(&mut written, "a"), "b");
        let mut written = Written::new(Some(written), &version("b"), &version("c"));
        for behind in ["a", "b"] {
            assert_eq!(fresh(&mut written, behind), "c");
        }
        // Somebody else's write.
        assert_eq!(fresh(&mut written, "d"), "d");
        assert_eq!(
            fresh(&mut written, "a"),
            "a",
            "nothing is kept once the cache has caught up"
        );
    }

    #[test]
    fn a_write_that_changed_nothing_is_not_remembered() {
        let mut written = Written::new(None, &version("a"), &version("a"));
        assert!(written.ahead.is_none());
        assert_eq!(fresh(&mut written, "b"), "b");
    }
}
