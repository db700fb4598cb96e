//! Gathers what a decision about a query is made from.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use sluice_crds::shuffle_query::ShuffleQuerySpec;
use sluice_crds::{
    ConditionReason, PoolConditionType, ProgressReason, ShuffleQuery, WorkerPool, WorkerPoolSpec,
    validate_query,
};
use tokio::time::Instant;

use super::admission::{Admission, Candidate, WaitsFor, admission, next_waiting_for_quota, quota_violation};
use super::controller::QueryReconciler;
use super::coordinator_pod::{CoordinatorPod, PodState};
use super::observed::{Observed, ObservedPool, ObservedSql};
use super::query_record::{Coordinator, QueryRecord};
use super::start_limit::Turn;
use crate::controller_runtime::controller::Error;
use crate::objects::folders::folders;
use crate::objects::names;

/// Most queries that are enqueued when the quota of a namespace may have room.
const QUOTA_WAKES: usize = 8;

/// The name of the pool that a query uses; `None` if it names none.
pub(super) fn pool_of(query: &ShuffleQuery) -> Option<String> {
    let spec = &query.spec;
    match &spec.workers {
        Some(_) => Some(names::inline_pool(&query.name_any())),
        None => spec.worker_pool_ref.as_ref().map(|pool| pool.name.clone()),
    }
}

/// A query as a candidate for admission.
pub(super) fn candidate(query: &ShuffleQuery, pool: Option<&WorkerPool>, assumed: bool) -> Candidate {
    let spec = query.spec.workers.as_ref().or(pool.map(|pool| &pool.spec));
    let cap = spec.and_then(|spec| spec.max_query_priority).unwrap_or(i32::MAX);
    let status = query.status.as_ref();
    let reason = status.and_then(|status| status.reason);
    Candidate {
        uid: query.uid().unwrap_or_default(),
        name: query.name_any(),
        priority: query.spec.priority.min(cap),
        created: query.creation_timestamp().map(|time| time.0).unwrap_or_default(),
        admitted: assumed || status.is_some_and(|status| status.admitted_time.is_some()),
        blocked: query.spec.suspend || reason == Some(ProgressReason::SqlNotFound.into()),
        pool: pool_of(query).unwrap_or_default(),
        slots: spec.map_or(0, |spec| spec.most_replicas().saturating_mul(spec.slots())),
        waits_for: match reason {
            None => WaitsFor::Unknown,
            Some(reason) if reason == ProgressReason::Pending.into() => WaitsFor::Unknown,
            Some(reason) if reason == ProgressReason::NamespaceQuotaReached.into() => WaitsFor::Quota,
            Some(_) => WaitsFor::Other,
        },
    }
}

impl QueryReconciler {
    /// Observes `query` and everything around it at `now`.
    ///
    /// # Errors
    /// The API server refused or was not reached.
    pub(super) async fn observe(&self, query: &Arc<ShuffleQuery>, now: Timestamp) -> Result<Observed, Error> {
        let record = QueryRecord::of(query);
        let uid = query.uid().unwrap_or_default();
        let pool = self.pool(query);
        let admission = match &pool {
            Some(pool) if record.admitted.is_none() && !record.phase.is_terminal() => {
                self.admission(query, pool)
            }
            Some(_) | None => Admission::Granted,
        };
        let waits = record.admitted.is_none() && !record.phase.is_terminal();
        let mut problems = problems(query, &record);
        if let Some(pool) = pool.as_ref().filter(|_| waits && problems.is_empty()) {
            problems.extend(folders(query, &pool.name_any(), &pool.spec).err());
        }
        let spec = query.spec.workers.as_ref();
        let spec = spec.or(pool.as_ref().map(|pool| &pool.spec));
        let (deadline_seconds, ttl_seconds) = times(query, spec);
        let quota = if waits { self.quota_violation(query) } else { None };
        let pool = pool.map_or(ObservedPool::Absent, |pool| seen(query, &pool));
        let sql = match pool {
            ObservedPool::Found { .. } if waits && admission == Admission::Granted => {
                match self.sql(query).await? {
                    Ok(text) => {
                        if query.spec.sql_from.is_some() {
                            problems.extend(problems_with(query, &text));
                        }
                        ObservedSql::Available
                    }
                    Err(missing) => ObservedSql::Missing(missing),
                }
            }
            _ => ObservedSql::Available,
        };
        let pods = self.pods(query, &record, now).await?;
        let may_start = waits && problems.is_empty() && quota.is_none() && sql == ObservedSql::Available;
        let admission = match &pool {
            ObservedPool::Found {
                compatible, needed, ..
            } if may_start && compatible >= needed && admission == Admission::Granted => {
                self.start_admission(query)
            }
            _ => {
                self.observe_start(query, &record, &pods);
                admission
            }
        };
        Ok(Observed {
            problems,
            pool,
            admission,
            sql,
            pods,
            report: self.progress.latest(&uid, record.epoch),
            unreachable: self.progress.unreachable(&uid, record.epoch),
            input: self.input(query).is_some(),
            quota,
            deadline_seconds,
            ttl_seconds,
            query: query.clone(),
        })
    }

    /// The input of the query's coordinators, if the cache has it.
    pub(super) fn input(&self, query: &ShuffleQuery) -> Option<Arc<ConfigMap>> {
        let name = names::input(&query.name_any());
        let namespace = query.namespace().unwrap_or_default();
        let input = self.inputs.get(&ObjectRef::new(&name).within(&namespace))?;
        owned(&*input, query).then_some(input)
    }

    pub(super) fn pool(&self, query: &ShuffleQuery) -> Option<Arc<WorkerPool>> {
        let name = pool_of(query)?;
        let namespace = query.namespace().unwrap_or_default();
        self.pools.get(&ObjectRef::new(&name).within(&namespace))
    }

    pub(super) fn candidates(&self, namespace: &str, pool: &str) -> Vec<Candidate> {
        self.unended(namespace, |query| pool_of(query).as_deref() == Some(pool))
    }

    /// The queries of a namespace that have not ended and that `chosen` selects.
    fn unended(&self, namespace: &str, chosen: impl Fn(&ShuffleQuery) -> bool) -> Vec<Candidate> {
        let memos = self.memos.lock();
        let queries = self.queries.state();
        let ours = queries.iter().filter(|query| {
            let ended = query
                .status
                .as_ref()
                .is_some_and(|status| status.phase.is_terminal());
            !ended
                && query.metadata.deletion_timestamp.is_none()
                && query.metadata.namespace.as_deref() == Some(namespace)
                && chosen(query)
        });
        ours.map(|query| {
            let memo = query.metadata.uid.as_ref().and_then(|uid| memos.get(uid));
            let assumed = memo.is_some_and(|memo| memo.assumed_admission);
            candidate(query, self.pool(query).as_deref(), assumed)
        })
        .collect()
    }

    /// Why the quota of its namespace keeps the query from admission.
    pub(super) fn quota_violation(&self, query: &ShuffleQuery) -> Option<String> {
        let quota = self.operator.config.quota();
        if !quota.is_set() {
            return None;
        }
        let all = self.unended(&query.namespace().unwrap_or_default(), |_| true);
        quota_violation(&candidate(query, self.pool(query).as_deref(), false), &all, quota)
    }

    /// The queries that wait for the quota of a namespace, in order of admission.
    pub(super) fn next_waiting_for_quota(&self, namespace: &str) -> Vec<String> {
        if !self.operator.config.quota().is_set() {
            return Vec::new();
        }
        let all = self.unended(namespace, |_| true);
        let next = next_waiting_for_quota(&all).into_iter().take(QUOTA_WAKES);
        next.map(|query| query.name.clone()).collect()
    }

    fn admission(&self, query: &ShuffleQuery, pool: &WorkerPool) -> Admission {
        let all = self.candidates(&query.namespace().unwrap_or_default(), &pool.name_any());
        admission(
            &candidate(query, Some(pool), false),
            &all,
            pool.spec.max_concurrent_queries,
        )
    }

    /// Whether the query, which may be admitted, may start now.
    fn start_admission(&self, query: &ShuffleQuery) -> Admission {
        let candidate = candidate(query, self.pool(query).as_deref(), false);
        let pool = (query.namespace().unwrap_or_default(), candidate.pool.clone());
        let turn = self
            .starts()
            .request(&candidate.uid, &pool, candidate.rank(), Instant::now());
        match turn {
            Turn::Granted => Admission::Granted,
            Turn::Later(after) => Admission::Delayed(after),
        }
    }

    /// Gives on the place of a query that has started, or that does not start.
    fn observe_start(&self, query: &ShuffleQuery, record: &QueryRecord, pods: &[CoordinatorPod]) {
        let uid = query.uid().unwrap_or_default();
        let runs = record.admitted.is_some() && !record.phase.is_terminal();
        let newest = pods.iter().find(|pod| pod.epoch == record.epoch);
        let is_starting = newest.is_none_or(|pod| matches!(pod.state, PodState::Waiting(_)));
        let makes_room = match runs {
            // It is looked at again and again while it waits: one that takes too long makes room without being asked for it.
            true if is_starting => self.starts().expire(Instant::now()),
            true => self.starts().started(&uid, Instant::now()),
            false => self.starts().forget(&uid),
        };
        if makes_room {
            self.enqueue_next_starts();
        }
    }

    /// The SQL text of a query, or what is missing.
    ///
    /// # Errors
    /// The API server refused or was not reached.
    pub(super) async fn sql(&self, query: &ShuffleQuery) -> Result<Result<String, String>, Error> {
        let Some(source) = &query.spec.sql_from else {
            return Ok(Ok(query.spec.sql.clone().unwrap_or_default()));
        };
        let from = &source.config_map_key_ref;
        let client = self.operator.client.clone();
        let api = Api::<ConfigMap>::namespaced(client, &query.namespace().unwrap_or_default());
        let map = api.get_opt(&from.name).await;
        let Some(map) = map.map_err(Error::api(format!("reading ConfigMap {}", from.name)))? else {
            return Ok(Err(format!("ConfigMap {} does not exist", from.name)));
        };
        let text = map.data.and_then(|mut data| data.remove(&from.key));
        Ok(text.ok_or_else(|| format!("ConfigMap {} has no key {}", from.name, from.key)))
    }

    /// The pods of the query's coordinators. A pod that was created and is not in the cache is read from the API server.
    async fn pods(
        &self,
        query: &ShuffleQuery,
        record: &QueryRecord,
        now: Timestamp,
    ) -> Result<Vec<CoordinatorPod>, Error> {
        let mut pods: Vec<_> = self
            .pod_objects(query)
            .iter()
            .filter_map(|pod| CoordinatorPod::read(pod, now))
            .collect();
        let uid = query.uid().unwrap_or_default();
        let arrived = pods.iter().any(|pod| pod.epoch == record.epoch);
        let expected = self.memos.with(&uid, |memo| memo.expected_pod).flatten() == Some(record.epoch);
        if expected && arrived {
            self.memos.with(&uid, |memo| memo.expected_pod = None);
        }
        let posted = expected || !matches!(record.coordinator, Coordinator::Wanted { .. });
        if posted && record.admitted.is_some() && !record.phase.is_terminal() && !arrived {
            let name = names::coordinator(&query.name_any(), record.epoch);
            let client = self.operator.client.clone();
            let api = Api::<Pod>::namespaced(client, &query.namespace().unwrap_or_default());
            let pod = api
                .get_opt(&name)
                .await
                .map_err(Error::api(format!("reading pod {name}")))?;
            let pod = pod.filter(|pod| owned(pod, query));
            pods.extend(pod.as_ref().and_then(|pod| CoordinatorPod::read(pod, now)));
        }
        Ok(pods)
    }

    /// The pods of the query's coordinators in the cache.
    pub(super) fn pod_objects(&self, query: &ShuffleQuery) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.state();
        pods.retain(|pod| pod.metadata.namespace == query.metadata.namespace && owned(&**pod, query));
        pods
    }
}

/// The deadline and the time to live of a query, in seconds: its own, or else those of its pool.
fn times(query: &ShuffleQuery, pool: Option<&WorkerPoolSpec>) -> (Option<u32>, Option<u32>) {
    let default = |of: fn(&WorkerPoolSpec) -> Option<u32>| pool.and_then(of);
    let (deadline, ttl) = (query.spec.deadline_seconds, query.spec.ttl_seconds_after_finished);
    (
        deadline.or(default(|spec| spec.default_deadline_seconds)),
        ttl.or(default(|spec| spec.default_ttl_seconds_after_finished)),
    )
}

/// Whether `query` controls `object`.
pub(super) fn owned<K: ResourceExt>(object: &K, query: &ShuffleQuery) -> bool {
    let uid = query.uid().unwrap_or_default();
    let mut owners = object.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// The problems of the spec. A spec that was found valid is not checked again.
fn problems(query: &ShuffleQuery, record: &QueryRecord) -> Vec<String> {
    let seen = query
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    if record.phase.is_terminal() || (seen.is_some() && seen == query.metadata.generation) {
        return Vec::new();
    }
    validate_query(query).iter().map(ToString::to_string).collect()
}

/// The problems of a query with its SQL text resolved.
pub(super) fn problems_with(query: &ShuffleQuery, sql: &str) -> Vec<String> {
    let resolved = ShuffleQuery {
        spec: ShuffleQuerySpec {
            sql: Some(sql.to_owned()),
            sql_from: None,
            ..query.spec.clone()
        },
        ..query.clone()
    };
    validate_query(&resolved)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn seen(query: &ShuffleQuery, pool: &WorkerPool) -> ObservedPool {
    if query.spec.workers.is_some() && !owned(pool, query) {
        return ObservedPool::NameTaken;
    }
    if pool.metadata.deletion_timestamp.is_some() {
        return ObservedPool::Deleting;
    }
    let status = pool.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let ready = conditions
        .clone()
        .find(|seen| seen.type_ == PoolConditionType::Ready);
    ObservedPool::Found {
        ready: status.map_or(0, |status| status.ready_replicas),
        compatible: status.map_or(0, |status| status.compatible_replicas),
        needed: pool.spec.min_ready_workers,
        why: match (pool.spec.replicas, &pool.spec.autoscaling) {
            (0, None) => "it is scaled to 0, set replicas".to_owned(),
            _ => ready
                .map(|seen| why(seen.reason, &seen.message))
                .unwrap_or_default(),
        },
    }
}

fn why(reason: ConditionReason, message: &str) -> String {
    match reason {
        ConditionReason::Progress(ProgressReason::WorkersReady) => String::new(),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pool_that_is_scaled_to_0_says_so() {
        let query = ShuffleQuery::new("q", ShuffleQuerySpec::default());
        let why = |replicas: u32| {
            let ready = json!({"type": "Ready", "status": "True", "reason": "WorkersReady", "message": "",
                               "lastTransitionTime": "2030-01-01T00:00:00Z"});
            let pool = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"},
                              "spec": {"replicas": replicas}, "status": {"conditions": [ready]}});
            match seen(&query, &serde_json::from_value(pool).unwrap()) {
                ObservedPool::Found { why, .. } => why,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(why(0), "it is scaled to 0, set replicas");
        assert_eq!(why(2), "");
    }
}
