//! A coordinator's pod is deleted in the middle of its query: another takes over.

use crate::answers;
use crate::harness::{self, Pool, Query, rows};

#[test]
fn a_coordinator_that_is_deleted_has_a_successor() {
    harness::run("coordinator-deleted", |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.wait_until_in_progress().await?;
        space.delete_pod("long-c1", 10).await?;
        query
            .wait_until("has a second coordinator", |status| status.coordinator_epoch == 2)
            .await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!((status.pod_retries, status.coordinator_failures), (1, 0));
        assert_eq!(status.coordinator_epoch, 2);
        let recovery = status.recovery.unwrap_or_default();
        assert!(
            recovery.recovered_tasks > 0,
            "it ran all tasks again: {status:#?}"
        );
        Ok(())
    });
}
