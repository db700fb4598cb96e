//! Watches: label-scoped, stripped of what nobody reads, and never stopped by one object that cannot be read.

use std::fmt::Debug;
use std::hash::Hash;

use futures::{Stream, StreamExt, future};
use kube::api::DynamicObject;
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::config::Scope;

/// Seconds after which the API server ends a watch, so that one which died in silence does not stay unnoticed.
const WATCH_SECONDS: u32 = 240;

/// A store of objects, and the stream that fills it: it yields every object that changed or went away, and must be
/// polled for the store to advance.
pub type Watched<K, S> = (Store<K>, S);

/// What a watch needs of a kind beside its API.
pub trait Kind: Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Clone + Debug + DeserializeOwned + Send + Sync + 'static> Kind for K {}

impl Scope {
    /// The API of a kind within the scope.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::All => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }

    fn dynamic_api(&self, client: &Client, kind: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::All => Api::all_with(client.clone(), kind),
            Self::Namespace(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        }
    }
}

/// Watches our custom resources of one kind. An object that does not parse, such as one that a newer version wrote,
/// is logged, left out, and stops nothing.
pub fn resources<K>(
    client: &Client,
    scope: &Scope,
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    resources_slimmed(client, scope, |_| {})
}

/// The same, keeping only what `slim` leaves of each object.
pub fn resources_slimmed<K>(
    client: &Client,
    scope: &Scope,
    slim: fn(&mut K),
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = scope.dynamic_api(client, &ApiResource::erase::<K>(&()));
    let (reader, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default().timeout(WATCH_SECONDS))
        .default_backoff()
        .filter_map(|event| future::ready(typed::<K>(event)))
        .modify(slim)
        .reflect(writer)
        .touched_objects();
    (reader, stream)
}

/// Watches objects that carry `labels` (a label selector).
pub fn labelled<K>(
    client: &Client,
    scope: &Scope,
    labels: &str,
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    from_api(scope.api(client), labels)
}

/// Watches the objects of `api` that carry `labels` (a label selector; empty takes all).
pub fn from_api<K>(
    api: Api<K>,
    labels: &str,
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType: Default + Eq + Hash + Clone>,
{
    stripped(api, labels, |_| {})
}

/// Like [`from_api`], without what `strip` takes away.
pub fn stripped<K>(
    api: Api<K>,
    labels: &str,
    strip: fn(&mut K),
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType: Default + Eq + Hash + Clone>,
{
    let (reader, writer) = reflector::store();
    let stream = watcher(
        api,
        watcher::Config::default().timeout(WATCH_SECONDS).labels(labels),
    )
    .default_backoff()
    .modify(move |object| {
        object.managed_fields_mut().clear();
        strip(object);
    })
    .reflect(writer)
    .touched_objects();
    (reader, stream)
}

/// The event with its object parsed; `None` leaves the object out.
fn typed<K>(
    event: watcher::Result<watcher::Event<DynamicObject>>,
) -> Option<watcher::Result<watcher::Event<K>>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    use watcher::Event;
    Some(Ok(match event {
        Err(error) => return Some(Err(error)),
        Ok(Event::Init) => Event::Init,
        Ok(Event::InitDone) => Event::InitDone,
        Ok(Event::InitApply(object)) => Event::InitApply(parsed(object)?),
        Ok(Event::Apply(object)) => Event::Apply(parsed(object)?),
        Ok(Event::Delete(object)) => Event::Delete(parsed(object)?),
    }))
}

fn parsed<K>(mut object: DynamicObject) -> Option<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    object.managed_fields_mut().clear();
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    match object.try_parse() {
        Ok(object) => Some(object),
        Err(error) => {
            let kind = K::kind(&());
            tracing::warn!(%kind, namespace, name, %error, "left out: it cannot be read by this version");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_crds::WorkerPool;

    use super::*;

    fn object(spec: &serde_json::Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": "p", "namespace": "n"}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_that_cannot_be_read_is_left_out() {
        let good = watcher::Event::Apply(object(&json!({"replicas": 3})));
        let Some(Ok(watcher::Event::Apply(pool))) = typed::<WorkerPool>(Ok(good)) else {
            panic!("left out");
        };
        assert_eq!(pool.spec.replicas, 3);
        let bad = watcher::Event::Apply(object(&json!({"replicas": "many"})));
        assert!(typed::<WorkerPool>(Ok(bad)).is_none());
    }
}
