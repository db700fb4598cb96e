//! Sluice's runtime: plans a query, runs its coordinator and its workers, and moves rows between them.

#![allow(
    missing_docs,
    reason = "nobody imports the runtime: modules, invariants and what is not obvious are documented"
)]

pub mod build_id;
pub mod cli;
pub mod coordinator;
mod forbidden;
mod functions;
pub mod local;
pub mod memory;
mod net;
mod owned_dir;
mod panic_text;
pub mod planner;
pub mod query;
pub mod shuffle;
pub mod sink;
pub mod source;
pub mod stage_template;
mod stderr;
mod time_text;
pub mod transport;
pub mod worker;
