//! A query that is larger than the memory of its workers and than their disks. One that their disks hold is among the
//! samples.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::answers;
use crate::harness::{self, Pool, Query, Space, query, rows};

#[test]
fn a_spill_volume_that_is_full_fails_the_query_and_spares_the_worker() {
    harness::run("spill-full", |space| async move {
        harness::install_operator(&space).await?;
        let pool = small_pool(&space, "4MiB").await?;
        let before = container_starts(&pool.pods().await?);
        let query_of = Query::submit(&space, answers::long_query("p")).await?;
        let status = query_of.wait_until_ended().await?;
        assert_eq!(status.phase, QueryPhase::Failed, "{status:?}");
        let error = status.error.context("no error")?;
        assert_eq!(error.reason, ErrorReason::ResourcesExhausted, "{error:?}");
        assert!(error.message.contains("spill.limit"), "{}", error.message);
        assert_eq!(status.coordinator_epoch, 1, "another would fare no better");
        wait_until_freed(&pool).await?;
        assert_eq!(
            container_starts(&pool.pods().await?),
            before,
            "no worker was evicted or killed for it"
        );
        let small = json!({
            "sql": "SELECT count(*) AS nations FROM nation",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "workerPoolRef": {"name": "p"},
        });
        let status = Query::submit(&space, query("small", &small))
            .await?
            .wait_until_succeeded()
            .await?;
        assert_eq!(rows(&status)?, [["25"]]);
        Ok(())
    });
}

/// Workers of little memory, which may have this much on disk.
async fn small_pool(space: &Space, limit: &str) -> Result<Pool> {
    let small: Value = json!({"memory": "48MiB", "spill": {"limit": limit}});
    let pool = Pool::apply(space, "p", 2, small).await?;
    pool.wait_until_ready(2).await?;
    Ok(pool)
}

/// Workers keep nothing of a query that has ended.
async fn wait_until_freed(pool: &Pool) -> Result<()> {
    pool.wait_until("holds nothing", |status| {
        status.held_bytes == 0 && status.spill_used_bytes == 0 && status.ready_replicas == 2
    })
    .await?;
    Ok(())
}

/// Which pods there are, and how often their containers were started again.
fn container_starts(pods: &[Pod]) -> Vec<(String, Option<String>, i32)> {
    let restarts = |pod: &Pod| {
        let containers = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref());
        containers
            .into_iter()
            .flatten()
            .map(|status| status.restart_count)
            .sum()
    };
    pods.iter()
        .map(|pod| (pod.name_any(), pod.uid(), restarts(pod)))
        .collect()
}
