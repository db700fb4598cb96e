//! Which pods match the current spec, and which image new pods get.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use sluice_crds::{WorkerPool, WorkerPoolSpec};

use super::pod_problem;
use super::spec_hash::spec_hash;
use crate::objects::labels;

/// The revision of the current spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub image: String,
    /// The hash of the spec and the image, which new pods carry.
    pub spec_hash: String,
    /// The hash of the same spec and image without an explicit image. Pods with it are not replaced.
    unnamed: Option<String>,
}

impl Revision {
    /// The revision of `pool` with these `pods`; `default_image` is that of the operator.
    ///
    /// A pool without an explicit image keeps the one in its status as long as it has a pod of the same spec with that image. So
    /// an upgrade of the operator alone restarts no pod, and a pool that grows stays of one build, as coordinators only use
    /// workers of their own build. An image that none of these pods can start with is not kept.
    pub fn of(pool: &WorkerPool, pods: &[Arc<Pod>], default_image: &str) -> Self {
        let spec = &pool.spec;
        if let Some(image) = &spec.image {
            let without = WorkerPoolSpec {
                image: None,
                ..spec.clone()
            };
            return Self {
                image: image.clone(),
                spec_hash: spec_hash(spec, image),
                unnamed: Some(spec_hash(&without, image)),
            };
        }
        let resolved = pool.status.as_ref().and_then(|status| status.image.as_deref());
        let kept = resolved.filter(|image| {
            let hash = spec_hash(spec, image);
            let mut alike = pods.iter().filter(|pod| carries(pod, &hash));
            alike.any(|pod| can_start(pod))
        });
        let image = kept.unwrap_or(default_image);
        Self {
            image: image.to_owned(),
            spec_hash: spec_hash(spec, image),
            unnamed: None,
        }
    }

    /// Whether `pod` matches the current spec.
    pub fn includes(&self, pod: &Pod) -> bool {
        let mut hashes = std::iter::once(&self.spec_hash).chain(&self.unnamed);
        hashes.any(|hash| carries(pod, hash))
    }
}

fn carries(pod: &Pod, hash: &str) -> bool {
    let carried = pod.annotations().get(labels::SPEC_HASH);
    carried.is_some_and(|carried| carried == hash)
}

/// Whether nothing is known that keeps the container from starting.
fn can_start(pod: &Pod) -> bool {
    pod_problem::unstarted(pod).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pool(spec: &Value, image: Option<&str>) -> WorkerPool {
        let pool = json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"}, "spec": spec,
            "status": {"image": image},
        });
        serde_json::from_value(pool).unwrap()
    }

    /// A pod of a pool with this spec and image; `waiting` is why its container does not run.
    fn pod(spec: &Value, image: &str, waiting: Option<&str>) -> Arc<Pod> {
        let hash = spec_hash(&pool(spec, None).spec, image);
        let state = waiting.map(|reason| json!({"waiting": {"reason": reason}}));
        let status = json!({"name": "worker", "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let pod = json!({"metadata": {"annotations": {"sluice.dev/spec-hash": hash}},
                         "status": {"containerStatuses": [status]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pool_without_an_image_keeps_the_one_that_its_pods_have() {
        let (plain, other) = (json!({}), json!({"memory": "1GiB"}));
        let grown = json!({"replicas": 9});
        for (spec, resolved, pods, expected) in [
            (&plain, None, vec![], "new"),
            (&plain, Some("old"), vec![], "new"),
            (&plain, Some("old"), vec![pod(&plain, "old", None)], "old"),
            (&grown, Some("old"), vec![pod(&plain, "old", None)], "old"),
            (
                &plain,
                Some("old"),
                vec![pod(&plain, "old", Some("ContainerCreating"))],
                "old",
            ),
            // Nothing shows that this is the default image.
            (&plain, None, vec![pod(&plain, "old", None)], "new"),
            // A changed spec gets the operator's image.
            (&other, Some("old"), vec![pod(&plain, "old", None)], "new"),
            // An image that is no longer named does too.
            (
                &plain,
                Some("old"),
                vec![pod(&json!({"image": "old"}), "old", None)],
                "new",
            ),
            // An image that no pod can start with is not kept.
            (
                &plain,
                Some("old"),
                vec![pod(&plain, "old", Some("ErrImagePull"))],
                "new",
            ),
            (
                &plain,
                Some("old"),
                vec![pod(&plain, "old", Some("ErrImagePull")), pod(&plain, "old", None)],
                "old",
            ),
        ] {
            let revision = Revision::of(&pool(spec, resolved), &pods, "new");
            assert_eq!(revision.image, expected, "{spec} {resolved:?} {pods:?}");
        }
    }

    #[test]
    fn an_image_that_is_written_down_replaces_only_pods_of_another() {
        let named = json!({"image": "old"});
        let revision = Revision::of(&pool(&named, Some("old")), &[], "new");
        assert!(revision.includes(&pod(&json!({}), "old", None)));
        assert!(revision.includes(&pod(&named, "old", None)));
        assert!(!revision.includes(&pod(&json!({}), "new", None)));
        let revision = Revision::of(&pool(&json!({"image": "new"}), Some("old")), &[], "new");
        assert!(!revision.includes(&pod(&named, "old", None)));
        assert!(!revision.includes(&pod(&json!({}), "old", None)));
    }
}
