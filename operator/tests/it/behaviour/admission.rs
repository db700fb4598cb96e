//! Who runs in a pool, and who waits.

use serde_json::json;
use sluice_crds::shuffle_query::status::QueryPhase;

use super::play::direct_queries;
use crate::harness::eventually;

#[test]
fn places_go_by_priority_and_then_by_age() {
    direct_queries("places_go_by_priority_and_then_by_age", async |play| {
        let scene = play.scene;
        scene
            .pool("p", json!({"replicas": 1, "maxConcurrentQueries": 1}))
            .await;
        scene.query("first", json!({})).await;
        scene.runs("first", 1).await;
        // Times of creation are whole seconds; of the same second, names decide.
        for (query, priority) in [("old", 0), ("raised", 0), ("young", 0), ("high", 5)] {
            scene.query(query, json!({"priority": priority})).await;
            scene.waits(query, "Queued").await;
        }
        scene.edit_query("raised", json!({"priority": 9})).await;
        let mut order = Vec::new();
        for running in ["first", "raised", "high", "old", "young"] {
            scene.runs(running, 1).await;
            let waiting = ["raised", "high", "old", "young"]
                .into_iter()
                .filter(|query| *query != running && !order.contains(query));
            for query in waiting {
                assert!(
                    scene.coordinators(query).await.is_empty(),
                    "{query} beside {running}"
                );
            }
            play.cues.give(running);
            scene.reaches(running, QueryPhase::Succeeded).await;
            order.push(running);
        }
        let mut started: Vec<_> = play.kubelet.started().into_iter().map(|pod| pod.name).collect();
        started.retain(|name| name != "p-0");
        assert_eq!(
            started,
            ["first-c1", "raised-c1", "high-c1", "old-c1", "young-c1"]
        );
    });
}

#[test]
fn a_pool_that_takes_more_queries_lets_them_in() {
    direct_queries("a_pool_that_takes_more_queries_lets_them_in", async |play| {
        let scene = play.scene;
        scene
            .pool("p", json!({"replicas": 1, "maxConcurrentQueries": 1}))
            .await;
        // One after the other: how many are before it, each says as it is at first.
        scene.query("a", json!({})).await;
        scene.runs("a", 1).await;
        scene.query("b", json!({})).await;
        scene.waits("b", "Queued").await;
        scene.query("c", json!({})).await;
        let message = scene.waits("c", "Queued").await;
        assert_eq!(message, "1 queries run in pool p, and 1 wait before this one");
        scene.edit("p", json!({"maxConcurrentQueries": 2})).await;
        scene.runs("b", 1).await;
        scene.waits("c", "Queued").await;
        assert!(scene.coordinators("c").await.is_empty());
        // A query that goes makes room as one that ends does.
        scene.delete::<sluice_crds::ShuffleQuery>("a").await;
        scene.runs("c", 1).await;
    });
}

#[test]
fn a_query_waits_for_its_pool_and_for_enough_workers() {
    direct_queries(
        "a_query_waits_for_its_pool_and_for_enough_workers",
        async |play| {
            let scene = play.scene;
            play.cues.give("q");
            scene.query("q", json!({})).await;
            let message = scene.waits("q", "PoolNotFound").await;
            assert!(message.contains("create a WorkerPool p"), "{message}");
            scene
                .pool("p", json!({"replicas": 1, "minReadyWorkers": 2}))
                .await;
            eventually("one worker is not enough", async || {
                let status = scene.query_status("q").await;
                let message = status.message.unwrap_or_default();
                message.starts_with("1 workers are ready of 2 that a query needs")
            })
            .await;
            assert!(scene.coordinators("q").await.is_empty());
            scene.edit("p", json!({"replicas": 2})).await;
            scene.reaches("q", QueryPhase::Succeeded).await;
        },
    );
}
