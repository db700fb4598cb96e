//! Checks the token of every call that a worker or coordinator serves.

use std::sync::Arc;
use std::time::SystemTime;

use sluice_core::ids::QueryId;
use tonic::metadata::MetadataMap;

use super::token::METADATA_KEY;
use super::{Audience, AuthError, Claims, PoolId, Token, TrustedKeys, Verb};

/// Checks the token of every call that a worker or coordinator serves. Without keys it accepts every call.
#[derive(Debug, Clone, Default)]
pub struct Guard(Option<Arc<Receiver>>);

/// Who checks.
#[derive(Debug)]
struct Receiver {
    keys: TrustedKeys,
    audiences: Vec<Audience>,
    pool: PoolId,
}

impl Guard {
    /// The guard of a worker of `pool`; `id` is the unique id of its pod.
    pub fn of_worker(keys: TrustedKeys, pool: PoolId, id: impl Into<String>) -> Self {
        let audiences = vec![Audience::Workers, Audience::Worker(id.into())];
        Self(Some(Arc::new(Receiver {
            keys,
            audiences,
            pool,
        })))
    }

    /// The guard of a query's coordinator, whose workers are those of `pool`.
    pub fn of_coordinator(keys: TrustedKeys, pool: PoolId, query: QueryId) -> Self {
        Self(Some(Arc::new(Receiver {
            keys,
            audiences: vec![Audience::Coordinator(query)],
            pool,
        })))
    }

    /// Whether it accepts every call.
    pub const fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Checks that a call may do `verb` here. Returns the claims of its token, prolonged by the renewal that came with it;
    /// `None` where nothing is checked.
    ///
    /// # Errors
    /// The call has no good token for it.
    pub fn admit(&self, metadata: &MetadataMap, verb: Verb) -> Result<Option<Claims>, AuthError> {
        let Some(receiver) = &self.0 else {
            return Ok(None);
        };
        if !metadata.contains_key(METADATA_KEY) {
            return Err(AuthError::Missing);
        }
        let token = Token::of(metadata).ok_or(AuthError::Malformed)?;
        let mut claims = receiver.keys.verify_signature(&token)?;
        receiver.fits(&claims, verb)?;
        if let Some(renewal) = Token::renewal_of(metadata) {
            claims = receiver.prolong(claims, &renewal)?;
        }
        claims.check_time(SystemTime::now())?;
        Ok(Some(claims))
    }

    /// The claims, prolonged by a renewal; as they are where nothing is checked.
    ///
    /// # Errors
    /// It is no good renewal of their token.
    pub fn prolong(&self, claims: Claims, renewal: &Token) -> Result<Claims, AuthError> {
        match &self.0 {
            Some(receiver) => receiver.prolong(claims, renewal),
            None => Ok(claims),
        }
    }
}

impl Receiver {
    fn fits(&self, claims: &Claims, verb: Verb) -> Result<(), AuthError> {
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

    fn prolong(&self, claims: Claims, renewal: &Token) -> Result<Claims, AuthError> {
        let renewal = self.keys.verify_signature(renewal)?;
        self.fits(&renewal, Verb::Prolong)?;
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
