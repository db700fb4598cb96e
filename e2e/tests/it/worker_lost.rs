//! A worker is lost while a query runs.

use anyhow::{Context, Result};

use crate::answers;
use crate::harness::{self, Pool, Query, Space, rows};

#[test]
fn a_worker_that_is_killed_costs_no_rows() {
    harness::run(
        "worker-killed",
        |space| async move { loses_a_worker(&space, 0).await },
    );
}

#[test]
fn a_worker_that_is_deleted_costs_no_rows() {
    harness::run("worker-deleted", |space| async move {
        loses_a_worker(&space, 60).await
    });
}

async fn loses_a_worker(space: &Space, grace_seconds: u32) -> Result<()> {
    harness::install_operator(space).await?;
    let pool = Pool::apply_ready(space, "p").await?;
    let query = Query::submit(space, answers::long_query("p")).await?;
    query.wait_until_in_progress().await?;
    let workers = pool.nodes().await?;
    let (victim, _) = workers.first_key_value().context("a worker")?;
    space.delete_pod(victim, grace_seconds).await?;
    let status = query.wait_until_succeeded().await?;
    assert_eq!(rows(&status)?, answers::long_rows());
    assert_eq!(
        status.coordinator_epoch, 1,
        "workers come and go, the coordinator stays"
    );
    pool.wait_until_ready(3).await?;
    Ok(())
}
