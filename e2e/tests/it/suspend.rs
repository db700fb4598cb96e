//! A suspended query stops, and starts over when it is resumed.

use serde_json::json;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::answers;
use crate::harness::{self, Pool, Query, rows};

#[test]
fn a_suspended_query_rests_and_starts_over() {
    harness::run("suspend", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::apply_ready(&space, "p").await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.wait_until_in_progress().await?;
        pool.wait_until_busy().await?;
        query.change(json!({"suspend": true})).await?;
        query
            .wait_until("is suspended", |status| status.phase == QueryPhase::Suspended)
            .await?;
        query.wait_until_coordinators_gone().await?;
        pool.wait_until_idle().await?;
        query.change(json!({"suspend": false})).await?;
        let status = query.wait_until_succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(status.coordinator_epoch, 2, "a coordinator of its own");
        assert!(status.suspended_millis > 0);
        assert_eq!(status.suspended_time, None);
        Ok(())
    });
}
