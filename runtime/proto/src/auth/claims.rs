//! The claims of a token.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sluice_core::ids::{CoordinatorEpoch, QueryId};

use super::{AuthError, CLOCK_SKEW, QUERY_TOKEN_LIFETIME};

/// The `sub` of the operator's own tokens. No query may have it as its id; a UID never is.
pub(super) const OPERATOR: &str = "operator";
/// The `aud` of tokens for all workers of the pool.
const WORKERS: &str = "workers";
const WORKER: &str = "worker:";
const COORDINATOR: &str = "coordinator:";

/// The subject of a token: who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The coordinator of a query.
    Query(QueryId),
    /// The operator.
    Operator,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(query) => write!(f, "query {query}"),
            Self::Operator => f.write_str("the operator"),
        }
    }
}

/// The audience of a token: who accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Every worker of the pool.
    Workers,
    /// One worker, by the unique id of its pod.
    Worker(String),
    /// The coordinators of one query.
    Coordinator(QueryId),
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workers => f.write_str("the workers of a pool"),
            Self::Worker(pod) => write!(f, "the worker with the id {pod}"),
            Self::Coordinator(query) => write!(f, "the coordinator of query {query}"),
        }
    }
}

impl Audience {
    fn encode(&self) -> String {
        match self {
            Self::Workers => WORKERS.to_owned(),
            Self::Worker(pod) => format!("{WORKER}{pod}"),
            Self::Coordinator(query) => format!("{COORDINATOR}{query}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        if text == WORKERS {
            return Some(Self::Workers);
        }
        if let Some(pod) = text.strip_prefix(WORKER) {
            return Some(Self::Worker(pod.to_owned()));
        }
        let query = text.strip_prefix(COORDINATOR)?;
        QueryId::new(query).map(Self::Coordinator)
    }
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// To open a session at a worker.
    OpenSession,
    /// To ask a worker or a coordinator how it stands.
    ReadStatus,
    /// To drain a worker.
    Drain,
    /// To end a query as cancelled.
    Cancel,
    /// To read a query's rows.
    ReadResult,
    /// To renew a coordinator's token.
    Renew,
    /// Nothing by itself: to extend the session token of the same query and epoch.
    Extend,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenSession => "openSession",
            Self::ReadStatus => "readStatus",
            Self::Drain => "drain",
            Self::Cancel => "cancel",
            Self::ReadResult => "readResult",
            Self::Renew => "renew",
            Self::Extend => "extend",
        })
    }
}

/// A worker pool. Both names are empty where nobody named one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self == &Self::default() {
            return f.write_str("no pool");
        }
        write!(f, "pool {}/{}", self.namespace, self.name)
    }
}

/// The folders and files that a query may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// Where its tables are.
    pub read: Vec<String>,
    /// Where its sink is.
    pub write: Vec<String>,
}

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who calls.
    pub subject: Subject,
    /// Who accepts it.
    pub audience: Audience,
    /// What it allows.
    pub verbs: BTreeSet<Verb>,
    /// The pool of workers that it belongs to.
    pub pool: PoolId,
    /// The epoch of the query's coordinator; 0 for the operator.
    pub epoch: CoordinatorEpoch,
    /// What the query's attempts may read and write.
    pub folders: Folders,
    /// When it ends; whole seconds count.
    pub expires: SystemTime,
}

impl Claims {
    /// The claims of a query's coordinator of one epoch: it opens sessions at the workers of `pool`.
    pub fn query(query: QueryId, epoch: CoordinatorEpoch, pool: PoolId, folders: Folders) -> Self {
        Self {
            subject: Subject::Query(query),
            audience: Audience::Workers,
            verbs: [Verb::OpenSession].into(),
            pool,
            epoch,
            folders,
            expires: SystemTime::now() + QUERY_TOKEN_LIFETIME,
        }
    }

    /// The renewal of the same coordinator's token.
    pub fn renewal(query: QueryId, epoch: CoordinatorEpoch, pool: PoolId) -> Self {
        Self {
            verbs: [Verb::Extend].into(),
            ..Self::query(query, epoch, pool, Folders::default())
        }
    }

    /// The claims of one call of the operator, good for `lifetime` from now.
    pub fn operator(audience: Audience, verb: Verb, pool: PoolId, lifetime: Duration) -> Self {
        Self {
            subject: Subject::Operator,
            audience,
            verbs: [verb].into(),
            pool,
            epoch: CoordinatorEpoch(0),
            folders: Folders::default(),
            expires: SystemTime::now() + lifetime,
        }
    }

    /// Checks that they are for this query's coordinator of this epoch.
    ///
    /// # Errors
    /// They are for another query or epoch, or the operator's.
    pub fn opens_epoch(&self, query: &QueryId, epoch: CoordinatorEpoch) -> Result<(), AuthError> {
        match &self.subject {
            Subject::Query(own) if own == query => {}
            other => return Err(AuthError::WrongSubject(other.clone())),
        }
        if self.epoch == epoch {
            return Ok(());
        }
        Err(AuthError::WrongEpoch {
            token: self.epoch.0,
            call: epoch.0,
        })
    }

    /// When they are no longer accepted, by a clock that may be behind.
    pub fn deadline(&self) -> SystemTime {
        self.expires.checked_add(CLOCK_SKEW).unwrap_or(self.expires)
    }

    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), AuthError> {
        if seconds(self.deadline()) <= seconds(now) {
            return Err(AuthError::Expired);
        }
        Ok(())
    }
}

/// The claims as they stand in a token.
#[derive(Serialize, Deserialize)]
pub(super) struct Payload {
    sub: String,
    aud: String,
    verbs: BTreeSet<Verb>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pool: String,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    read: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    write: Vec<String>,
    exp: u64,
}

impl TryFrom<&Claims> for Payload {
    type Error = AuthError;

    fn try_from(claims: &Claims) -> Result<Self, AuthError> {
        let sub = match &claims.subject {
            Subject::Query(query) if query.as_str() == OPERATOR => return Err(AuthError::ReservedSubject),
            Subject::Query(query) => query.as_str().to_owned(),
            Subject::Operator => OPERATOR.to_owned(),
        };
        Ok(Self {
            sub,
            aud: claims.audience.encode(),
            verbs: claims.verbs.clone(),
            namespace: claims.pool.namespace.clone(),
            pool: claims.pool.name.clone(),
            epoch: claims.epoch.0,
            read: claims.folders.read.clone(),
            write: claims.folders.write.clone(),
            exp: seconds(claims.expires),
        })
    }
}

impl TryFrom<Payload> for Claims {
    type Error = AuthError;

    fn try_from(payload: Payload) -> Result<Self, AuthError> {
        let subject = if payload.sub == OPERATOR {
            Subject::Operator
        } else {
            Subject::Query(QueryId::new(payload.sub).ok_or(AuthError::Malformed)?)
        };
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(payload.exp));
        Ok(Self {
            subject,
            audience: Audience::decode(&payload.aud).ok_or(AuthError::Malformed)?,
            verbs: payload.verbs,
            pool: PoolId {
                namespace: payload.namespace,
                name: payload.pool,
            },
            epoch: CoordinatorEpoch(payload.epoch),
            folders: Folders {
                read: payload.read,
                write: payload.write,
            },
            expires: expires.ok_or(AuthError::Malformed)?,
        })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
