//! Runs a small query from submission to rows, to show that an installation works.

use std::time::Duration;

use anyhow::{Context, bail};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

use crate::config::TryQuery;

/// TPC-H fixes both tables at every scale: five nations to a region. The join and the groups shuffle them.
const SQL: &str = "SELECT r_name, count(*) AS nations FROM nation JOIN region ON n_regionkey = r_regionkey \
                   GROUP BY r_name ORDER BY r_name";
const ROWS: [[&str; 2]; 5] = [
    ["AFRICA", "5"],
    ["AMERICA", "5"],
    ["ASIA", "5"],
    ["EUROPE", "5"],
    ["MIDDLE EAST", "5"],
];
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the query of `args` and deletes it.
///
/// # Errors
/// The query is rejected, does not end in time, fails, or has wrong rows.
pub async fn run(client: &Client, args: &TryQuery) -> anyhow::Result<()> {
    let queries = Api::<ShuffleQuery>::namespaced(client.clone(), &args.namespace);
    let query = queries
        .create(&PostParams::default(), &query(args)?)
        .await
        .context("the query is refused")?;
    let name = query.name_any();
    tracing::info!(name, namespace = args.namespace, "submitted");
    let within = Duration::from_secs(args.within_seconds.into());
    let outcome = match tokio::time::timeout(within, until_ended(&queries, &name)).await {
        Ok(Ok(status)) => check_result(&status),
        Ok(Err(problem)) => Err(problem),
        Err(_) => {
            let status = queries.get(&name).await?.status.unwrap_or_default();
            Err(anyhow::anyhow!(
                "not done after {} s: {}",
                args.within_seconds,
                describe(&status)
            ))
        }
    };
    let deleted = queries.delete(&name, &DeleteParams::background()).await;
    outcome?;
    deleted.with_context(|| format!("query {name} stays"))?;
    Ok(())
}

/// The query, whose name the API server completes.
fn query(args: &TryQuery) -> anyhow::Result<ShuffleQuery> {
    let workers = match &args.pool {
        Some(pool) => json!({"workerPoolRef": {"name": pool}}),
        None => json!({"workers": {"replicas": 1, "memory": "256MiB", "spill": {"limit": "256MiB"}}}),
    };
    let mut query = json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ShuffleQuery",
        "metadata": {"generateName": "try-"},
        "spec": {
            "sql": SQL,
            "tables": [
                {"name": "nation", "tpch": {"scaleFactor": 1}},
                {"name": "region", "tpch": {"scaleFactor": 1}},
            ],
            "shuffle": {"partitions": 2},
            "deadlineSeconds": args.within_seconds.max(1),
        },
    });
    for (field, value) in workers.as_object().into_iter().flatten() {
        query["spec"][field] = value.clone();
    }
    Ok(serde_json::from_value(query)?)
}

async fn until_ended(queries: &Api<ShuffleQuery>, name: &str) -> anyhow::Result<ShuffleQueryStatus> {
    let mut logged = String::new();
    loop {
        let status = queries.get(name).await?.status.unwrap_or_default();
        if status.phase.is_terminal() {
            return Ok(status);
        }
        let now = describe(&status);
        if now != logged {
            tracing::info!("{now}");
            logged = now;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Checks that the query succeeded with the right rows.
fn check_result(status: &ShuffleQueryStatus) -> anyhow::Result<()> {
    if status.phase != QueryPhase::Succeeded {
        let error = status.error.as_ref().map(|error| error.message.as_str());
        bail!("{}; {}", describe(status), error.unwrap_or("no error is noted"));
    }
    let preview = status.preview.as_ref().context("it succeeded and has no rows")?;
    if preview.rows != ROWS {
        bail!(
            "it succeeded with other rows than it must have: {}",
            preview
                .rows
                .iter()
                .map(|row| row.join(" "))
                .collect::<Vec<_>>()
                .join("; ")
        );
    }
    for row in &preview.rows {
        tracing::info!("{}", row.join(" "));
    }
    tracing::info!("the query has succeeded with the right rows");
    Ok(())
}

fn describe(status: &ShuffleQueryStatus) -> String {
    // As Kubernetes shows them.
    let word = |value: serde_json::Result<serde_json::Value>| value.ok()?.as_str().map(str::to_owned);
    let phase = word(serde_json::to_value(status.phase));
    let reason = status
        .reason
        .as_ref()
        .and_then(|reason| word(serde_json::to_value(reason)));
    format!(
        "{}, {}, {}, tasks {}",
        phase.unwrap_or_default(),
        reason.as_deref().unwrap_or("no reason"),
        status.message.as_deref().unwrap_or("no message"),
        status.tasks_done.as_deref().unwrap_or("not planned"),
    )
}

#[cfg(test)]
mod tests {
    use sluice_crds::validate_query;

    use super::*;

    fn args(pool: Option<&str>) -> TryQuery {
        TryQuery {
            namespace: "n".to_owned(),
            pool: pool.map(str::to_owned),
            within_seconds: 0,
        }
    }

    #[test]
    fn the_query_is_valid_with_a_pool_and_without() {
        for pool in [None, Some("p")] {
            let mut query = query(&args(pool)).unwrap();
            assert!(
                query.metadata.generate_name.is_some(),
                "the API server makes the name"
            );
            query.metadata.name = Some("try-x".to_owned());
            assert_eq!(validate_query(&query), []);
            assert_eq!(query.spec.workers.is_some(), pool.is_none());
        }
    }

    fn status(phase: &str, rows: &serde_json::Value) -> ShuffleQueryStatus {
        let preview = json!({"columns": ["r_name", "nations"], "rows": rows});
        serde_json::from_value(json!({"phase": phase, "preview": preview})).unwrap()
    }

    #[test]
    fn progress_is_described_as_the_status_shows_it() {
        let status = json!({"phase": "Pending", "reason": "WaitingForPool", "message": "pool p starts"});
        let status = serde_json::from_value(status).unwrap();
        assert_eq!(
            describe(&status),
            "Pending, WaitingForPool, pool p starts, tasks not planned"
        );
        let status = json!({"phase": "Failed", "reason": "TaskFailed", "tasksDone": "1/2"});
        let status = serde_json::from_value(status).unwrap();
        assert_eq!(describe(&status), "Failed, TaskFailed, no message, tasks 1/2");
    }

    #[test]
    fn only_success_with_the_right_rows_passes() {
        check_result(&status("Succeeded", &json!(ROWS))).unwrap();
        let problem = check_result(&status("Succeeded", &json!([["AFRICA", "4"]]))).unwrap_err();
        assert!(problem.to_string().contains("other rows"), "{problem}");
        let problem = check_result(&status("Failed", &json!(ROWS))).unwrap_err();
        assert!(problem.to_string().starts_with("Failed"), "{problem}");
    }
}
