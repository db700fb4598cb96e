//! Splits: how the bytes of a table are divided among the tasks that scan it.

/// How many tasks a scan gets: one for each `min_bytes`, at most as many as exchanges have partitions, but
/// more for a table of which each of those would read more than `max_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitTarget {
    /// The tasks that a scan gets when it is large enough, at least 1.
    pub tasks: usize,
    /// Bytes below which a task is not worth its start, at least 1.
    pub min_bytes: u64,
    /// Bytes above which one task has too much to lose, at least 1.
    pub max_bytes: u64,
}

/// No scan has more tasks than this.
const MAX_TASKS: u64 = 4096;

impl SplitTarget {
    /// The default sizes, for exchanges with `partitions` partitions.
    pub fn new(partitions: usize) -> Self {
        Self {
            tasks: partitions.max(1),
            min_bytes: 1 << 20,
            max_bytes: 128 << 20,
        }
    }

    /// The number of tasks for a table of `total` bytes, at least 1. More than `tasks` are a multiple of it: they run
    /// in so many waves, and a last wave of few tasks would leave slots idle.
    pub fn tasks_for(&self, total: u64) -> usize {
        let tasks = self.tasks.max(1) as u64;
        let worth = total.div_ceil(self.min_bytes.max(1));
        let wanted = total.div_ceil(self.max_bytes.max(1)).max(1);
        let wanted = wanted.checked_next_multiple_of(tasks).unwrap_or(wanted);
        usize::try_from(worth.min(wanted).clamp(1, MAX_TASKS)).unwrap_or(1)
    }
}

/// A file and where it may be divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplittableFile {
    /// Its size in bytes.
    pub size: u64,
    /// Where it may be divided.
    pub cuts: Cuts,
}

/// Where a file may be divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cuts {
    /// Nowhere: compressed text, text with newlines in values.
    Nowhere,
    /// At any byte: the reader moves to the next line (or the next row group).
    AnyByte,
    /// Before these row groups: the offset of the first page of each, in ascending order.
    RowGroups(Vec<u64>),
}

/// A part of a file: `file` counts into the files given, bytes from `start` up to but not `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePart {
    /// The file's place in the list.
    pub file: usize,
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// Divides `files` into at most `tasks` shares of about equal bytes. Every byte of every file is in exactly
/// one part; a share's parts are in the order of the files; no share is empty unless there are no files.
///
/// A pure function: same files, same shares.
pub fn split_files(files: &[SplittableFile], tasks: usize) -> Vec<Vec<FilePart>> {
    let total: u128 = files.iter().map(|file| u128::from(file.size)).sum();
    let tasks = tasks.max(1) as u128;
    let mut shares: Vec<Vec<FilePart>> = Vec::new();
    let mut share_of_last = None;
    let mut before: u128 = 0;
    for (index, file) in files.iter().enumerate() {
        for part in units(index, file, before, total, tasks) {
            // A unit goes to the share that holds its middle byte.
            let middle = before + u128::from(part.start) + u128::from(part.end - part.start) / 2;
            let share = (middle * tasks).checked_div(total).unwrap_or(0).min(tasks - 1);
            if share_of_last == Some(share) {
                append(&mut shares, part);
            } else {
                shares.push(vec![part]);
                share_of_last = Some(share);
            }
        }
        before += u128::from(file.size);
    }
    shares
}

/// The smallest pieces of a file that shares are made of. `before` bytes come before it, out of `total`.
fn units(index: usize, file: &SplittableFile, before: u128, total: u128, tasks: u128) -> Vec<FilePart> {
    let bounds: Vec<u64> = match &file.cuts {
        Cuts::Nowhere => Vec::new(),
        // The first group's start is the file's: nothing may be left out.
        Cuts::RowGroups(starts) => starts.iter().copied().skip(1).collect(),
        Cuts::AnyByte => (1..tasks)
            .map(|share| (total * share).div_ceil(tasks))
            .filter(|at| *at > before)
            .filter_map(|at| u64::try_from(at - before).ok())
            .collect(),
    };
    let mut parts = Vec::with_capacity(bounds.len() + 1);
    let mut start = 0;
    for bound in bounds {
        if bound > start && bound < file.size {
            parts.push(FilePart {
                file: index,
                start,
                end: bound,
            });
            start = bound;
        }
    }
    parts.push(FilePart {
        file: index,
        start,
        end: file.size,
    });
    parts
}

/// Adds a part to the last share, joined with the part before it where they touch.
fn append(shares: &mut [Vec<FilePart>], part: FilePart) {
    let Some(share) = shares.last_mut() else { return };
    match share.last_mut() {
        Some(last) if last.file == part.file && last.end == part.start => last.end = part.end,
        _ => share.push(part),
    }
}
