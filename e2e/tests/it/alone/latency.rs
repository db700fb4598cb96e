//! How long a small query takes where workers stand ready. Measured and told, not judged: machines differ.

use std::time::Instant;

use serde_json::json;

use crate::harness::{self, Pool, Query, query, record_measurement, rows};

const QUERIES: usize = 20;

#[test]
fn small_queries_of_a_warm_pool() {
    harness::run_alone("latency", |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let spec = json!({
            "sql": "SELECT n_regionkey, count(*) AS nations FROM nation GROUP BY n_regionkey ORDER BY n_regionkey",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "shuffle": {"partitions": 2},
            "workerPoolRef": {"name": "p"},
        });
        let mut seen = Vec::new();
        for number in 0..QUERIES {
            let started = Instant::now();
            let query = Query::submit(&space, query(&format!("small-{number}"), &spec)).await?;
            query
                .wait_until("has a row", |status| status.first_row_time.is_some())
                .await?;
            seen.push(started.elapsed());
            let status = query.wait_until_succeeded().await?;
            assert_eq!(
                rows(&status)?,
                ["0", "1", "2", "3", "4"].map(|region| [region, "5"])
            );
        }
        seen.sort();
        let at = |share: usize| seen[(QUERIES - 1) * share / 100].as_secs_f64();
        let (p50, p90) = (at(50), at(90));
        record_measurement(
            &space,
            &format!(
                "apply to first row on a warm pool, {QUERIES} queries in turn: p50 {p50:.2} s, p90 {p90:.2} s (p50 2 s)"
            ),
        );
        Ok(())
    });
}
