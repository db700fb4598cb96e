//! Watches with label selectors, stripped of unused fields. An object that cannot be parsed does not stop them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, future};
use kube::api::DynamicObject;
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::unreadable::Unreadable;
use crate::config::Scope;

/// Seconds after which the API server ends a watch, so that a dead connection is noticed.
const WATCH_SECONDS: u32 = 240;

/// A store of objects, and the stream that fills it. The stream yields each object that changed or was deleted, once the store
/// shows it. The store only advances while the stream is polled.
pub type Watched<K, S> = (Store<K>, S);

/// A kind that can be watched.
pub trait Kind: Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Clone + Debug + DeserializeOwned + Send + Sync + 'static> Kind for K {}

impl Scope {
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

/// Watches our custom resources of one kind. An object that cannot be parsed, such as one of a newer version, is logged, recorded
/// in `unreadable` and left out.
pub fn resources<K>(
    client: &Client,
    scope: &Scope,
    unreadable: Unreadable,
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    resources_slimmed(client, scope, unreadable, |_| {})
}

/// Like [`resources`]; `slim` reduces each object before it is stored.
pub fn resources_slimmed<K>(
    client: &Client,
    scope: &Scope,
    mut unreadable: Unreadable,
    slim: fn(&mut K),
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = scope.dynamic_api(client, &ApiResource::erase::<K>(&()));
    let (reader, writer) = reflector::store();
    let stream = events(api, watcher::Config::default())
        .backoff(WatchBackoff::default())
        .filter_map(move |event| future::ready(typed::<K>(event, &mut unreadable)))
        .modify(slim)
        .reflect(writer);
    (reader.clone(), changes(stream, reader))
}

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

/// Watches the objects of `api` with these `labels` (a label selector; empty selects all).
pub fn from_api<K>(
    api: Api<K>,
    labels: &str,
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType: Default + Eq + Hash + Clone>,
{
    stripped(api, labels, |_| {})
}

/// Like [`from_api`]; `strip` reduces each object before it is stored.
pub fn stripped<K>(
    api: Api<K>,
    labels: &str,
    strip: fn(&mut K),
) -> Watched<K, impl Stream<Item = watcher::Result<K>> + use<K> + Send + 'static>
where
    K: Kind + Resource<DynamicType: Default + Eq + Hash + Clone>,
{
    let (reader, writer) = reflector::store();
    let stream = events(api, watcher::Config::default().labels(labels))
        .backoff(WatchBackoff::default())
        .modify(move |object| {
            object.managed_fields_mut().clear();
            strip(object);
        })
        .reflect(writer);
    (reader.clone(), changes(stream, reader))
}

/// The events of a watch that also lists again when the API server refuses to start it at the last resource version. A watcher of
/// kube 5 lists again only when a running watch reports expired history, and would otherwise repeat the same request forever.
fn events<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Kind + Resource,
{
    let config = config.timeout(WATCH_SECONDS);
    stream::unfold(None, move |watched: Option<Events<K>>| {
        let mut watched = watched.unwrap_or_else(|| watcher(api.clone(), config.clone()).boxed());
        async move {
            let event = watched.next().await?;
            let lost = event.as_ref().is_err_and(is_lost);
            Some((event, (!lost).then_some(watched)))
        }
    })
}

type Events<K> = BoxStream<'static, watcher::Result<watcher::Event<K>>>;

/// Whether a watch cannot continue from the last resource version: it has expired (410), or the API server never had it (504), as
/// after a restore from a backup.
fn is_lost(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error else {
        return false;
    };
    status.code == 410 || status.code == 504 && status.message.contains("Too large resource version")
}

/// The back-off of a failed watch: client-go's, but at most ten seconds instead of a minute, since the operator has a dozen
/// watches and must notice quickly that the API server is back.
#[derive(Default)]
struct WatchBackoff(DefaultBackoff);

const MAX_BACKOFF: Duration = Duration::from_secs(10);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(MAX_BACKOFF))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The objects that `events`, which have filled `store`, changed or deleted.
///
/// A failure (no permission, no connection) is logged and not passed on. The watch retries by itself, while a controller of kube
/// 5 that receives an error pauses all its watches, longer each time.
///
/// The objects of a list (the first one, or one after expired history) are yielded once the store has all of them. A reconcile
/// during the list would see the old store, and no later event would correct it. Objects that were deleted unseen are yielded
/// too; unchanged ones are not.
fn changes<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    store: Store<K>,
) -> impl Stream<Item = watcher::Result<K>>
where
    K: Kind + Resource<DynamicType: Default + Eq + Hash + Clone>,
{
    use watcher::Event;
    let mut before = Vec::new();
    events.flat_map(move |event| {
        let one = match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => Some(Ok(object)),
            Err(error) => {
                let kind = K::kind(&K::DynamicType::default()).into_owned();
                tracing::warn!(kind, %error, "a watch failed and is tried again");
                None
            }
            Ok(Event::Init) => {
                before = store.state();
                None
            }
            Ok(Event::InitApply(_)) => None,
            Ok(Event::InitDone) => {
                let listed = difference(mem::take(&mut before), store.state());
                let listed = listed.into_iter().map(|object| Ok((*object).clone()));
                return stream::iter(listed).left_stream();
            }
        };
        stream::iter(one).right_stream()
    })
}

/// The objects of `before` that are gone, then those of `now` that are new or changed.
fn difference<K: Resource>(before: Vec<Arc<K>>, now: Vec<Arc<K>>) -> Vec<Arc<K>> {
    let by_uid = |objects: &[Arc<K>]| -> HashMap<Option<String>, Option<String>> {
        let versions = objects
            .iter()
            .map(|object| (object.uid(), object.resource_version()));
        versions.collect()
    };
    let (old, new) = (by_uid(&before), by_uid(&now));
    let gone = before
        .into_iter()
        .filter(|object| !new.contains_key(&object.uid()));
    let changed = now
        .into_iter()
        .filter(|object| old.get(&object.uid()) != Some(&object.resource_version()));
    gone.chain(changed).collect()
}

/// The event with its object parsed; `None` leaves the object out.
fn typed<K>(
    event: watcher::Result<watcher::Event<DynamicObject>>,
    unreadable: &mut Unreadable,
) -> Option<watcher::Result<watcher::Event<K>>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    use watcher::Event;
    Some(Ok(match event {
        Err(error) => return Some(Err(error)),
        Ok(Event::Init) => {
            unreadable.list_begins();
            Event::Init
        }
        Ok(Event::InitDone) => {
            unreadable.list_ends();
            Event::InitDone
        }
        Ok(Event::InitApply(object)) => Event::InitApply(parsed(object, unreadable)?),
        Ok(Event::Apply(object)) => Event::Apply(parsed(object, unreadable)?),
        Ok(Event::Delete(object)) => {
            unreadable.forget(&object);
            Event::Delete(object.try_parse().ok()?)
        }
    }))
}

fn parsed<K>(mut object: DynamicObject, unreadable: &mut Unreadable) -> Option<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    object.managed_fields_mut().clear();
    match object.clone().try_parse() {
        Ok(read) => {
            unreadable.forget(&object);
            Some(read)
        }
        Err(error) => {
            let kind = K::kind(&());
            let reference = object.object_ref(&ApiResource::erase::<K>(&()));
            if unreadable.record(&object, reference, &error.to_string()) {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                tracing::warn!(%kind, namespace, name, %error, "left out: it cannot be read by this version");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use sluice_crds::WorkerPool;
    use watcher::Event;

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
        let mut unreadable = Unreadable::new(Default::default(), None);
        let Some(Ok(watcher::Event::Apply(pool))) = typed::<WorkerPool>(Ok(good), &mut unreadable) else {
            panic!("left out");
        };
        assert_eq!(pool.spec.replicas, 3);
        let bad = watcher::Event::Apply(object(&json!({"replicas": "many"})));
        assert!(typed::<WorkerPool>(Ok(bad), &mut unreadable).is_none());
    }

    fn map(name: &str, uid: &str, version: &str) -> ConfigMap {
        let metadata = json!({"name": name, "uid": uid, "resourceVersion": version});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    /// The objects that each of `events` yields, as uid and version, and whether the store shows them.
    async fn told(events: Vec<Event<ConfigMap>>) -> Vec<String> {
        let (reader, writer) = reflector::store();
        // The watch fails between two events.
        let failure = || Err(watcher::Error::NoResourceVersion);
        let events = events.into_iter().flat_map(|event| [failure(), Ok(event)]);
        let changed = changes(stream::iter(events).reflect(writer), reader.clone());
        let told = changed.map(|object| {
            let object = object.expect("a failure is not passed on");
            let shown = reader.state().iter().any(|shown| **shown == object);
            let (uid, version) = (object.uid().unwrap(), object.resource_version().unwrap());
            format!("{uid}.{version}{}", if shown { "" } else { " is gone" })
        });
        told.collect().await
    }

    #[test]
    fn no_wait_is_long() {
        let waits: Vec<_> = WatchBackoff::default().take(20).collect();
        assert!(waits[0] < Duration::from_secs(2), "{waits:?}");
        assert_eq!(waits.iter().max(), Some(&MAX_BACKOFF));
    }

    #[tokio::test]
    async fn a_list_is_told_of_once_the_store_has_it() {
        let listed = |version| Event::InitApply(map("a", "a", version));
        let events = vec![
            Event::Init,
            listed("1"),
            Event::InitApply(map("b", "b", "1")),
            Event::InitDone,
        ];
        let mut all = told(events.clone()).await;
        all.sort();
        assert_eq!(all, ["a.1", "b.1"]);
        // Nothing is yielded before the end of the list.
        assert_eq!(told(events[..3].to_vec()).await, [""; 0]);
        let again = [
            Event::Init,
            listed("2"),
            Event::InitApply(map("b", "b", "1")),
            Event::InitDone,
        ];
        let all = told(events.into_iter().chain(again).collect()).await;
        assert_eq!(all[2..], ["a.2"], "b is as it was");
    }

    #[tokio::test]
    async fn what_went_away_between_two_lists_is_told_of() {
        let (a, b) = (map("a", "a", "1"), map("b", "b", "1"));
        let list = [
            Event::Init,
            Event::InitApply(a),
            Event::InitApply(b),
            Event::InitDone,
        ];
        // Another object has the name of a.
        let again = [
            Event::Init,
            Event::InitApply(map("a", "new", "2")),
            Event::InitDone,
        ];
        let mut all = told(list.into_iter().chain(again).collect()).await.split_off(2);
        all.sort();
        assert_eq!(all, ["a.1 is gone", "b.1 is gone", "new.2"]);
    }

    #[tokio::test]
    async fn a_list_that_broke_off_starts_over() {
        let start = [Event::Init, Event::InitApply(map("a", "a", "1")), Event::InitDone];
        let broken = [Event::Init, Event::InitApply(map("a", "a", "2"))];
        let whole = [Event::Init, Event::InitApply(map("a", "a", "3")), Event::InitDone];
        let later = [
            Event::Apply(map("a", "a", "4")),
            Event::Delete(map("a", "a", "5")),
        ];
        let all = start.into_iter().chain(broken).chain(whole).chain(later);
        assert_eq!(told(all.collect()).await, ["a.1", "a.3", "a.4", "a.5 is gone"]);
    }
}
