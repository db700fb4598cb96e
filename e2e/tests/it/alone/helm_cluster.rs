//! `helm install` for the whole cluster. Its operator serves the namespaces of all other tests too.

use anyhow::{Result, ensure};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};

use crate::answers;
use crate::harness::{self, Query, Release, Space, rows, sample};

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
    let other = space.create_namespace(&format!("{}-b", space.namespace)).await?;
    let query = Query::submit(&other, sample("tpch-pricing-summary.yaml")?).await?;
    ensure!(
        rows(&query.wait_until_succeeded().await?)? == answers::pricing_summary(),
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
    query.wait_until_gone().await
}
