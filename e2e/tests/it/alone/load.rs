//! Many queries without a sink: each ends with all its rows in its status, and soon after its coordinator has ended it. Only with
//! `SLUICE_MEASURE=1`, on a machine that does nothing else: `e2e/measure` runs it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
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
        let ends = tokio::spawn(ends(space.clone(), count));
        let addresses = tokio::spawn(addresses(space.clone(), count));
        for number in 0..count {
            submit(&space, &query(&format!("q{number}"), &spec)).await?;
            tokio::time::sleep(between).await;
        }
        let ends = ends.await??;
        let took = begun.elapsed().as_secs();
        let addresses = addresses.await??;
        let unknown = ends.iter().filter_map(|(name, end)| {
            let known = addresses.get(name)?;
            Some(elapsed(end.at, *known))
        });
        let (p50, p95) = quantiles(unknown.collect())?;
        println!("of it, until the address of the coordinator was known: p50 {p50:.1} s, p95 {p95:.1} s");
        let lags = ends.values().map(|end| elapsed(end.at, end.shown));
        let (p50, p95) = quantiles(lags.collect())?;
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

fn elapsed(since: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(since)).unwrap_or_default()
}

/// The median and the 95th percentile, in seconds.
fn quantiles(mut times: Vec<Duration>) -> Result<(f64, f64)> {
    times.sort_unstable();
    let last = times.len().checked_sub(1).context("nothing was measured")?;
    let at = |share: usize| times[last * share / 100].as_secs_f64();
    Ok((at(50), at(95)))
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

/// The end of a query.
struct End {
    at: Timestamp,
    /// When its status showed it.
    shown: Timestamp,
}

/// The ends of `count` queries by name, as a watch sees them: lists of a thousand queries would take the time that is measured.
/// What all queries must show is looked at too.
async fn ends(space: Space, count: usize) -> Result<BTreeMap<String, End>> {
    let queries = Api::<ShuffleQuery>::namespaced(space.client.clone(), &space.namespace);
    let changes = watcher(queries, Config::default()).default_backoff();
    let mut changes = pin!(changes.applied_objects());
    let mut ends = BTreeMap::new();
    while ends.len() < count {
        let change = timeout(PROGRESS_TIMEOUT, changes.next()).await;
        let change =
            change.with_context(|| format!("nothing changes, and {} of {count} ended", ends.len()))?;
        // The watch goes on after an error.
        let Some(Ok(query)) = change else { continue };
        let (shown, name) = (Timestamp::now(), query.name_any());
        let status = query.status.unwrap_or_default();
        if ends.contains_key(&name) || !status.phase.is_terminal() {
            continue;
        }
        let at = end_with_rows(&name, &status)?;
        ends.insert(name, End { at, shown });
    }
    Ok(ends)
}

/// When the address of each query's coordinator was known, by the name of the query.
async fn addresses(space: Space, count: usize) -> Result<BTreeMap<String, Timestamp>> {
    let pods = Api::<Pod>::namespaced(space.client.clone(), &space.namespace);
    let changes = watcher(pods, Config::default().labels("sluice.dev/query")).default_backoff();
    let mut changes = pin!(changes.applied_objects());
    let mut known = BTreeMap::new();
    while known.len() < count {
        let change = timeout(PROGRESS_TIMEOUT, changes.next()).await;
        let change = change.with_context(|| format!("no pod changes, and {} of {count} ran", known.len()))?;
        let Some(Ok(pod)) = change else { continue };
        let query = pod.labels().get("sluice.dev/query");
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        if let (Some(query), Some(_)) = (query, address) {
            known.entry(query.clone()).or_insert_with(Timestamp::now);
        }
    }
    Ok(known)
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
