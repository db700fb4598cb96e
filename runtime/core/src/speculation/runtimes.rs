//! How long the tasks of a stage took, in little room however many there are.

use std::collections::BTreeMap;
use std::time::Duration;

use super::RelativeSize;

/// Buckets for each power of two, as a power of two itself: a runtime is known to a sixteenth.
const BUCKET_BITS: u32 = 4;
/// Longer runtimes count as this long, in milliseconds: 34 years.
const LONGEST: u64 = 1 << 40;

/// The runtimes of attempts that have won, as a histogram whose buckets grow with the runtime: at most some hundred buckets, of
/// which only those in use take room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtimes {
    buckets: BTreeMap<u32, u32>,
    samples: u32,
    total: Duration,
    rows_read: u128,
}

impl Runtimes {
    /// Adds the runtime of a task that has won. It counts as that of a task of average size: larger ones may take longer.
    pub fn record(&mut self, runtime: Duration, size: RelativeSize, rows_read: u64) {
        let millis = size.reduce(u64::try_from(runtime.as_millis()).unwrap_or(u64::MAX));
        let count = self.buckets.entry(bucket(millis)).or_insert(0);
        *count = count.saturating_add(1);
        self.samples = self.samples.saturating_add(1);
        self.total = self.total.saturating_add(runtime);
        self.rows_read = self.rows_read.saturating_add(size.reduce(rows_read).into());
    }

    /// How many runtimes were recorded.
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// The sum of all runtimes, as they were.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// The rows that a task of average size reads, as far as winners tell; 0 if they read none.
    pub fn mean_rows_read(&self) -> u64 {
        let mean = self.rows_read / u128::from(self.samples.max(1));
        u64::try_from(mean).unwrap_or(u64::MAX)
    }

    /// The runtime that so many in a hundred tasks of average size do not exceed, up to a sixteenth too long; zero without any.
    pub fn percentile(&self, percent: u32) -> Duration {
        let rank = (u64::from(self.samples) * u64::from(percent)).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += u64::from(*count);
            if seen >= rank {
                return Duration::from_millis(upper_end(*bucket));
            }
        }
        Duration::ZERO
    }
}

/// The bucket of a runtime: the leading bits of the number and how many follow them.
fn bucket(millis: u64) -> u32 {
    let millis = millis.min(LONGEST);
    let shift = (u64::BITS - millis.leading_zeros()).saturating_sub(BUCKET_BITS + 1);
    let leading = u32::try_from(millis >> shift).unwrap_or(u32::MAX);
    (shift << BUCKET_BITS).saturating_add(leading)
}

/// The longest runtime of a bucket, in milliseconds.
fn upper_end(bucket: u32) -> u64 {
    let shift = (bucket >> BUCKET_BITS).saturating_sub(1);
    let leading = u64::from(bucket - (shift << BUCKET_BITS));
    ((leading + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtimes(millis: impl IntoIterator<Item = u64>) -> Runtimes {
        let mut all = Runtimes::default();
        for millis in millis {
            all.record(Duration::from_millis(millis), RelativeSize::AVERAGE, 10);
        }
        all
    }

    #[test]
    fn a_bucket_holds_runtimes_within_a_sixteenth() {
        for millis in (0..5_000).chain([123_456, 7_777_777, LONGEST - 1]) {
            let end = upper_end(bucket(millis));
            assert!(millis <= end && end - millis <= millis / 16, "{millis}: {end}");
        }
        assert_eq!(bucket(u64::MAX), bucket(LONGEST));
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_runtimes() {
        assert_eq!(Runtimes::default().percentile(95), Duration::ZERO);
        // Of five, the longest; of a hundred, the 95th.
        assert_eq!(runtimes([3, 1, 2, 9, 4]).percentile(95), Duration::from_millis(9));
        assert_eq!(runtimes([3, 1, 2, 9, 4]).percentile(50), Duration::from_millis(3));
        let hundred = runtimes((1..=95).map(|_| 20).chain([1_000; 5]));
        assert_eq!(hundred.percentile(95), Duration::from_millis(20));
        assert_eq!(hundred.percentile(96), Duration::from_millis(1_023));
    }

    #[test]
    fn a_larger_task_counts_as_one_of_average_size() {
        let mut all = Runtimes::default();
        all.record(Duration::from_millis(40), RelativeSize::of(400, 700, 7), 4_000);
        assert_eq!(all.percentile(95), Duration::from_millis(10));
        assert_eq!(all.mean_rows_read(), 1_000);
        assert_eq!(all.total(), Duration::from_millis(40));
    }

    #[test]
    fn a_million_runtimes_take_little_room() {
        let all = runtimes((0..1_000_000).map(|number| number * 37 % 3_600_000));
        assert_eq!(all.samples(), 1_000_000);
        assert!(all.buckets.len() < 400, "{}", all.buckets.len());
    }
}
