//! Executes the actions of a decision.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_crds::{ProgressReason, ShuffleQuery, WorkerPool};
use sluice_proto::auth::{Claims, PoolId};

use super::controller::QueryReconciler;
use super::observe::{owned, pool_of, problems_with};
use super::observed::Action;
use crate::controller_runtime::api::{self, Created, Object, Rejection};
use crate::controller_runtime::controller::Error;
use crate::objects::folders::folders;
use crate::objects::{coordinator, names, pod};
use crate::rpc::coordinator::CoordinatorTarget;
use crate::volume_claims;

impl QueryReconciler {
    /// Executes one action. A rejection stays the same until somebody changes something.
    ///
    /// # Errors
    /// The API server was not reached, or refused the call for now.
    pub(super) async fn apply(
        &self,
        query: &ShuffleQuery,
        action: Action,
    ) -> Result<Option<Rejection>, Error> {
        let uid = query.uid().unwrap_or_default();
        match action {
            Action::CreatePool => match coordinator::inline_pool(query) {
                Some(pool) => self.create(&pool).await,
                None => Ok(None),
            },
            Action::DeletePool => {
                if let Some(pool) = self.pool(query).filter(|pool| owned(&**pool, query)) {
                    self.delete(&*pool).await?;
                }
                Ok(None)
            }
            Action::CreateInput => self.create_input(query).await,
            Action::DeleteInput => {
                if let Some(input) = self.input(query) {
                    self.delete(&*input).await?;
                }
                Ok(None)
            }
            Action::CreateToken { epoch } => self.create_token(query, epoch).await,
            Action::CreatePod { epoch, memory_factor } => self.create_pod(query, epoch, memory_factor).await,
            Action::DeletePod { name } => {
                let pods = self.pod_objects(query);
                if let Some(pod) = pods.iter().find(|pod| pod.name_any() == name) {
                    self.delete(&**pod).await?;
                }
                Ok(None)
            }
            Action::Follow { epoch, address } => {
                self.progress.follow(CoordinatorTarget {
                    query: ObjectRef::from_obj(query),
                    uid,
                    epoch,
                    pool: pool_id(query),
                    address,
                });
                Ok(None)
            }
            Action::Unfollow => {
                self.progress.unfollow(&uid);
                Ok(None)
            }
            Action::Cancel => {
                self.progress.cancel(&uid);
                Ok(None)
            }
            Action::DeleteQuery => {
                self.delete(query).await?;
                Ok(None)
            }
        }
    }

    async fn create<K: Object>(&self, wanted: &K) -> Result<Option<Rejection>, Error> {
        let name = wanted.name_any();
        match api::create(&self.operator.client, wanted).await {
            Ok(Created::Ours(_)) => Ok(None),
            Ok(Created::Taken) => Ok(Some(taken(wanted))),
            Err(error) => rejection(error, &format!("creating {} {name}", K::kind(&()))),
        }
    }

    async fn delete<K: Object>(&self, object: &K) -> Result<(), Error> {
        let doing = format!("deleting {} {}", K::kind(&()), object.name_any());
        let deleted = api::delete(&self.operator.client, object, None).await;
        deleted.map_err(Error::api(doing))
    }

    async fn create_input(&self, query: &ShuffleQuery) -> Result<Option<Rejection>, Error> {
        if query.spec.sql_from.is_some() {
            // The input of the first coordinator has resolved it for good.
            let name = names::input(&query.name_any());
            let client = self.operator.client.clone();
            let api = Api::<ConfigMap>::namespaced(client, &query.namespace().unwrap_or_default());
            let input = api.get_opt(&name).await;
            let input = input.map_err(Error::api(format!("reading ConfigMap {name}")))?;
            if let Some(input) = input.filter(|input| owned(input, query)) {
                self.know_input(query, &input);
                return Ok(None);
            }
        }
        let sql = match self.sql(query).await? {
            Ok(sql) => sql,
            Err(message) => {
                let reason = ProgressReason::SqlNotFound;
                return Ok(Some(Rejection { reason, message }));
            }
        };
        // It was valid at admission. The text may have changed since.
        let problem = problems_with(query, &sql).into_iter().next();
        let input = coordinator::input(query, &sql).map_err(|error| error.to_string());
        match problem.map_or(input, Err) {
            Ok(input) => match api::create(&self.operator.client, &input).await {
                Ok(Created::Ours(input)) => {
                    self.know_input(query, &input);
                    Ok(None)
                }
                Ok(Created::Taken) => Ok(Some(taken(&input))),
                Err(error) => rejection(error, &format!("creating ConfigMap {}", input.name_any())),
            },
            Err(message) => Ok(Some(Rejection {
                reason: ProgressReason::SqlNotFound,
                message,
            })),
        }
    }

    fn know_input(&self, query: &ShuffleQuery, input: &ConfigMap) {
        let uid = query.uid().unwrap_or_default();
        let input_uid = input.uid().unwrap_or_default();
        self.memos.update(&uid, |memo| memo.input_uid = Some(input_uid));
    }

    /// The unique id of the input, which is created before the tokens.
    fn known_input(&self, query: &ShuffleQuery) -> String {
        let uid = query.uid().unwrap_or_default();
        let known = self.memos.with(&uid, |memo| memo.input_uid.clone());
        known.flatten().unwrap_or_default()
    }

    async fn create_token(&self, query: &ShuffleQuery, epoch: u64) -> Result<Option<Rejection>, Error> {
        let Some(pool) = self.pool(query) else {
            return Ok(Some(pool_deleted(query)));
        };
        let folders = match folders(query, &pool.name_any(), &pool.spec) {
            Ok(folders) => folders,
            Err(message) => {
                let reason = ProgressReason::PodRefused;
                return Ok(Some(Rejection { reason, message }));
            }
        };
        let id = query.uid().and_then(QueryId::new);
        let claims = id.map(|id| Claims::query(id, CoordinatorEpoch(epoch), pool_id(query), folders));
        let Some(token) = claims.and_then(|claims| self.signer.sign(&claims).ok()) else {
            return Ok(Some(Rejection {
                reason: ProgressReason::PodRefused,
                message: "the UID of the query cannot stand in a token".to_owned(),
            }));
        };
        let secret = coordinator::token(query, epoch, token.as_text(), &self.known_input(query));
        let name = secret.name_any();
        match api::create_blind(&self.operator.client, &secret).await {
            Ok(()) => Ok(None),
            Err(error) => rejection(error, &format!("creating Secret {name}")),
        }
    }

    async fn create_pod(
        &self,
        query: &ShuffleQuery,
        epoch: u64,
        memory_factor: u32,
    ) -> Result<Option<Rejection>, Error> {
        let pool = self
            .pool(query)
            .filter(|pool| pool.metadata.deletion_timestamp.is_none());
        let Some(pool) = pool else {
            return Ok(Some(pool_deleted(query)));
        };
        let resolved = pool.status.as_ref().and_then(|status| status.image.as_deref());
        let image = resolved.unwrap_or_else(|| pod::image(&pool.spec, &self.operator.image));
        let pod = coordinator::coordinator_pod(&coordinator::CoordinatorPlan {
            query,
            epoch,
            pool: &pool.name_any(),
            pool_spec: &pool.spec,
            image,
            memory_factor,
            log_format: self.operator.config.log_format,
            with_workers: self.is_of_one_node(&pool).await?,
        });
        let refused = self.create(&pod).await?;
        if refused.is_none() {
            let uid = query.uid().unwrap_or_default();
            self.memos.update(&uid, |memo| memo.expected_pod = Some(epoch));
        }
        Ok(refused)
    }

    /// Whether the pods of `pool` mount a claim that is attached to one node at a time.
    async fn is_of_one_node(&self, pool: &WorkerPool) -> Result<bool, Error> {
        let client = self.operator.client.clone();
        let api = Api::<PersistentVolumeClaim>::namespaced(client, &pool.namespace().unwrap_or_default());
        let data = pool.spec.data_volumes.iter().map(|volume| (volume, false));
        let sinks = pool.spec.sink_volumes.iter().map(|volume| (volume, true));
        for (volume, writable) in data.chain(sinks) {
            let name = &volume.claim_name;
            let claim = api.get_opt(name).await;
            let claim = claim.map_err(Error::api(format!("reading PersistentVolumeClaim {name}")))?;
            if claim.is_some_and(|claim| volume_claims::is_of_one_node(&claim, writable)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn taken<K: Object>(wanted: &K) -> Rejection {
    Rejection {
        reason: ProgressReason::NameTaken,
        message: format!(
            "{} {} exists and is not this query's: delete it",
            K::kind(&()),
            wanted.name_any()
        ),
    }
}

fn pool_deleted(query: &ShuffleQuery) -> Rejection {
    let name = pool_of(query).unwrap_or_default();
    Rejection {
        reason: ProgressReason::PoolNotFound,
        message: format!("WorkerPool {name} was deleted"),
    }
}

fn pool_id(query: &ShuffleQuery) -> PoolId {
    PoolId {
        namespace: query.namespace().unwrap_or_default(),
        name: pool_of(query).unwrap_or_default(),
    }
}

/// The rejection of a call. Any other failure is an error, which is tried again.
fn rejection(error: kube::Error, doing: &str) -> Result<Option<Rejection>, Error> {
    match api::classify_rejection(doing, &error) {
        Some(rejection) => Ok(Some(rejection)),
        None => Err(Error::api(doing)(error)),
    }
}
