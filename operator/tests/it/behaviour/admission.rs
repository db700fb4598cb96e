//! Admission: which queries run in a pool and which wait.

use serde_json::json;
use sluice_crds::shuffle_query::status::QueryPhase;
use tokio::sync::watch;

use super::script::{with_scripted_coordinators, with_signalled_coordinators};
use crate::coordinators::succeeds;
use crate::harness::eventually;

#[test]
fn places_go_by_priority_and_then_by_age() {
    with_signalled_coordinators("places_go_by_priority_and_then_by_age", async |scripted| {
        let fixture = scripted.fixture;
        fixture
            .create_pool("p", json!({"replicas": 1, "maxConcurrentQueries": 1}))
            .await;
        fixture.create_query("first", json!({})).await;
        fixture.wait_until_running("first", 1).await;
        // Times of creation are whole seconds; of the same second, names decide.
        for (query, priority) in [("old", 0), ("raised", 0), ("young", 0), ("high", 5)] {
            fixture.create_query(query, json!({"priority": priority})).await;
            fixture.wait_until_pending(query, "Queued").await;
        }
        fixture.edit_query("raised", json!({"priority": 9})).await;
        let mut order = Vec::new();
        for running in ["first", "raised", "high", "old", "young"] {
            fixture.wait_until_running(running, 1).await;
            let waiting = ["raised", "high", "old", "young"]
                .into_iter()
                .filter(|query| *query != running && !order.contains(query));
            for query in waiting {
                assert!(
                    fixture.coordinators(query).await.is_empty(),
                    "{query} beside {running}"
                );
            }
            scripted.signals.signal(running);
            fixture.wait_for_phase(running, QueryPhase::Succeeded).await;
            order.push(running);
        }
        let mut started: Vec<_> = scripted
            .kubelet
            .started()
            .into_iter()
            .map(|pod| pod.name)
            .collect();
        started.retain(|name| name != "p-0");
        assert_eq!(
            started,
            ["first-c1", "raised-c1", "high-c1", "old-c1", "young-c1"]
        );
    });
}

#[test]
fn a_pool_that_takes_more_queries_lets_them_in() {
    with_signalled_coordinators("a_pool_that_takes_more_queries_lets_them_in", async |scripted| {
        let fixture = scripted.fixture;
        fixture
            .create_pool("p", json!({"replicas": 1, "maxConcurrentQueries": 1}))
            .await;
        // One after the other: how many are before it, each says as it is at first.
        fixture.create_query("a", json!({})).await;
        fixture.wait_until_running("a", 1).await;
        fixture.create_query("b", json!({})).await;
        fixture.wait_until_pending("b", "Queued").await;
        fixture.create_query("c", json!({})).await;
        let message = fixture.wait_until_pending("c", "Queued").await;
        assert_eq!(message, "1 queries run in pool p, and 1 wait before this one");
        fixture.edit("p", json!({"maxConcurrentQueries": 2})).await;
        fixture.wait_until_running("b", 1).await;
        fixture.wait_until_pending("c", "Queued").await;
        assert!(fixture.coordinators("c").await.is_empty());
        // A query that goes makes room as one that ends does.
        fixture.delete::<sluice_crds::ShuffleQuery>("a").await;
        fixture.wait_until_running("c", 1).await;
    });
}

#[test]
fn a_query_waits_for_its_pool_and_for_enough_workers() {
    with_signalled_coordinators(
        "a_query_waits_for_its_pool_and_for_enough_workers",
        async |scripted| {
            let fixture = scripted.fixture;
            scripted.signals.signal("q");
            fixture.create_query("q", json!({})).await;
            let message = fixture.wait_until_pending("q", "PoolNotFound").await;
            assert!(message.contains("create a WorkerPool p"), "{message}");
            fixture
                .create_pool("p", json!({"replicas": 1, "minReadyWorkers": 2}))
                .await;
            eventually("one worker is not enough", async || {
                let status = fixture.query_status("q").await;
                let message = status.message.unwrap_or_default();
                message.starts_with("1 workers are ready of 2 that a query needs")
            })
            .await;
            assert!(fixture.coordinators("q").await.is_empty());
            fixture.edit("p", json!({"replicas": 2})).await;
            fixture.wait_for_phase("q", QueryPhase::Succeeded).await;
        },
    );
}

/// No container runs before all queries were seen: those beyond the first ones wait, and start once others have started.
#[test]
fn queries_beyond_those_that_may_start_together_say_so_and_start_later() {
    let running = watch::Sender::new(false);
    let may_run = running.subscribe();
    with_scripted_coordinators(
        "queries_beyond_those_that_may_start_together_say_so_and_start_later",
        move |coordinator| {
            let mut may_run = may_run.clone();
            async move {
                let _ = may_run.wait_for(|may_run| *may_run).await;
                succeeds(coordinator).await
            }
        },
        async |fixture, _| {
            fixture.create_pool("p", json!({"replicas": 1})).await;
            let queries: Vec<_> = (0..12).map(|number| format!("q{number}")).collect();
            for query in &queries {
                fixture.create_query(query, json!({})).await;
            }
            eventually("a query waits for the start of others", async || {
                let mut waits = false;
                for query in &queries {
                    let message = fixture.query_status(query).await.message.unwrap_or_default();
                    waits |= message.starts_with("it is one of the next to start");
                }
                waits
            })
            .await;
            running.send_replace(true);
            for query in &queries {
                fixture.wait_for_phase(query, QueryPhase::Succeeded).await;
            }
        },
    );
}
