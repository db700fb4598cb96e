//! A set of partitions of one exchange: a bit each, so that all outputs of a large shuffle can have one.

use std::ops::Range;

/// Partitions of one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionSet {
    words: Box<[u64]>,
}

impl PartitionSet {
    /// Those of `members` that an exchange of so many partitions has.
    pub(super) fn new(partitions: u32, members: impl Iterator<Item = u32>) -> Self {
        let mut words = vec![0; partitions.div_ceil(u64::BITS) as usize];
        for partition in members.filter(|partition| *partition < partitions) {
            if let Some(word) = words.get_mut((partition / u64::BITS) as usize) {
                *word |= 1 << (partition % u64::BITS);
            }
        }
        Self {
            words: words.into_boxed_slice(),
        }
    }

    pub(super) fn contains(&self, partition: u32) -> bool {
        let word = self.words.get((partition / u64::BITS) as usize);
        word.is_some_and(|word| word & (1 << (partition % u64::BITS)) != 0)
    }

    /// Its members within a range, ascending; `None` if that is all of the range.
    pub(super) fn part_of(&self, range: Range<u32>) -> Option<Vec<u32>> {
        let whole = range.len();
        let members: Vec<u32> = range.filter(|partition| self.contains(*partition)).collect();
        (members.len() < whole).then_some(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_members_and_no_others() {
        let set = PartitionSet::new(130, [0, 63, 64, 129, 130, u32::MAX].into_iter());
        let members: Vec<u32> = (0..200).filter(|partition| set.contains(*partition)).collect();
        assert_eq!(members, [0, 63, 64, 129]);
        assert_eq!(set.part_of(63..66), Some(vec![63, 64]));
        assert_eq!(set.part_of(63..65), None);
        assert_eq!(set.part_of(1..3), Some(Vec::new()));
        assert!(!PartitionSet::new(0, [0].into_iter()).contains(0));
    }
}
