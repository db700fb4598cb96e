//! A set of partitions of one exchange: a bit each, so that all outputs of a large shuffle can have one.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Partitions of one exchange. Clones share their bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct PartitionSet {
    words: Arc<[u64]>,
}

impl From<Vec<u64>> for PartitionSet {
    fn from(words: Vec<u64>) -> Self {
        Self { words: words.into() }
    }
}

impl From<PartitionSet> for Vec<u64> {
    fn from(set: PartitionSet) -> Self {
        set.words.to_vec()
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
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        bytes.truncate(end);
        bytes
    }

    /// The bytes that its bits take.
    pub fn size(&self) -> u64 {
        self.words.len() as u64 * size_of::<u64>() as u64
    }

    /// Whether the partition is one of them.
    pub fn contains(&self, partition: u32) -> bool {
        let word = self.words.get((partition / u64::BITS) as usize);
        word.is_some_and(|word| word & (1 << (partition % u64::BITS)) != 0)
    }

    /// Its members within a range, ascending.
    pub fn members_in(&self, range: Range<u32>) -> impl Iterator<Item = u32> {
        range.filter(|partition| self.contains(*partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_members_and_no_others() {
        let set = PartitionSet::new(130, [0, 63, 64, 129, 130, u32::MAX].into_iter());
        let members = |set: &PartitionSet| set.members_in(0..200).collect::<Vec<u32>>();
        assert_eq!(members(&set), [0, 63, 64, 129]);
        assert_eq!(set.members_in(63..65).collect::<Vec<u32>>(), [63, 64]);
        assert!(!PartitionSet::new(0, [0].into_iter()).contains(0));
        assert_eq!((set.size(), set.to_bytes().len()), (24, 17));
        assert_eq!(members(&PartitionSet::from_bytes(&set.to_bytes())), members(&set));
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
