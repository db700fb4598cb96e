//! Writes the status of queries: at once before the operator acts on it, otherwise when it is due.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

use super::controller::QueryReconciler;
use super::coordinator_outcome::unreported_end;
use super::decide::elapsed;
use super::event;
use super::mutation_cache::MutationCache;
use super::observe::pool_of;
use super::observed::Observed;
use super::progress::Urgency;
use super::query_record::QueryRecord;
use super::status::compose;
use crate::controller_runtime::controller::{Error, Reconciler};
use crate::controller_runtime::work_queue::Priority;
use crate::controller_runtime::{api, events};
use crate::demand::QueryDemand;

/// When a status of low urgency is tried again after the rate limiter had no permit.
const THROTTLED_RETRY: Duration = Duration::from_secs(2);

impl QueryReconciler {
    /// Persists what must be stored before the operator acts on it.
    pub(super) async fn persist(
        &self,
        seen: &Observed,
        record: &QueryRecord,
        now: Timestamp,
    ) -> Result<Arc<ShuffleQuery>, Error> {
        let uid = seen.query.uid().unwrap_or_default();
        let holds_admission = record.admitted.is_some() && !record.phase.is_terminal();
        if holds_admission && !self.assume_admission(&seen.query, &uid) {
            // Another query was admitted first. This one is decided again.
            return Ok(seen.query.clone());
        }
        let report = seen.report.as_deref();
        let old = seen.query.status.clone().unwrap_or_default();
        let new = compose(&seen.query, record, report, now);
        self.update_demand(&seen.query, &new);
        self.operator
            .status_writes
            .acquire(QueryReconciler::priority(&seen.query))
            .await;
        let written = self.write(&seen.query, &old, &new).await;
        if !holds_admission || written.is_err() {
            self.memos.with(&uid, |memo| memo.assumed_admission = false);
        }
        let written = written?;
        match unreported_end(seen, record) {
            Some(end) => {
                let lag = elapsed(end, Timestamp::now());
                self.operator.metrics.status_lag.observe(lag.as_secs_f64());
            }
            None => self.observe_status_lag(seen),
        }
        Ok(Arc::new(written))
    }

    /// Assumes the admission of the query. False if the quota of its namespace, which other queries may have used up since the
    /// decision, has no room.
    fn assume_admission(&self, query: &ShuffleQuery, uid: &str) -> bool {
        let _one_at_a_time = self.admitting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_admitted = QueryRecord::of(query).admitted.is_some();
        if !is_admitted && self.quota_violation(query).is_some() {
            return false;
        }
        self.memos.update(uid, |memo| memo.assumed_admission = true);
        true
    }

    /// Updates the query's demand on its pool.
    fn update_demand(&self, query: &ShuffleQuery, status: &ShuffleQueryStatus) {
        let uid = query.uid().unwrap_or_default();
        let Some(pool) = pool_of(query) else { return };
        let namespace = query.namespace().unwrap_or_default();
        self.operator
            .demand
            .set(&uid, (&namespace, &pool), QueryDemand::of(status));
    }

    /// Writes the status if it is due. Returns the time until the next reconcile.
    pub(super) async fn update_status_if_due(
        &self,
        seen: &Observed,
        record: &QueryRecord,
        now: Timestamp,
        again: Duration,
    ) -> Result<Duration, Error> {
        let query = &seen.query;
        if query.meta().deletion_timestamp.is_some() {
            return Ok(again);
        }
        if QueryRecord::of(query).phase.is_terminal() {
            self.update_observed_generation(query).await?;
            return Ok(again);
        }
        let uid = query.uid().unwrap_or_default();
        let cached = self.queries.get(&ObjectRef::from_obj(&**query));
        let cached_admission = cached.and_then(|cached| cached.status.as_ref()?.admitted_time.clone());
        if cached_admission.is_some() {
            self.memos.with(&uid, |memo| memo.assumed_admission = false);
        }
        let new = compose(query, record, seen.report.as_deref(), now);
        self.update_demand(query, &new);
        let old = query.status.clone().unwrap_or_default();
        let urgency = match &query.status {
            Some(old) => Urgency::between(old, &new),
            None => Urgency::Transition,
        };
        let last = self.memos.with(&uid, |memo| {
            memo.last_write.as_ref().map(|write| write.written_at)
        });
        let rested = last.flatten().map_or(Duration::MAX, |last| last.elapsed());
        if urgency == Urgency::Same {
            return Ok(again);
        }
        if rested < urgency.period() {
            return Ok(again.min(urgency.period().saturating_sub(rested)));
        }
        let writes = &self.operator.status_writes;
        match urgency {
            Urgency::Transition => writes.acquire(QueryReconciler::priority(query)).await,
            _ if writes.try_acquire() => {}
            // Steps and counters are dropped under load, and no reconcile waits for them.
            _ => return Ok(again.min(THROTTLED_RETRY)),
        }
        self.write(query, &old, &new).await?;
        self.observe_status_lag(seen);
        Ok(again)
    }

    /// Sets `observedGeneration` after an edit of a query that has ended, such as of its time to live. The cache does not hold
    /// its whole status.
    async fn update_observed_generation(&self, query: &ShuffleQuery) -> Result<(), Error> {
        if is_generation_observed(query) {
            return Ok(());
        }
        let api = api::api_of(&self.operator.client, query);
        let found = api.get_opt(&query.name_any()).await;
        let found = found.map_err(Error::api("reading the query"))?;
        let same = |found: &ShuffleQuery| {
            found.uid() == query.uid()
                && found.metadata.deletion_timestamp.is_none()
                && !is_generation_observed(found)
        };
        let Some(found) = found.filter(same) else {
            return Ok(());
        };
        let old = found.status.clone().unwrap_or_default();
        let new = with_observed_generation(old.clone(), found.metadata.generation);
        self.operator.status_writes.acquire(Priority::Normal).await;
        self.write(&found, &old, &new).await?;
        Ok(())
    }

    /// Observes the lag of a status that was just written.
    fn observe_status_lag(&self, seen: &Observed) {
        let uid = seen.query.uid().unwrap_or_default();
        let report = seen.report.as_ref();
        if let Some(lag) = report.and_then(|report| self.progress.status_written(&uid, report)) {
            self.operator.metrics.status_lag.observe(lag.as_secs_f64());
        }
    }

    /// Writes a status. The caller has a permit.
    async fn write(
        &self,
        query: &ShuffleQuery,
        old: &ShuffleQueryStatus,
        new: &ShuffleQueryStatus,
    ) -> Result<ShuffleQuery, Error> {
        let made_room = new.phase.is_terminal() || new.admitted_time.is_none() && new.reason != old.reason;
        if made_room {
            self.memos.update(&query.uid().unwrap_or_default(), |memo| {
                memo.released_admission = true;
            });
        }
        let written = api::apply_status(&self.operator.client, query, new).await;
        let written = written.map_err(Error::api("writing the status"))?;
        self.operator.metrics.status_writes.inc();
        let uid = query.uid().unwrap_or_default();
        self.memos.update(&uid, |memo| {
            let previous = memo.last_write.take();
            memo.last_write = Some(MutationCache::new(previous, query, &written));
        });
        self.publish_event(query, old, new);
        Ok(written)
    }

    /// Publishes the event of a transition.
    fn publish_event(&self, query: &ShuffleQuery, old: &ShuffleQueryStatus, new: &ShuffleQueryStatus) {
        let Some(event) = event::between(old, new) else {
            return;
        };
        match new.phase {
            QueryPhase::Pending | QueryPhase::Running | QueryPhase::Suspended => {}
            QueryPhase::Succeeded | QueryPhase::Failed | QueryPhase::Cancelled => {
                tracing::info!(reason = event.reason, "the query has ended");
            }
        }
        events::publish(&self.recorder, event, query.object_ref(&()));
    }
}

fn is_generation_observed(query: &ShuffleQuery) -> bool {
    let seen = query
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    seen == query.metadata.generation
}

/// The same status with another `observedGeneration`.
fn with_observed_generation(mut status: ShuffleQueryStatus, generation: Option<i64>) -> ShuffleQueryStatus {
    status.observed_generation = generation;
    for condition in &mut status.conditions {
        condition.observed_generation = generation;
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_edit_after_the_end_changes_nothing_but_the_generation() {
        let status = |generation: i64| -> ShuffleQueryStatus {
            let condition = json!({"type": "Succeeded", "status": "True", "reason": "Completed", "message": "",
                                   "observedGeneration": generation, "lastTransitionTime": "2030-01-01T00:00:00Z"});
            let stage = json!({"id": 0, "label": "scan", "state": "Done"});
            let status = json!({"observedGeneration": generation, "phase": "Succeeded", "reason": "Completed",
                                "conditions": [condition], "stages": [stage]});
            serde_json::from_value(status).unwrap()
        };
        assert_eq!(with_observed_generation(status(1), Some(3)), status(3));
        let mut query = ShuffleQuery::new("q", Default::default());
        (query.metadata.generation, query.status) = (Some(3), Some(status(1)));
        assert!(!is_generation_observed(&query));
        query.status = Some(status(3));
        assert!(is_generation_observed(&query));
    }
}
