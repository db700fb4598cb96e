//! The pod that this operator runs in: its image is that of workers where nobody names another, and what owns it owns the lease
//! too, which goes with the installation.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt};

/// The container of the operator.
const CONTAINER: &str = "operator";

/// What the operator's pod tells of the installation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnPod {
    /// The image of the operator, as it was asked for.
    pub image: Option<String>,
    /// What the pod goes with: the ReplicaSet of this version of the Deployment.
    pub owners: Vec<OwnerReference>,
}

impl OwnPod {
    /// Reads the pod `name`; nothing is known of one that is not there, as outside of a cluster.
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
            // The lease is written by the operator alone, and must not keep its owner from going.
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
