//! How bytes of streams get from worker to worker: one channel a peer, found by what input updates say.

mod peers;

use std::time::Duration;

use sluice_core::reader::{Config, MIN_FETCH_BYTES};

pub use peers::Peers;

/// The bounds of a reader whose inputs may each hold `input_bytes` that nobody has taken yet.
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
