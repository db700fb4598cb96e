//! `helm install` to rows: the release's own pool, `helm test`, a query of a user.

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};

use crate::answers;
use crate::harness::{self, Pool, Query, Release, Space, rows, sample, sample_in_pool};

/// The release's pool, small enough for a test.
pub const SMALL_POOL: [&str; 8] = [
    "--set",
    "workerPool.create=true",
    "--set",
    "workerPool.spec.memory=512MiB",
    "--set",
    "workerPool.spec.resources.requests.cpu=50m",
    "--set",
    "workerPool.spec.resources.requests.memory=256Mi",
];

#[test]
fn a_release_with_a_pool_runs_queries() {
    harness::run("helm-install", |space| async move {
        let release = Release::new(&space, "r");
        let said = release.install(&SMALL_POOL).await?;
        assert!(
            said.contains("helm test r"),
            "the notes tell what comes next: {said}"
        );
        Pool::existing(&space, "default").until_ready(2).await?;
        let said = release.test().await?;
        assert!(said.contains("Succeeded"), "{said}");

        let query = sample_in_pool("tpch-pricing-summary.yaml", "default")?;
        let query = Query::submit(&space, query).await?;
        assert_eq!(rows(&query.succeeded().await?)?, answers::pricing_summary());

        // The jobs around the release leave nothing, nor does the test's query.
        let jobs = Api::<Job>::namespaced(space.client.clone(), &space.namespace);
        assert_eq!(jobs.list(&ListParams::default()).await?.items.len(), 0);
        let queries = Api::<sluice_crds::ShuffleQuery>::namespaced(space.client.clone(), &space.namespace);
        assert_eq!(queries.list(&ListParams::default()).await?.items.len(), 1);
        Ok(())
    });
}

// Alone: its operator serves the namespaces of all other tests too.
#[test]
fn a_release_for_the_cluster_serves_every_namespace() {
    harness::run_alone("helm-cluster", |space| async move {
        // What releases of failed tests have left outside of their namespaces: the chart would find others of its kind.
        let roles = Api::<ClusterRole>::all(space.client.clone());
        for role in roles.list(&ListParams::default()).await? {
            let name = role.name_any();
            if name.starts_with("sluice-operator:e2e-") {
                roles.delete(&name, &DeleteParams::default()).await?;
            }
        }
        let release = Release::new(&space, "r");
        let outcome = serves_every_namespace(&space, &release).await;
        if outcome.is_err() {
            drop(harness::keep(&space).await);
        }
        // Its ClusterRole keeps all other releases out.
        let removed = release.uninstall().await;
        outcome?;
        removed?;
        Ok(())
    });
}

async fn serves_every_namespace(space: &Space, release: &Release) -> Result<()> {
    release.install(&["--set", "scope=Cluster"]).await?;
    let other = space.beside(&format!("{}-b", space.namespace)).await?;
    let query = Query::submit(&other, sample("tpch-pricing-summary.yaml")?).await?;
    ensure!(
        rows(&query.succeeded().await?)? == answers::pricing_summary(),
        "other rows"
    );
    let beside = Release::new(space, "s").in_namespace(&other.namespace);
    let refused = beside.install(&[]).await;
    let problem = refused
        .err()
        .map(|problem| format!("{problem:#}"))
        .unwrap_or_default();
    ensure!(
        problem.contains("another Sluice serves"),
        "two operators of one namespace: {problem}"
    );
    // As long as there is an operator that could have to do with its end.
    query.delete().await?;
    query.gone().await
}

/// The right to write definitions is that of a job, and goes with it; the job stays to be looked at.
#[test]
fn an_installation_that_fails_leaves_no_rights() {
    harness::run("helm-install-fails", |space| async move {
        let release = Release::new(&space, "r");
        let nowhere = [
            "--set",
            "image.tag=no-such-tag",
            "--set",
            "jobs.timeoutSeconds=30",
        ];
        let refused = release.install(&nowhere).await;
        assert!(refused.is_err(), "there is no such image: {refused:?}");
        let mut left = Vec::new();
        let roles = Api::<ClusterRole>::all(space.client.clone());
        left.extend(
            roles
                .list(&ListParams::default())
                .await?
                .iter()
                .map(ResourceExt::name_any),
        );
        let bindings = Api::<ClusterRoleBinding>::all(space.client.clone());
        left.extend(
            bindings
                .list(&ListParams::default())
                .await?
                .iter()
                .map(ResourceExt::name_any),
        );
        left.retain(|name| name.contains(&space.namespace));
        assert_eq!(left, [""; 0]);
        let jobs = Api::<Job>::namespaced(space.client.clone(), &space.namespace);
        assert_eq!(jobs.list(&ListParams::default()).await?.items.len(), 1);
        release.uninstall().await?;
        Ok(())
    });
}

#[test]
fn a_release_without_a_pool_is_tested_with_workers_of_the_query() {
    harness::run("helm-test", |space| async move {
        let release = Release::new(&space, "r");
        release.install(&["--set", "replicas=2"]).await?;
        let said = release.test().await?;
        assert!(said.contains("Succeeded"), "{said}");
        Result::Ok(())
    });
}
