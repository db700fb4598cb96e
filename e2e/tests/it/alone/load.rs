//! Many queries without a sink: each ends with all its rows in its status, and soon after its coordinator has ended it. Only with
//! `SLUICE_MEASURE=1`, on a machine that does nothing else: `e2e/measure` runs it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::harness::{self, Pool, Query, Space, measured, measures, query, rows};

/// Between two looks at all queries.
const LOOK: Duration = Duration::from_millis(500);

#[test]
fn two_hundred_queries_at_five_a_second_end_with_their_rows() {
    load("load-steady", 200, Duration::from_millis(200));
}

#[test]
fn a_thousand_queries_at_once_end_with_their_rows() {
    load("load-burst", 1_000, Duration::ZERO);
}

fn load(test: &'static str, count: usize, between: Duration) {
    if !measures() {
        harness::skip_measure(test);
        return;
    }
    harness::run_alone(test, move |space| async move {
        harness::install_operator(&space).await?;
        Pool::ready(&space, "p").await?;
        let spec = json!({
            "sql": "SELECT n_regionkey, count(*) AS nations FROM nation GROUP BY n_regionkey ORDER BY n_regionkey",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "shuffle": {"partitions": 2},
            "workerPoolRef": {"name": "p"},
        });
        let begun = Instant::now();
        let watching = tokio::spawn(lags(space.clone(), count));
        for number in 0..count {
            Query::submit(&space, query(&format!("q{number}"), &spec)).await?;
            tokio::time::sleep(between).await;
        }
        let mut lags: Vec<_> = watching.await??.into_values().collect();
        lags.sort();
        let at = |share: usize| lags[(lags.len() - 1) * share / 100].as_secs_f64();
        let (p50, p95) = (at(50), at(95));
        let took = begun.elapsed().as_secs();
        measured(
            &space,
            &format!(
                "end to status, {count} queries, {} ms apart, done after {took} s: p50 {p50:.1} s, p95 {p95:.1} s (p95 2 s)",
                between.as_millis()
            ),
        );
        Ok(())
    });
}

/// How long after its end each of `count` queries showed it, by name; what all of them must show is looked at too. Ends are told in
/// whole seconds, and looks are half a second apart: a lag is never told as shorter than it was.
async fn lags(space: Space, count: usize) -> Result<BTreeMap<String, Duration>> {
    let queries = Api::<ShuffleQuery>::namespaced(space.client.clone(), &space.namespace);
    let mut lags = BTreeMap::new();
    while lags.len() < count {
        let now = Timestamp::now();
        for query in queries.list(&ListParams::default()).await? {
            let name = query.name_any();
            let status = query.status.unwrap_or_default();
            if lags.contains_key(&name) || !status.phase.is_terminal() {
                continue;
            }
            ensure!(
                status.phase == QueryPhase::Succeeded,
                "{name}: {:?}",
                status.message
            );
            let expected = ["0", "1", "2", "3", "4"].map(|region| [region, "5"]);
            ensure!(
                rows(&status)? == expected,
                "{name} has other rows: {:?}",
                status.preview
            );
            ensure!(!status.stages.is_empty(), "{name} has no stages: {status:?}");
            let end = status.end_time.context("it has no end")?.0;
            lags.insert(
                name,
                Duration::try_from(now.duration_since(end)).unwrap_or_default(),
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(lags)
}
