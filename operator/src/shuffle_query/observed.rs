//! The input and the output of a decision about a query.

use std::sync::Arc;
use std::time::Duration;

use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;

use super::admission::Admission;
use super::coordinator_pod::CoordinatorPod;
use super::progress::Unreachable;
use super::query_record::QueryRecord;

/// A query and everything around it at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The stored query.
    pub query: Arc<ShuffleQuery>,
    /// The problems of its spec.
    pub problems: Vec<String>,
    pub pool: ObservedPool,
    /// Whether it may be admitted, if it is not yet.
    pub admission: Admission,
    pub sql: ObservedSql,
    pub pods: Vec<CoordinatorPod>,
    /// The last report of the newest coordinator.
    pub report: Option<Arc<ShuffleQueryStatus>>,
    /// Whether the input of the query's coordinators exists, and with it their tokens.
    pub input: bool,
    /// Set while the newest coordinator runs and has not been reached for long.
    pub unreachable: Option<Unreachable>,
    /// Why the quota of the namespace keeps the query from admission.
    pub quota: Option<String>,
    /// The deadline in seconds: of the query, or else of its pool.
    pub deadline_seconds: Option<u32>,
    /// The time to live after the end, in seconds: of the query, or else of its pool.
    pub ttl_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedPool {
    Absent,
    Deleting,
    /// A pool with the name of the query's own has another owner.
    NameTaken,
    Found {
        /// Ready workers.
        ready: u32,
        /// Ready workers of the build of a coordinator that starts now.
        compatible: u32,
        /// Compatible workers that a query needs.
        needed: u32,
        /// Why not all workers are ready, from the status of the pool.
        why: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedSql {
    Available,
    /// It is missing, with the message for the user.
    Missing(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Persist this record, then decide again.
    Persist(QueryRecord),
    /// Execute the actions. If none is rejected, the record is the new state.
    Act {
        /// In order.
        actions: Vec<Action>,
        record: QueryRecord,
        /// Time until the next reconcile at the latest.
        again: Duration,
    },
}

/// An action; each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the pool of a query with inline workers.
    CreatePool,
    DeletePool,
    /// Create the input of all coordinators.
    CreateInput,
    /// Delete the input, and with it the tokens.
    DeleteInput,
    CreateToken {
        epoch: u64,
    },
    CreatePod {
        epoch: u64,
        /// The multiple of the pool's coordinator memory.
        memory_factor: u32,
    },
    DeletePod {
        name: String,
    },
    /// Follow the reports of a coordinator.
    Follow {
        epoch: u64,
        address: String,
    },
    /// Stop following the query's coordinators.
    Unfollow,
    /// Cancel the query at the coordinator that is followed, so that workers drop its data.
    Cancel,
    DeleteQuery,
}
