//! `helm install` to rows: the release's own pool, `helm test`, a query of a user.

use anyhow::Result;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::answers;
use crate::harness::{self, Pool, Query, Release, rows, sample_in_pool};

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
        Pool::existing(&space, "default").wait_until_ready(2).await?;
        let said = release.test().await?;
        assert!(said.contains("Succeeded"), "{said}");

        let query = sample_in_pool("tpch-pricing-summary.yaml", "default")?;
        let query = Query::submit(&space, query).await?;
        assert_eq!(
            rows(&query.wait_until_succeeded().await?)?,
            answers::pricing_summary()
        );

        // The jobs of the release leave nothing behind, nor does the query of the test.
        let jobs = Api::<Job>::namespaced(space.client.clone(), &space.namespace);
        assert_eq!(jobs.list(&ListParams::default()).await?.items.len(), 0);
        let queries = Api::<sluice_crds::ShuffleQuery>::namespaced(space.client.clone(), &space.namespace);
        assert_eq!(queries.list(&ListParams::default()).await?.items.len(), 1);
        Ok(())
    });
}

/// Only a job may write definitions, and its role is deleted after it; a failed job stays for diagnosis.
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
