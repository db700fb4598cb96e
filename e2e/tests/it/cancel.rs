//! A query that is deleted in the midst of its work stops, and its workers give back what it had.

use kube::ResourceExt;

use crate::answers;
use crate::harness::{self, Pool, Query, rows, sample_in_pool};

#[test]
fn a_deleted_query_gives_its_workers_back() {
    harness::run("cancel", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::ready(&space, "p").await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.until_under_way().await?;
        pool.until("holds what the query has shuffled", |status| {
            status.held_bytes > 0 && status.slots_in_use > 0
        })
        .await?;
        let before: Vec<_> = pool.pods().await?.iter().map(ResourceExt::uid).collect();

        query.delete().await?;
        query.gone().await?;
        query.rests().await?;
        pool.until("holds nothing and does nothing", |status| {
            status.held_bytes == 0 && status.slots_in_use == 0 && status.spill_used_bytes == 0
        })
        .await?;

        // The same workers serve the next one.
        let next = sample_in_pool("tpch-pricing-summary.yaml", "p")?;
        let next = Query::submit(&space, next).await?;
        assert_eq!(rows(&next.succeeded().await?)?, answers::pricing_summary());
        let after: Vec<_> = pool.pods().await?.iter().map(ResourceExt::uid).collect();
        assert_eq!(before, after);
        Ok(())
    });
}
