//! Range exchanges: how tasks that merge sorted runs divide them. Each map task writes one sorted run and reports at which
//! keys its frames start. Once all runs are there, the coordinator takes bounds from these samples, and each reading task
//! reads the part of every run that lies within its bounds.
//!
//! Keys are bytes that compare as rows do (Arrow's row format), cut to [`MAX_KEY_BYTES`]. A cut key stands for all rows
//! that begin with it. Bounds hold for every run of the same rows, however its frames are cut: a run that was lost and
//! written again has the same rows between the same bounds, and only the bytes in which they lie may differ.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The most bytes of a key that are kept.
pub const MAX_KEY_BYTES: usize = 64;
/// The most samples of one run.
pub const MAX_SAMPLES: usize = 256;

/// A sampled key of a sorted run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSample {
    /// The key of the first row from there on, cut to [`MAX_KEY_BYTES`].
    pub key: Vec<u8>,
    /// Where its frame starts.
    pub offset: u64,
}

/// What a map attempt reports of the sorted rows that it wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortedRun {
    /// Ascending by key and offset; the first one is at offset 0, unless there are no rows.
    pub samples: Vec<RunSample>,
    /// One past the last byte.
    pub end: u64,
}

/// Where one range ends and the next one begins: before the rows of `key` in the runs from `map_task` on. Rows of one
/// key that fills many ranges are shared run by run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bound {
    /// The key, at most [`MAX_KEY_BYTES`].
    pub key: Vec<u8>,
    /// A map task, counted from 0 over the exchange's writing stages in order, then their tasks.
    pub map_task: u32,
}

/// The rows that one task reads: from `lower` on and before `upper`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// `None`: from the first row on.
    pub lower: Option<Bound>,
    /// `None`: to the last row.
    pub upper: Option<Bound>,
}

/// Bytes of a stream, from `start` to before `end`; both are bounds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// A key, cut to [`MAX_KEY_BYTES`].
pub fn cut_key(key: &[u8]) -> &[u8] {
    key.get(..MAX_KEY_BYTES).unwrap_or(key)
}

impl Bound {
    /// Whether a row with this (cut) key in the run of `map_task` comes before the bound.
    fn is_after(&self, key: &[u8], map_task: u32) -> bool {
        (key, map_task) < (self.key.as_slice(), self.map_task)
    }
}

impl KeyRange {
    /// A range without rows.
    fn nothing() -> Self {
        let upper = Some(Bound {
            key: Vec::new(),
            map_task: 0,
        });
        Self { lower: None, upper }
    }

    /// Whether the rows of `map_task` with this key, cut as [`cut_key`] does it, come before the range (`Less`), lie in
    /// it, or come after it.
    pub fn compare(&self, key: &[u8], map_task: u32) -> Ordering {
        if self
            .lower
            .as_ref()
            .is_some_and(|bound| bound.is_after(key, map_task))
        {
            return Ordering::Less;
        }
        match &self.upper {
            Some(bound) if !bound.is_after(key, map_task) => Ordering::Greater,
            Some(_) | None => Ordering::Equal,
        }
    }

    /// The frames of the run of `map_task` that hold all of its rows within the range, and perhaps others.
    pub fn bytes_of(&self, run: &SortedRun, map_task: u32) -> ByteRange {
        // Between two samples lie rows of either key and of those between.
        let before = |sample: &RunSample| self.compare(&sample.key, map_task) == Ordering::Less;
        let reached = |sample: &RunSample| self.compare(&sample.key, map_task) != Ordering::Greater;
        let first = run.samples.partition_point(before).saturating_sub(1);
        let last = run.samples.partition_point(reached);
        let offset = |index: usize| run.samples.get(index).map_or(run.end, |sample| sample.offset);
        let end = offset(last).min(run.end);
        ByteRange {
            start: offset(first).min(end),
            end,
        }
    }
}

/// Divides the rows of `runs`, which are in the order of their map tasks, among `tasks` tasks: by bytes as evenly as the
/// samples tell, but into ranges of at least `min_bytes`. The ranges are in order and hold each row once; those without rows
/// come last.
pub fn divide(runs: &[&SortedRun], tasks: u32, min_bytes: u64) -> Vec<KeyRange> {
    let bounds = bounds(runs, tasks, min_bytes);
    let used = bounds.len() + 1;
    let lower = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let upper = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    let mut ranges: Vec<KeyRange> = lower
        .zip(upper)
        .map(|(lower, upper)| KeyRange { lower, upper })
        .collect();
    let tasks = usize::try_from(tasks.max(1)).unwrap_or(usize::MAX);
    ranges.extend((used..tasks).map(|_| KeyRange::nothing()));
    ranges
}

/// The bounds between ranges, ascending.
fn bounds(runs: &[&SortedRun], tasks: u32, min_bytes: u64) -> Vec<Bound> {
    // Workers may report any number.
    let total: u128 = runs.iter().map(|run| u128::from(run.end)).sum();
    let ranges = (total / u128::from(min_bytes.max(1))).clamp(1, u128::from(tasks.max(1)));
    // The rows of a frame lie somewhere between its first key and that of the next one: half of their bytes count at
    // either. Twice the bytes, so that halves are whole.
    let mut candidates: Vec<(Bound, u128)> = Vec::new();
    for (map_task, run) in (0_u32..).zip(runs) {
        let mut before = 0;
        for (index, sample) in run.samples.iter().enumerate() {
            let next = run.samples.get(index + 1).map_or(run.end, |next| next.offset);
            let bytes = u128::from(next.saturating_sub(sample.offset));
            let shares = sample.key.len() < MAX_KEY_BYTES;
            let bound = Bound {
                key: sample.key.clone(),
                // What a cut key stands for has an order of its own, which runs must not break.
                map_task: if shares { map_task } else { 0 },
            };
            candidates.push((bound, before + bytes));
            before = bytes;
        }
    }
    candidates.sort_unstable();
    let mut bounds: Vec<Bound> = Vec::new();
    let mut passed: u128 = 0;
    for (candidate, bytes) in candidates {
        let next = bounds.len() as u128 + 1;
        let due = next * 2 * total / ranges;
        let is_new = bounds.last().is_none_or(|last| *last < candidate);
        if next < ranges && passed + bytes / 2 >= due && is_new {
            bounds.push(candidate);
        }
        passed += bytes;
    }
    bounds
}
