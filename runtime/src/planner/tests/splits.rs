//! Shares of files.

use super::super::{Cuts, FilePart, SplitTarget, SplittableFile, split_files};

fn file(size: u64, cuts: Cuts) -> SplittableFile {
    SplittableFile { size, cuts }
}

/// Every byte of every file in exactly one part, in order; row groups are whole.
fn check(files: &[SplittableFile], tasks: usize) -> Vec<Vec<FilePart>> {
    let shares = split_files(files, tasks);
    assert!(shares.len() <= tasks.max(1));
    assert!(shares.iter().all(|share| !share.is_empty()));
    let mut at: Vec<u64> = vec![0; files.len()];
    let mut last = 0;
    for part in shares.iter().flatten() {
        assert!(part.file >= last, "files in order");
        last = part.file;
        assert_eq!(part.start, at[part.file], "no gap, no overlap");
        assert!(part.end > part.start || files[part.file].size == 0);
        at[part.file] = part.end;
        if let Cuts::RowGroups(starts) = &files[part.file].cuts {
            assert!(part.start == 0 || starts.contains(&part.start));
        }
        if files[part.file].cuts == Cuts::Nowhere {
            assert_eq!((part.start, part.end), (0, files[part.file].size));
        }
    }
    for (file, at) in files.iter().zip(at) {
        assert_eq!(file.size, at, "all bytes");
    }
    shares
}

#[test]
fn shares_cover_all_bytes_once() {
    let mut seed: u64 = 7;
    let mut next = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for _ in 0..500 {
        let files: Vec<SplittableFile> = (0..next(6))
            .map(|_| {
                let size = next(1000);
                let cuts = match next(3) {
                    0 => Cuts::Nowhere,
                    1 => Cuts::AnyByte,
                    _ => Cuts::RowGroups((0..next(8)).map(|group| 4 + group * 97).collect()),
                };
                file(size, cuts)
            })
            .collect();
        check(&files, next(9) as usize);
    }
}

#[test]
fn shares_are_balanced() {
    let groups = |count: u64| Cuts::RowGroups((0..count).map(|group| 4 + group * 100).collect());
    let files = [
        file(1000, groups(10)),
        file(1000, groups(10)),
        file(1000, groups(10)),
    ];
    for share in check(&files, 5) {
        let bytes: u64 = share.iter().map(|part| part.end - part.start).sum();
        assert!((500..=700).contains(&bytes), "{share:?}");
    }
    let sizes: Vec<usize> = check(&[file(999, Cuts::AnyByte)], 4)
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(sizes, [1, 1, 1, 1]);
}

#[test]
fn scans_get_tasks_by_their_size() {
    let target = SplitTarget::new(4);
    assert_eq!(target.tasks_for(0), 1);
    assert_eq!(target.tasks_for(1 << 20), 1);
    assert_eq!(target.tasks_for(3 << 20), 3);
    assert_eq!(target.tasks_for(400 << 20), 4);
    // Ten tasks of 128 MiB would leave two slots idle in the last wave.
    assert_eq!(target.tasks_for(1280 << 20), 12);
    assert_eq!(target.tasks_for(1536 << 20), 12);
    assert_eq!(target.tasks_for(u64::MAX), 4096);
}
