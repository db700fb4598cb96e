//! Every decision of a query, without IO.
//!
//! Three state machines, each `handle(now, event) -> actions` with `next_deadline()`:
//! [`coordinator::Coordinator`] schedules stages and attempts, [`stream::StreamTable`] answers fetches on a
//! worker, and [`reader::Reader`] follows the inputs of one reduce attempt. A small fourth,
//! [`discovery::Discovery`], says which workers a coordinator dials. Time is an argument. There is no clock, no
//! randomness and no hashing order: the same events give the same actions. clippy.toml beside Cargo.toml enforces it.

// A new state must be thought of wherever states are told apart. Tests may name the one state that they look for.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

pub mod coordinator;
pub mod discovery;
pub mod failure;
pub mod ids;
pub mod join_order;
pub mod joins;
pub mod key_filter;
pub mod layout;
pub mod leases;
pub mod limits;
pub mod locality;
pub mod map_output_tracker;
pub mod message;
pub mod metrics;
pub mod partition_set;
pub mod plan;
mod query_outcome;
pub mod ranges;
pub mod reader;
pub mod result_cursor;
pub mod shares;
#[cfg(test)]
mod sim;
pub mod snapshot;
pub mod speculation;
pub mod status;
pub mod stream;
pub mod termination;
pub mod time;
