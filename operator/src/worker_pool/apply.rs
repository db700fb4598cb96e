//! Applies a decision about a pool.

use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use futures::{StreamExt, future, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::core::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use serde_json::Value;
use sluice_crds::ProgressReason;

use super::decide::{Desired, PodPatch};
use super::pod_problem::PodProblem;
use super::stores::Stores;
use crate::controller_runtime::api::{self, Created, Object};
use crate::controller_runtime::controller::{Error, Keyed};
use crate::objects::labels;

const MAX_CONCURRENT_CREATIONS: usize = 8;

/// The result of applying a decision.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rejected calls, which are rejected again until somebody acts.
    pub rejected: Vec<PodProblem>,
    /// Pods, by uid, that began to drain.
    pub draining: Vec<(String, Timestamp)>,
    /// The first failure that may succeed when tried again.
    pub failed: Option<Error>,
}

impl Applied {
    fn note(&mut self, doing: &str, error: kube::Error) {
        if let Some(rejection) = api::classify_rejection(doing, &error) {
            // The status shows it.
            tracing::debug!(doing, %error, "the API server refuses");
            self.rejected.push(rejection.into());
        } else if self.failed.is_none() {
            self.failed = Some(Error::api(doing)(error));
        }
    }

    fn is_well(&self) -> bool {
        self.rejected.is_empty() && self.failed.is_none()
    }
}

/// Applies `wanted`. Pods are patched before others are deleted or created: a drain must be stored before it begins. No pod is
/// created while an object that it needs is missing.
pub async fn apply(client: &Client, stores: &Stores, wanted: &Desired) -> Applied {
    let mut applied = Applied::default();
    let objects = &wanted.objects;
    ensure(
        client,
        &stores.service_accounts,
        &objects.service_account,
        &mut applied,
    )
    .await;
    ensure(client, &stores.services, &objects.service, &mut applied).await;
    ensure(
        client,
        &stores.disruption_budgets,
        &objects.disruption_budget,
        &mut applied,
    )
    .await;
    ensure(
        client,
        &stores.network_policies,
        &objects.network_policy,
        &mut applied,
    )
    .await;
    ensure(
        client,
        &stores.network_policies,
        &objects.coordinator_policy,
        &mut applied,
    )
    .await;
    if let Some(key) = &objects.key {
        ensure(client, &stores.config_maps, key, &mut applied).await;
    }
    patch_pods(client, wanted, &mut applied).await;
    for deletion in &wanted.delete {
        let name = deletion.pod.name_any();
        tracing::info!(pod = name, why = deletion.why.description(), "deleting a worker");
        if let Err(error) = api::delete(client, &*deletion.pod, None).await {
            applied.note(&format!("deleting pod {name}"), error);
        }
    }
    if applied.is_well() {
        create(client, &wanted.create, &mut applied).await;
    }
    applied
}

/// Creates `pods` in order until one fails, as the others would fail too. Running creations are awaited: a quota is charged
/// before a pod is stored, and keeps the charge for minutes if the request is dropped.
async fn create(client: &Client, pods: &[Pod], applied: &mut Applied) {
    let well = AtomicBool::new(true);
    let begun = stream::iter(pods.to_vec()).take_while(|_| future::ready(well.load(Relaxed)));
    let creations = begun.map(|pod| async move { (pod.name_any(), api::create(client, &pod).await) });
    let mut creations = pin!(creations.buffered(MAX_CONCURRENT_CREATIONS));
    while let Some((name, created)) = creations.next().await {
        match created {
            Ok(Created::Ours(_)) => tracing::info!(pod = name, "created a worker"),
            Ok(Created::Taken) => applied.rejected.push(taken("Pod", &name)),
            Err(error) => applied.note(&format!("creating pod {name}"), error),
        }
        well.store(applied.is_well(), Relaxed);
    }
}

/// Applies `wanted` if it is missing or differs.
async fn ensure<K>(client: &Client, store: &Store<K>, wanted: &K, applied: &mut Applied)
where
    K: Object + Keyed,
{
    let (kind, name) = (K::kind(&()), wanted.name_any());
    let doing = format!("applying {kind} {name}");
    let known = store.get(&ObjectRef::from_obj(wanted));
    let existing = match known {
        Some(existing) => (*existing).clone(),
        None => match api::create(client, wanted).await {
            Ok(Created::Ours(existing)) => *existing,
            Ok(Created::Taken) => return applied.rejected.push(taken(&kind, &name)),
            Err(error) => return applied.note(&doing, error),
        },
    };
    if !api::same_owner(&existing, wanted) {
        return applied.rejected.push(taken(&kind, &name));
    }
    if is_as(&existing, wanted) {
        return;
    }
    if let Err(error) = api::apply(client, wanted, Some(&existing)).await {
        applied.note(&doing, error);
    }
}

fn taken(kind: &str, name: &str) -> PodProblem {
    PodProblem::new(
        ProgressReason::NameTaken,
        format!("{kind} {name} exists and belongs to someone else: remove it, or give the pool another name"),
    )
}

/// Whether `existing` has all fields of `wanted`, except for owners: others may have added theirs.
fn is_as<K: Object>(existing: &K, wanted: &K) -> bool {
    let json = |object: &K| {
        let mut object = object.clone();
        object.meta_mut().owner_references = None;
        serde_json::to_value(object).unwrap_or_default()
    };
    covers(&json(existing), &json(wanted))
}

/// Fields that the API server omits when they are false. For other fields absence may mean something else.
const OMITTED_IF_FALSE: [&str; 1] = ["publishNotReadyAddresses"];

/// Whether every field of `wanted` has the same value in `existing`. Lists are compared whole.
fn covers(existing: &Value, wanted: &Value) -> bool {
    match (existing, wanted) {
        (Value::Object(existing), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| match existing.get(field) {
                Some(existing) => covers(existing, wanted),
                None => *wanted == Value::Bool(false) && OMITTED_IF_FALSE.contains(&field.as_str()),
            })
        }
        (Value::Array(existing), Value::Array(wanted)) => {
            existing.len() == wanted.len()
                && existing
                    .iter()
                    .zip(wanted)
                    .all(|(existing, wanted)| covers(existing, wanted))
        }
        (existing, wanted) => existing == wanted,
    }
}

async fn patch_pods(client: &Client, wanted: &Desired, applied: &mut Applied) {
    for patch in &wanted.patch {
        let name = patch.pod.name_any();
        match api::apply(client, &patch_body(patch), Some(&*patch.pod)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => continue,
            Err(error) => {
                applied.note(&format!("patching pod {name}"), error);
                continue;
            }
        }
        if let Some((since, why)) = patch.draining {
            tracing::info!(pod = name, why = why.description(), "a worker drains");
            applied.draining.extend(patch.pod.uid().map(|uid| (uid, since)));
        }
    }
}

/// A pod with nothing but the labels and annotations of the patch.
pub fn patch_body(patch: &PodPatch) -> Pod {
    let labels = patch
        .zone
        .iter()
        .map(|zone| (labels::ZONE.to_owned(), zone.clone()));
    let since = patch.draining.map(|(since, _)| since.to_string());
    let annotations = since.map(|since| (labels::DRAINING.to_owned(), since));
    Pod {
        metadata: ObjectMeta {
            name: Some(patch.pod.name_any()),
            namespace: patch.pod.namespace(),
            labels: Some(labels.collect()),
            annotations: Some(annotations.into_iter().collect()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use http::{Request, Response};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// Requests that were received, and those that were answered.
    #[derive(Default)]
    struct Counts {
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    /// An API server that rejects the third pod for its quota and answers later requests more slowly.
    async fn serve(request: Request<Body>, counts: Arc<Counts>) -> Result<Response<Body>, Infallible> {
        let number = counts.begun.fetch_add(1, Relaxed);
        let body = request.into_body().collect_bytes().await.expect("a body");
        tokio::time::sleep(Duration::from_millis(5 * number as u64)).await;
        counts.ended.fetch_add(1, Relaxed);
        let answer = Response::builder().header("content-type", "application/json");
        let answer = if number == 2 {
            let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                                 "reason": "Forbidden", "message": "exceeded quota: pods"});
            answer
                .status(403)
                .body(Body::from(refusal.to_string().into_bytes()))
        } else {
            answer.status(201).body(Body::from(body))
        };
        Ok(answer.expect("an answer"))
    }

    #[tokio::test]
    async fn a_refusal_begins_no_more_creations_and_gives_up_none() {
        let counts = Arc::new(Counts::default());
        let service = {
            let counts = counts.clone();
            tower::service_fn(move |request| serve(request, counts.clone()))
        };
        let owner = OwnerReference {
            controller: Some(true),
            uid: "u".to_owned(),
            ..OwnerReference::default()
        };
        let pods = (0..40).map(|number| Pod {
            metadata: ObjectMeta {
                name: Some(format!("p-{number}")),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        });
        let mut applied = Applied::default();
        create(
            &Client::new(service, "default"),
            &pods.collect::<Vec<_>>(),
            &mut applied,
        )
        .await;
        let begun = counts.begun.load(Relaxed);
        assert_eq!(applied.rejected.len(), 1, "{applied:?}");
        assert_eq!(applied.rejected[0].reason, ProgressReason::QuotaExceeded);
        assert!((3..=2 + MAX_CONCURRENT_CREATIONS).contains(&begun), "{begun}");
        assert_eq!(counts.ended.load(Relaxed), begun);
    }
}
