//! What is known of keys beside their hashes: bounds, and while they are few the keys themselves.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The most bytes of a key that is a bound or among the values. A longer one makes them unknown.
pub const MAX_BOUND_BYTES: usize = 256;
/// The most keys that are kept as values. Writers of Parquet make Bloom filters that admit one absent key in twenty or in a hundred, so
/// with more keys than that nearly every row group seems to have one.
pub const MAX_KEY_VALUES: usize = 128;

/// The least and the greatest of some keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyBounds {
    /// Whole numbers, and what is counted by them: days, moments, decimals of one scale.
    Numbers {
        /// The least.
        least: i128,
        /// The greatest.
        greatest: i128,
    },
    /// Texts and binary values, which are compared byte by byte.
    Bytes {
        /// The least, at most [`MAX_BOUND_BYTES`].
        least: Vec<u8>,
        /// The greatest, at most [`MAX_BOUND_BYTES`].
        greatest: Vec<u8>,
    },
}

impl KeyBounds {
    /// The bounds of both; `None` if they are of different kinds.
    pub fn union(self, other: Self) -> Option<Self> {
        match (self, other) {
            (
                Self::Numbers { least, greatest },
                Self::Numbers {
                    least: other_least,
                    greatest: other_greatest,
                },
            ) => Some(Self::Numbers {
                least: least.min(other_least),
                greatest: greatest.max(other_greatest),
            }),
            (
                Self::Bytes { least, greatest },
                Self::Bytes {
                    least: other_least,
                    greatest: other_greatest,
                },
            ) => Some(Self::Bytes {
                least: least.min(other_least),
                greatest: greatest.max(other_greatest),
            }),
            (Self::Numbers { .. }, Self::Bytes { .. }) | (Self::Bytes { .. }, Self::Numbers { .. }) => None,
        }
    }
}

/// All of some keys, at most [`MAX_KEY_VALUES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyValues {
    /// As in [`KeyBounds::Numbers`].
    Numbers(BTreeSet<i128>),
    /// As in [`KeyBounds::Bytes`], each at most [`MAX_BOUND_BYTES`].
    Bytes(BTreeSet<Vec<u8>>),
}

impl KeyValues {
    /// The keys of both; `None` if they are of different kinds or too many.
    pub fn union(self, other: Self) -> Option<Self> {
        let union = match (self, other) {
            (Self::Numbers(mut one), Self::Numbers(two)) => {
                one.extend(two);
                Self::Numbers(one)
            }
            (Self::Bytes(mut one), Self::Bytes(two)) => {
                one.extend(two);
                Self::Bytes(one)
            }
            (Self::Numbers(_), Self::Bytes(_)) | (Self::Bytes(_), Self::Numbers(_)) => return None,
        };
        (union.len() <= MAX_KEY_VALUES).then_some(union)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their size in memory, bytes.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Numbers(values) => values.len() * size_of::<i128>(),
            Self::Bytes(values) => values
                .iter()
                .map(|value| value.len() + size_of::<Vec<u8>>())
                .sum(),
        };
        bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeyFilter;
    use super::*;

    #[test]
    fn bounds_of_a_union_hold_for_both_and_are_unknown_where_one_is() {
        let numbers = |least, greatest| Some(KeyBounds::Numbers { least, greatest });
        let texts = |least: &str, greatest: &str| {
            Some(KeyBounds::Bytes {
                least: least.into(),
                greatest: greatest.into(),
            })
        };
        let filter = |bounds: Option<KeyBounds>| KeyFilter {
            bounds,
            ..KeyFilter::of(vec![7])
        };
        for (one, two, union) in [
            (numbers(-3, 5), numbers(2, 9), numbers(-3, 9)),
            (texts("b", "ba"), texts("a", "b"), texts("a", "ba")),
            (numbers(1, 2), texts("a", "b"), None),
            (numbers(1, 2), None, None),
        ] {
            assert_eq!(filter(one.clone()).union(filter(two.clone())).bounds, union);
            assert_eq!(filter(two).union(filter(one)).bounds, union);
        }
        // Without rows there is nothing to bound.
        let none = KeyFilter::default();
        assert_eq!(filter(numbers(1, 2)).union(none.clone()).bounds, numbers(1, 2));
        assert_eq!(none.union(filter(numbers(1, 2))).bounds, numbers(1, 2));
        assert_eq!(KeyFilter::everything().union(filter(numbers(1, 2))).bounds, None);
    }

    #[test]
    fn values_of_a_union_are_all_of_both_or_unknown() {
        let numbers = |values: std::ops::Range<i128>| Some(KeyValues::Numbers(values.collect()));
        let texts = |values: &[&str]| {
            Some(KeyValues::Bytes(
                values.iter().map(|value| (*value).into()).collect(),
            ))
        };
        let filter = |values: Option<KeyValues>| KeyFilter {
            values,
            ..KeyFilter::of(vec![7])
        };
        let most = MAX_KEY_VALUES as i128;
        for (one, two, union) in [
            (numbers(0..2), numbers(1..most), numbers(0..most)),
            (numbers(0..2), numbers(2..most + 1), None),
            (texts(&["b"]), texts(&["a", "b"]), texts(&["a", "b"])),
            (numbers(0..1), texts(&["a"]), None),
            (numbers(0..1), None, None),
        ] {
            assert_eq!(filter(one.clone()).union(filter(two.clone())).values, union);
            assert_eq!(filter(two).union(filter(one)).values, union);
        }
        let none = KeyFilter::default();
        assert_eq!(filter(numbers(0..2)).union(none.clone()).values, numbers(0..2));
        assert_eq!(none.union(filter(numbers(0..2))).values, numbers(0..2));
        assert_eq!(KeyFilter::everything().union(filter(numbers(0..2))).values, None);
    }

    #[test]
    fn values_count_in_the_size_of_a_lookup() {
        let without = KeyFilter::of(vec![7]).lookup().bytes();
        let values = Some(KeyValues::Bytes([vec![b'x'; 100]].into()));
        let with = KeyFilter {
            values,
            ..KeyFilter::of(vec![7])
        }
        .lookup();
        assert!(with.bytes() >= without + 100);
        assert_eq!(with.values().map(KeyValues::len), Some(1));
        assert_eq!(with.keys(), Some(1));
        assert_eq!(KeyFilter::everything().lookup().keys(), None);
    }
}
