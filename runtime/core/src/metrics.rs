//! What an attempt counts while it runs. All counters only grow within one attempt.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use sluice_crds::shuffle_query::HISTOGRAM_CLASSES;

/// Counters of one attempt, or their sum over attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptMetrics {
    /// Rows that scans produced.
    pub rows_read: u64,
    /// Bytes that scans read from tables (generated tables: bytes of the Arrow data made).
    pub bytes_read: u64,
    /// Rows that runtime filters left out.
    #[serde(default)]
    pub rows_filtered: u64,
    /// Rows that came in through exchanges.
    pub shuffle_rows_in: u64,
    /// Bytes that came in through exchanges, as they were on the wire.
    pub shuffle_bytes_in: u64,
    /// Rows written to the exchange or the sink.
    pub rows_out: u64,
    /// Bytes written to the exchange (encoded frames) or the sink (file bytes).
    pub bytes_out: u64,
    /// Bytes that the attempt's operators and the shuffle store spilled to disk.
    pub bytes_spilled: u64,
    /// Of those, the bytes of its streams. They may still go to disk after the attempt has ended.
    #[serde(default)]
    pub shuffle_bytes_spilled: u64,
    /// Frames that waited until the shuffle store had room for them.
    #[serde(default)]
    pub backpressure_events: u64,
    /// Changes while the attempt's thread works, whether or not it makes rows. A sum has none.
    #[serde(default, skip_serializing)]
    pub activity: u64,
    /// Time from the attempt's begin to the first bytes of an exchange, in milliseconds. A sum has none.
    #[serde(default)]
    pub first_chunk_ms: Option<u64>,
    /// Time from the attempt's begin to the first row that came out of its operators, in milliseconds. A sum has none.
    #[serde(default)]
    pub first_reduce_row_ms: Option<u64>,
}

impl AttemptMetrics {
    /// Takes over how many bytes of the attempt's streams the store has moved to disk so far.
    pub fn stored(&mut self, shuffle_bytes_spilled: u64) {
        let more = shuffle_bytes_spilled.saturating_sub(self.shuffle_bytes_spilled);
        self.shuffle_bytes_spilled = self.shuffle_bytes_spilled.saturating_add(more);
        self.bytes_spilled = self.bytes_spilled.saturating_add(more);
    }
}

/// How many counters are added up over attempts.
pub(crate) const COUNTERS: usize = 10;

/// Counters that are kept of many attempts: in half the room, where each of them fits into four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoredCounters {
    /// All are small.
    Small([u32; COUNTERS]),
    /// One is not.
    Large(Box<[u64; COUNTERS]>),
}

impl From<[u64; COUNTERS]> for StoredCounters {
    fn from(counters: [u64; COUNTERS]) -> Self {
        let mut small = [0; COUNTERS];
        for (small, counter) in small.iter_mut().zip(counters) {
            match u32::try_from(counter) {
                Ok(counter) => *small = counter,
                Err(_) => return Self::Large(Box::new(counters)),
            }
        }
        Self::Small(small)
    }
}

impl StoredCounters {
    /// The counters, in the order of [`AttemptMetrics::counters`].
    pub(crate) fn get(&self) -> [u64; COUNTERS] {
        match self {
            Self::Small(counters) => counters.map(u64::from),
            Self::Large(counters) => **counters,
        }
    }
}

impl AttemptMetrics {
    /// The counters that are added up over attempts.
    pub(crate) fn counters(self) -> [u64; COUNTERS] {
        let Self {
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
            activity: _,
            first_chunk_ms: _,
            first_reduce_row_ms: _,
        } = self;
        [
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
        ]
    }

    /// Metrics with these counters, in the order of [`Self::counters`].
    pub(crate) fn of_counters(counters: [u64; COUNTERS]) -> Self {
        let [
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
        ] = counters;
        Self {
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
            ..Self::default()
        }
    }
}

impl AddAssign for AttemptMetrics {
    fn add_assign(&mut self, other: Self) {
        let mut sum = self.counters();
        for (sum, more) in sum.iter_mut().zip(other.counters()) {
            // Workers may report any number: an overflow must not end the coordinator.
            *sum = sum.saturating_add(more);
        }
        *self = Self {
            activity: self.activity,
            first_chunk_ms: self.first_chunk_ms,
            first_reduce_row_ms: self.first_reduce_row_ms,
            ..Self::of_counters(sum)
        };
    }
}

/// Partitions by their bytes: how many have less than 64 KiB, how many of the others less than 256 KiB, and so on in
/// steps of four; the last class has no upper end. Zeros at the end are left out.
pub fn partition_bytes_histogram(partitions: impl IntoIterator<Item = u64>) -> Vec<u32> {
    const FIRST_CLASS_BITS: u32 = 16;
    let mut classes = vec![0_u32; HISTOGRAM_CLASSES];
    let last = HISTOGRAM_CLASSES - 1;
    for bytes in partitions {
        let bits = u64::BITS - bytes.leading_zeros();
        let class = bits.saturating_sub(FIRST_CLASS_BITS).div_ceil(2) as usize;
        classes[class.min(last)] += 1;
    }
    let used = classes.iter().rposition(|count| *count > 0);
    classes.truncate(used.map_or(0, |last| last + 1));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_counters_lose_nothing() {
        for largest in [0, 7, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            let mut counters = [3; COUNTERS];
            counters[4] = largest;
            assert_eq!(StoredCounters::from(counters).get(), counters);
        }
        assert!(size_of::<StoredCounters>() < size_of::<[u64; COUNTERS]>());
    }

    #[test]
    fn sums_end_at_the_largest_number() {
        let mut sum = AttemptMetrics {
            rows_out: u64::MAX,
            bytes_spilled: 7,
            first_chunk_ms: Some(3),
            ..AttemptMetrics::default()
        };
        let most = AttemptMetrics {
            rows_out: 1,
            bytes_spilled: u64::MAX,
            shuffle_bytes_spilled: 2,
            ..AttemptMetrics::default()
        };
        sum += most;
        assert_eq!((sum.rows_out, sum.bytes_spilled), (u64::MAX, u64::MAX));
        assert_eq!(sum.first_chunk_ms, Some(3), "no sum of moments");
    }

    #[test]
    fn the_stores_part_replaces_what_it_said_before() {
        let mut metrics = AttemptMetrics {
            bytes_spilled: 100,
            ..AttemptMetrics::default()
        };
        for (said, spilled) in [(10, 110), (30, 130), (20, 130)] {
            metrics.stored(said);
            assert_eq!(metrics.bytes_spilled, spilled);
        }
        assert_eq!(metrics.shuffle_bytes_spilled, 30);
    }

    #[test]
    fn partitions_are_counted_by_size() {
        assert_eq!(partition_bytes_histogram([]), [0; 0]);
        let kib = 1 << 10;
        let small = [0, 1, 64 * kib - 1];
        assert_eq!(partition_bytes_histogram(small), [3]);
        let edges = [64 * kib, 256 * kib - 1, 256 * kib, kib * kib];
        assert_eq!(partition_bytes_histogram(edges), [0, 2, 1, 1]);
        let gib = kib * kib * kib;
        let large = partition_bytes_histogram([4 * gib - 1, 4 * gib, u64::MAX]);
        assert_eq!(large, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(large.len(), HISTOGRAM_CLASSES);
    }
}
