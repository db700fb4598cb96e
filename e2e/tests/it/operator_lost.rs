//! The operator is killed in the middle of a query: the query runs on, and the next operator finds its end.

use crate::answers;
use crate::harness::{self, Pool, Query, rows};

#[test]
fn an_operator_that_is_killed_stops_no_query() {
    harness::run("operator-killed", |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.wait_until_in_progress().await?;
        harness::kill_operator(&space).await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(
            status.coordinator_epoch, 1,
            "the first coordinator was left alone"
        );
        assert_eq!(status.pod_retries, 0);
        Ok(())
    });
}
