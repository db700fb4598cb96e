//! What an attempt counts while it runs. All counters only grow within one attempt.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Counters of one attempt, or their sum over attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptMetrics {
    /// Rows that scans produced.
    pub rows_read: u64,
    /// Bytes that scans read from tables (generated tables: bytes of the Arrow data made).
    pub bytes_read: u64,
    /// Rows that came in through exchanges.
    pub shuffle_rows_in: u64,
    /// Bytes that came in through exchanges, as they were on the wire.
    pub shuffle_bytes_in: u64,
    /// Rows written to the exchange or the sink.
    pub rows_out: u64,
    /// Bytes written to the exchange (encoded frames) or the sink (file bytes).
    pub bytes_out: u64,
    /// Bytes that operators and the shuffle store wrote to disk for want of memory.
    pub bytes_spilled: u64,
}

impl AddAssign for AttemptMetrics {
    fn add_assign(&mut self, other: Self) {
        self.rows_read += other.rows_read;
        self.bytes_read += other.bytes_read;
        self.shuffle_rows_in += other.shuffle_rows_in;
        self.shuffle_bytes_in += other.shuffle_bytes_in;
        self.rows_out += other.rows_out;
        self.bytes_out += other.bytes_out;
        self.bytes_spilled += other.bytes_spilled;
    }
}
