//! The pool.

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use tokio::sync::Notify;

/// The part of a worker's memory that the shuffle store may fill before bytes go to disk: one third. The rest is for
/// operators, which spill when their fair share of it is used up.
const SHUFFLE_SHARE: u64 = 3;
/// The part of a worker's memory that one input of one attempt may fetch ahead, and its bounds.
const INPUT_SHARE: u64 = 32;
const INPUT_BYTES: std::ops::RangeInclusive<u64> = (256 << 10)..=(16 << 20);

/// A worker's memory. Clones share it.
#[derive(Debug, Clone)]
pub struct WorkerMemory {
    limit: u64,
    pool: Arc<PressedPool>,
    pressure: Arc<Notify>,
}

impl WorkerMemory {
    /// A worker that may use `limit` bytes for queries.
    pub fn new(limit: u64) -> Self {
        let pressure = Arc::new(Notify::new());
        let inner = FairSpillPool::new(usize::try_from(limit).unwrap_or(usize::MAX));
        let pool = Arc::new(PressedPool { inner, limit, pressure: Arc::clone(&pressure) });
        Self { limit, pool, pressure }
    }

    /// The pool for operators and buffers.
    pub fn pool(&self) -> Arc<dyn MemoryPool> {
        Arc::clone(&self.pool) as Arc<dyn MemoryPool>
    }

    /// Rung when an operator did not get what it asked for: the shuffle store then moves its bytes to disk.
    pub fn pressure(&self) -> Arc<Notify> {
        Arc::clone(&self.pressure)
    }

    /// What the shuffle store may keep in memory, bytes.
    pub fn shuffle_bytes(&self) -> u64 {
        self.limit / SHUFFLE_SHARE
    }

    /// What one input of one attempt may fetch ahead, bytes.
    pub fn input_bytes(&self) -> u64 {
        (self.limit / INPUT_SHARE).clamp(*INPUT_BYTES.start(), *INPUT_BYTES.end())
    }
}

/// DataFusion's fair pool with messages that name the knob. `try_grow` never waits and does no IO: a refusal rings
/// for the shuffle store, so that the next one may succeed.
#[derive(Debug)]
struct PressedPool {
    inner: FairSpillPool,
    limit: u64,
    pressure: Arc<Notify>,
}

impl std::fmt::Display for PressedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker memory of {} bytes", self.limit)
    }
}

impl MemoryPool for PressedPool {
    fn name(&self) -> &str {
        "worker"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.inner.try_grow(reservation, additional).map_err(|_| {
            self.pressure.notify_one();
            DataFusionError::ResourcesExhausted(format!(
                "{} needs {additional} more bytes than the {} that it holds, and the worker's memory of {} bytes is \
                 used up: raise the workers' memory, or use more partitions",
                reservation.consumer().name(),
                reservation.size(),
                self.limit,
            ))
        })
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_knob_and_rings() {
        let memory = WorkerMemory::new(1000);
        let pool = memory.pool();
        let held = MemoryConsumer::new("HashJoinInput").register(&pool);
        held.try_grow(900).expect("it fits");
        let error = held.try_grow(200).expect_err("it does not fit");
        let text = error.to_string();
        assert!(text.contains("HashJoinInput") && text.contains("raise the workers' memory"), "{text}");
        let rung = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let waited = rung.block_on(async {
            let patience = std::time::Duration::from_secs(5);
            tokio::time::timeout(patience, memory.pressure().notified()).await
        });
        assert!(waited.is_ok(), "the refusal must ring for the shuffle store");
    }

    #[test]
    fn operators_that_can_spill_share_what_the_others_leave() {
        let memory = WorkerMemory::new(1000);
        let pool = memory.pool();
        let store = MemoryConsumer::new("shuffle store").register(&pool);
        store.try_grow(200).expect("it fits");
        let one = MemoryConsumer::new("sort").with_can_spill(true).register(&pool);
        let _other = MemoryConsumer::new("aggregate").with_can_spill(true).register(&pool);
        one.try_grow(400).expect("half of the rest");
        assert!(one.try_grow(1).is_err());
    }
}
