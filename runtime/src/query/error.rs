//! Why a query cannot be run.

use sluice_core::coordinator::QueryFailure;
use sluice_crds::ErrorReason;

/// Why a query cannot be run.
#[derive(Debug)]
pub enum PrepareError {
    /// The file does not hold one valid query, or a command line option is wrong.
    BadInput(String),
    /// The query cannot be planned, or its sink cannot be written.
    Rejected {
        reason: ErrorReason,
        message: String,
    },
    /// The query failed before a coordinator took it.
    Failed(QueryFailure),
    Other(anyhow::Error),
}

impl PrepareError {
    pub fn rejected(reason: ErrorReason, error: impl Into<anyhow::Error>) -> Self {
        Self::Rejected {
            reason,
            message: format!("{:#}", error.into()),
        }
    }
}

impl From<anyhow::Error> for PrepareError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
