//! A node dies in the middle of a query: its kubelet and all its pods are gone at once, and nobody is told.

use anyhow::{Context, Result};

use crate::answers;
use crate::harness::{self, Pool, Query, Space, operator_node, rows};

#[test]
fn a_node_that_dies_with_a_worker_costs_no_rows() {
    harness::run_where_nodes_die("node-killed", |space| async move {
        let (pool, query) = start_query_in_progress(&space).await?;
        let others = [space.node_of("long-c1").await?, operator_node(&space).await?];
        let workers = pool.nodes().await?;
        let victim = workers.values().find(|node| !others.contains(node));
        let victim = victim.context("a node with a worker alone")?;
        space.kill_node(victim).await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(status.coordinator_epoch, 1, "the coordinator was elsewhere");
        wait_until_replaced(&space, &pool, victim).await
    });
}

#[test]
fn a_node_that_dies_with_the_coordinator_costs_no_rows() {
    harness::run_where_nodes_die("node-killed-coordinator", |space| async move {
        let (pool, query) = start_query_in_progress(&space).await?;
        let victim = space.node_of("long-c1").await?;
        space.kill_node(&victim).await?;
        query
            .wait_until("has a second coordinator", |status| status.coordinator_epoch == 2)
            .await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(
            (status.coordinator_epoch, status.coordinator_failures),
            (2, 0),
            "a node that dies is nobody's fault"
        );
        wait_until_replaced(&space, &pool, &victim).await
    });
}

async fn start_query_in_progress(space: &Space) -> Result<(Pool, Query)> {
    harness::install_operator(space).await?;
    let pool = Pool::apply_ready(space, "p").await?;
    let query = Query::submit(space, answers::long_query("p")).await?;
    query.wait_until_in_progress().await?;
    Ok((pool, query))
}

/// While the node is away, another worker stands in for the lost one; once the node is back, there are as many as before.
async fn wait_until_replaced(space: &Space, pool: &Pool, node: &str) -> Result<()> {
    pool.wait_until_ready_elsewhere(node, 3).await?;
    space.start_node(node).await?;
    pool.wait_until_ready(3).await?;
    pool.wait_for_pods(3).await
}
