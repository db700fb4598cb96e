//! A worker's memory as a DataFusion `MemoryPool`, divided among queries.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use sluice_core::ids::QueryId;
use sluice_core::shares::SpaceUsage;
use tokio::sync::Notify;

use super::advice::advice;

#[cfg(test)]
mod tests;

/// Every consumer gets this many bytes: some operators reserve what they hold already, even above the limit, and others
/// that hold almost nothing must not fail because of them.
const ALWAYS_GRANTED_BYTES: usize = 64 << 10;

/// Marks refusals of memory, as opposed to disk space: operators keep only the text of an error.
const REFUSAL_MARKER: &str = "more bytes of memory";

/// Whether a resource failure is about memory.
pub fn is_about_memory(message: &str) -> bool {
    message.contains(REFUSAL_MARKER)
}

/// All memory of a worker for queries.
///
/// Consumers that can spill share it fairly (DataFusion's `FairSpillPool`: equal shares of what the others leave). A
/// query may exceed its equal share of the worker while a quarter of the memory stays free. The shuffle store reserves
/// its bytes unconditionally and spills to stay below its share. Once the last fifth of the memory is in use, the store
/// is asked to spill all it can. That fifth is for consumers that cannot spill and for new ones: a large sort spills
/// instead, because otherwise its own merge, or another sort, could not start.
#[derive(Debug)]
pub struct WorkerMemory {
    limit: usize,
    shared: FairSpillPool,
    /// What the shuffle store holds of it.
    store_used: AtomicUsize,
    queries: Mutex<Vec<(QueryId, Weak<QueryMemory>)>>,
    active_queries: AtomicUsize,
    pressure: Arc<Notify>,
}

impl WorkerMemory {
    /// `limit` is `workers.memory` in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            shared: FairSpillPool::new(limit),
            store_used: AtomicUsize::new(0),
            queries: Mutex::default(),
            active_queries: AtomicUsize::new(0),
            pressure: Arc::default(),
        })
    }

    /// The shuffle store's share, bytes: three tenths. Operators may use what it does not need.
    pub fn store_bytes(&self) -> usize {
        self.limit / 10 * 3
    }

    /// Notified when the shuffle store should spill all it can.
    pub fn pressure(&self) -> Arc<Notify> {
        Arc::clone(&self.pressure)
    }

    /// The pool of the shuffle store.
    pub fn store_pool(self: &Arc<Self>) -> Arc<dyn MemoryPool> {
        Arc::new(StoreMemory(Arc::clone(self)))
    }

    /// The pool of a query's tasks: one pool while any of them holds it.
    pub fn query_pool(self: &Arc<Self>, query: &QueryId) -> Arc<dyn MemoryPool> {
        let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        queries.retain(|(_, pool)| pool.strong_count() > 0);
        let known = queries.iter().find(|(known, _)| known == query);
        if let Some(pool) = known.and_then(|(_, pool)| pool.upgrade()) {
            return pool;
        }
        self.active_queries.fetch_add(1, Ordering::Relaxed);
        let pool = Arc::new(QueryMemory {
            worker: Arc::clone(self),
            query: query.clone(),
            used: AtomicUsize::new(0),
            exceeds_worker: AtomicBool::new(false),
        });
        queries.push((query.clone(), Arc::downgrade(&pool)));
        pool
    }

    /// Whether an attempt of the query that ran out of memory, and has released its own, may succeed once others have
    /// ended: they hold memory, and the attempt did not need more than the worker has. The shuffle store is no such
    /// other: it was asked to spill before memory was refused, and what it cannot spill stays for as long as the query.
    pub fn may_have_room(&self, query: &QueryId) -> bool {
        let queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = queries.iter().find(|(id, _)| id == query);
        let pool = pool.and_then(|(_, pool)| pool.upgrade());
        let exceeds_worker = pool.is_some_and(|pool| pool.exceeds_worker.load(Ordering::Relaxed));
        let held = SpaceUsage {
            limit: self.limit as u64,
            own: 0,
            all: self.reserved_by_operators() as u64,
            queries: 1,
        };
        !exceeds_worker && held.is_contended()
    }

    /// Bytes reserved now.
    pub fn reserved(&self) -> usize {
        self.shared.reserved()
    }

    /// Bytes of them that attempts' operators have reserved.
    pub fn reserved_by_operators(&self) -> usize {
        self.reserved()
            .saturating_sub(self.store_used.load(Ordering::Relaxed))
    }

    /// Whether a consumer that can spill may grow: in the last fifth only its first reservation.
    fn may_grow_spillable(&self, reservation: &MemoryReservation, more: usize) -> bool {
        let wanted = self.shared.reserved().saturating_add(more);
        let begins = reservation.size() == 0;
        !reservation.consumer().can_spill() || begins || wanted <= self.limit - self.limit / 5
    }

    /// Whether a query that holds `used` bytes may get `more`.
    fn may_grow_query(&self, used: usize, more: usize) -> bool {
        let wanted = self.shared.reserved().saturating_add(more);
        if wanted > self.limit - self.limit / 5 {
            self.pressure.notify_one();
        }
        let even = self.limit / self.active_queries.load(Ordering::Relaxed).max(1);
        let within_part = used.saturating_add(more) <= even;
        wanted <= self.limit && (within_part || wanted <= self.limit - self.limit / 4)
    }
}

/// One query's view of the worker's memory.
#[derive(Debug)]
struct QueryMemory {
    worker: Arc<WorkerMemory>,
    query: QueryId,
    used: AtomicUsize,
    /// Whether a consumer that cannot spill has requested more than the worker has.
    exceeds_worker: AtomicBool,
}

impl QueryMemory {
    fn refuse(&self, reservation: &MemoryReservation, more: usize) -> DataFusionError {
        let worker = &self.worker;
        DataFusionError::ResourcesExhausted(format!(
            "{} holds {} bytes and needs {more} {REFUSAL_MARKER}; the query uses {} and all queries {} of the {} bytes \
             that the worker has: {}",
            reservation.consumer().name(),
            reservation.size(),
            self.used.load(Ordering::Relaxed),
            worker.reserved(),
            worker.limit,
            advice(reservation.consumer().name()),
        ))
    }
}

impl Drop for QueryMemory {
    fn drop(&mut self) {
        self.worker.active_queries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, limit) = (self.used.load(Ordering::Relaxed), self.worker.limit);
        write!(f, "query {} ({used} of {limit} bytes)", self.query)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.worker.shared.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.worker.shared.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.worker.shared.grow(reservation, additional);
        self.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.worker.shared.shrink(reservation, shrink);
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if reservation.size().saturating_add(additional) <= ALWAYS_GRANTED_BYTES {
            self.grow(reservation, additional);
            return Ok(());
        }
        let used = self.used.load(Ordering::Relaxed);
        let may = self.worker.may_grow_query(used, additional)
            && self.worker.may_grow_spillable(reservation, additional);
        if !may || self.worker.shared.try_grow(reservation, additional).is_err() {
            if !reservation.consumer().can_spill()
                && reservation.size().saturating_add(additional) > self.worker.limit
            {
                self.exceeds_worker.store(true, Ordering::Relaxed);
            }
            return Err(self.refuse(reservation, additional));
        }
        self.used.fetch_add(additional, Ordering::Relaxed);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.worker.limit)
    }
}

/// The store's view: it reserves unconditionally what it holds.
#[derive(Debug)]
struct StoreMemory(Arc<WorkerMemory>);

impl fmt::Display for StoreMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shuffle store of a worker with {} bytes", self.0.limit)
    }
}

impl MemoryPool for StoreMemory {
    fn name(&self) -> &str {
        "shuffle store"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.0.shared.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.0.shared.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.0.shared.grow(reservation, additional);
        self.0.store_used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.0.shared.shrink(reservation, shrink);
        self.0.store_used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.0.shared.try_grow(reservation, additional)?;
        self.0.store_used.fetch_add(additional, Ordering::Relaxed);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.0.store_bytes())
    }
}
