//! The operator's writes to the API server. Each is safe to repeat.

use std::fmt::Debug;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sluice_crds::ProgressReason;

pub const FIELD_MANAGER: &str = "sluice-operator";

/// A namespaced kind that these functions can write.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

/// The result of a creation.
#[derive(Clone, Debug)]
pub enum Created<K> {
    /// The object exists and has the right owner, whoever created it.
    Ours(Box<K>),
    /// An object of that name has another owner.
    Taken,
}

/// A rejected call. It is rejected again until somebody acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: ProgressReason,
    /// What was rejected and why, for people.
    pub message: String,
}

/// The rejection of a call; `None` if the same call may succeed later: 401 is about the operator's own credentials, 404 about a
/// namespace that is being deleted or a kind that is not installed yet; 408, 409 and 429 are temporary.
pub fn classify_rejection(doing: &str, error: &kube::Error) -> Option<Rejection> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let reason = match status.code {
        403 if status.message.contains("exceeded quota") => ProgressReason::QuotaExceeded,
        401 | 404 | 408 | 409 | 429 => return None,
        400..500 => ProgressReason::PodRefused,
        _ => return None,
    };
    Some(Rejection {
        reason,
        message: format!("{doing}: {}", status.message),
    })
}

pub fn api_of<K: Object>(client: &Client, object: &K) -> Api<K> {
    Api::namespaced(client.clone(), &object.namespace().unwrap_or_default())
}

/// Creates `wanted`, which has a deterministic name and a controlling owner. An existing object of that name with the same owner
/// counts as created: its answer was lost, or another operator created it.
///
/// # Errors
/// The API server refused or was not reached.
pub async fn create<K: Object>(client: &Client, wanted: &K) -> kube::Result<Created<K>> {
    let api = api_of(client, wanted);
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&params, wanted).await {
        Ok(object) => Ok(Created::Ours(Box::new(object))),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            match api.get_opt(&wanted.name_any()).await? {
                Some(object) if same_owner(&object, wanted) => Ok(Created::Ours(Box::new(object))),
                Some(_) => Ok(Created::Taken),
                // It was deleted in between. The next reconcile creates it.
                None => Err(kube::Error::Api(status)),
            }
        }
        Err(error) => Err(error),
    }
}

/// Creates an object that the operator may not read, such as a Secret. An existing object of that name counts as created, so the
/// name must belong to its owner alone.
///
/// # Errors
/// The API server refused or was not reached.
pub async fn create_blind<K: Object>(client: &Client, wanted: &K) -> kube::Result<()> {
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api_of(client, wanted).create(&params, wanted).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Applies `wanted` over `existing`. The uid of `existing` is sent along, so that the apply of an object that was deleted
/// meanwhile is a conflict and does not create it again.
///
/// # Errors
/// The API server refused or was not reached.
pub async fn apply<K: Object>(client: &Client, wanted: &K, existing: Option<&K>) -> kube::Result<K> {
    let mut wanted = wanted.clone();
    wanted.meta_mut().uid = existing.and_then(ResourceExt::uid);
    let body = body(&wanted)?;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api_of(client, &wanted)
        .patch(&wanted.name_any(), &params, &Patch::Apply(&body))
        .await
}

/// Applies a status to the version of `seen`. A newer version of the object is a conflict (409).
///
/// # Errors
/// The API server refused or was not reached.
pub async fn apply_status<K: Object, S: Serialize + Sync>(
    client: &Client,
    seen: &K,
    status: &S,
) -> kube::Result<K> {
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": seen.name_any(),
            "namespace": seen.namespace(),
            "uid": seen.uid(),
            "resourceVersion": seen.resource_version(),
        },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api_of(client, seen)
        .patch_status(&seen.name_any(), &params, &Patch::Apply(&body))
        .await
}

/// Deletes this object. It is no error if it is gone.
///
/// # Errors
/// The API server refused or was not reached.
pub async fn delete<K: Object>(client: &Client, object: &K, grace_seconds: Option<u32>) -> kube::Result<()> {
    let params = DeleteParams {
        grace_period_seconds: grace_seconds,
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    match api_of(client, object).delete(&object.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        // The uid differs: the object was replaced.
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether both objects are controlled by the same owner.
pub fn same_owner<K: Resource>(one: &K, other: &K) -> bool {
    let owner = |object: &K| {
        let mut owners = object.owner_references().iter();
        owners
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone())
    };
    owner(one).is_some() && owner(one) == owner(other)
}

/// The object with its kind and version, which server-side apply requires.
fn body<K: Object>(object: &K) -> kube::Result<serde_json::Value> {
    let mut body = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    body["apiVersion"] = json!(K::api_version(&()));
    body["kind"] = json!(K::kind(&()));
    Ok(body)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn rejected(code: u16, message: &str) -> Option<Rejection> {
        let status = Status::failure(message, "").with_code(code);
        classify_rejection("creating Pod q-c1", &kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn rejections_that_a_user_can_mend_are_shown_and_the_rest_is_tried_again() {
        let quota = rejected(403, "exceeded quota: pods").unwrap();
        assert_eq!(quota.reason, ProgressReason::QuotaExceeded);
        assert_eq!(quota.message, "creating Pod q-c1: exceeded quota: pods");
        assert_eq!(
            rejected(403, "forbidden: violates PodSecurity").unwrap().reason,
            ProgressReason::PodRefused
        );
        assert_eq!(
            rejected(422, "no such priority class").unwrap().reason,
            ProgressReason::PodRefused
        );
        for code in [401, 404, 408, 409, 429, 500, 503, 504] {
            assert_eq!(rejected(code, ""), None, "{code}");
        }
    }
}
