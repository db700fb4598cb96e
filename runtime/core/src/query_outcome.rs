//! How a query ended. Status and snapshots know it without the machine that decides it.

use serde::{Deserialize, Serialize};

use crate::ids::AttemptId;

/// How a query ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All rows were delivered or committed.
    Succeeded,
    /// It failed, with its first cause.
    Failed(QueryFailure),
    /// It was cancelled.
    Cancelled,
}

/// The first cause of a query's failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFailure {
    /// The reason, as status shows it.
    pub reason: sluice_crds::ErrorReason,
    /// The message for people.
    pub message: String,
    /// The attempt that failed, if one did.
    pub attempt: Option<AttemptId>,
}
