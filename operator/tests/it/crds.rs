//! The custom resource definitions of crds/yaml on the API server, and what it lets be changed in a query.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use sluice_crds::ShuffleQuery;
use sluice_crds::cases::{UpdateCase, update_cases};
use tokio::sync::OnceCell;

use crate::harness::{TIMEOUT, TestEnv, run};

const FILES: [&str; 2] = [
    include_str!("../../../crds/yaml/shufflequeries.yaml"),
    include_str!("../../../crds/yaml/workerpools.yaml"),
];

/// Applies the definitions and waits until they are served; once in a process.
pub async fn install(client: &Client) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED.get_or_init(async || apply(client).await).await;
}

async fn apply(client: &Client) {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let params = PatchParams::apply("sluice-it").force();
    for file in FILES {
        let definition: Value = serde_yaml::from_str(file).unwrap();
        let name = definition["metadata"]["name"].as_str().unwrap();
        let before = api.get_opt(name).await.unwrap();
        let applied = api
            .patch(name, &params, &Patch::Apply(&definition))
            .await
            .unwrap();
        let established = await_condition(api.clone(), name, conditions::is_crd_established());
        tokio::time::timeout(TIMEOUT, established)
            .await
            .expect("the definition is served")
            .unwrap();
        if before.is_some_and(|before| before.metadata.generation != applied.metadata.generation) {
            // Established stays true over a change, which is served a moment later, and nothing tells when.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

/// Writes the query as it was, then as it shall be. The inner error is the API server's refusal of the change.
async fn change(env: &TestEnv, name: &str, case: &UpdateCase) -> kube::Result<Result<(), String>> {
    let kind = ApiResource::erase::<ShuffleQuery>(&());
    // Objects of no type: what a type does not know would be lost, and with it what the API server thinks of it.
    let api = Api::<DynamicObject>::namespaced_with(env.client.clone(), &env.namespace, &kind);
    let params = PostParams::default();
    let object = |query: &Value, seen: Option<&DynamicObject>| {
        let mut object: DynamicObject = serde_json::from_value(query.clone()).unwrap();
        object.metadata.name = Some(name.to_owned());
        object.metadata.resource_version = seen.and_then(ResourceExt::resource_version);
        object
    };
    let mut seen = api.create(&params, &object(&case.old, None)).await?;
    if case.old.get("status").is_some() {
        seen = api
            .replace_status(name, &params, &object(&case.old, Some(&seen)))
            .await?;
    }
    let mut changed = Ok(seen);
    if let (Ok(seen), true) = (&changed, case.old["spec"] != case.new["spec"]) {
        changed = api.replace(name, &params, &object(&case.new, Some(seen))).await;
    }
    if let (Ok(seen), true) = (&changed, case.old.get("status") != case.new.get("status")) {
        changed = api
            .replace_status(name, &params, &object(&case.new, Some(seen)))
            .await;
    }
    match changed {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message)),
        Err(other) => Err(other),
    }
}

#[test]
fn the_api_server_judges_every_change_of_a_query_as_the_table_says() {
    run(
        "the_api_server_judges_every_change_of_a_query_as_the_table_says",
        async |env| {
            let cases = update_cases().unwrap();
            assert!(cases.len() > 40, "{} cases", cases.len());
            let mut mismatches = Vec::new();
            for (number, case) in cases.iter().enumerate() {
                let verdict = change(env, &format!("q{number}"), case).await;
                let verdict = verdict.unwrap_or_else(|error| panic!("{}: {error}", case.title));
                if verdict.is_ok() != case.server_accepts {
                    mismatches.push((&case.title, case.server_accepts, verdict));
                }
            }
            assert!(mismatches.is_empty(), "{mismatches:#?}");
        },
    );
}
