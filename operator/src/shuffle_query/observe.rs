//! Gathers what a decision about a query is made from.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use sluice_crds::shuffle_query::ShuffleQuerySpec;
use sluice_crds::{
    ConditionReason, PoolConditionType, ProgressReason, ShuffleQuery, WorkerPool, validate_query,
};

use super::Queries;
use super::admission::{Candidate, Place, place};
use super::lifecycle::{Coordinator, Lifecycle};
use super::observed::{Observed, PoolSeen, SqlSeen};
use super::pods::CoordinatorPod;
use crate::objects::folders::folders;
use crate::objects::names;
use crate::reconcile::Error;

/// The name of the pool that a query uses; `None` if it names none.
pub(super) fn pool_of(query: &ShuffleQuery) -> Option<String> {
    let spec = &query.spec;
    match &spec.workers {
        Some(_) => Some(names::inline_pool(&query.name_any())),
        None => spec.worker_pool_ref.as_ref().map(|pool| pool.name.clone()),
    }
}

/// A query as the others of its pool see it.
pub(super) fn candidate(query: &ShuffleQuery, granted: bool) -> Candidate {
    let status = query.status.as_ref();
    let reason = status.and_then(|status| status.reason);
    Candidate {
        uid: query.uid().unwrap_or_default(),
        name: query.name_any(),
        priority: query.spec.priority,
        created: query.creation_timestamp().map(|time| time.0).unwrap_or_default(),
        admitted: granted || status.is_some_and(|status| status.admitted_time.is_some()),
        blocked: query.spec.suspend || reason == Some(ProgressReason::SqlNotFound.into()),
    }
}

impl Queries {
    /// Looks at everything around `query`, `now`.
    ///
    /// # Errors
    /// The API server refused or was not reached.
    pub(super) async fn observe(&self, query: &Arc<ShuffleQuery>, now: Timestamp) -> Result<Observed, Error> {
        let life = Lifecycle::of(query);
        let uid = query.uid().unwrap_or_default();
        let pool = self.pool(query);
        let place = match &pool {
            Some(pool) if life.admitted.is_none() && !life.phase.is_terminal() => self.place(query, pool),
            Some(_) | None => Place::Free,
        };
        let waits = life.admitted.is_none() && !life.phase.is_terminal();
        let mut problems = problems(query, &life);
        if let Some(pool) = pool.as_ref().filter(|_| waits && problems.is_empty()) {
            problems.extend(folders(query, &pool.name_any(), &pool.spec).err());
        }
        let pool = pool.map_or(PoolSeen::Absent, |pool| seen(query, &pool));
        let sql = match pool {
            PoolSeen::Found { .. } if waits && place == Place::Free => match self.sql(query).await? {
                Ok(text) => {
                    if query.spec.sql_from.is_some() {
                        problems.extend(problems_with(query, &text));
                    }
                    SqlSeen::There
                }
                Err(missing) => SqlSeen::Missing(missing),
            },
            _ => SqlSeen::There,
        };
        Ok(Observed {
            problems,
            pool,
            place,
            sql,
            pods: self.pods(query, &life, now).await?,
            report: self.progress.latest(&uid, life.epoch),
            query: query.clone(),
        })
    }

    /// The pool that the query uses.
    pub(super) fn pool(&self, query: &ShuffleQuery) -> Option<Arc<WorkerPool>> {
        let name = pool_of(query)?;
        let namespace = query.namespace().unwrap_or_default();
        self.pools.get(&ObjectRef::new(&name).within(&namespace))
    }

    /// The queries of a pool that have not ended.
    pub(super) fn candidates(&self, namespace: &str, pool: &str) -> Vec<Candidate> {
        let granted = self.granted();
        let queries = self.queries.state();
        let ours = queries.iter().filter(|query| {
            let ended = query
                .status
                .as_ref()
                .is_some_and(|status| status.phase.is_terminal());
            !ended
                && query.metadata.deletion_timestamp.is_none()
                && query.metadata.namespace.as_deref() == Some(namespace)
                && pool_of(query).as_deref() == Some(pool)
        });
        ours.map(|query| {
            let granted = query
                .metadata
                .uid
                .as_ref()
                .is_some_and(|uid| granted.contains(uid));
            candidate(query, granted)
        })
        .collect()
    }

    fn place(&self, query: &ShuffleQuery, pool: &WorkerPool) -> Place {
        let all = self.candidates(&query.namespace().unwrap_or_default(), &pool.name_any());
        place(&candidate(query, false), &all, pool.spec.max_concurrent_queries)
    }

    /// The SQL text of a query, or what is missing of it.
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

    /// The pods of the query's coordinators. A pod that was posted and is not in the cache may just not have arrived
    /// there: the API server knows.
    async fn pods(
        &self,
        query: &ShuffleQuery,
        life: &Lifecycle,
        now: Timestamp,
    ) -> Result<Vec<CoordinatorPod>, Error> {
        let mut pods: Vec<_> = self
            .pod_objects(query)
            .iter()
            .filter_map(|pod| CoordinatorPod::read(pod, now))
            .collect();
        let uid = query.uid().unwrap_or_default();
        let arrived = pods.iter().any(|pod| pod.epoch == life.epoch);
        let just_posted = self.posted().get(&uid) == Some(&life.epoch);
        if just_posted && arrived {
            self.posted().remove(&uid);
        }
        let posted = just_posted || !matches!(life.coordinator, Coordinator::Wanted { .. });
        if posted && life.admitted.is_some() && !life.phase.is_terminal() && !arrived {
            let name = names::coordinator(&query.name_any(), life.epoch);
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

    /// The same as objects, as far as they have arrived.
    pub(super) fn pod_objects(&self, query: &ShuffleQuery) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.state();
        pods.retain(|pod| pod.metadata.namespace == query.metadata.namespace && owned(&**pod, query));
        pods
    }
}

/// Whether `query` controls `object`.
pub(super) fn owned<K: ResourceExt>(object: &K, query: &ShuffleQuery) -> bool {
    let uid = query.uid().unwrap_or_default();
    let mut owners = object.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// What is wrong with the spec. A query that was found good stays so.
fn problems(query: &ShuffleQuery, life: &Lifecycle) -> Vec<String> {
    let seen = query
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    if life.phase.is_terminal() || (seen.is_some() && seen == query.metadata.generation) {
        return Vec::new();
    }
    validate_query(query).iter().map(ToString::to_string).collect()
}

/// What is wrong with a query once its SQL text is in place.
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

fn seen(query: &ShuffleQuery, pool: &WorkerPool) -> PoolSeen {
    if query.spec.workers.is_some() && !owned(pool, query) {
        return PoolSeen::Taken;
    }
    if pool.metadata.deletion_timestamp.is_some() {
        return PoolSeen::Leaving;
    }
    let status = pool.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let ready = conditions
        .clone()
        .find(|seen| seen.type_ == PoolConditionType::Ready);
    PoolSeen::Found {
        ready: status.map_or(0, |status| status.ready_replicas),
        usable: status.map_or(0, |status| status.usable_replicas),
        needed: pool.spec.min_ready_workers,
        why: match pool.spec.replicas {
            0 => "it is scaled to 0, set replicas".to_owned(),
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
                PoolSeen::Found { why, .. } => why,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(why(0), "it is scaled to 0, set replicas");
        assert_eq!(why(2), "");
    }
}
