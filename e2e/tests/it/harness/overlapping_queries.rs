//! Queries that overlap, so that one is in the middle of its work for as long as something else is done. How long that
//! takes, and how long a query takes, depends on the machine: a query that is long enough on one ends too soon or too late
//! on another.

use std::future::Future;
use std::pin::pin;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use sluice_crds::shuffle_query::status::QueryPhase;

use super::query::{Query, rows};
use super::space::Space;
use crate::answers;

/// The pods of the operator.
const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// The queries, oldest first.
pub struct OverlappingQueries {
    space: Space,
    queries: Vec<Query>,
}

/// Does `work` while queries run in the pool: it begins when one is in the middle of its work, and the next is submitted
/// when half of the tasks of the last one are done.
///
/// # Errors
///
/// Those of `work`; or a query fails.
pub async fn while_queries_run(
    space: &Space,
    pool: &str,
    work: impl Future<Output = Result<()>>,
) -> Result<OverlappingQueries> {
    let mut last = submit(space, pool, 0).await?;
    last.wait_until_in_progress().await?;
    let mut queries = vec![last.clone()];
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                done?;
                return Ok(OverlappingQueries { space: space.clone(), queries });
            }
            half = half_done(&last) => half?,
        }
        last = submit(space, pool, queries.len()).await?;
        queries.push(last.clone());
    }
}

async fn submit(space: &Space, pool: &str, turn: usize) -> Result<Query> {
    let mut query = answers::long_query(pool);
    query["metadata"]["name"] = json!(format!("turn-{turn}"));
    Query::submit(space, query).await
}

async fn half_done(query: &Query) -> Result<()> {
    query
        .wait_until("half of its tasks are done", |status| {
            let tasks = &status.tasks;
            let half = tasks.planned > 0 && tasks.done > tasks.planned / 2;
            half || status.phase == QueryPhase::Succeeded
        })
        .await?;
    Ok(())
}

impl OverlappingQueries {
    /// All of them succeed, have the right rows and were left alone; and one of them ran when the operator's pod of now was
    /// made.
    ///
    /// # Errors
    ///
    /// They do not.
    pub async fn succeeds(&self) -> Result<()> {
        let replaced = self.operator_made().await?;
        let mut ran = Vec::new();
        for query in &self.queries {
            let status = query.wait_until_succeeded().await?;
            ensure!(rows(&status)? == answers::long_rows(), "wrong rows: {status:?}");
            ensure!(
                status.coordinator_epoch == 1 && status.pod_retries == 0,
                "its coordinator was not left alone: {status:?}"
            );
            let start = status.admitted_time.context("not admitted")?.0;
            ran.push((start, status.end_time.context("no end")?.0));
        }
        if !ran.iter().any(|(start, end)| (start..=end).contains(&&replaced)) {
            bail!("the operator was replaced at {replaced}, but queries ran at {ran:?}");
        }
        Ok(())
    }

    /// When the newest pod of the operator was made.
    async fn operator_made(&self) -> Result<Timestamp> {
        let pods = Api::<Pod>::namespaced(self.space.client.clone(), &self.space.namespace);
        let pods = pods.list(&ListParams::default().labels(OPERATOR)).await?;
        let made = pods.into_iter().filter_map(|pod| pod.metadata.creation_timestamp);
        made.map(|time| time.0).max().context("no pod of the operator")
    }
}
