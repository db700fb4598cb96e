//! Bounds of numbers that both resources share.

/// Longest time that is written in whole seconds: ten years.
pub const MAX_SECONDS: u32 = 315_360_000;
/// Highest priority of a query; the lowest is as far below 0.
pub const MAX_PRIORITY: i32 = 1_000_000;
