//! `helm upgrade` with a query running: it goes on, older definitions are brought up, newer ones stay, the key stays.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sluice_crds::yaml::VERSION_ANNOTATION;

use crate::answers;
use crate::harness::{self, Pool, Query, Release, Space, rows};

const DEFINITION: &str = "shufflequeries.sluice.dev";

/// Makes the definition one of another release, whose only column is `column`. Fields stay: other tests use them.
async fn pretend(crds: &Api<CustomResourceDefinition>, release: &str, column: &str) -> Result<()> {
    let mut spec = crds.get(DEFINITION).await?.spec;
    let version = spec.versions.first_mut().context("no version")?;
    let columns = version.additional_printer_columns.get_or_insert_default();
    columns.truncate(1);
    columns.first_mut().context("no column")?.name = column.to_owned();
    let change = json!({
        "metadata": {"annotations": {VERSION_ANNOTATION: release}},
        "spec": {"versions": spec.versions},
    });
    crds.patch(DEFINITION, &PatchParams::default(), &Patch::Merge(&change))
        .await?;
    Ok(())
}

/// The release that a definition is of, and the names of its columns.
async fn found(crds: &Api<CustomResourceDefinition>) -> Result<(String, Vec<String>)> {
    let crd = crds.get(DEFINITION).await?;
    let release = crd
        .metadata
        .annotations
        .unwrap_or_default()
        .remove(VERSION_ANNOTATION);
    let columns = crd
        .spec
        .versions
        .into_iter()
        .flat_map(|version| version.additional_printer_columns);
    let names = columns.flatten().map(|column| column.name).collect();
    Ok((release.context("no release")?, names))
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
        Pool::ready(&space, "p").await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.until_under_way().await?;

        let crds = Api::<CustomResourceDefinition>::all(space.client.clone());
        let mine = harness::definitions().await;
        let ours = found(&crds).await?;
        pretend(&crds, "0.0.1", "Old").await?;
        release.upgrade(&["--set", "logFilter=debug"]).await?;
        assert_eq!(found(&crds).await?, ours, "an older definition is brought up");
        pretend(&crds, "99.0.0", "New").await?;
        release.upgrade(&["--set", "logFilter=info"]).await?;
        let newer = found(&crds).await?;
        harness::apply_crds(&space.client).await?;
        drop(mine);
        assert_eq!(
            newer,
            ("99.0.0".to_owned(), vec!["New".to_owned()]),
            "a newer one stays"
        );

        let status = query.succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(status.coordinator_epoch, 1, "its coordinator was left alone");
        assert_eq!(
            key(&space).await?,
            first_key,
            "workers trust the key of the installation"
        );
        Ok(())
    });
}

#[test]
fn a_new_image_reaches_the_operator_and_a_pool_when_it_is_told() {
    harness::run_with_next_image("helm-upgrade-image", |space, image| async move {
        let release = Release::new(&space, "r");
        release.install(&[]).await?;
        let pool = Pool::ready(&space, "p").await?;
        let uids = async || -> Result<Vec<_>> {
            let pods = pool.pods().await?;
            let mut uids: Vec<_> = pods.into_iter().filter_map(|pod| pod.metadata.uid).collect();
            uids.sort();
            Ok(uids)
        };
        let before = uids().await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.until_under_way().await?;
        let (repository, tag) = image.rsplit_once(':').context("an image with a tag")?;
        let (repository, tag) = (
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
        );
        {
            let _mine = harness::definitions().await;
            release.upgrade(&["--set", &repository, "--set", &tag]).await?;
        }
        let status = query.succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(status.coordinator_epoch, 1, "its coordinator was left alone");
        assert_eq!(
            uids().await?,
            before,
            "an upgrade of the operator restarts no worker"
        );
        pool.change(json!({"image": image})).await?;
        pool.until("is of the new image", |status| {
            status.image.as_deref() == Some(&*image)
                && status.ready_replicas == 3
                && status.draining_replicas == 0
        })
        .await?;
        pool.until_pods(3).await?;
        let after = uids().await?;
        assert!(after.iter().all(|uid| !before.contains(uid)), "{after:?}");
        assert!(release.test().await?.contains("Succeeded"));
        Ok(())
    });
}
