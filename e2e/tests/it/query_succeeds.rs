//! The samples of `manifests/` run to their end: right rows, and a status that is filled.

use anyhow::{Context, Result};
use sluice_crds::shuffle_query::status::{ShuffleQueryStatus, StageState};
use sluice_crds::{ConditionStatus, ErrorReason, ProgressReason, QueryConditionType};

use crate::answers;
use crate::harness::{self, Pool, Query, in_order, rows, sample, sample_in_pool};

#[test]
fn a_sample_runs_in_a_pool() {
    harness::run("query-in-a-pool", |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let query = sample_in_pool("tpch-pricing-summary.yaml", "p")?;
        let query = Query::submit(&space, query).await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::pricing_summary());
        assert_eq!(status.pool_name.as_deref(), Some("p"));
        assert_complete(&status)
    });
}

#[test]
fn a_sample_with_workers_of_its_own_runs_and_takes_them_along() {
    harness::run("query-with-workers", |space| async move {
        harness::install_operator(&space).await?;
        let query = Query::submit(&space, sample("tpch-join.yaml")?).await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::join());
        assert_complete(&status)
    });
}

fn assert_complete(status: &ShuffleQueryStatus) -> Result<()> {
    assert_eq!(
        status.error.as_ref().map(|error| error.reason),
        None::<ErrorReason>
    );
    assert_eq!(status.reason, Some(ProgressReason::Completed.into()));
    assert_eq!(status.coordinator_epoch, 1);
    assert_eq!(status.pod_retries, 0);
    assert!(status.observed_generation.is_some());
    let times = [
        &status.start_time,
        &status.admitted_time,
        &status.first_row_time,
        &status.end_time,
    ];
    assert!(in_order(&times), "{times:?}");
    assert!(status.time_to_first_row_millis.is_some());
    assert!(
        status.totals.rows_read > 0 && status.totals.bytes_shuffled > 0,
        "{:?}",
        status.totals
    );
    assert!(status.stages.len() >= 2, "{:?}", status.stages);
    for stage in &status.stages {
        assert_eq!(stage.state, StageState::Done, "{stage:?}");
        assert_eq!(stage.tasks_done, stage.tasks_planned, "{stage:?}");
        assert!(!stage.label.is_empty(), "{stage:?}");
    }
    let stages = status.stages.len();
    assert_eq!(status.stages_done, Some(format!("{stages}/{stages}")));
    let tasks = status.tasks.planned;
    assert_eq!(status.tasks_done, Some(format!("{tasks}/{tasks}")));
    let mut conditions = status.conditions.iter();
    let succeeded = conditions
        .find(|condition| condition.type_ == QueryConditionType::Succeeded)
        .context("no condition Succeeded")?;
    assert_eq!(succeeded.status, ConditionStatus::True);
    Ok(())
}
