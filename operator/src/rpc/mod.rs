//! Calls of the operator to coordinators and workers: tokens and errors are shared.

pub mod coordinator;
pub mod worker;

use std::time::Duration;

use sluice_proto::auth::{Audience, AuthError, Bearer, Claims, PoolId, Verb};

use crate::signing::SigningKeys;

/// The lifetime of a call's token. A token is made for one call; a stream that was opened with it outlives it.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The peer was not reached, or refused the call.
    #[error("{0}")]
    Refused(String),
    /// The answer cannot be decoded.
    #[error("its report cannot be read: {0}")]
    Unreadable(String),
}

/// The token of one call.
fn bearer(signer: &SigningKeys, audience: Audience, verb: Verb, pool: PoolId) -> Result<Bearer, AuthError> {
    let claims = Claims::operator(audience, verb, pool, TOKEN_LIFETIME);
    Ok(Bearer(Some(signer.sign(&claims)?)))
}

/// The error with its causes: a transport error alone says nothing.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut messages: Vec<_> = causes.map(ToString::to_string).collect();
    // Some repeat what they were caused by.
    messages.dedup();
    messages.join(": ")
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn refused(status: tonic::Status) -> RpcError {
    RpcError::Refused(format!("{}: {}", status.code().description(), status.message()))
}
