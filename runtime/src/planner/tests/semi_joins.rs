//! Semi joins run below the inner joins that have no part in them, and the rows stay the same.

use std::sync::Arc;

use super::super::{JoinOrderPolicy, explain};
use super::harness::{Bench, same_rows};

#[tokio::test]
async fn semi_joins_run_where_fewer_rows_meet_them() {
    let bench = Bench::new().await;
    for (sql, below) in [
        // Of 1,200 rows joined with 300, those of 300 are looked up.
        (
            "SELECT b.id, m.id FROM big b, mid m WHERE b.k = m.k AND m.id IN (SELECT id FROM tiny)",
            true,
        ),
        (
            "SELECT b.id, m.id FROM big b, mid m WHERE b.k = m.k AND EXISTS (SELECT 1 FROM tiny t WHERE t.g = m.g AND t.id < m.id)",
            true,
        ),
        (
            "SELECT b.id, m.id, t.s FROM tiny t, big b, mid m WHERE b.k = m.k AND t.g = m.g AND m.id IN (SELECT max(id) FROM big GROUP BY k HAVING count(*) > 3)",
            true,
        ),
        (
            "SELECT m.s FROM big b JOIN mid m USING (k) WHERE EXISTS (SELECT 1 FROM tiny t WHERE t.id = m.id AND t.g = m.g)",
            true,
        ),
        // Of both sides.
        (
            "SELECT b.id, m.id FROM big b, mid m WHERE b.k = m.k AND m.id + b.id IN (SELECT id FROM tiny)",
            false,
        ),
        (
            "SELECT b.id, m.id FROM big b, mid m WHERE b.k = m.k AND EXISTS (SELECT 1 FROM tiny t WHERE t.g = m.g AND t.id < b.id)",
            false,
        ),
        // The few rows of the join are looked up.
        (
            "SELECT b.id, t.id FROM big b, tiny t WHERE b.id = t.id AND t.g = 1 AND b.k IN (SELECT k FROM mid)",
            false,
        ),
        // Rows that are left out must not come back without a partner.
        (
            "SELECT b.id, m.id FROM big b RIGHT JOIN mid m ON b.k = m.k WHERE b.id IN (SELECT id FROM tiny) OR m.id < 3",
            false,
        ),
        (
            "SELECT b.id, m.id FROM mid m LEFT JOIN big b ON b.k = m.k WHERE m.id NOT IN (SELECT id FROM tiny)",
            false,
        ),
        (
            "SELECT b.id, m.id FROM big b, mid m WHERE b.k = m.k AND m.id * random() * 0 IN (SELECT g * 0.0 FROM tiny)",
            false,
        ),
    ] {
        for partitions in [1, 3] {
            let query = bench.same(sql, partitions, &[]).await;
            let written = JoinOrderPolicy {
                enabled: false,
                ..JoinOrderPolicy::default()
            };
            let config = bench.session(partitions, &[]).await.copied_config();
            let session = bench.session_of(config.with_extension(Arc::new(written))).await;
            let as_written = same_rows(bench.plain(), &session, sql).await;
            let as_written = as_written.unwrap_or_else(|difference| panic!("{difference}"));
            let moved = explain(&query) != explain(&as_written);
            assert!(!below || moved, "{sql}\n{}", explain(&query));
            assert!(
                below || !moved,
                "{sql}\n{}\n{}",
                explain(&query),
                explain(&as_written)
            );
        }
    }
}
