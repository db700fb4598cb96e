//! A query that is deleted in the midst of its work stops, and its workers give back what it had.

use kube::ResourceExt;

use crate::answers;
use crate::harness::{self, Pool, Query, rows, sample_in_pool};

#[test]
fn a_deleted_query_gives_its_workers_back() {
    harness::run("cancel", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::ready(&space, "p").await?;
        let query = Query::submit(&space, answers::endless_query("p")).await?;
        pool.until_busy().await?;
        let before: Vec<_> = pool.pods().await?.iter().map(ResourceExt::uid).collect();

        query.delete().await?;
        query.gone().await?;
        query.rests().await?;
        pool.until_free().await?;

        // The same workers serve the next one.
        let next = sample_in_pool("tpch-pricing-summary.yaml", "p")?;
        let next = Query::submit(&space, next).await?;
        assert_eq!(rows(&next.succeeded().await?)?, answers::pricing_summary());
        let after: Vec<_> = pool.pods().await?.iter().map(ResourceExt::uid).collect();
        assert_eq!(before, after);
        Ok(())
    });
}
