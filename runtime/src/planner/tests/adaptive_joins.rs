//! Joins that are done in another way than the planner thought of first.

use std::sync::Arc;

use super::super::HashJoinLimit;
use super::harness::{Bench, Options, same_rows};

/// Every join moves both sides.
const SHUFFLED: Options<'static> = &[
    ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
    (
        "datafusion.optimizer.hash_join_single_partition_threshold_rows",
        "0",
    ),
];

/// Keys that a merge compares only within a batch: joins on them are hashed, however large they are.
#[tokio::test]
async fn semi_joins_have_the_same_rows_whatever_their_keys() {
    let bench = Bench::new().await;
    let config = bench.session(2, SHUFFLED).await.copied_config();
    let config = config
        .with_batch_size(8)
        .with_extension(Arc::new(HashJoinLimit { bytes: 0 }));
    let session = bench.session_of(config).await;
    for key in ["k", "s", "d", "f", "ts", "w"] {
        for sql in [
            format!("SELECT a.id FROM big a LEFT SEMI JOIN mid b ON a.{key} = b.{key}"),
            format!("SELECT a.id FROM big a LEFT ANTI JOIN mid b ON a.{key} = b.{key} AND a.g <> b.g"),
            format!("SELECT id FROM big a WHERE g = 1 OR {key} IN (SELECT {key} FROM mid)"),
            format!("SELECT a.id, b.id FROM big a FULL JOIN mid b ON a.{key} = b.{key} AND a.g = b.g"),
        ] {
            if let Err(told) = same_rows(bench.plain(), &session, &sql).await {
                panic!("{told}");
            }
        }
    }
}
