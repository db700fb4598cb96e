//! File operations of a commit. Each is durable once it returns.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::SinkError;

/// Adds the path and the action to an error.
pub fn at<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T, SinkError> {
    result.map_err(|error| SinkError::io(path, action, &error))
}

/// Makes what a folder lists durable.
pub fn sync_folder(path: &Path) -> Result<(), SinkError> {
    at(
        path,
        "sync",
        File::open(path).and_then(|folder| folder.sync_all()),
    )
}

/// Removes a folder with all that it holds; one that does not exist is removed.
pub fn remove_folder(path: &Path) -> Result<(), SinkError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SinkError::io(path, "remove", &error)),
        _ => Ok(()),
    }
}

/// Whether something is there, a link to nothing included.
pub fn exists(path: &Path) -> Result<bool, SinkError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(SinkError::io(path, "look at", &error)),
    }
}

/// A path with the links of its existing part resolved.
pub fn resolved(path: &Path) -> Result<PathBuf, SinkError> {
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(resolved) => {
                let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
                return Ok(resolved.join(rest));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => match existing.parent() {
                Some(parent) => existing = parent,
                None => return Err(SinkError::io(path, "resolve", &error)),
            },
            Err(error) => return Err(SinkError::io(path, "resolve", &error)),
        }
    }
}

/// Links a file, or copies it where the file system has no links.
pub fn link(from: &Path, to: &Path) -> Result<(), SinkError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => {
            at(to, "copy to", fs::copy(from, to))?;
            at(to, "sync", File::open(to).and_then(|file| file.sync_all()))
        }
    }
}

/// What a rename does if the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// Not rename.
    Refuse,
    /// Exchange the two folders.
    Exchange,
}

/// The outcome of a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameOutcome {
    /// The folder has its new name.
    Renamed,
    /// [`IfTaken::Refuse`], and the new name was taken; or [`IfTaken::Exchange`], and it was not.
    NotRenamed,
    /// The file system does not support it.
    Unsupported,
}

/// Renames a folder in one step (renameat2 of Linux).
pub fn rename(from: &Path, to: &Path, if_taken: IfTaken) -> Result<RenameOutcome, SinkError> {
    let flags = match if_taken {
        IfTaken::Refuse => RenameFlags::NOREPLACE,
        IfTaken::Exchange => RenameFlags::EXCHANGE,
    };
    match renameat_with(CWD, from, CWD, to, flags) {
        Ok(()) => Ok(RenameOutcome::Renamed),
        Err(Errno::EXIST) if if_taken == IfTaken::Refuse => Ok(RenameOutcome::NotRenamed),
        Err(Errno::NOENT) if if_taken == IfTaken::Exchange && exists(from)? => Ok(RenameOutcome::NotRenamed),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(RenameOutcome::Unsupported),
        Err(errno) => Err(SinkError::io(to, "rename to", &errno.into())),
    }
}
