//! The `WorkerPool` resource: workers that queries share.

mod spec;
mod status;

pub use spec::{MAX_REPLICAS, MAX_SLOTS_PER_WORKER, MIN_MEMORY, SpillSpec, WorkerPool, WorkerPoolSpec};
pub use status::WorkerPoolStatus;
