//! Authentication: tokens that the operator signs and that workers and coordinators check, and fetch keys that workers give
//! to the sessions that they serve.
//!
//! A token is a JWT (RFC 7519) signed with Ed25519 (`alg: EdDSA`, RFC 8037); `kid` names the key. Its [`Claims`] name
//! its subject, its audience, the calls that it allows, its pool and its expiry. It travels as gRPC metadata,
//! `authorization: Bearer <token>`. A process without a verifying key accepts every call, as in local mode.
//!
//! The token of a query's coordinator ends after [`QUERY_TOKEN_LIFETIME`]. While the query runs, the operator sends its
//! coordinator renewals: signed statements that the token is good for longer. A renewal opens nothing without the token, so
//! that one which reaches a wrong address gives nothing away.
//!
//! Why it is so is in docs/decisions/0005-tokens.md.

mod authorizer;
mod claims;
mod fetch_key;
mod keys;
mod token;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tonic::{Code, Status};

pub use authorizer::Authorizer;
pub use claims::{Audience, Claims, Folders, PoolId, Subject, Verb};
pub use fetch_key::{FetchEndpoint, FetchKey};
pub use keys::{TokenSigner, TokenVerifier, TrustedKeys};
pub use token::{Bearer, Token};

/// By how much the clocks of two machines may differ. A token is accepted for so long after its expiry.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How long the token of a query's coordinator, and each renewal, is good for.
pub const QUERY_TOKEN_LIFETIME: Duration = Duration::from_secs(2 * 3600);

/// Why a key or token is invalid, or does not allow a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A key or token file cannot be read, or holds something else.
    #[error("{file}: {problem}")]
    BadFile {
        /// The file, or what the text was to be.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A query cannot be called like the operator.
    #[error("a query cannot have the id `{}`", claims::OPERATOR)]
    ReservedSubject,
    /// No token came with the call.
    #[error("the call has no token: send `authorization: Bearer <token>`")]
    Missing,
    /// The token is malformed.
    #[error("the token is malformed")]
    Malformed,
    /// No trusted key has signed it.
    #[error("the token is not signed by a key that this process trusts")]
    BadSignature,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It has another subject.
    #[error("the token is for {0}")]
    WrongSubject(Subject),
    /// It has another audience.
    #[error("the token is to be shown to {0}, not here")]
    WrongAudience(Audience),
    /// It is for other calls.
    #[error("the token does not allow `{0}`")]
    WrongVerb(Verb),
    /// It is of another pool.
    #[error("the token is of {token}, not of {here}")]
    WrongPool {
        /// The token's.
        token: PoolId,
        /// The policy's.
        here: PoolId,
    },
    /// It is for another coordinator epoch than the call.
    #[error("the token is for coordinator epoch {token}, the call for {call}")]
    WrongEpoch {
        /// The token's.
        token: u64,
        /// The call's.
        call: u64,
    },
    /// The key of a fetch is not the one that this worker gave to the query's session.
    #[error("the fetch has no key of this worker's session with the query")]
    WrongFetchKey,
}

impl AuthError {
    fn bad_file(file: &Path, problem: impl fmt::Display) -> Self {
        Self::BadFile {
            file: file.display().to_string(),
            problem: problem.to_string(),
        }
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Missing | AuthError::Malformed | AuthError::BadSignature | AuthError::Expired => {
                Code::Unauthenticated
            }
            AuthError::WrongSubject(_)
            | AuthError::WrongAudience(_)
            | AuthError::WrongVerb(_)
            | AuthError::WrongPool { .. }
            | AuthError::WrongEpoch { .. }
            | AuthError::WrongFetchKey => Code::PermissionDenied,
            AuthError::BadFile { .. } | AuthError::ReservedSubject => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests;
