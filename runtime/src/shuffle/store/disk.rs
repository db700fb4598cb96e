//! The disk space of a worker, shared by the store and spilling operators, and by queries.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::execution::disk_manager::DiskManager;
use sluice_core::ids::QueryId;
use sluice_core::shares::SpaceUsage;

use super::StoreConfig;
use crate::shuffle::segment::{OperatorSpillDirs, SpillDirs};

/// Disk usage by query. The lock protects sums; nothing waits while it is held.
#[derive(Debug)]
pub struct SpillSpace {
    limit: u64,
    folders: OperatorSpillDirs,
    shares: Mutex<BTreeMap<QueryId, QueryShare>>,
}

/// What one query has.
#[derive(Debug, Default)]
struct QueryShare {
    /// Bytes of its shuffle data.
    stored: u64,
    /// The disk manager of its operators, once one needs it.
    operators: Option<Arc<DiskManager>>,
}

impl QueryShare {
    fn spilled(&self) -> u64 {
        self.operators.as_ref().map_or(0, |disk| disk.used_disk_space())
    }

    fn bytes(&self) -> u64 {
        self.stored.saturating_add(self.spilled())
    }
}

impl SpillSpace {
    fn new(limit: Option<u64>, folders: OperatorSpillDirs) -> Self {
        Self {
            limit: limit.unwrap_or(u64::MAX),
            folders,
            shares: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueryId, QueryShare>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk manager for a query's operators. Its limit follows the query's current share.
    ///
    /// # Errors
    ///
    /// If a folder cannot be made.
    pub fn operators(&self, query: &QueryId) -> io::Result<Arc<DiskManager>> {
        let mut shares = self.lock();
        let known = shares.get(query).and_then(|share| share.operators.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let made = Arc::new(self.folders.disk_manager()?);
        shares.entry(query.clone()).or_default().operators = Some(Arc::clone(&made));
        self.set_limits(&shares);
        Ok(made)
    }

    /// Recomputes the limits of operators, which do not report their usage: between two calls they may exceed the limit
    /// together.
    pub fn rebalance(&self) {
        self.set_limits(&self.lock());
    }

    /// The disk usage from the view of one query.
    pub fn usage(&self, query: &QueryId) -> SpaceUsage {
        self.usage_of(query, &self.lock())
    }

    /// Bytes that operators have on disk.
    pub fn spilled_by_operators(&self) -> u64 {
        self.lock().values().map(QueryShare::spilled).sum()
    }

    fn usage_of(&self, query: &QueryId, shares: &BTreeMap<QueryId, QueryShare>) -> SpaceUsage {
        let users = shares
            .iter()
            .filter(|(id, share)| *id == query || share.bytes() > 0);
        SpaceUsage {
            limit: self.limit,
            own: shares.get(query).map_or(0, QueryShare::bytes),
            all: shares
                .values()
                .map(QueryShare::bytes)
                .fold(0, u64::saturating_add),
            queries: users.count().max(1) as u64,
        }
    }

    fn set_limits(&self, shares: &BTreeMap<QueryId, QueryShare>) {
        for (query, share) in shares {
            let Some(operators) = &share.operators else {
                continue;
            };
            let allowance = self.usage_of(query, shares).allowance();
            let most = allowance.saturating_sub(share.stored);
            if let Err(error) = operators.set_max_temp_directory_size(most) {
                tracing::warn!(%query, %error, "the disk space of operators is not what it should be");
            }
        }
    }

    /// Reserves bytes for a query's shuffle data.
    fn reserve(&self, query: &QueryId, bytes: u64) -> Result<(), SpaceUsage> {
        let mut shares = self.lock();
        let used = self.usage_of(query, &shares);
        if used.own.saturating_add(bytes) > used.allowance() {
            return Err(used);
        }
        shares.entry(query.clone()).or_default().stored += bytes;
        self.set_limits(&shares);
        Ok(())
    }

    fn free(&self, query: &QueryId, bytes: u64) {
        let mut shares = self.lock();
        if let Some(share) = shares.get_mut(query) {
            share.stored = share.stored.saturating_sub(bytes);
        }
        self.set_limits(&shares);
    }

    /// Removes an ended query. Files that its operators still have open are deleted when they close them.
    fn remove_query(&self, query: &QueryId) {
        let mut shares = self.lock();
        shares.remove(query);
        self.set_limits(&shares);
    }
}

/// Where a worker spills, and how much of its limit is used.
#[derive(Debug)]
pub struct Disk {
    /// Where the store's files lie.
    pub dirs: SpillDirs,
    /// What each query has of the disk.
    pub space: Arc<SpillSpace>,
    used: u64,
}

impl Disk {
    /// Creates the folders, empty.
    ///
    /// # Errors
    ///
    /// If one cannot be made or has another owner.
    pub fn open(config: &StoreConfig) -> io::Result<Self> {
        let dirs = SpillDirs::open(&config.spill_dirs, config.incarnation)?;
        let space = SpillSpace::new(config.spill_limit, dirs.for_operators()?);
        Ok(Self {
            dirs,
            space: Arc::new(space),
            used: 0,
        })
    }

    /// Bytes of the store.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Reserves bytes for a query before the store writes them.
    ///
    /// # Errors
    ///
    /// The query may not: why, and which setting to raise.
    pub fn reserve(&mut self, query: &QueryId, bytes: u64) -> Result<(), String> {
        let reserved = self.space.reserve(query, bytes);
        reserved.map_err(|used| {
            format!(
                "spill.limit is {} bytes, of which the query has {} and may have {} beside {} other queries: raise it",
                used.limit,
                used.own,
                used.allowance(),
                used.queries - 1
            )
        })?;
        self.used = self.used.saturating_add(bytes);
        Ok(())
    }

    /// Releases bytes of a query that the store deletes.
    pub fn free(&mut self, query: &QueryId, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.space.free(query, bytes);
    }

    /// Removes an ended query.
    pub fn remove_query(&mut self, query: &QueryId) {
        self.space.remove_query(query);
    }
}
