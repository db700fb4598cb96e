//! What a decision about a query is made from, and what it may ask for.

use std::sync::Arc;
use std::time::Duration;

use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;

use super::admission::Admission;
use super::coordinator_pod::CoordinatorPod;
use super::progress::Unreachable;
use super::query_record::QueryRecord;

/// A query and what is around it, at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The query as it is stored.
    pub query: Arc<ShuffleQuery>,
    /// What is wrong with its spec.
    pub problems: Vec<String>,
    /// Its pool.
    pub pool: ObservedPool,
    /// Whether it may have a place in the pool, if it has none.
    pub admission: Admission,
    /// Where its SQL text is.
    pub sql: ObservedSql,
    /// The pods of its coordinators.
    pub pods: Vec<CoordinatorPod>,
    /// What the newest coordinator reported last.
    pub report: Option<Arc<ShuffleQueryStatus>>,
    /// Whether the input of the query's coordinators is there, and with it their tokens.
    pub input: bool,
    /// Why the newest coordinator, whose pod runs, tells nothing, where that has been so for long.
    pub unreachable: Option<Unreachable>,
    /// Why the namespace may not have one more query in this query's pool, if it has no place yet.
    pub quota: Option<String>,
    /// Seconds that the query may take: as it says, or as its pool does.
    pub deadline_seconds: Option<u32>,
    /// Seconds after its end that it is deleted: as it says, or as its pool does.
    pub ttl_seconds: Option<u32>,
}

/// A query's pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedPool {
    /// It does not exist.
    Absent,
    /// It is being deleted.
    Deleting,
    /// A pool with the name of the query's own belongs to someone else.
    NameTaken,
    /// It exists, as its status says.
    Found {
        /// Its ready workers.
        ready: u32,
        /// Those of them that are of the build of a coordinator that starts now.
        compatible: u32,
        /// How many a query needs.
        needed: u32,
        /// Why no more of them are ready, as the pool says.
        why: String,
    },
}

/// Where the SQL text of a query is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedSql {
    /// It can be read.
    Available,
    /// It cannot; what is missing.
    Missing(String),
}

/// What to do about a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Write this first, then look again.
    Persist(QueryRecord),
    /// Do this; where nothing is refused, this is how it stands.
    Act {
        /// In order.
        actions: Vec<Action>,
        /// How it stands afterwards.
        record: QueryRecord,
        /// When to look again at the latest.
        again: Duration,
    },
}

/// One thing to do. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the pool of a query with inline workers.
    CreatePool,
    /// Delete it.
    DeletePool,
    /// Create the input of all coordinators.
    CreateInput,
    /// Delete it, and with it the tokens.
    DeleteInput,
    /// Create the token of a coordinator.
    CreateToken {
        /// Its number.
        epoch: u64,
    },
    /// Create the pod of a coordinator.
    CreatePod {
        /// Its number.
        epoch: u64,
        /// How many times the usual memory it gets.
        memory_factor: u32,
    },
    /// Delete the pod of a coordinator.
    DeletePod {
        /// Its name.
        name: String,
    },
    /// Follow what a coordinator reports.
    Follow {
        /// Its number.
        epoch: u64,
        /// The address of its pod.
        address: String,
    },
    /// Follow no coordinator of the query any more.
    Unfollow,
    /// Tell the coordinator that is followed to end the query as cancelled, so that workers drop its data.
    Cancel,
    /// Delete the query.
    DeleteQuery,
}
