//! The files and folders of a sink as one query uses them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId};
use sluice_crds::shuffle_query::{FileFormat, IfExists};

use super::error::SinkError;
use super::files;

/// The paths of one coordinator of one query.
pub(super) struct SinkPaths {
    pub(super) query: QueryId,
    /// The epoch of the acting coordinator.
    pub(super) epoch: CoordinatorEpoch,
    pub(super) location: PathBuf,
    /// The hidden folder beside the location.
    pub(super) staging: PathBuf,
    pub(super) format: FileFormat,
    pub(super) if_exists: IfExists,
}

impl SinkPaths {
    /// The folder of one attempt.
    pub(super) fn attempt_folder(&self, attempt: AttemptId) -> PathBuf {
        self.epoch_folder().join("attempts").join(attempt.to_string())
    }

    /// The folder of this coordinator's attempts and commit.
    pub(super) fn epoch_folder(&self) -> PathBuf {
        self.staging.join(self.epoch.to_string())
    }

    /// The folder that becomes the result.
    pub(super) fn result_folder(&self) -> PathBuf {
        self.epoch_folder().join("result")
    }

    /// Where the folder to replace waits while it has no name, if the file system cannot exchange two folders.
    pub(super) fn replaced_folder(&self) -> PathBuf {
        self.staging.join("replaced")
    }

    /// Removes the folders of this coordinator and of earlier ones. A later coordinator may still use its own.
    pub(super) fn remove_epochs(&self) -> Result<(), SinkError> {
        self.remove_epochs_through(self.epoch.0)
    }

    /// Removes the folders of earlier coordinators.
    pub(super) fn remove_earlier_epochs(&self) -> Result<(), SinkError> {
        match self.epoch.0.checked_sub(1) {
            Some(before) => self.remove_epochs_through(before),
            None => Ok(()),
        }
    }

    fn remove_epochs_through(&self, last: u64) -> Result<(), SinkError> {
        let entries = match fs::read_dir(&self.staging) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => files::at(&self.staging, "list", entries)?,
        };
        for entry in entries {
            let path = files::at(&self.staging, "list", entry)?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let epoch = name
                .strip_prefix('c')
                .and_then(|digits| digits.parse::<u64>().ok());
            if epoch.is_some_and(|epoch| epoch <= last) {
                files::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the epoch folders, the replaced folder, and the staging folder if it is empty.
    pub(super) fn clean_up(&self) -> Result<(), SinkError> {
        self.remove_epochs()?;
        files::remove_folder(&self.replaced_folder())?;
        match fs::remove_dir(&self.staging) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(SinkError::io(&self.staging, "remove", &error))
            }
            _ => Ok(()),
        }
    }
}

/// A folder beside the location, on the same file system, that readers skip.
pub(super) fn hidden(location: &Path, suffix: &str) -> PathBuf {
    let name = location.file_name().unwrap_or_default().to_string_lossy();
    location.with_file_name(format!(".{name}.sluice-{suffix}"))
}
