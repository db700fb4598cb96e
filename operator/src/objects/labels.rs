//! Labels and annotations of what the operator creates.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The application; the same on every object.
pub const NAME: &str = "app.kubernetes.io/name";
/// The manager of the object; the same on every object. Watches select by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The WorkerPool that an object belongs to, or whose workers a coordinator uses.
pub const POOL: &str = "sluice.dev/pool";
/// The ShuffleQuery that an object belongs to.
pub const QUERY: &str = "sluice.dev/query";
/// The epoch of the coordinator that an object belongs to.
pub const EPOCH: &str = "sluice.dev/epoch";
/// The zone of a node, and of a pod once it is scheduled.
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// Annotation of a worker's pod: the hash of its spec. Pods with another hash are replaced.
pub const SPEC_HASH: &str = "sluice.dev/spec-hash";
/// Annotation of a worker's pod: since when it drains (RFC 3339).
pub const DRAINING: &str = "sluice.dev/draining";

/// Value of [`NAME`].
pub const SLUICE: &str = "sluice";
/// Value of [`MANAGED_BY`].
pub const OPERATOR: &str = "sluice-operator";

/// What a pod does; the value of [`COMPONENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Worker,
    Coordinator,
}

impl Component {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Coordinator => "coordinator",
        }
    }
}

/// Labels of every object of `component`, without those of its pool, query or epoch.
pub fn common(component: Component) -> BTreeMap<String, String> {
    [
        (NAME, SLUICE),
        (MANAGED_BY, OPERATOR),
        (COMPONENT, component.name()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Labels of everything that the pool `pool` owns.
pub fn of_pool(pool: &str) -> BTreeMap<String, String> {
    let mut labels = common(Component::Worker);
    labels.insert(POOL.to_owned(), pool.to_owned());
    labels
}

/// Selects the workers of the pool `pool`.
pub fn workers_of(pool: &str) -> BTreeMap<String, String> {
    [(COMPONENT, Component::Worker.name()), (POOL, pool)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Selects the coordinators of the queries of the pool `pool`.
pub fn coordinators_of(pool: &str) -> BTreeMap<String, String> {
    [(COMPONENT, Component::Coordinator.name()), (POOL, pool)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The labels as a selector of an object.
pub fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}

/// The labels as a selector of a request: `a=1,b=2`.
pub fn selector_text(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Selects all objects of `component`, in a request.
pub fn watched(component: Component) -> String {
    selector_text(&common(component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_written_as_requests_want_it() {
        assert_eq!(
            watched(Component::Worker),
            "app.kubernetes.io/component=worker,app.kubernetes.io/managed-by=sluice-operator,\
             app.kubernetes.io/name=sluice"
        );
    }

    #[test]
    fn workers_are_selected_by_labels_that_they_have() {
        let labels = of_pool("p");
        let chosen = workers_of("p");
        assert!(chosen.iter().all(|(key, value)| labels.get(key) == Some(value)));
        assert!(
            !workers_of("q")
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        );
    }
}
