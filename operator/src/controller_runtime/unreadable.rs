//! Custom resources that this version cannot parse, as an older or newer version stored them. They are left out, counted in a
//! gauge and reported by an event.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder};
use prometheus_client::metrics::gauge::Gauge;
use sluice_crds::text::shortened;

use super::events::publish;

/// Most characters of the cause in an event.
const MAX_CAUSE: usize = 512;

/// The objects of one watch that cannot be read.
pub struct Unreadable {
    recorder: Option<Recorder>,
    gauge: Gauge,
    /// By namespace and name: the version that was reported, and the number of the list that showed it last.
    known: BTreeMap<(String, String), (Option<String>, u64)>,
    /// Lists that have begun.
    lists: u64,
}

impl Unreadable {
    /// Counts in `gauge`, and publishes events if there is a recorder.
    pub fn new(gauge: Gauge, recorder: Option<Recorder>) -> Self {
        Self {
            recorder,
            gauge,
            known: BTreeMap::new(),
            lists: 0,
        }
    }

    /// Reports nothing: for a watch of objects that another watch reports.
    pub fn unreported() -> Self {
        Self::new(Gauge::default(), None)
    }

    pub fn list_begins(&mut self) {
        self.lists += 1;
    }

    /// A list is complete. Objects that it did not show are gone.
    pub fn list_ends(&mut self) {
        let lists = self.lists;
        self.known.retain(|_, (_, seen)| *seen == lists);
        self.count();
    }

    /// The object can be parsed, or is gone.
    pub fn forget(&mut self, object: &DynamicObject) {
        self.known.remove(&key(object));
        self.count();
    }

    /// Records that the object cannot be parsed. Returns whether this version was not reported before.
    pub fn record(&mut self, object: &DynamicObject, reference: ObjectReference, why: &str) -> bool {
        let version = object.resource_version();
        let before = self.known.insert(key(object), (version.clone(), self.lists));
        self.count();
        if before.is_some_and(|(before, _)| before == version) {
            return false;
        }
        if let Some(recorder) = &self.recorder {
            publish(recorder, event(why), reference);
        }
        true
    }

    fn count(&self) {
        self.gauge
            .set(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
    }
}

fn key(object: &DynamicObject) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn event(why: &str) -> Event {
    let why = shortened(why, MAX_CAUSE);
    Event {
        type_: EventType::Warning,
        reason: "Unreadable".to_owned(),
        note: Some(format!(
            "left out: it was stored under other rules than those of this version of the operator ({why}); correct it, or \
             delete it and create it anew"
        )),
        action: "Read".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, version: &str) -> DynamicObject {
        let metadata = json!({"name": name, "namespace": "n", "resourceVersion": version});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn what_cannot_be_read_counts_until_it_can_or_is_gone() {
        let gauge = Gauge::default();
        let mut unreadable = Unreadable::new(gauge.clone(), None);
        let note = |unreadable: &mut Unreadable, name: &str, version: &str| {
            unreadable.record(
                &object(name, version),
                ObjectReference::default(),
                "replicas: many",
            )
        };
        unreadable.list_begins();
        assert!(note(&mut unreadable, "a", "1"));
        assert!(note(&mut unreadable, "b", "1"));
        unreadable.list_ends();
        assert_eq!(gauge.get(), 2);
        assert!(!note(&mut unreadable, "a", "1"), "it was told");
        assert!(note(&mut unreadable, "a", "2"), "somebody changed it");
        unreadable.list_begins();
        assert!(!note(&mut unreadable, "a", "2"));
        unreadable.list_ends();
        assert_eq!(gauge.get(), 1, "the list did not show b");
        unreadable.forget(&object("a", "3"));
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_note_says_what_to_do_and_is_bounded() {
        let note = event(&"x".repeat(5_000)).note.unwrap();
        assert!(note.len() < 1_024 && note.contains("correct it"), "{note}");
    }
}
