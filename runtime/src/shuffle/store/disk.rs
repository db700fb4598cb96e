//! The disk space of a worker, which the store shares with what operators spill.

use std::io;
use std::sync::Arc;

use datafusion::execution::disk_manager::DiskManager;

use super::StoreConfig;
use crate::shuffle::segment::SpillDirs;

/// Where a worker writes, and how much of its limit is used.
#[derive(Debug)]
pub struct Disk {
    /// Where the store's files lie.
    pub dirs: SpillDirs,
    /// What operators spill with. Its limit is what the store leaves of the worker's.
    pub operators: Arc<DiskManager>,
    limit: Option<u64>,
    used: u64,
}

impl Disk {
    /// Takes the folders, with nothing in them.
    ///
    /// # Errors
    ///
    /// If one cannot be made or has another owner.
    pub fn open(config: &StoreConfig) -> io::Result<Self> {
        let dirs = SpillDirs::open(&config.spill_dirs, config.incarnation)?;
        let operators = Arc::new(dirs.for_operators(config.spill_limit)?);
        Ok(Self {
            dirs,
            operators,
            limit: config.spill_limit,
            used: 0,
        })
    }

    /// Bytes of the store.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes that operators spilled and still need.
    pub fn used_by_operators(&self) -> u64 {
        self.operators.used_disk_space()
    }

    /// The store is about to write so many bytes.
    ///
    /// # Errors
    ///
    /// It may not: the limit, which the error is, would be passed.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), u64> {
        let wanted = self.used.saturating_add(bytes);
        if let Some(limit) = self.limit
            && wanted.saturating_add(self.used_by_operators()) > limit
        {
            return Err(limit);
        }
        self.used = wanted;
        self.leave_rest_to_operators();
        Ok(())
    }

    /// The store has deleted so many bytes, or is about to.
    pub fn free(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.leave_rest_to_operators();
    }

    /// The two look at each other without a lock: together they may pass the limit by what operators write at the moment.
    fn leave_rest_to_operators(&self) {
        let Some(limit) = self.limit else { return };
        let rest = limit.saturating_sub(self.used);
        if let Err(error) = self.operators.set_max_temp_directory_size(rest) {
            tracing::warn!(%error, "the disk space of operators is not what it should be");
        }
    }
}
