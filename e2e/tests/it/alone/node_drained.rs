//! A node is drained in the middle of a query, as before its maintenance.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::json;

use crate::answers;
use crate::harness::{self, Pool, Query, rows};

#[test]
fn a_node_that_is_drained_costs_no_rows_and_one_worker_at_a_time() {
    harness::run_alone("node-drained", |space| async move {
        harness::install_operator(&space).await?;
        // One more than nodes: two share one.
        let pool = Pool::apply(&space, "p", 4, json!({})).await?;
        pool.wait_until_ready(4).await?;
        let mut crowd: BTreeMap<String, u32> = BTreeMap::new();
        for node in pool.nodes().await?.into_values() {
            *crowd.entry(node).or_default() += 1;
        }
        let (victim, _) = crowd
            .into_iter()
            .find(|(_, workers)| *workers > 1)
            .context("a node with two workers")?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.wait_until_in_progress().await?;
        let refusals = space.drain_node(&victim).await?;
        assert!(refusals > 0, "all workers of {victim} went at once");
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(status.coordinator_failures, 0, "a drain is nobody's fault");
        pool.wait_until_ready(4).await?;
        let nodes = pool.nodes().await?;
        assert!(nodes.values().all(|node| *node != victim), "{nodes:?}");
        Ok(())
    });
}
