//! WorkerPools: observe, [`decide`](decide::decide) (pure), apply, [`status`](status::status) (pure).
//!
//! A pool owns its pods itself: it chooses which one to delete, and does not wait for pods on nodes that do not answer.

pub mod apply;
pub mod autoscaling;
mod controller;
pub mod decide;
mod event;
mod observe;
pub mod observed;
pub mod pod_problem;
pub mod revision;
pub mod spec_hash;
pub mod status;
pub mod stores;
pub mod worker;
pub mod worker_poller;

pub use controller::run;

#[cfg(test)]
mod tests;
