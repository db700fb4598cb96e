//! `helm rollback` with a query running: the operator is as before the upgrade, the query goes on, and definitions of
//! a newer release stay.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;

use crate::harness::{self, Pool, Release, Space, restoring_definitions, while_queries_run};
use crate::helm_upgrade::{crds_of, install_definition_of, installed_definition};

/// The arguments of the operator.
async fn arguments(space: &Space) -> Result<Vec<String>> {
    let deployments = Api::<Deployment>::namespaced(space.client.clone(), &space.namespace);
    let spec = deployments
        .get("r-sluice-operator")
        .await?
        .spec
        .context("no spec")?;
    let pod = spec.template.spec.context("no pod")?;
    let container = pod.containers.into_iter().next().context("no container")?;
    container.args.context("no arguments")
}

#[test]
fn a_rollback_brings_the_operator_back_and_stops_no_query() {
    harness::run("helm-rollback", |space| async move {
        let release = Release::new(&space, "r");
        release.install(&[]).await?;
        let first = arguments(&space).await?;
        {
            let _same = harness::share_definitions().await;
            release.upgrade(&["--set", "concurrency=3"]).await?;
        }
        assert!(arguments(&space).await?.contains(&"--concurrency=3".to_owned()));
        Pool::apply_ready(&space, "p").await?;
        let queries = restoring_definitions(&space, async {
            while_queries_run(&space, "p", async {
                // As if the upgrade had been one to a newer release.
                let crds = crds_of(&space);
                install_definition_of(&crds, "99.0.0").await?;
                let newer = installed_definition(&crds).await?;
                release
                    .helm(&["rollback", "r", "1", "--wait", "--timeout", "180s"])
                    .await?;
                ensure!(
                    installed_definition(&crds).await? == newer,
                    "definitions do not go back"
                );
                Ok(())
            })
            .await
        })
        .await?;
        assert_eq!(arguments(&space).await?, first);
        queries.succeeds().await?;
        Ok(())
    });
}
