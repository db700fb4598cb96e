//! `TABLESAMPLE`: a part of a table's rows, chosen by chance.
//!
//! Whether a row is chosen is a function of the seed, the block that it lies in (a row group, a file, a part of a
//! generated table) and its place there, of nothing else: attempts of a task choose the same rows, and so do plans of
//! any number of tasks.

mod read;
mod table;

use arrow::array::BooleanArray;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) use read::SampledScan;
pub(super) use table::{SampleExec, sample_tables};

/// Rows in a row that `SYSTEM` chooses together.
const ROWS_TOGETHER: u64 = 1024;

/// How rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    /// Each of its own.
    Bernoulli,
    /// Some that lie in a row.
    System,
}

/// Which rows of a table are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) method: Method,
    /// From 0 to 100.
    pub(crate) percent: f64,
    pub(crate) seed: u64,
}

impl Sample {
    /// The number of a block of rows, by its name.
    fn block(&self, name: &str, place: u64) -> u64 {
        let name = xxh3_64_with_seed(name.as_bytes(), self.seed);
        scatter(name ^ scatter(place))
    }

    /// Which of `rows` rows of a block from row `first` on are chosen.
    fn chosen(&self, block: u64, first: u64, rows: usize) -> BooleanArray {
        // 100 percent are all, and no number is beyond the largest.
        let all = self.percent >= 100.0;
        let below = (self.percent / 100.0 * 2_f64.powi(64)) as u64;
        let unit = match self.method {
            Method::Bernoulli => 1,
            Method::System => ROWS_TOGETHER,
        };
        (first..)
            .take(rows)
            .map(|row| Some(all || scatter(block.wrapping_add(scatter(row / unit))) < below))
            .collect()
    }
}

/// A number that looks like chance: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn scatter(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
