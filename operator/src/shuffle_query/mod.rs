//! ShuffleQueries: observe, [`decide()`] (pure), apply, [`status`](compose) (pure).

pub mod admission;
mod apply;
mod controller;
mod coordinator_outcome;
pub mod coordinator_pod;
mod decide;
mod event;
mod mutation_cache;
mod observe;
pub mod observed;
pub mod progress;
mod query_memo;
pub mod query_record;
mod start_limit;
mod status;
mod status_writer;

pub use controller::{QueryReconciler, run, run_with};
pub use decide::decide;
pub use status::compose;
