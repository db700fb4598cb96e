//! A query that takes longer than its deadline fails, its coordinator ends, and its workers free its slots and data.

use anyhow::Context;
use serde_json::json;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::answers;
use crate::harness::{self, Pool, Query};

#[test]
fn a_query_beyond_its_deadline_fails_and_gives_its_workers_back() {
    harness::run("deadline", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::apply(&space, "p", 2, json!({})).await?;
        pool.wait_until_ready(2).await?;
        let query = Query::submit(&space, answers::endless_query("p")).await?;
        pool.wait_until_busy().await?;
        // It counts from the submission.
        let deadline = query.age().await?.as_secs() + 2;
        query.change(json!({"deadlineSeconds": deadline})).await?;
        let status = query.wait_until_ended().await?;
        assert_eq!(status.phase, QueryPhase::Failed);
        assert_eq!(status.reason, Some(ErrorReason::DeadlineExceeded.into()));
        let error = status.error.context("no error")?;
        assert_eq!(error.reason, ErrorReason::DeadlineExceeded);
        let told = format!("its deadline of {deadline} s");
        assert!(error.message.contains(&told), "{}", error.message);
        assert_eq!(status.coordinator_epoch, 1, "another would come too late, too");
        query.wait_until_coordinators_ended().await?;
        pool.wait_until_idle().await?;
        Ok(())
    });
}
