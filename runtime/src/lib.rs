//! Sluice.

pub mod source;
