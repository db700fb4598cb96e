//! Sluice.

pub mod memory;
pub mod shuffle;
