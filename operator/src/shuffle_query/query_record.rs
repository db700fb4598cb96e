//! The part of a query's status that the operator decides on. The rest comes from the reports of its coordinator.

use jiff::Timestamp;
use sluice_crds::shuffle_query::status::{QueryError, QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ConditionReason, ConditionStatus, ErrorReason, ProgressReason, QueryConditionType};
use sluice_crds::{ShuffleQuery, Time};

/// The state of a query, as stored in its status.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryRecord {
    pub phase: QueryPhase,
    pub reason: ConditionReason,
    pub message: String,
    /// Epoch of the newest coordinator.
    pub epoch: u64,
    /// Coordinators that were started again.
    pub pod_retries: u32,
    /// Coordinators that were started again after a failure of the query itself.
    pub coordinator_failures: u32,
    /// The multiple of the pool's coordinator memory that the newest coordinator gets, at least 1. It outlives the pods: one that
    /// ran out of memory may be gone before its successor is created.
    pub memory_factor: u32,
    pub pool: Option<String>,
    /// When the query was admitted.
    pub admitted: Option<Timestamp>,
    /// Since when it is suspended.
    pub suspended: Option<Timestamp>,
    /// How long it was suspended before.
    pub suspended_millis: u64,
    pub coordinator: Coordinator,
    /// The end of the query, once it is known and until it is persisted.
    pub ended: Option<Box<ShuffleQueryStatus>>,
}

/// The state of the newest coordinator.
///
/// ```text
/// Wanted --> Starting <--> Serving
///    ^----------'-------------'      a new epoch
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinator {
    /// Its pod was not created yet. A successor waits for its back-off.
    Wanted {
        /// When its predecessor ended.
        since: Option<Timestamp>,
    },
    /// Its pod was created.
    Starting,
    Serving,
}

impl QueryRecord {
    pub fn of(query: &ShuffleQuery) -> Self {
        let none = ShuffleQueryStatus::default();
        let status = query.status.as_ref().unwrap_or(&none);
        let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        let mut conditions = status.conditions.iter();
        let seen = conditions.find(|seen| seen.type_ == QueryConditionType::CoordinatorReady);
        Self {
            phase: status.phase,
            reason: status.reason.unwrap_or(ProgressReason::Pending.into()),
            message: status.message.clone().unwrap_or_default(),
            epoch: status.coordinator_epoch,
            pod_retries: status.pod_retries,
            coordinator_failures: status.coordinator_failures,
            memory_factor: status.coordinator_memory_factor.max(1),
            pool: status.pool_name.clone(),
            admitted: at(&status.admitted_time),
            suspended: at(&status.suspended_time),
            suspended_millis: status.suspended_millis,
            coordinator: match seen.map(|seen| (seen.status, seen.last_transition_time.0)) {
                None => Coordinator::Wanted { since: None },
                Some((ConditionStatus::Unknown, since)) => Coordinator::Wanted { since: Some(since) },
                Some((ConditionStatus::False, _)) => Coordinator::Starting,
                Some((ConditionStatus::True, _)) => Coordinator::Serving,
            },
            ended: None,
        }
    }

    /// Whether `stored` differs in what must be persisted before the operator acts on it.
    pub fn must_persist_before_acting(&self, stored: &Self) -> bool {
        let commitments = |record: &Self| {
            (
                record.phase.is_terminal(),
                record.epoch,
                record.pod_retries,
                record.coordinator_failures,
                record.memory_factor,
                record.admitted,
                record.suspended,
                record.suspended_millis,
            )
        };
        commitments(self) != commitments(stored)
    }

    /// The record of a query that waits.
    #[must_use]
    pub fn waiting(mut self, reason: ProgressReason, message: impl Into<String>) -> Self {
        self.phase = QueryPhase::Pending;
        self.reason = reason.into();
        self.message = message.into();
        self
    }

    /// The record of a query that ended with this status.
    #[must_use]
    pub fn ended(mut self, end: ShuffleQueryStatus) -> Self {
        self.phase = end.phase;
        let error = end.error.as_ref();
        self.reason = error.map_or(ProgressReason::Completed.into(), |error| error.reason.into());
        self.message = error.map(|error| error.message.clone()).unwrap_or_default();
        self.suspended = None;
        self.ended = Some(Box::new(end));
        self
    }

    /// The record of a query that the operator fails.
    #[must_use]
    pub fn failed(self, reason: ErrorReason, message: impl Into<String>, now: Timestamp) -> Self {
        self.ended(ShuffleQueryStatus {
            phase: QueryPhase::Failed,
            end_time: Some(Time(now)),
            error: Some(QueryError {
                reason,
                message: message.into(),
                stage: None,
                task: None,
            }),
            ..ShuffleQueryStatus::default()
        })
    }
}
