//! `helm upgrade` with a query running: it goes on, older definitions are upgraded, newer ones stay, the key stays.
//!
//! The new image is the same build under another tag. The test shows that pods are replaced. Sessions between different builds
//! are refused, as tests of the runtime show.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sluice_crds::yaml::VERSION_ANNOTATION;
use sluice_crds::{ShuffleQuery, WorkerPool};

use crate::harness::{
    self, Pool, Release, Space, query, restoring_definitions, wait_until, while_queries_run,
};
use crate::helm_install::SMALL_POOL;

const DEFINITION: &str = "shufflequeries.sluice.dev";
/// An optional field of CSV tables, which queries of other tests do without.
const FIELD: &str = "newlinesInValues";
const FIELD_PATH: &str = "/versions/0/schema/openAPIV3Schema/properties/spec/properties/tables/items/properties/options/properties";
/// The definitions of the cluster.
pub fn crds_of(space: &Space) -> Api<CustomResourceDefinition> {
    Api::all(space.client.clone())
}

/// Makes the definition one of another release, which lacks a field and all columns but one.
pub async fn install_definition_of(crds: &Api<CustomResourceDefinition>, release: &str) -> Result<()> {
    let mut spec = serde_json::to_value(crds.get(DEFINITION).await?.spec)?;
    let fields = spec.pointer_mut(FIELD_PATH).and_then(Value::as_object_mut);
    let fields = fields.context("no fields")?;
    fields.remove(FIELD).with_context(|| format!("no {FIELD}"))?;
    let columns = spec.pointer_mut("/versions/0/additionalPrinterColumns");
    let columns = columns.and_then(Value::as_array_mut).context("no columns")?;
    columns.truncate(1);
    let change = json!({
        "metadata": {"annotations": {VERSION_ANNOTATION: release}},
        "spec": {"versions": spec["versions"]},
    });
    crds.patch(DEFINITION, &PatchParams::default(), &Patch::Merge(&change))
        .await?;
    Ok(())
}

/// The release that the definition is of, and all that it says.
pub async fn installed_definition(crds: &Api<CustomResourceDefinition>) -> Result<(String, Value)> {
    let crd = crds.get(DEFINITION).await?;
    let release = crd.annotations().get(VERSION_ANNOTATION).cloned();
    Ok((release.context("no release")?, serde_json::to_value(crd.spec)?))
}

/// Waits until the API server takes a query with the field, or refuses it. A changed definition reaches those who judge
/// objects a moment after it was taken.
async fn wait_until_taken(space: &Space, wanted: bool) -> Result<()> {
    let table = json!({"name": "t", "location": "/t", "format": "csv", "options": {FIELD: true}});
    let spec = json!({"sql": "SELECT 1 FROM t", "tables": [table], "workerPoolRef": {"name": "p"}});
    let object = query("new-field", &spec);
    let kind = ApiResource::erase::<ShuffleQuery>(&());
    let queries = Api::<DynamicObject>::namespaced_with(space.client.clone(), &space.namespace, &kind);
    let how = PatchParams::apply("sluice-e2e").validation_strict().dry_run();
    let what = format!(
        "a query with {FIELD} is {}",
        if wanted { "taken" } else { "refused" }
    );
    wait_until(&what, Duration::from_secs(30), || async {
        let said = match queries.patch("new-field", &how, &Patch::Apply(&object)).await {
            Ok(_) => None,
            Err(kube::Error::Api(status)) if status.message.contains(FIELD) => Some(status.message),
            Err(other) => return Err(other.into()),
        };
        Ok(if said.is_none() == wanted {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        })
    })
    .await
}

async fn key(space: &Space) -> Result<Vec<u8>> {
    let secrets = Api::<Secret>::namespaced(space.client.clone(), &space.namespace);
    let secret = secrets.get("r-sluice-signing-key").await?;
    let key = secret.data.unwrap_or_default().remove("key.pem");
    Ok(key.context("no key")?.0)
}

#[test]
fn an_upgrade_stops_no_query_and_brings_definitions_up() {
    harness::run("helm-upgrade", |space| async move {
        let release = Release::new(&space, "r");
        release.install(&[]).await?;
        let first_key = key(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let queries = restoring_definitions(&space, async {
            let crds = crds_of(&space);
            let ours = installed_definition(&crds).await?;
            install_definition_of(&crds, "0.0.1").await?;
            wait_until_taken(&space, false).await?;
            while_queries_run(&space, "p", async {
                release.upgrade(&["--set", "logFilter=debug"]).await?;
                ensure!(
                    installed_definition(&crds).await? == ours,
                    "an older definition is brought up"
                );
                wait_until_taken(&space, true).await
            })
            .await
        })
        .await?;
        queries.succeeds().await?;
        assert_eq!(
            key(&space).await?,
            first_key,
            "workers trust the key of the installation"
        );
        Ok(())
    });
}

#[test]
fn an_upgrade_leaves_newer_definitions_alone() {
    harness::run("helm-upgrade-older", |space| async move {
        let release = Release::new(&space, "r");
        release.install(&[]).await?;
        restoring_definitions(&space, async {
            let crds = crds_of(&space);
            install_definition_of(&crds, "99.0.0").await?;
            let newer = installed_definition(&crds).await?;
            release.upgrade(&["--set", "logFilter=debug"]).await?;
            ensure!(installed_definition(&crds).await? == newer, "a newer one stays");
            Ok(())
        })
        .await
    });
}

/// The first one goes, with its workers.
#[test]
fn a_pool_of_another_name_takes_the_place_of_the_first() {
    harness::run("helm-upgrade-pool", |space| async move {
        let release = Release::new(&space, "r");
        release.install(&SMALL_POOL).await?;
        let first = Pool::existing(&space, "default");
        first.wait_until_ready(2).await?;
        {
            let _same = harness::share_definitions().await;
            release.upgrade(&["--set", "workerPool.name=other"]).await?;
        }
        Pool::existing(&space, "other").wait_until_ready(2).await?;
        first.wait_for_pods(0).await?;
        let pools = Api::<WorkerPool>::namespaced(space.client.clone(), &space.namespace);
        let names: Vec<_> = pools
            .list(&ListParams::default())
            .await?
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        assert_eq!(names, ["other"]);
        Ok(())
    });
}

#[test]
fn a_new_image_reaches_the_operator_and_a_pool_when_it_is_told() {
    harness::run_with_next_image("helm-upgrade-image", |space, image| async move {
        let release = Release::new(&space, "r");
        release.install(&[]).await?;
        let pool = Pool::apply_ready(&space, "p").await?;
        let uids = async || -> Result<Vec<_>> {
            let pods = pool.pods().await?;
            let mut uids: Vec<_> = pods.into_iter().filter_map(|pod| pod.metadata.uid).collect();
            uids.sort();
            Ok(uids)
        };
        let before = uids().await?;
        let (repository, tag) = image.rsplit_once(':').context("an image with a tag")?;
        let (repository, tag) = (
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
        );
        let queries = {
            let _same = harness::share_definitions().await;
            while_queries_run(&space, "p", async {
                release.upgrade(&["--set", &repository, "--set", &tag]).await?;
                Ok(())
            })
            .await?
        };
        queries.succeeds().await?;
        assert_eq!(
            uids().await?,
            before,
            "an upgrade of the operator restarts no worker"
        );
        pool.change(json!({"image": image})).await?;
        pool.wait_until("is of the new image", |status| {
            status.image.as_deref() == Some(&*image)
                && status.ready_replicas == 3
                && status.draining_replicas == 0
        })
        .await?;
        pool.wait_for_pods(3).await?;
        let after = uids().await?;
        assert!(after.iter().all(|uid| !before.contains(uid)), "{after:?}");
        assert!(release.test().await?.contains("Succeeded"));
        Ok(())
    });
}
