//! Shuffle bytes on disk: file layout, ownership, and blocking reads and writes.
//!
//! ```text
//! <spill dir>/i<incarnation>.lock                            held for the life of the process
//! <spill dir>/i<incarnation>/<query>/<attempt>.segment       attempt: s<stage>.e<epoch>.t<task>.a<attempt>
//! <spill dir>/i<incarnation>/_operators/                     what operators spill
//! ```
//!
//! A segment holds ranges of all partitions of one attempt, in the order in which they left memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use sluice_core::ids::{AttemptId, Incarnation, QueryId};

use crate::forbidden::is_incarnation;
use crate::owned_dir::{OwnedDir, private};

/// The folder of operators, beside those of queries: query ids have no underscore.
const OPERATORS: &str = "_operators";

/// The spill directory of one worker incarnation; deleted on drop.
#[derive(Debug)]
pub struct SpillDir(OwnedDir);

impl SpillDir {
    /// Creates the directory of this incarnation below `root`, and deletes those of dead processes. Touches only
    /// directories with a lock file beside them.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made, or another living process has it.
    pub fn open(root: &Path, incarnation: Incarnation) -> io::Result<Self> {
        OwnedDir::create(root, &incarnation.to_string(), is_incarnation).map(Self)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where the files of a query lie.
    pub fn query_dir(&self, query: &QueryId) -> PathBuf {
        self.path().join(query.as_str())
    }

    /// Free space of the volume in percent; 0 if unknown.
    fn free_percent(&self) -> u64 {
        let Ok(volume) = rustix::fs::statvfs(self.path()) else {
            return 0;
        };
        let share = u128::from(volume.f_bavail) * 100 / u128::from(volume.f_blocks.max(1));
        u64::try_from(share).unwrap_or(100)
    }

    /// Where the bytes of an attempt lie.
    pub fn segment(&self, query: &QueryId, attempt: AttemptId) -> PathBuf {
        self.query_dir(query).join(format!("{attempt}.segment"))
    }
}

/// The spill directories of one worker incarnation, one per volume.
#[derive(Debug)]
pub struct SpillDirs {
    dirs: Vec<SpillDir>,
    /// Segments placed so far: volumes with equal free space take turns.
    placed: usize,
}

impl SpillDirs {
    /// Takes the directories of this incarnation below these roots, as [`SpillDir::open`] does.
    ///
    /// # Errors
    ///
    /// If there is none, or one cannot be made or has another owner.
    pub fn open(roots: &[PathBuf], incarnation: Incarnation) -> io::Result<Self> {
        if roots.is_empty() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "no spill directory was given",
            ));
        }
        let open = |root: &PathBuf| {
            SpillDir::open(root, incarnation)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", root.display())))
        };
        let dirs = roots.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { dirs, placed: 0 })
    }

    /// The folders of operators on all volumes; deleted with the worker's directories.
    ///
    /// # Errors
    ///
    /// If a directory cannot be made.
    pub fn for_operators(&self) -> io::Result<OperatorSpillDirs> {
        let folders: Vec<_> = self.dirs.iter().map(|dir| dir.path().join(OPERATORS)).collect();
        for folder in &folders {
            private().create(folder)?;
        }
        Ok(OperatorSpillDirs(folders))
    }

    /// Where the files of a query lie, on each volume.
    pub fn query_dirs(&self, query: &QueryId) -> impl Iterator<Item = PathBuf> {
        self.dirs.iter().map(|dir| dir.query_dir(query))
    }

    /// Chooses the segment path of an attempt: on the volume with the largest free percentage. Volumes with the same
    /// percentage take turns.
    pub fn choose_segment(&mut self, query: &QueryId, attempt: AttemptId) -> PathBuf {
        let count = self.dirs.len();
        let turn = self.placed % count;
        self.placed = self.placed.wrapping_add(1);
        let in_turn = (0..count).map(|step| (turn + step) % count);
        let best = in_turn.min_by_key(|index| {
            let free = self.dirs.get(*index).map_or(0, SpillDir::free_percent);
            100 - free.min(100)
        });
        let dir = best.and_then(|index| self.dirs.get(index));
        dir.map(|dir| dir.segment(query, attempt)).unwrap_or_default()
    }
}

/// Where operators spill.
#[derive(Debug)]
pub struct OperatorSpillDirs(Vec<PathBuf>);

impl OperatorSpillDirs {
    /// A disk manager for the operators of one query, with limit 0.
    ///
    /// # Errors
    ///
    /// If a folder of its own cannot be made.
    pub fn disk_manager(&self) -> io::Result<DiskManager> {
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(self.0.clone()));
        let disk = disk.with_max_temp_directory_size(0).build();
        disk.map_err(io::Error::other)
    }
}

/// Writes each piece at its position. Creates the file and the query's directory, but not the incarnation's: once that
/// is deleted, the worker has ended.
pub fn write(path: &Path, pieces: &[(u64, Bytes)]) -> io::Result<()> {
    match path.parent().map(|parent| private().create(parent)) {
        Some(Err(error)) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Some(_) | None => {}
    }
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    for (position, bytes) in pieces {
        file.write_all_at(bytes, *position)?;
    }
    Ok(())
}

/// Reads `length` bytes at `position` onto the end of `out`.
pub fn read(path: &Path, position: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(path)?;
    let start = out.len();
    out.resize(start + length, 0);
    match out.get_mut(start..) {
        Some(target) => file.read_exact_at(target, position),
        None => Ok(()),
    }
}

/// Deletes a file or a directory, if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
