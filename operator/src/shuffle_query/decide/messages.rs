//! Messages about workers and coordinators that a query waits for.

use super::super::observed::ObservedPool;
use sluice_crds::process::port;

use crate::shuffle_query::progress::Unreachable;

/// The message for a pool with fewer than `needed` compatible workers. If enough are ready, they are of another build, and refuse
/// the coordinator until they are replaced.
pub(super) fn few_workers(pool: &ObservedPool, name: &str, needed: u32) -> String {
    let ObservedPool::Found {
        ready,
        compatible,
        why,
        ..
    } = pool
    else {
        return String::new();
    };
    let colon = if why.is_empty() { "" } else { ": " };
    if *ready < needed {
        return format!("{ready} workers are ready of {needed} that a query needs{colon}{why}");
    }
    format!(
        "pool {name} is being rolled: {compatible} workers of its image are ready of {needed} that a query needs{colon}{why}"
    )
}

pub(super) fn out_of_reach(unreachable: &Unreachable) -> String {
    let Unreachable {
        address,
        since,
        error,
    } = unreachable;
    let since = since.strftime("%H:%M:%S UTC");
    format!(
        "the operator has not reached the coordinator at {address} port {} since {since} ({error}): it plans \
         for long, or a NetworkPolicy is in between",
        port::COORDINATOR
    )
}

/// Why a running query has no worker, as its pool and its coordinator report. The condition `WorkersReady` says since when.
pub(super) fn no_worker(pool: &ObservedPool, message: &str) -> String {
    let suffix = match message {
        "" => "".to_owned(),
        message => format!(". The coordinator: {message}"),
    };
    match pool {
        ObservedPool::Found { ready: 0, why, .. } => {
            let colon = if why.is_empty() { "" } else { ": " };
            format!("the pool has no ready worker{colon}{why}{suffix}")
        }
        ObservedPool::Found { ready, .. } if suffix.is_empty() => format!(
            "{ready} workers are ready and none has a session with the coordinator: a NetworkPolicy on port {}, or a \
             token that they do not trust? The coordinator's log says more",
            port::WORKER
        ),
        ObservedPool::Found { ready, .. } => {
            format!("{ready} workers are ready and none has a session with the coordinator{suffix}")
        }
        ObservedPool::Absent | ObservedPool::NameTaken => "its pool was deleted".to_owned(),
        ObservedPool::Deleting => "its pool is being deleted".to_owned(),
    }
}
