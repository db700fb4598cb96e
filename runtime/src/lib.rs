//! Sluice.

pub mod planner;
pub mod source;
