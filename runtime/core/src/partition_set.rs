//! A set of partitions of one exchange, as small as it can be, so that all outputs of a large shuffle can have one.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Partitions of one exchange. Clones share their memory.
///
/// It takes the smallest of three forms: two bytes for each member, two bytes for each partition before the last member that is
/// none, or a bit for each partition. With 10,000 partitions it takes 1,250 bytes at worst, where between 625 and 9,375 of them
/// are members. A map task of that many rows is rare: with fewer rows it fills few partitions, with some 30,000 nearly all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct PartitionSet(Members);

/// The members. Equal sets have the same form.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Members {
    /// These, ascending.
    Listed(Arc<[u16]>),
    /// Those below `end` but these, ascending.
    AllBut { end: u32, others: Arc<[u16]> },
    /// Bit `i % 64` of word `i / 64` stands for partition `i`.
    Bits(Arc<[u64]>),
}

impl From<Vec<u64>> for PartitionSet {
    /// The set of these words: bit `i % 64` of word `i / 64` stands for partition `i`.
    fn from(mut words: Vec<u64>) -> Self {
        let used = words
            .iter()
            .rposition(|word| *word != 0)
            .map_or(0, |last| last + 1);
        words.truncate(used);
        let bits = Self(Members::Bits(words.into()));
        let end = bits.end();
        // Numbers that are too large for a list.
        if end > u32::from(u16::MAX) + 1 {
            return bits;
        }
        let list = |belongs: &dyn Fn(u32) -> bool| -> Arc<[u16]> {
            let numbers = (0..end).filter(|partition| belongs(*partition));
            numbers
                .filter_map(|partition| u16::try_from(partition).ok())
                .collect()
        };
        let members: u64 = bits.words().map(|word| u64::from(word.count_ones())).sum();
        let others = u64::from(end).saturating_sub(members);
        let of_list = size_of::<u16>() as u64;
        if members.min(others).saturating_mul(of_list) >= bits.size() {
            return bits;
        }
        Self(match members <= others {
            true => Members::Listed(list(&|partition| bits.contains(partition))),
            false => Members::AllBut {
                end,
                others: list(&|partition| !bits.contains(partition)),
            },
        })
    }
}

impl From<PartitionSet> for Vec<u64> {
    fn from(set: PartitionSet) -> Self {
        set.words().collect()
    }
}

impl PartitionSet {
    /// Those of `members` that an exchange of so many partitions has.
    pub fn new(partitions: u32, members: impl Iterator<Item = u32>) -> Self {
        let mut words = vec![0; partitions.div_ceil(u64::BITS) as usize];
        for partition in members.filter(|partition| *partition < partitions) {
            if let Some(word) = words.get_mut((partition / u64::BITS) as usize) {
                *word |= 1 << (partition % u64::BITS);
            }
        }
        words.into()
    }

    /// The set of these bytes: bit `i % 8` of byte `i / 8` stands for partition `i`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let word = |bytes: &[u8]| {
            let bytes = bytes.iter().rev();
            bytes.fold(0, |word, byte| (word << u8::BITS) | u64::from(*byte))
        };
        let words: Vec<u64> = bytes.chunks(size_of::<u64>()).map(word).collect();
        words.into()
    }

    /// Its bytes, without those at the end that are zero.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words().flat_map(u64::to_le_bytes).collect();
        bytes.truncate(self.end().div_ceil(u8::BITS) as usize);
        bytes
    }

    /// One past the last member.
    fn end(&self) -> u32 {
        match &self.0 {
            Members::Listed(members) => members.last().map_or(0, |last| u32::from(*last) + 1),
            Members::AllBut { end, .. } => *end,
            Members::Bits(words) => {
                let all = u32::try_from(words.len())
                    .unwrap_or(u32::MAX)
                    .saturating_mul(u64::BITS);
                all.saturating_sub(words.last().map_or(0, |word| word.leading_zeros()))
            }
        }
    }

    /// A bit for each partition up to the last member.
    fn words(&self) -> impl Iterator<Item = u64> {
        let word = |number: u32| match &self.0 {
            Members::Bits(words) => words.get(number as usize).copied().unwrap_or_default(),
            Members::Listed(_) | Members::AllBut { .. } => {
                let first = number * u64::BITS;
                let bits = self.members_in(first..first + u64::BITS);
                bits.fold(0, |word, partition| word | (1 << (partition - first)))
            }
        };
        (0..self.end().div_ceil(u64::BITS)).map(word)
    }

    /// The bytes that its members take.
    pub fn size(&self) -> u64 {
        let bytes = match &self.0 {
            Members::Listed(list) | Members::AllBut { others: list, .. } => size_of_val(&**list),
            Members::Bits(words) => size_of_val(&**words),
        };
        bytes as u64
    }

    /// Whether the partition is one of them.
    pub fn contains(&self, partition: u32) -> bool {
        let is_in =
            |list: &[u16]| u16::try_from(partition).is_ok_and(|number| list.binary_search(&number).is_ok());
        match &self.0 {
            Members::Listed(members) => is_in(members),
            Members::AllBut { end, others } => partition < *end && !is_in(others),
            Members::Bits(words) => {
                let word = words.get((partition / u64::BITS) as usize);
                word.is_some_and(|word| word & (1 << (partition % u64::BITS)) != 0)
            }
        }
    }

    /// Its members within a range, ascending.
    pub fn members_in(&self, range: Range<u32>) -> impl Iterator<Item = u32> {
        range.filter(|partition| self.contains(*partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(set: &PartitionSet) -> Vec<u32> {
        set.members_in(0..80_000).collect()
    }

    #[test]
    fn it_has_its_members_and_no_others() {
        let set = PartitionSet::new(130, [0, 63, 64, 129, 130, u32::MAX].into_iter());
        assert_eq!(members(&set), [0, 63, 64, 129]);
        assert_eq!(set.members_in(63..65).collect::<Vec<u32>>(), [63, 64]);
        assert!(!PartitionSet::new(0, [0].into_iter()).contains(0));
        assert_eq!((set.size(), set.to_bytes().len()), (8, 17));
        assert_eq!(PartitionSet::from_bytes(&set.to_bytes()), set);
    }

    #[test]
    fn it_takes_the_smallest_form_that_holds_its_members() {
        let every = |step: usize, partitions: u32| (0..partitions).step_by(step).collect::<Vec<u32>>();
        let but = |step: usize, partitions: u32| -> Vec<u32> {
            let others = every(step, partitions);
            (0..partitions)
                .filter(|partition| !others.contains(partition))
                .collect()
        };
        for (expected, bytes) in [
            (Vec::new(), 0),
            (every(1, 10_000), 0),
            (every(200, 10_000), 100),
            (but(200, 10_000), 100),
            (every(2, 10_000), 1_256),
            // A list holds no larger numbers than its type has.
            (vec![65_535], 2),
            (vec![65_536], 8_200),
        ] {
            let set = PartitionSet::new(70_000, expected.iter().copied());
            assert_eq!(members(&set), expected);
            assert_eq!(set.size(), bytes, "{} members", expected.len());
            let words: Vec<u64> = set.clone().into();
            assert_eq!(PartitionSet::from(words), set);
            assert_eq!(PartitionSet::from_bytes(&set.to_bytes()), set);
        }
    }

    #[test]
    fn its_bytes_end_with_the_last_member() {
        let members: [(&[u32], &[u8]); 4] = [
            (&[], &[]),
            (&[0], &[1]),
            (&[9], &[0, 2]),
            (&[3, 66], &[8, 0, 0, 0, 0, 0, 0, 0, 4]),
        ];
        for (members, bytes) in members {
            let set = PartitionSet::new(100, members.iter().copied());
            assert_eq!(set.to_bytes(), bytes);
            let again = PartitionSet::from_bytes(bytes);
            assert_eq!(again.members_in(0..100).collect::<Vec<u32>>(), members);
        }
    }
}
