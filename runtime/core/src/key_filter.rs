//! Sets of join keys that one stage makes of the rows it writes, so that the scans of another stage leave out rows that
//! would find no match.
//!
//! Keys are known by their hashes, which are the same on all workers of one build. Few are kept exactly, more in a Bloom
//! filter (Bloom, *Space/time trade-offs in hash coding with allowable errors*, 1970) whose bits for one key lie in one word
//! (Putze, Sanders and Singler, *Cache-, Hash- and Space-Efficient Bloom Filters*, 2007), so that a test reads memory once.
//! A filter may admit a key that is in no row, never the reverse.

mod values;

use serde::{Deserialize, Serialize};

pub use self::values::{KeyBounds, KeyValues, MAX_BOUND_BYTES, MAX_KEY_VALUES};

/// The most hashes that are kept exactly: 1 MiB.
pub const MAX_EXACT_KEYS: usize = 1 << 17;
/// Words of 64 bits of a Bloom filter: 1 MiB, the same for all, so that they can be merged.
pub const BLOOM_WORDS: usize = 1 << 17;
/// Bits that one key sets.
const BITS_PER_KEY: u32 = 4;
/// A Bloom filter with a larger percentage of its bits set admits nearly a third of all keys: testing rows costs more than it
/// saves.
const MAX_BLOOM_PERCENT: u64 = 75;
/// Hashes collected before the first removal of duplicates.
const FIRST_COMPACTION: usize = 4096;

/// The keys of some rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFilter {
    /// Their hashes.
    pub hashes: KeyHashes,
    /// The least and the greatest key, where that is known: scans leave out files and row groups by it, which know no hashes.
    pub bounds: Option<KeyBounds>,
    /// All keys, where they are few: scans ask the Bloom filters of row groups for them.
    pub values: Option<KeyValues>,
}

impl KeyFilter {
    /// The filter of hashes in any order, without bounds and values.
    pub fn of(hashes: Vec<u64>) -> Self {
        Self {
            hashes: KeyHashes::of(hashes),
            bounds: None,
            values: None,
        }
    }

    /// The filter that admits every key.
    pub fn everything() -> Self {
        Self {
            hashes: KeyHashes::Everything,
            bounds: None,
            values: None,
        }
    }

    /// The keys of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self.hashes.is_empty(), other.hashes.is_empty()) {
            (true, _) => other,
            (false, true) => self,
            (false, false) => Self {
                hashes: self.hashes.union(other.hashes),
                bounds: self
                    .bounds
                    .zip(other.bounds)
                    .and_then(|(one, two)| one.union(two)),
                values: self
                    .values
                    .zip(other.values)
                    .and_then(|(one, two)| one.union(two)),
            },
        }
    }

    /// The form in which rows are tested.
    pub fn lookup(&self) -> KeyLookup {
        KeyLookup {
            bounds: self.bounds.clone(),
            values: self.values.clone(),
            ..self.hashes.lookup()
        }
    }
}

/// The hashes of some keys.
///
/// ```text
/// Exact -> Bloom -> Everything
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyHashes {
    /// The hashes of all keys, ascending, each once; at most [`MAX_EXACT_KEYS`].
    Exact(Vec<u64>),
    /// A Bloom filter of [`BLOOM_WORDS`].
    Bloom(Vec<u64>),
    /// There are too many keys: all are admitted.
    Everything,
}

impl Default for KeyHashes {
    fn default() -> Self {
        Self::Exact(Vec::new())
    }
}

impl KeyHashes {
    /// The filter of hashes in any order.
    pub fn of(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        Self::Exact(hashes).bounded()
    }

    /// A Bloom filter out of its words; `None` if they are not [`BLOOM_WORDS`].
    pub fn bloom(words: Vec<u64>) -> Option<Self> {
        (words.len() == BLOOM_WORDS).then(|| Self::Bloom(words).bounded())
    }

    /// The keys of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Exact(mut one), Self::Exact(two)) => {
                one.extend(two);
                Self::of(one)
            }
            (Self::Bloom(mut words), Self::Exact(hashes)) | (Self::Exact(hashes), Self::Bloom(mut words)) => {
                hashes.into_iter().for_each(|hash| set(&mut words, hash));
                Self::Bloom(words).bounded()
            }
            (Self::Bloom(mut one), Self::Bloom(two)) => {
                one.iter_mut().zip(two).for_each(|(word, more)| *word |= more);
                Self::Bloom(one).bounded()
            }
        }
    }

    /// The form in which rows are tested.
    pub fn lookup(&self) -> KeyLookup {
        let words = match self {
            Self::Exact(hashes) => {
                // With sixteen bits for each key, one other key in a few hundred is admitted.
                let words = (hashes.len() / 4).next_power_of_two().clamp(64, BLOOM_WORDS);
                let mut words = vec![0; words];
                hashes.iter().for_each(|hash| set(&mut words, *hash));
                words
            }
            Self::Bloom(words) => words.clone(),
            Self::Everything => Vec::new(),
        };
        let keys = match self {
            Self::Exact(hashes) => Some(hashes.len()),
            Self::Bloom(_) | Self::Everything => None,
        };
        KeyLookup {
            words,
            keys,
            bounds: None,
            values: None,
        }
    }

    /// Whether there are none: there were no rows.
    fn is_empty(&self) -> bool {
        matches!(self, Self::Exact(hashes) if hashes.is_empty())
    }

    /// Changes to the next form if it is too large or too full for this one.
    fn bounded(self) -> Self {
        match self {
            Self::Exact(hashes) if hashes.len() > MAX_EXACT_KEYS => {
                let mut words = vec![0; BLOOM_WORDS];
                hashes.into_iter().for_each(|hash| set(&mut words, hash));
                Self::Bloom(words)
            }
            Self::Bloom(words) => {
                let ones: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
                if ones * 100 > words.len() as u64 * 64 * MAX_BLOOM_PERCENT {
                    Self::Everything
                } else {
                    Self::Bloom(words)
                }
            }
            other @ (Self::Exact(_) | Self::Everything) => other,
        }
    }
}

/// The word of a key among `words`, and its bits there. The upper half of the hash says the word.
#[inline]
fn position(words: usize, hash: u64) -> (usize, u64) {
    let word = ((hash >> 32).wrapping_mul(words as u64) >> 32) as usize;
    let mut bits = 0;
    for bit in 0..BITS_PER_KEY {
        bits |= 1_u64 << ((hash >> (6 * bit)) & 63);
    }
    (word, bits)
}

fn set(words: &mut [u64], hash: u64) {
    let (word, bits) = position(words.len(), hash);
    if let Some(word) = words.get_mut(word) {
        *word |= bits;
    }
}

/// A [`KeyFilter`] in the form in which rows are tested.
#[derive(Debug, Clone)]
pub struct KeyLookup {
    /// Empty if every key is admitted.
    words: Vec<u64>,
    /// How many keys there are, if that is known.
    keys: Option<usize>,
    bounds: Option<KeyBounds>,
    values: Option<KeyValues>,
}

impl KeyLookup {
    /// Whether the key may be in one of the rows. In line, since it is called for each row of a scan.
    #[inline]
    pub fn admits(&self, hash: u64) -> bool {
        let (word, bits) = position(self.words.len(), hash);
        self.words.get(word).is_none_or(|word| word & bits == bits)
    }

    /// Whether it admits no key: there were no rows.
    pub fn admits_nothing(&self) -> bool {
        !self.words.is_empty() && self.words.iter().all(|word| *word == 0)
    }

    /// Its size in memory, bytes.
    pub fn bytes(&self) -> u64 {
        let values = self.values.as_ref().map_or(0, KeyValues::bytes);
        self.words.len() as u64 * 8 + values
    }

    /// How many keys there are, if that is known.
    pub fn keys(&self) -> Option<usize> {
        self.keys
    }

    /// Whether it admits the hash of every key.
    pub fn admits_everything(&self) -> bool {
        self.words.is_empty()
    }

    /// The least and the greatest key, if they are known.
    pub fn bounds(&self) -> Option<&KeyBounds> {
        self.bounds.as_ref()
    }

    /// All keys, if they are few.
    pub fn values(&self) -> Option<&KeyValues> {
        self.values.as_ref()
    }
}

/// Collects the keys of one task's rows in bounded memory.
#[derive(Debug)]
pub struct KeyFilterBuilder {
    /// Collected and not yet part of `filter`.
    hashes: Vec<u64>,
    filter: KeyHashes,
    last: Option<u64>,
    compact_at: usize,
    /// The most bytes that the filter may have.
    max_bytes: usize,
}

impl KeyFilterBuilder {
    /// Collects no keys yet. A filter that would have more than `max_bytes` becomes [`KeyHashes::Everything`].
    pub fn new(max_bytes: usize) -> Self {
        Self {
            hashes: Vec::new(),
            filter: KeyHashes::default(),
            last: None,
            compact_at: FIRST_COMPACTION,
            max_bytes,
        }
    }

    /// Adds a key.
    #[inline]
    pub fn insert(&mut self, hash: u64) {
        if self.last == Some(hash) {
            return;
        }
        self.last = Some(hash);
        match &mut self.filter {
            KeyHashes::Exact(_) => {
                self.hashes.push(hash);
                if self.hashes.len() >= self.compact_at {
                    self.compact();
                }
            }
            KeyHashes::Bloom(words) => set(words, hash),
            KeyHashes::Everything => {}
        }
    }

    /// The keys of all rows.
    pub fn finish(mut self) -> KeyHashes {
        self.compact();
        self.filter.bounded()
    }

    fn compact(&mut self) {
        let filter = std::mem::take(&mut self.filter);
        self.filter = filter.union(KeyHashes::Exact(std::mem::take(&mut self.hashes)));
        let bytes = match &self.filter {
            KeyHashes::Exact(hashes) => {
                self.compact_at = hashes.len().max(FIRST_COMPACTION);
                hashes.len() * 8
            }
            KeyHashes::Bloom(words) => words.len() * 8,
            KeyHashes::Everything => 0,
        };
        if bytes > self.max_bytes {
            self.filter = KeyHashes::Everything;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash that looks random (the finaliser of SplitMix64).
    fn hash(key: u64) -> u64 {
        let mut x = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn filter(keys: std::ops::Range<u64>) -> KeyHashes {
        let mut builder = KeyFilterBuilder::new(usize::MAX);
        keys.for_each(|key| builder.insert(hash(key)));
        builder.finish()
    }

    fn admitted(filter: &KeyHashes, keys: std::ops::Range<u64>) -> usize {
        let lookup = filter.lookup();
        keys.filter(|key| lookup.admits(hash(*key))).count()
    }

    #[test]
    fn no_rows_admit_nothing() {
        assert_eq!(admitted(&filter(0..0), 0..1000), 0);
        assert!(filter(0..0).lookup().admits_nothing());
        assert!(!filter(0..1).lookup().admits_nothing());
        assert!(!KeyHashes::Everything.lookup().admits_nothing());
    }

    #[test]
    fn every_key_is_admitted_and_few_others_are_in_each_form() {
        for keys in [1, 1000, 100_000, 200_000, 1_000_000] {
            let made = filter(0..keys);
            assert_eq!(
                matches!(made, KeyHashes::Exact(_)),
                keys <= MAX_EXACT_KEYS as u64,
                "{keys}"
            );
            assert_eq!(admitted(&made, 0..keys) as u64, keys);
            let others = admitted(&made, 10_000_000..10_100_000);
            assert!(others < 10_000, "{others} of 100000 with {keys} keys");
        }
    }

    #[test]
    fn a_union_has_the_keys_of_both_in_any_order_and_form() {
        for (one, two) in [
            (0..10, 5..20),
            (0..10, 0..200_000),
            (0..200_000, 100_000..400_000),
        ] {
            let union = filter(one.clone()).union(filter(two.clone()));
            assert_eq!(union, filter(two.clone()).union(filter(one.clone())));
            assert_eq!(admitted(&union, one.clone()) as u64, one.end - one.start);
            assert_eq!(admitted(&union, two.clone()) as u64, two.end - two.start);
        }
        assert_eq!(filter(0..1).union(KeyHashes::Everything), KeyHashes::Everything);
    }

    #[test]
    fn a_filter_that_is_too_full_or_too_large_admits_everything() {
        let full = KeyHashes::bloom(vec![u64::MAX; BLOOM_WORDS]);
        assert_eq!(full, Some(KeyHashes::Everything));
        assert_eq!(KeyHashes::bloom(vec![0; 7]), None);
        let mut small = KeyFilterBuilder::new(64 << 10);
        (0..20_000).for_each(|key| small.insert(hash(key)));
        let small = small.finish();
        assert_eq!(small, KeyHashes::Everything);
        assert!(small.lookup().admits_everything());
        assert!(small.lookup().admits(7));
    }

    #[test]
    fn repeated_keys_take_no_room() {
        let mut builder = KeyFilterBuilder::new(1 << 20);
        for round in 0..50_u64 {
            (0..10_000).for_each(|key| builder.insert(hash(key)));
            assert!(builder.hashes.capacity() < 1 << 16, "round {round}");
        }
        assert!(matches!(builder.finish(), KeyHashes::Exact(hashes) if hashes.len() == 10_000));
    }
}
