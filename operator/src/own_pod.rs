//! The operator's own pod. Its image is the default image of workers, and its owner owns the lease, which goes with the
//! installation.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt};

const CONTAINER: &str = "operator";

/// What the operator's pod says of the installation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnPod {
    /// The image in the spec of the operator's container.
    pub image: Option<String>,
    /// The owners of the pod: the ReplicaSet of this version of the Deployment.
    pub owners: Vec<OwnerReference>,
}

impl OwnPod {
    /// Reads the pod `name`. The result is empty if there is no such pod, as outside a cluster.
    ///
    /// # Errors
    /// The API server refused or was not reached.
    pub async fn read(client: &Client, namespace: &str, name: &str) -> kube::Result<Self> {
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        Ok(pods
            .get_opt(name)
            .await?
            .as_ref()
            .map(Self::of)
            .unwrap_or_default())
    }

    fn of(pod: &Pod) -> Self {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut ours = containers.filter(|container| container.name == CONTAINER);
        let owners = pod.owner_references().iter().map(|owner| OwnerReference {
            // The operator alone writes the lease. The lease must not block the deletion of its owner.
            controller: None,
            block_owner_deletion: None,
            ..owner.clone()
        });
        Self {
            image: ours.next().and_then(|container| container.image.clone()),
            owners: owners.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_image_is_that_of_the_operators_container_and_the_owner_is_passed_on() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "sluice-operator-1", "uid": "u",
                           "controller": true, "blockOwnerDeletion": true});
        let pod = json!({"metadata": {"ownerReferences": [owner]}, "spec": {"containers": [
            {"name": "proxy", "image": "proxy:1"}, {"name": "operator", "image": "registry.example/sluice:2"}]}});
        let own = OwnPod::of(&serde_json::from_value(pod).unwrap());
        assert_eq!(own.image.as_deref(), Some("registry.example/sluice:2"));
        let [owner] = own.owners.as_slice() else {
            panic!("{own:?}")
        };
        assert_eq!(
            (owner.uid.as_str(), owner.kind.as_str(), owner.controller),
            ("u", "ReplicaSet", None)
        );
        assert_eq!(OwnPod::of(&Pod::default()), OwnPod::default());
    }
}
