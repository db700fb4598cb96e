use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const MIB: u64 = 1 << 20;

/// A run of sorted keys, `rows` of them in a frame of `bytes`.
fn run(keys: &[Vec<u8>], rows: usize, bytes: u64) -> SortedRun {
    let frames = keys.chunks(rows);
    let samples: Vec<RunSample> = (0..)
        .zip(frames)
        .map(|(frame, keys)| RunSample {
            key: cut_key(&keys[0]).to_vec(),
            offset: frame * bytes,
        })
        .collect();
    let end = samples.len() as u64 * bytes;
    SortedRun { samples, end }
}

fn numbers(range: impl Iterator<Item = u32>) -> Vec<Vec<u8>> {
    range.map(|number| number.to_be_bytes().to_vec()).collect()
}

/// The rows of each range, as a reader takes them: the frames that it is told, without the rows that are not its own.
fn read(
    runs: &[(Vec<Vec<u8>>, SortedRun)],
    rows: usize,
    bytes: u64,
    ranges: &[KeyRange],
) -> Vec<Vec<Vec<u8>>> {
    let of_range = |range: &KeyRange| {
        let mut taken = Vec::new();
        for (map_task, (keys, run)) in (0..).zip(runs) {
            let part = range.bytes_of(run, map_task);
            let frame = |offset: u64| usize::try_from(offset / bytes).unwrap() * rows;
            let keys = &keys[frame(part.start).min(keys.len())..frame(part.end).min(keys.len())];
            let own = |key: &&Vec<u8>| range.compare(cut_key(key), map_task) == Ordering::Equal;
            taken.extend(keys.iter().filter(own).cloned());
        }
        taken.sort();
        taken
    };
    ranges.iter().map(of_range).collect()
}

#[test]
fn ranges_share_what_there_is_evenly() {
    let interleaved: Vec<_> = (0..4)
        .map(|map| numbers((0..4_000).filter(|n| n % 4 == map)))
        .collect();
    let runs: Vec<SortedRun> = interleaved.iter().map(|keys| run(keys, 20, MIB)).collect();
    let all: Vec<&SortedRun> = runs.iter().collect();
    let ranges = divide(&all, 5, 4 * MIB);
    let sizes: Vec<u64> = ranges
        .iter()
        .map(|range| {
            let parts = (0..).zip(&runs).map(|(map, run)| range.bytes_of(run, map));
            parts.map(|part| (part.end - part.start) / MIB).sum()
        })
        .collect();
    // 40 MiB each, and a frame of each run at either bound that two ranges need.
    assert!(sizes.iter().all(|size| (36..=52).contains(size)), "{sizes:?}");
}

#[test]
fn little_is_not_divided_and_nothing_has_ranges_too() {
    let keys = numbers(0..100);
    let small = run(&keys, 10, MIB / 4);
    let ranges = divide(&[&small], 3, 4 * MIB);
    assert_eq!(ranges[0], KeyRange::default());
    assert_eq!(ranges[1..], [KeyRange::nothing(), KeyRange::nothing()]);
    assert_eq!(ranges[1].bytes_of(&small, 0), ByteRange { start: 0, end: 0 });
    assert_eq!(ranges[1].compare(&[0, 0, 0, 5], 0), Ordering::Greater);
    let none = SortedRun::default();
    let ranges = divide(&[&none, &none], 2, 4 * MIB);
    assert_eq!(ranges.len(), 2);
    assert_eq!(ranges[0].bytes_of(&none, 1), ByteRange { start: 0, end: 0 });
    assert_eq!(divide(&[], 0, 4 * MIB), [KeyRange::default()]);
}

#[test]
fn runs_of_any_length_are_divided() {
    let end = u64::MAX;
    let sample = |key: u8, offset| RunSample {
        key: vec![key],
        offset,
    };
    let samples = vec![sample(1, 0), sample(2, end / 2), sample(3, end - 1)];
    let run = SortedRun { samples, end };
    let ranges = divide(&[&run, &run, &run], u32::from(u16::MAX), 1);
    assert_eq!(ranges.len(), usize::from(u16::MAX));
}

#[test]
fn rows_of_one_key_are_shared_run_by_run() {
    let same = vec![vec![7_u8]; 100];
    let runs = vec![run(&same, 10, MIB); 4];
    let all: Vec<&SortedRun> = runs.iter().collect();
    let ranges = divide(&all, 4, 4 * MIB);
    for (map, run) in (0_u32..).zip(&runs) {
        let readers = ranges.iter().filter(|range| {
            let part = range.bytes_of(run, map);
            part.start < part.end && range.compare(&[7], map) == Ordering::Equal
        });
        assert_eq!(readers.count(), 1, "run {map}");
    }
    let used = ranges.iter().filter(|range| {
        let mut maps = 0..4;
        maps.any(|map| range.compare(&[7], map) == Ordering::Equal)
    });
    assert!(used.count() >= 3, "{ranges:?}");
}

#[test]
fn rows_whose_keys_differ_behind_the_cut_stay_in_order() {
    // Two runs of keys that begin alike: no bound may stand between the runs.
    let long = |last: u8| [vec![1; MAX_KEY_BYTES], vec![last]].concat();
    let runs: Vec<(Vec<Vec<u8>>, SortedRun)> = [0, 1]
        .map(|odd| (0..100).filter(|n| n % 2 == odd).map(long).collect::<Vec<_>>())
        .into_iter()
        .map(|keys| (keys.clone(), run(&keys, 5, MIB)))
        .collect();
    let all: Vec<&SortedRun> = runs.iter().map(|(_, run)| run).collect();
    let ranges = divide(&all, 4, 4 * MIB);
    let rows = read(&runs, 5, MIB, &ranges).concat();
    assert_eq!(rows, (0..100).map(long).collect::<Vec<_>>());
}

/// Whatever the runs are, the ranges hold each row once and in order; also those of runs that were written again, in
/// other frames.
#[test]
fn every_row_is_read_once_and_in_order() {
    for seed in 0..500 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let distinct = [2_u32, 40, 100_000][rng.random_range(0..3)];
        let lengths = [1, 4, MAX_KEY_BYTES + 3];
        let length = lengths[rng.random_range(0..3)];
        let (bytes, maps) = (rng.random_range(1..6 * MIB), rng.random_range(1..6));
        let keys: Vec<Vec<Vec<u8>>> = (0..maps)
            .map(|_| {
                let count = rng.random_range(0..200);
                let key = |rng: &mut SmallRng| {
                    let number = rng.random_range(0..distinct).to_be_bytes();
                    // The number comes last, so that long keys differ behind the cut only.
                    let fill = vec![9; length.max(4) - 4];
                    [fill.as_slice(), &number[4 - length.min(4)..]].concat()
                };
                let mut keys: Vec<_> = (0..count).map(|_| key(&mut rng)).collect();
                keys.sort();
                keys
            })
            .collect();
        let framed = |rows: usize| -> Vec<(Vec<Vec<u8>>, SortedRun)> {
            keys.iter()
                .map(|keys| (keys.clone(), run(keys, rows, bytes)))
                .collect()
        };
        let mut expected = keys.concat();
        expected.sort();
        let (first, again) = (rng.random_range(1..20), rng.random_range(1..20));
        let runs = framed(first);
        let all: Vec<&SortedRun> = runs.iter().map(|(_, run)| run).collect();
        let ranges = divide(&all, rng.random_range(1..9), 4 * MIB);
        for rows in [first, again] {
            let taken = read(&framed(rows), rows, bytes, &ranges).concat();
            assert_eq!(taken, expected, "seed {seed}");
        }
    }
}
