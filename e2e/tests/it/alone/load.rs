//! Many queries without a sink: each ends with all its rows in its status, and soon after its coordinator has ended it. Only with
//! `SLUICE_MEASURE=1`, on a machine that does nothing else: `e2e/measure` runs it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use tokio::time::timeout;

use crate::harness::{self, Pool, Query, Space, is_measuring, query, record_measurement, rows};

/// Longest time in which no query changes.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(300);

#[test]
fn two_hundred_queries_at_five_a_second_end_with_their_rows() {
    load("load-steady", 200, Duration::from_millis(200));
}

#[test]
fn a_thousand_queries_at_once_end_with_their_rows() {
    load("load-burst", 1_000, Duration::ZERO);
}

fn load(test: &'static str, count: usize, between: Duration) {
    if !is_measuring() {
        harness::skip_measurement(test);
        return;
    }
    harness::run_alone(test, move |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let spec = json!({
            "sql": "SELECT n_regionkey, count(*) AS nations FROM nation GROUP BY n_regionkey ORDER BY n_regionkey",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "shuffle": {"partitions": 2},
            "workerPoolRef": {"name": "p"},
        });
        let begun = Instant::now();
        let watching = tokio::spawn(lags(space.clone(), count));
        for number in 0..count {
            submit(&space, &query(&format!("q{number}"), &spec)).await?;
            tokio::time::sleep(between).await;
        }
        let lags = watching.await??;
        let mut late: Vec<_> = lags.iter().map(|(name, lag)| (*lag, name)).collect();
        late.sort();
        for (lag, name) in late.iter().rev().take(5) {
            println!("late: {name} by {:.1} s", lag.as_secs_f64());
        }
        let lags: Vec<_> = late.into_iter().map(|(lag, _)| lag).collect();
        let at = |share: usize| lags[(lags.len() - 1) * share / 100].as_secs_f64();
        let (p50, p95) = (at(50), at(95));
        let took = begun.elapsed().as_secs();
        record_measurement(
            &space,
            &format!(
                "end to status, {count} queries, {} ms apart, done after {took} s: p50 {p50:.1} s, p95 {p95:.1} s (p95 2 s)",
                between.as_millis()
            ),
        );
        Ok(())
    });
}

/// Submits a query, again where an API server that has too much to do did not answer: the same object is applied once.
async fn submit(space: &Space, query: &Value) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = Query::submit(space, query.clone()).await else {
            return Ok(());
        };
        let refused = match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => status.code < 500 && status.code != 429,
            _ => false,
        };
        if refused || begun.elapsed() > PROGRESS_TIMEOUT {
            return Err(error);
        }
        println!("submitted again: {error:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How long after its end each of `count` queries showed it, by name, as a watch sees it: lists of a thousand queries would take
/// the time that is measured. What all queries must show is looked at too.
async fn lags(space: Space, count: usize) -> Result<BTreeMap<String, Duration>> {
    let queries = Api::<ShuffleQuery>::namespaced(space.client.clone(), &space.namespace);
    let changes = watcher(queries, Config::default()).default_backoff();
    let mut changes = pin!(changes.applied_objects());
    let mut lags = BTreeMap::new();
    while lags.len() < count {
        let change = timeout(PROGRESS_TIMEOUT, changes.next()).await;
        let change =
            change.with_context(|| format!("nothing changes, and {} of {count} ended", lags.len()))?;
        // The watch goes on after an error.
        let Some(Ok(query)) = change else { continue };
        let (now, name) = (Timestamp::now(), query.name_any());
        let status = query.status.unwrap_or_default();
        if lags.contains_key(&name) || !status.phase.is_terminal() {
            continue;
        }
        let end = end_with_rows(&name, &status)?;
        let lag = Duration::try_from(now.duration_since(end)).unwrap_or_default();
        lags.insert(name, lag);
    }
    Ok(lags)
}

/// When the query ended, with all of its rows and its stages in its status.
fn end_with_rows(name: &str, status: &ShuffleQueryStatus) -> Result<Timestamp> {
    ensure!(
        status.phase == QueryPhase::Succeeded,
        "{name}: {:?}",
        status.message
    );
    let expected = ["0", "1", "2", "3", "4"].map(|region| [region, "5"]);
    ensure!(
        rows(status)? == expected,
        "{name} has other rows: {:?}",
        status.preview
    );
    ensure!(!status.stages.is_empty(), "{name} has no stages: {status:?}");
    let start = status.start_time.as_ref().context("it has no start")?.0;
    let millis = status.duration_millis.context("it has no duration")?;
    Ok(start + Duration::from_millis(millis))
}
