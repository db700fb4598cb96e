//! Why a sink cannot be written.

use std::path::Path;

use sluice_core::failure::AttemptFailure;
use sluice_core::ids::AttemptId;
use sluice_crds::ErrorReason;
use thiserror::Error;

use crate::source::InvalidLocation;

/// Why a sink cannot be written. Messages name the path, the problem and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SinkError {
    /// The location is no path.
    #[error("sink.{0}")]
    Location(#[from] InvalidLocation),
    /// The location exists and `ifExists` is Fail.
    #[error("sink.location {path} exists: remove it, name another, or set ifExists to Replace")]
    Exists { path: String },
    /// A query may not write or replace the location.
    #[error("sink.location {path} {problem}")]
    Forbidden {
        path: String,
        /// Why, and what to do.
        problem: String,
    },
    /// The format cannot hold the columns of the result.
    #[error("sink.format {problem}")]
    Columns {
        /// Which column, and what to do.
        problem: String,
    },
    /// A winning attempt left no complete file.
    #[error("attempt {0} has no complete file in the sink's staging folder: run the query again")]
    Incomplete(AttemptId),
    /// The file system failed.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// Rows could not be encoded.
    #[error("cannot write {path}: {cause}")]
    Encode {
        path: String,
        /// What the encoder said.
        cause: String,
    },
}

impl SinkError {
    pub(super) fn exists(path: &Path) -> Self {
        Self::Exists {
            path: path.display().to_string(),
        }
    }

    pub(super) fn forbidden(path: &Path, problem: &str) -> Self {
        Self::Forbidden {
            path: path.display().to_string(),
            problem: problem.to_owned(),
        }
    }

    pub(super) fn io(path: &Path, action: &'static str, cause: &std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.display().to_string(),
            cause: cause.to_string(),
        }
    }

    pub(super) fn encode(path: &Path, cause: &dyn std::error::Error) -> Self {
        Self::Encode {
            path: path.display().to_string(),
            cause: cause.to_string(),
        }
    }

    pub fn reason(&self) -> ErrorReason {
        match self {
            Self::Location(_) | Self::Columns { .. } => ErrorReason::InvalidSpec,
            Self::Exists { .. } => ErrorReason::SinkExists,
            Self::Forbidden { .. } => ErrorReason::ForbiddenPath,
            Self::Incomplete(_) | Self::Io { .. } | Self::Encode { .. } => ErrorReason::SinkFailed,
        }
    }
}

/// Another attempt may be able to write, elsewhere or later. The worker is not at fault.
impl From<SinkError> for AttemptFailure {
    fn from(error: SinkError) -> Self {
        Self::SinkFailed {
            message: error.to_string(),
        }
    }
}
