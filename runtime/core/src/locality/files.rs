//! Which worker reads which files: the same one in every query, as long as the workers are the same, so that its page cache has
//! what the query before has read.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::WorkerId;

/// Most tasks of a scan that prefer workers by their files: each takes some 40 bytes more.
pub const MAX_TASKS_WITH_FILES: usize = 10_000;

/// The hash of what a task's scans read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesHash(u64);

impl FilesHash {
    /// The hash of byte ranges of files, each the file's name and the first byte; `None` for no range.
    pub fn of<'a>(ranges: impl Iterator<Item = (&'a str, u64)>) -> Option<Self> {
        let hash = |(name, start): (&str, u64)| mixed(hash_of(name) ^ mixed(start));
        let one = |sum: Option<u64>, range| Some(sum.unwrap_or_default().wrapping_add(hash(range)));
        ranges.fold(None, one).map(Self)
    }
}

/// By task, the worker that reads its files. Each task prefers one by rendezvous hashing (Thaler and Ravishankar, *Using
/// name-based mappings to increase hit rates*, 1998), so that a worker more or less moves few files; and none gets more tasks than an
/// even spread over the slots gives it (Mirrokni et al., *Consistent hashing with bounded loads*, 2018).
pub fn workers_by_files(
    files: &[FilesHash],
    slots: &BTreeMap<Arc<WorkerId>, u32>,
) -> Vec<Option<Arc<WorkerId>>> {
    let all: u64 = slots.values().map(|slots| u64::from(*slots)).sum();
    let even = |slots: u32| (files.len() as u64 * u64::from(slots)).div_ceil(all.max(1));
    let mut workers: Vec<_> = slots
        .iter()
        .map(|(id, slots)| (id, hash_of(&id.name), even(*slots)))
        .collect();
    let mut preferred = Vec::with_capacity(files.len());
    for task in files {
        let free = workers.iter_mut().filter(|(_, _, room)| *room > 0);
        let best = free.max_by_key(|(_, name, _)| mixed(task.0 ^ name));
        preferred.push(best.map(|(id, _, room)| {
            *room -= 1;
            Arc::clone(id)
        }));
    }
    preferred
}

/// FNV-1a, which is the same in every process.
fn hash_of(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The finalizer of `SplitMix64`: each bit depends on all.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn workers(count: u32, incarnation: u64) -> BTreeMap<Arc<WorkerId>, u32> {
        let worker = |number: u32| {
            let id = WorkerId {
                name: format!("pool-{number}"),
                incarnation: Incarnation(incarnation),
            };
            (Arc::new(id), 2)
        };
        (0..count).map(worker).collect()
    }

    fn files(tasks: u64) -> Vec<FilesHash> {
        let range = |task: u64| [("/data/part.parquet", task << 20)].into_iter();
        (0..tasks).filter_map(|task| FilesHash::of(range(task))).collect()
    }

    fn names(preferred: &[Option<Arc<WorkerId>>]) -> Vec<&str> {
        preferred
            .iter()
            .flatten()
            .map(|worker| worker.name.as_str())
            .collect()
    }

    #[test]
    fn files_return_to_the_same_workers_even_after_a_restart() {
        let files = files(100);
        let (first, again) = (
            workers_by_files(&files, &workers(4, 1)),
            workers_by_files(&files, &workers(4, 2)),
        );
        assert_eq!(names(&first), names(&again));
        for worker in 0..4 {
            let name = format!("pool-{worker}");
            assert_eq!(names(&first).iter().filter(|own| **own == name).count(), 25);
        }
    }

    #[test]
    fn a_worker_more_moves_few_files() {
        let files = files(1_000);
        let (four, five) = (
            workers_by_files(&files, &workers(4, 1)),
            workers_by_files(&files, &workers(5, 1)),
        );
        let (before, after) = (names(&four), names(&five));
        let moved = before.iter().zip(&after).filter(|(one, other)| one != other);
        let moved = moved.count();
        // A fifth has to; a random assignment moves four fifths.
        assert!((200..400).contains(&moved), "{moved}");
    }

    #[test]
    fn tasks_without_files_or_workers_prefer_none() {
        assert_eq!(FilesHash::of(std::iter::empty()), None);
        assert_eq!(workers_by_files(&files(2), &BTreeMap::new()), [None, None]);
        assert!(workers_by_files(&[], &workers(2, 1)).is_empty());
        let hash = |ranges: [(&'static str, u64); 2]| FilesHash::of(ranges.into_iter());
        assert_eq!(hash([("a", 0), ("b", 9)]), hash([("b", 9), ("a", 0)]));
        assert_ne!(hash([("a", 0), ("b", 9)]), hash([("a", 9), ("b", 0)]));
    }
}
