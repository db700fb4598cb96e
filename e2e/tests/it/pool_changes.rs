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
        let (pool, query) = start_query_in_progress(&space, json!({})).await?;
        pool.scale(1).await?;
        pool.wait_until("two workers drain", |status| status.draining_replicas == 2)
            .await?;
        let status = query.wait_until_succeeded().await?;
        assert_result(&status)?;
        assert_eq!(
            status.tasks.failed_attempts, 0,
            "workers that drain end what they run"
        );
        pool.wait_until_ready(1).await?;
        pool.wait_for_pods(1).await
    });
}

#[test]
fn another_image_lets_queries_end_before_the_last_old_worker_goes() {
    harness::run_with_next_image("image-rolled", |space, image| async move {
        let (pool, query) = start_query_in_progress(&space, json!({})).await?;
        pool.change(json!({"image": image})).await?;
        pool.wait_until("an old worker drains", |status| status.draining_replicas == 1)
            .await?;
        let status = query.wait_until_succeeded().await?;
        assert_result(&status)?;
        assert_eq!(
            status.tasks.failed_attempts, 0,
            "workers that drain end what they run"
        );
        wait_until_rolled_out(&pool, &image).await
    });
}

#[test]
fn another_image_waits_no_longer_than_the_drain_time() {
    harness::run_with_next_image("image-rolled-at-once", |space, image| async move {
        let (pool, query) = start_query_in_progress(&space, json!({"drainTimeoutSeconds": 1})).await?;
        pool.change(json!({"image": image})).await?;
        assert_result(&query.wait_until_succeeded().await?)?;
        wait_until_rolled_out(&pool, &image).await
    });
}

async fn start_query_in_progress(space: &Space, more: Value) -> Result<(Pool, Query)> {
    harness::install_operator(space).await?;
    let pool = Pool::apply(space, "p", 3, more).await?;
    pool.wait_until_ready(3).await?;
    let query = Query::submit(space, answers::long_query("p")).await?;
    query.wait_until_in_progress().await?;
    Ok((pool, query))
}

fn assert_result(status: &ShuffleQueryStatus) -> Result<()> {
    assert_eq!(rows(status)?, answers::long_rows());
    assert_eq!(
        status.coordinator_epoch, 1,
        "workers come and go, the coordinator stays"
    );
    Ok(())
}

async fn wait_until_rolled_out(pool: &Pool, image: &str) -> Result<()> {
    let rolled = |status: &sluice_crds::WorkerPoolStatus| {
        status.ready_replicas == 3 && status.draining_replicas == 0 && status.image.as_deref() == Some(image)
    };
    pool.wait_until("runs the new image", rolled).await?;
    pool.wait_for_pods(3).await?;
    let pods = pool.pods().await?;
    let images: BTreeSet<_> = pods
        .iter()
        .flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers))
        .filter_map(|container| container.image.as_deref())
        .collect();
    assert_eq!(images, [image].into());
    Ok(())
}
