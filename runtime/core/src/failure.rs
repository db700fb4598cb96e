//! Failures that decide what happens next. They stay typed across the wire.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::AttemptId;

/// Why a fetch was refused or broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Error)]
pub enum FetchError {
    /// The worker does not have the stream and never will under this attempt.
    #[error("the worker does not hold this stream")]
    UnknownStream,
    /// A newer attempt of the map task exists at the worker, or this one was retired.
    #[error("the attempt is stale")]
    StaleAttempt,
    /// The stream's epoch is below what the reader asked for.
    #[error("the stream epoch is stale")]
    StaleStreamEpoch,
    /// A newer coordinator owns the query.
    #[error("the coordinator epoch is stale")]
    StaleCoordinator,
    /// The worker was restarted since.
    #[error("the worker was restarted")]
    WrongIncarnation,
    /// Bytes at rest or on the wire do not match their checksum.
    #[error("the data is corrupt")]
    Corrupt,
    /// The stored bytes could not be read.
    #[error("the stored data could not be read")]
    StorageFailed,
    /// No connection, a broken one, or no answer in time; worth another try.
    #[error("the worker could not be reached")]
    Unreachable,
}

impl FetchError {
    /// Whether asking the same worker again can help.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable => true,
            Self::UnknownStream
            | Self::StaleAttempt
            | Self::StaleStreamEpoch
            | Self::StaleCoordinator
            | Self::WrongIncarnation
            | Self::Corrupt
            | Self::StorageFailed => false,
        }
    }
}

/// Why an attempt ended without success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum AttemptFailure {
    /// An input could not be read to its end: not the fault of this attempt.
    #[error("input {map_attempt} could not be fetched: {error}")]
    FetchFailed {
        /// The map attempt whose output was missing.
        map_attempt: AttemptId,
        /// Why.
        error: FetchError,
    },
    /// The input itself is bad, or the query cannot work on it: another attempt would end the same way.
    #[error("{message}")]
    BadInput {
        /// The reason for status.
        kind: BadInputKind,
        /// What, where and how to mend it.
        message: String,
    },
    /// Memory or spill space ran out. Other workers have no more of it, so this counts against none.
    #[error("{message}")]
    ResourcesExhausted {
        /// What ran out.
        resource: Resource,
        /// In words, and which knob helps.
        message: String,
    },
    /// Memory or spill space ran out while other queries or attempts held a good part of it. Worth another attempt later.
    #[error("{message}")]
    ResourcesContended {
        /// What ran out.
        resource: Resource,
        /// In words, and what others hold.
        message: String,
    },
    /// The sink's files could not be written. The location is at fault, not the worker.
    #[error("{message}")]
    SinkFailed {
        /// Which file, and what the system said.
        message: String,
    },
    /// The worker refused the assignment (draining, no such slot, fragment unknown).
    #[error("the worker refused the attempt: {message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// It was cancelled by the coordinator. No failure.
    #[error("cancelled")]
    Cancelled,
    /// Anything else. Worth another attempt on another worker.
    #[error("{message}")]
    Failed {
        /// The engine's message.
        message: String,
    },
}

/// What a worker has a bounded amount of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Memory of operators, in which the build sides of hash joins lie.
    Memory,
    /// Spill space.
    Disk,
    /// Memory for the encoded plans of stages.
    Plans,
}

/// What kind of bad input ended an attempt for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BadInputKind {
    /// A file changed since the manifest was made.
    InputChanged,
    /// A file cannot be decoded.
    InputCorrupt,
    /// A value that the query cannot work on (division by zero, a cast that fails).
    InvalidValue,
    /// A path outside the declared tables.
    ForbiddenPath,
    /// A fragment that this build cannot execute.
    UnsupportedPlan,
}

/// Why a worker refuses a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedReason {
    /// Another build of Sluice.
    BuildMismatch,
    /// A coordinator with a later epoch has a session, or had one.
    StaleCoordinator,
    /// The worker is going away.
    Draining,
    /// The first message was not a correct hello.
    BadHello,
}
