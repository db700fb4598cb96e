//! Fetches from other workers: one channel per peer, whose address comes with input updates.

mod peers;

use std::time::Duration;

use sluice_core::reader::{Config, MIN_FETCH_BYTES};

pub use peers::Peers;

/// The limits of a reader whose inputs may each buffer `input_bytes`.
pub(crate) fn read_config(fetch_window: u32, input_bytes: u64) -> Config {
    Config {
        fetch_window,
        input_bytes,
        fetch_bytes: input_bytes.clamp(MIN_FETCH_BYTES, 4 << 20),
        retry_base: Duration::from_millis(100),
        retry_limit: Duration::from_secs(5),
        silence_limit: Duration::from_secs(20),
    }
}
