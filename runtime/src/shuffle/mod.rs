//! Rows between stages: split into partitions, encoded as frames, stored, fetched and decoded.
//!
//! `StreamTable` and `Reader` of `sluice-core` decide who may read what, what to spill and what to fetch next; this
//! module moves the bytes.

pub(crate) mod compact;
pub mod frame;
pub mod partition;
pub mod read;
mod segment;
pub mod sorted;
pub mod store;
pub mod write;

#[cfg(test)]
mod tests;
