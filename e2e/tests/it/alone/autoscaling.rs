//! A pool that scales itself: forty queries find no worker, get some, have the right rows, and leave none behind.

use serde_json::json;

use crate::harness::{self, Pool, Query, query, rows};

const QUERIES: usize = 40;

#[test]
fn forty_queries_bring_a_pool_up_from_zero_and_it_goes_back() {
    harness::run_alone("autoscaling", |space| async move {
        harness::install_operator(&space).await?;
        let scaling = json!({"maxReplicas": 3, "scaleDownStabilizationSeconds": 10});
        let pool = Pool::apply(&space, "p", 2, json!({"autoscaling": scaling})).await?;
        pool.wait_until("has no workers", |status| {
            status.desired_replicas == Some(0) && status.replicas == 0
        })
        .await?;
        let spec = json!({
            "sql": "SELECT n_regionkey, count(*) AS nations FROM nation GROUP BY n_regionkey ORDER BY n_regionkey",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "shuffle": {"partitions": 2},
            "workerPoolRef": {"name": "p"},
        });
        let mut queries = Vec::new();
        for number in 0..QUERIES {
            queries.push(Query::submit(&space, query(&format!("q{number}"), &spec)).await?);
        }
        pool.wait_until("has as many workers as it may", |status| {
            status.desired_replicas == Some(3) && status.ready_replicas == 3
        })
        .await?;
        for query in &queries {
            let status = query.wait_until_succeeded().await?;
            assert_eq!(
                rows(&status)?,
                ["0", "1", "2", "3", "4"].map(|region| [region, "5"])
            );
        }
        pool.wait_until("has no workers again", |status| {
            status.desired_replicas == Some(0) && status.replicas == 0 && status.draining_replicas == 0
        })
        .await?;
        Ok(())
    });
}
