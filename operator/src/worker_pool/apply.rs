//! Brings the cluster closer to what a pool should have.

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::core::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use serde_json::Value;
use sluice_crds::ProgressReason;

use super::desired::{Desired, Mark};
use super::stores::Stores;
use super::why::{Trouble, of_refusal};
use crate::kube_api::{self, Created, Object};
use crate::objects::labels;
use crate::reconcile::{Error, Keyed};

/// Pods created at a time.
const AT_ONCE: usize = 8;

/// What came of it.
#[derive(Debug, Default)]
pub struct Applied {
    /// What the API server did not take, and will not until somebody acts.
    pub refused: Vec<Trouble>,
    /// Pods, by uid, that began to drain.
    pub draining: Vec<(String, Timestamp)>,
    /// The first failure that trying again may mend.
    pub failed: Option<Error>,
}

impl Applied {
    fn note(&mut self, doing: &str, error: kube::Error) {
        if let Some(trouble) = of_refusal(doing, &error) {
            // The status says it.
            tracing::debug!(doing, %error, "the API server refuses");
            self.refused.push(trouble);
        } else if self.failed.is_none() {
            self.failed = Some(Error::api(doing)(error));
        }
    }

    fn is_well(&self) -> bool {
        self.refused.is_empty() && self.failed.is_none()
    }
}

/// Does what `wanted` says: marks first, since a drain must be known before it begins; no pods without what they need.
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
    if let Some(key) = &objects.key {
        ensure(client, &stores.config_maps, key, &mut applied).await;
    }
    mark(client, wanted, &mut applied).await;
    for removal in &wanted.delete {
        let name = removal.pod.name_any();
        tracing::info!(pod = name, why = ?removal.why, "deleting a worker");
        if let Err(error) = kube_api::delete(client, &*removal.pod, None).await {
            applied.note(&format!("deleting pod {name}"), error);
        }
    }
    if applied.is_well() {
        create(client, &wanted.create, &mut applied).await;
    }
    applied
}

async fn create(client: &Client, pods: &[Pod], applied: &mut Applied) {
    let creations = stream::iter(pods.to_vec()).map(|pod| {
        let client = client.clone();
        async move { (pod.name_any(), kube_api::create(&client, &pod).await) }
    });
    let mut creations = creations.buffered(AT_ONCE);
    while let Some((name, created)) = creations.next().await {
        match created {
            Ok(Created::Ours(_)) => tracing::info!(pod = name, "created a worker"),
            Ok(Created::Taken) => applied.refused.push(taken("Pod", &name)),
            Err(error) => applied.note(&format!("creating pod {name}"), error),
        }
        if !applied.is_well() {
            // The others would fare no better.
            return;
        }
    }
}

/// Applies `wanted`, unless it is there as it should be.
async fn ensure<K>(client: &Client, store: &Store<K>, wanted: &K, applied: &mut Applied)
where
    K: Object + Keyed,
{
    let (kind, name) = (K::kind(&()), wanted.name_any());
    let doing = format!("applying {kind} {name}");
    let known = store.get(&ObjectRef::from_obj(wanted));
    let existing = match known {
        Some(existing) => (*existing).clone(),
        None => match kube_api::create(client, wanted).await {
            Ok(Created::Ours(existing)) => *existing,
            Ok(Created::Taken) => return applied.refused.push(taken(&kind, &name)),
            Err(error) => return applied.note(&doing, error),
        },
    };
    if !kube_api::same_owner(&existing, wanted) {
        return applied.refused.push(taken(&kind, &name));
    }
    if is_as(&existing, wanted) {
        return;
    }
    if let Err(error) = kube_api::apply(client, wanted, Some(&existing)).await {
        applied.note(&doing, error);
    }
}

fn taken(kind: &str, name: &str) -> Trouble {
    Trouble::new(
        ProgressReason::NameTaken,
        format!("{kind} {name} exists and belongs to someone else: remove it, or give the pool another name"),
    )
}

/// Whether `existing` has all that `wanted` has; the owner aside, who may have company.
fn is_as<K: Object>(existing: &K, wanted: &K) -> bool {
    let json = |object: &K| {
        let mut object = object.clone();
        object.meta_mut().owner_references = None;
        serde_json::to_value(object).unwrap_or_default()
    };
    covers(&json(existing), &json(wanted))
}

/// Fields that the API server leaves out where they are false. Of others absence may mean something else.
const LEFT_OUT_IF_FALSE: [&str; 1] = ["publishNotReadyAddresses"];

/// Whether every field of `wanted` has the same value in `existing`. Lists are compared whole.
fn covers(existing: &Value, wanted: &Value) -> bool {
    match (existing, wanted) {
        (Value::Object(existing), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| match existing.get(field) {
                Some(existing) => covers(existing, wanted),
                None => *wanted == Value::Bool(false) && LEFT_OUT_IF_FALSE.contains(&field.as_str()),
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

async fn mark(client: &Client, wanted: &Desired, applied: &mut Applied) {
    for mark in &wanted.mark {
        let name = mark.pod.name_any();
        match kube_api::apply(client, &marks(mark), Some(&*mark.pod)).await {
            Ok(_) => {}
            // The pod is gone.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => continue,
            Err(error) => {
                applied.note(&format!("marking pod {name}"), error);
                continue;
            }
        }
        if let Some((since, why)) = mark.draining {
            tracing::info!(pod = name, ?why, "a worker drains");
            applied.draining.extend(mark.pod.uid().map(|uid| (uid, since)));
        }
    }
}

/// A pod with nothing but its marks.
pub fn marks(mark: &Mark) -> Pod {
    let labels = mark
        .zone
        .iter()
        .map(|zone| (labels::ZONE.to_owned(), zone.clone()));
    let since = mark.draining.map(|(since, _)| since.to_string());
    let annotations = since.map(|since| (labels::DRAINING.to_owned(), since));
    Pod {
        metadata: ObjectMeta {
            name: Some(mark.pod.name_any()),
            namespace: mark.pod.namespace(),
            labels: Some(labels.collect()),
            annotations: Some(annotations.into_iter().collect()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}
