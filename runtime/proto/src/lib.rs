//! The wire: generated messages and services, and the only conversion between them and domain types.
//!
//! Everything that comes in goes through a `TryFrom` that answers [`WireError`] for a missing or impossible
//! field: a peer can send anything.

mod attempt;
pub mod auth;
mod filter;
mod ids;
mod input;
pub mod listener;
pub mod log;
mod ranges;
mod recovered;
mod report;
mod session;
mod split;
mod stage;
mod stream;
#[cfg(test)]
mod tests;
pub mod text;

pub use input::MapOutputs;
pub use report::QueryReport;
pub use session::{Hello, Welcome};
pub use sluice_core::failure::RefusedReason;
use sluice_core::limits::TooLarge;
pub use split::LeafSplit;
pub use stream::{fetch_error_of, refuse_fetch};
pub use text::{MAX_TEXT_BYTES, shortened, shortened_display};

/// Generated from `proto/sluice.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod wire {
    tonic::include_proto!("sluice.v1alpha1");
}

/// The largest message of a session, bytes: fragments of wide plans and file lists outgrow tonic's 4 MiB.
pub const MAX_SESSION_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// The largest report of a coordinator to the operator, bytes: stages and a preview have some kilobytes.
pub const MAX_REPORT_BYTES: usize = 256 * 1024;

/// The health service's name under which a worker or coordinator says only that its process lives, for liveness probes.
/// The empty name says whether it is ready: a worker that drains is not.
pub const LIVENESS_SERVICE: &str = "liveness";

/// A message that no correct peer sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has a value that it cannot have.
    #[error("field {field} has the impossible value {value}")]
    Impossible {
        /// The field.
        field: &'static str,
        /// The value, shortened.
        value: String,
    },
    /// It is one of a query that is larger than any may be.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl WireError {
    fn impossible(field: &'static str, value: impl std::fmt::Display) -> Self {
        Self::Impossible {
            field,
            value: value.to_string().chars().take(80).collect(),
        }
    }
}

/// Unwraps a message field that must be there.
fn need<T>(field: Option<T>, name: &'static str) -> Result<T, WireError> {
    field.ok_or(WireError::Missing(name))
}
