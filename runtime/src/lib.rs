//! Sluice.

pub mod planner;
