//! The way of rows between stages: split into partitions, encoded as frames, stored, fetched and decoded.
//!
//! The decisions (who may read what, what is spilled, what is fetched next) are made by `sluice-core`'s
//! `StreamTable` and `Reader`; this module moves the bytes.

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
