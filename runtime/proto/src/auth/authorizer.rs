//! Checks the token of every call that a worker or coordinator serves.

use std::sync::Arc;
use std::time::SystemTime;

use sluice_core::ids::QueryId;
use tonic::metadata::MetadataMap;

use super::token::METADATA_KEY;
use super::{Audience, AuthError, Claims, PoolId, Token, TrustedKeys, Verb};

/// Checks the token of every call that a worker or coordinator serves. Without keys it accepts every call.
#[derive(Debug, Clone, Default)]
pub struct Authorizer(Option<Arc<AuthorizationPolicy>>);

/// Who checks.
#[derive(Debug)]
struct AuthorizationPolicy {
    keys: TrustedKeys,
    audiences: Vec<Audience>,
    pool: PoolId,
}

impl Authorizer {
    /// The authorizer of a worker of `pool`; `id` is the unique id of its pod.
    pub fn for_worker(keys: TrustedKeys, pool: PoolId, id: impl Into<String>) -> Self {
        let audiences = vec![Audience::Workers, Audience::Worker(id.into())];
        Self(Some(Arc::new(AuthorizationPolicy {
            keys,
            audiences,
            pool,
        })))
    }

    /// The authorizer of a query's coordinator, whose workers are those of `pool`.
    pub fn for_coordinator(keys: TrustedKeys, pool: PoolId, query: QueryId) -> Self {
        Self(Some(Arc::new(AuthorizationPolicy {
            keys,
            audiences: vec![Audience::Coordinator(query)],
            pool,
        })))
    }

    /// Whether it accepts every call.
    pub const fn accepts_all(&self) -> bool {
        self.0.is_none()
    }

    /// Checks that a call may do `verb` here. Returns the claims of its token, extended by the renewal that came with it;
    /// `None` where nothing is checked.
    ///
    /// # Errors
    /// The call has no good token for it.
    pub fn authorize(&self, metadata: &MetadataMap, verb: Verb) -> Result<Option<Claims>, AuthError> {
        let Some(policy) = &self.0 else {
            return Ok(None);
        };
        if !metadata.contains_key(METADATA_KEY) {
            return Err(AuthError::Missing);
        }
        let token = Token::of(metadata).ok_or(AuthError::Malformed)?;
        let mut claims = policy.keys.verify_signature(&token)?;
        policy.check(&claims, verb)?;
        if let Some(renewal) = Token::renewal_of(metadata) {
            claims = policy.extend(claims, &renewal)?;
        }
        claims.check_time(SystemTime::now())?;
        Ok(Some(claims))
    }

    /// The claims, extended by a renewal; as they are where nothing is checked.
    ///
    /// # Errors
    /// It is no good renewal of their token.
    pub fn extend(&self, claims: Claims, renewal: &Token) -> Result<Claims, AuthError> {
        match &self.0 {
            Some(policy) => policy.extend(claims, renewal),
            None => Ok(claims),
        }
    }
}

impl AuthorizationPolicy {
    fn check(&self, claims: &Claims, verb: Verb) -> Result<(), AuthError> {
        if claims.pool != self.pool {
            return Err(AuthError::WrongPool {
                token: claims.pool.clone(),
                here: self.pool.clone(),
            });
        }
        if !self.audiences.contains(&claims.audience) {
            return Err(AuthError::WrongAudience(claims.audience.clone()));
        }
        if !claims.verbs.contains(&verb) {
            return Err(AuthError::WrongVerb(verb));
        }
        Ok(())
    }

    fn extend(&self, claims: Claims, renewal: &Token) -> Result<Claims, AuthError> {
        let renewal = self.keys.verify_signature(renewal)?;
        self.check(&renewal, Verb::Extend)?;
        if renewal.subject != claims.subject {
            return Err(AuthError::WrongSubject(renewal.subject));
        }
        if renewal.epoch != claims.epoch {
            return Err(AuthError::WrongEpoch {
                token: renewal.epoch.0,
                call: claims.epoch.0,
            });
        }
        renewal.check_time(SystemTime::now())?;
        Ok(Claims {
            expires: claims.expires.max(renewal.expires),
            ..claims
        })
    }
}
