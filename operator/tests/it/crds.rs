//! The custom resources in the cluster: crds/yaml, as users install it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

use crate::harness::PATIENCE;

const FILES: [&str; 2] = [
    include_str!("../../../crds/yaml/shufflequeries.yaml"),
    include_str!("../../../crds/yaml/workerpools.yaml"),
];

/// Installs both, once in this process, and waits until the API server serves them. They stay.
pub async fn install(client: &Client) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(|| async {
            for file in FILES {
                apply(client, file).await;
            }
        })
        .await;
}

async fn apply(client: &Client, file: &str) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let definition: serde_json::Value = serde_yaml::from_str(file).unwrap();
    let name = definition["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("sluice-it").force();
    let applied = definitions
        .patch(name, &params, &Patch::Apply(&definition))
        .await
        .unwrap();
    let name = applied.name_any();
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    let established = tokio::time::timeout(PATIENCE, established).await;
    established.expect("the CRD is not established").unwrap();
}
