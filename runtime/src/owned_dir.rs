//! Folders that belong to one process: they are private, and the next process of the kind removes those of dead owners.
//!
//! ```text
//! <root>/<name>.lock    held for the life of the process
//! <root>/<name>/
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// How often to retry the removal of a folder while stopping threads may still add files.
const REMOVE_TRIES: usize = 8;

/// A folder of this process, deleted when it is dropped.
#[derive(Debug)]
pub struct OwnedDir {
    path: PathBuf,
    /// Its lock shows that the process is alive.
    _lock: File,
}

impl OwnedDir {
    /// Creates the folder `name` below `root`, and deletes folders of the kind that belong to dead processes of this
    /// user. Touches only folders with a lock file beside them.
    ///
    /// # Errors
    /// The folder cannot be made, or another living process has it.
    pub fn create(root: &Path, name: &str, of_kind: impl Fn(&str) -> bool) -> io::Result<Self> {
        private().recursive(true).create(root)?;
        let path = root.join(name);
        // Locked before the directory exists: cleanup looks for directories, so it cannot take this lock file for one
        // of a dead process.
        let lock = open_lock(&lock_path(&path), true)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                ErrorKind::ResourceBusy,
                format!("{} belongs to a running process", path.display()),
            ),
            TryLockError::Error(error) => error,
        })?;
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        private().create(&path)?;
        remove_stale(root, &path, of_kind);
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An exit hook that removes the folder.
    pub fn removal(&self) -> impl FnOnce() + Send + 'static {
        let path = self.path.clone();
        move || {
            for _ in 0..REMOVE_TRIES {
                if remove(&path).is_ok() || !path.exists() {
                    break;
                }
            }
        }
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "spill files stay behind");
        }
    }
}

/// Creates folders that only this user may enter.
pub fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// A folder of this user below the system's temporary folder, where other users may have created it first.
///
/// # Errors
/// It cannot be created, or others may change its content.
pub fn of_user(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let user = geteuid().as_raw();
    let path = parent.join(format!("{name}-{user}"));
    match private().create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(&path)?;
    if metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o022 == 0 {
        return Ok(path);
    }
    let message = format!("others may write to {}: name another folder", path.display());
    Err(io::Error::new(ErrorKind::PermissionDenied, message))
}

/// Removes a folder, then its lock file: without the lock file, no later process would remove the folder.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path).and_then(|()| fs::remove_file(lock_path(path)))
}

/// The file beside a folder that its process holds locked.
pub fn lock_path(dir: &Path) -> PathBuf {
    dir.with_extension("lock")
}

fn open_lock(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .create(create)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Ignores failures: the next start tries again.
fn remove_stale(root: &Path, own: &Path, of_kind: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    let user = geteuid().as_raw();
    let is_ours = |path: &Path, is_dir: bool| {
        let metadata = fs::symlink_metadata(path);
        metadata.is_ok_and(|metadata| metadata.uid() == user && metadata.is_dir() == is_dir)
    };
    for dir in entries.flatten().map(|entry| entry.path()) {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let lock_path = lock_path(&dir);
        if dir == own || !of_kind(name) || !is_ours(&dir, true) || !is_ours(&lock_path, false) {
            continue;
        }
        let Ok(lock) = open_lock(&lock_path, false) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            let removed = remove(&dir);
            tracing::info!(dir = %dir.display(), ok = removed.is_ok(), "files of a dead process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_mine(name: &str) -> bool {
        name.starts_with("mine-")
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn a_folder_is_private_and_goes_with_its_owner_or_with_the_next_one() {
        let root = tempfile::tempdir().expect("a folder");
        let below = root.path().join("new/spill");
        let alive = OwnedDir::create(&below, "mine-1", is_mine).expect("it is made");
        assert_eq!(mode(&below), 0o700);
        assert_eq!(mode(alive.path()), 0o700);
        assert_eq!(mode(&lock_path(alive.path())), 0o600);
        // A dead owner: its lock file has no lock.
        for name in ["mine-2", "other-1"] {
            fs::create_dir(below.join(name)).expect("a folder");
            fs::write(below.join(name).join("rows"), "rows").expect("a file");
            fs::write(below.join(name).with_extension("lock"), "").expect("a file");
        }
        // Nobody knows whose this is.
        fs::create_dir(below.join("mine-3")).expect("a folder");
        let next = OwnedDir::create(&below, "mine-4", is_mine).expect("it is made");
        assert!(
            OwnedDir::create(&below, "mine-4", is_mine).is_err(),
            "it has an owner"
        );
        let left = || {
            let entries = fs::read_dir(&below).expect("it is there").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let expected = [
            "mine-1",
            "mine-1.lock",
            "mine-3",
            "mine-4",
            "mine-4.lock",
            "other-1",
            "other-1.lock",
        ];
        assert_eq!(left(), expected);
        next.removal()();
        drop((alive, next));
        assert_eq!(left(), ["mine-3", "other-1", "other-1.lock"]);
    }

    #[test]
    fn a_link_in_place_of_a_dead_folder_is_not_followed() {
        let root = tempfile::tempdir().expect("a folder");
        let victim = tempfile::tempdir().expect("a folder");
        fs::write(victim.path().join("rows"), "rows").expect("a file");
        std::os::unix::fs::symlink(victim.path(), root.path().join("mine-1")).expect("a link");
        fs::write(root.path().join("mine-1.lock"), "").expect("a file");
        let _own = OwnedDir::create(root.path(), "mine-2", is_mine).expect("it is made");
        assert!(victim.path().join("rows").exists());
        assert!(root.path().join("mine-1").is_symlink());
    }

    #[test]
    fn a_users_folder_that_others_may_write_to_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let made = of_user(root.path(), "sluice").expect("it is made");
        assert_eq!(mode(&made), 0o700);
        assert_eq!(of_user(root.path(), "sluice").expect("it is there"), made);
        fs::set_permissions(&made, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ours");
        let refused = of_user(root.path(), "sluice").expect_err("others may write");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }
}
