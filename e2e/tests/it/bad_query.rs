//! A query with wrong SQL fails at once with a message.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::harness::{self, Pool, Query, Space, query};

#[test]
fn wrong_sql_fails_with_its_reason() {
    harness::run("bad-query", |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let spec = json!({
            "sql": "SELECT no_such_column FROM nation",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "workerPoolRef": {"name": "p"},
        });
        let status = Query::submit(&space, query("bad", &spec))
            .await?
            .wait_until_ended()
            .await?;
        assert_eq!(status.phase, QueryPhase::Failed);
        assert_eq!(status.reason, Some(ErrorReason::InvalidSql.into()));
        let error = status.error.context("no error")?;
        assert_eq!(error.reason, ErrorReason::InvalidSql);
        assert!(error.message.contains("no_such_column"), "{}", error.message);
        let message = status.message.context("no message")?;
        assert!(message.contains("no_such_column"), "{message}");
        assert_eq!(
            status.coordinator_epoch, 1,
            "another coordinator would say the same"
        );
        no_probe_warned(&space).await
    });
}

/// A coordinator that exits soon does not count as unhealthy.
async fn no_probe_warned(space: &Space) -> Result<()> {
    let events = Api::<Event>::namespaced(space.client.clone(), &space.namespace);
    let events = events.list(&ListParams::default()).await?.items;
    let mut warnings = events.iter().filter(|event| {
        let of = event.involved_object.name.as_deref().unwrap_or_default();
        event.reason.as_deref() == Some("Unhealthy") && of.starts_with("bad-c")
    });
    let warned = warnings.next();
    ensure!(warned.is_none(), "{warned:?}");
    Ok(())
}
