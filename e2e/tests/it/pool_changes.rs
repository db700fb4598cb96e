//! A pool changes in the middle of a query: it shrinks, or gets another image.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;

use crate::answers;
use crate::harness::{self, Pool, Query, Space, rows};

#[test]
fn a_pool_that_shrinks_lets_its_query_end() {
    harness::run("pool-shrinks", |space| async move {
        let (pool, query) = under_way(&space, json!({})).await?;
        pool.scale(1).await?;
        pool.until("two workers drain", |status| status.draining_replicas == 2)
            .await?;
        let status = query.succeeded().await?;
        is_right(&status)?;
        assert_eq!(
            status.tasks.failed_attempts, 0,
            "workers that drain end what they run"
        );
        pool.until_ready(1).await?;
        pool.until_pods(1).await
    });
}

#[test]
fn another_image_lets_queries_end_before_the_last_old_worker_goes() {
    harness::run_with_next_image("image-rolled", |space, image| async move {
        let (pool, query) = under_way(&space, json!({})).await?;
        pool.change(json!({"image": image})).await?;
        pool.until("an old worker drains", |status| status.draining_replicas == 1)
            .await?;
        let status = query.succeeded().await?;
        is_right(&status)?;
        assert_eq!(
            status.tasks.failed_attempts, 0,
            "workers that drain end what they run"
        );
        is_rolled(&pool, &image).await
    });
}

#[test]
fn another_image_waits_no_longer_than_the_drain_time() {
    harness::run_with_next_image("image-rolled-at-once", |space, image| async move {
        let (pool, query) = under_way(&space, json!({"drainTimeoutSeconds": 1})).await?;
        pool.change(json!({"image": image})).await?;
        is_right(&query.succeeded().await?)?;
        is_rolled(&pool, &image).await
    });
}

async fn under_way(space: &Space, more: Value) -> Result<(Pool, Query)> {
    harness::install_operator(space).await?;
    let pool = Pool::apply(space, "p", 3, more).await?;
    pool.until_ready(3).await?;
    let query = Query::submit(space, answers::long_query("p")).await?;
    query.until_under_way().await?;
    Ok((pool, query))
}

fn is_right(status: &ShuffleQueryStatus) -> Result<()> {
    assert_eq!(rows(status)?, answers::long_rows());
    assert_eq!(
        status.coordinator_epoch, 1,
        "workers come and go, the coordinator stays"
    );
    Ok(())
}

async fn is_rolled(pool: &Pool, image: &str) -> Result<()> {
    let rolled = |status: &sluice_crds::WorkerPoolStatus| {
        status.ready_replicas == 3 && status.draining_replicas == 0 && status.image.as_deref() == Some(image)
    };
    pool.until("is rolled", rolled).await?;
    pool.until_pods(3).await?;
    let pods = pool.pods().await?;
    let images: BTreeSet<_> = pods
        .iter()
        .flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers))
        .filter_map(|container| container.image.as_deref())
        .collect();
    assert_eq!(images, [image].into());
    Ok(())
}
