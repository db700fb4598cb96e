//! The 22 queries of TPC-H on three worker processes, compared with plain DataFusion.

use super::program::Worker;
use crate::harness::{Division, Fleet, compare};
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
