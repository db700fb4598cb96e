//! Sluice's runtime: plans a query, runs its coordinator and its workers, and moves rows between them.

pub mod cli;
pub mod coordinator;
mod forbidden;
mod functions;
pub mod local;
pub mod memory;
mod owned_dir;
pub mod planner;
pub mod shuffle;
pub mod sink;
pub mod source;
pub mod transport;
pub mod worker;
