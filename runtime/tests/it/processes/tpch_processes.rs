//! The 22 queries of TPC-H on three worker processes, compared with plain DataFusion.

use super::program::Worker;
use crate::harness::{Division, Fleet, Ran, compare};
use crate::tpch::{queries, tables};

#[tokio::test(flavor = "multi_thread")]
async fn three_worker_processes() {
    let mut workers = Worker::three();
    let addresses = workers.iter().map(|worker| worker.address.clone()).collect();
    let fleet = Fleet::of_others(addresses, 3);
    let ran = compare(&fleet, &tables().await, &queries(), &[Division::Default(None)]).await;
    assert_eq!(ran.len(), 22);
    for ran in ran {
        for stage in &ran.snapshot.stages {
            assert_eq!((stage.failed_attempts, stage.lost_attempts), (0, 0), "{stage:#?}");
        }
    }
    workers.iter_mut().for_each(Worker::assert_well);
}

/// Rows do not depend on which of two attempts wins: almost every task of the last ones of a stage gets a duplicate.
#[tokio::test(flavor = "multi_thread")]
async fn duplicates_of_whatever_is_not_the_fastest_change_no_row() {
    let mut workers = Worker::three();
    let addresses = workers.iter().map(|worker| worker.address.clone()).collect();
    let fleet = Fleet::of_others(addresses, 3);
    let ran = compare(&fleet, &tables().await, &queries(), &[Division::Speculative(7)]).await;
    assert_eq!(ran.len(), 22);
    let failed = ran.iter().flat_map(|ran| &ran.snapshot.stages);
    assert_eq!(failed.map(|stage| stage.failed_attempts).sum::<u32>(), 0);
    let duplicates: u32 = ran.iter().map(Ran::duplicates).sum();
    assert!(duplicates > 0, "nothing was duplicated");
    workers.iter_mut().for_each(Worker::assert_well);
}
