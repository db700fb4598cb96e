//! A query that is deleted while it runs stops, and its workers free its slots and data.

use kube::ResourceExt;

use crate::answers;
use crate::harness::{self, Pool, Query, rows, sample_in_pool};

#[test]
fn a_deleted_query_gives_its_workers_back() {
    harness::run("cancel", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::apply_ready(&space, "p").await?;
        let query = Query::submit(&space, answers::endless_query("p")).await?;
        pool.wait_until_busy().await?;
        let before: Vec<_> = pool.pods().await?.iter().map(ResourceExt::uid).collect();

        query.delete().await?;
        query.wait_until_gone().await?;
        query.wait_until_coordinators_gone().await?;
        pool.wait_until_idle().await?;

        // The same workers run the next query.
        let next = sample_in_pool("tpch-pricing-summary.yaml", "p")?;
        let next = Query::submit(&space, next).await?;
        assert_eq!(
            rows(&next.wait_until_succeeded().await?)?,
            answers::pricing_summary()
        );
        let after: Vec<_> = pool.pods().await?.iter().map(ResourceExt::uid).collect();
        assert_eq!(before, after);
        Ok(())
    });
}
