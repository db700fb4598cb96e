//! Why following a query ended without its result.

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_crds::ErrorReason;

use super::client::CoordinatorLost;

#[derive(Debug)]
pub enum FollowError {
    /// The query ended without success.
    Query(Outcome),
    /// Standard output was closed before all rows were written.
    OutputClosed,
    Other(anyhow::Error),
}

impl From<CoordinatorLost> for FollowError {
    fn from(lost: CoordinatorLost) -> Self {
        Self::Query(Outcome::Failed(QueryFailure {
            reason: ErrorReason::CoordinatorLost,
            message: lost.to_string(),
            attempt: None,
        }))
    }
}

impl From<anyhow::Error> for FollowError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
